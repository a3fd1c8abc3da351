"""What the training loop, evaluation and prediction know of a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..card import ModelCard
from ..checkpoints import Parts
from ..data.sample import DataInfo, Sample


class Example(NamedTuple):
    """A sample as the model takes it.

    Attributes:
        inputs: tensors without a batch axis, by the names of the arguments of the model's ``forward``.
        target: what the loss and the metric compare with; tensors or plain values.
        meta: what predictions need to be mapped back to the original: its key, size, the geometry applied.
    """

    inputs: Mapping[str, Tensor]
    target: Any
    meta: Mapping[str, Any]


@dataclasses.dataclass
class Batch:
    """Examples side by side.

    Attributes:
        inputs: what the model is called with: ``model(**batch.inputs)``.
        targets: as the task's ``collate`` makes them: tensors, lists, tuples or dicts of tensors.
        metas: one per example.
    """

    inputs: dict[str, Tensor]
    targets: Any
    metas: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.metas)

    def to(self, device: torch.device) -> Batch:
        """Returns the batch with its tensors on a device, without waiting for copies from pinned memory."""
        move = lambda t: t.to(device, non_blocking=True)  # noqa: E731
        return Batch(_map(self.inputs, move), _map(self.targets, move), self.metas)

    def own_targets(self) -> Any:
        """Returns copies of the targets. Those of a worker lie in shared memory: each keeps a file open."""
        return _map(self.targets, Tensor.clone)

    def pin_memory(self) -> Batch:
        """Returns the batch in pinned memory; PyTorch's DataLoader calls this."""
        return Batch(_map(self.inputs, Tensor.pin_memory), _map(self.targets, Tensor.pin_memory), self.metas)


class Metric(Protocol):
    """Sums up how good predictions are; one per process, merged at the end."""

    @property
    def best(self) -> Sequence[tuple[str, str]]:
        """The figures that decide which epoch is best, each with "high" or "low" for what is better.

        A later one decides where those before are equal.
        """
        ...

    def update(self, predictions: Sequence[Any], targets: Any) -> None:
        """Adds a batch: its predictions as ``Task.decode`` gives them, and its targets, on the CPU."""
        ...

    def merge(self, others: Sequence[Any]) -> None:
        """Adds what metrics of the same kind in other processes have counted. A metric is picklable."""
        ...

    def compute(self) -> dict[str, Any]:
        """Returns the figures as JSON values.

        Numbers are the figures of an epoch: finite, or None where there is nothing to compute one from. Other values
        are tables: they are kept for the last epoch, and drawn where ``training.plots`` has a picture of that name.
        """
        ...


class Task(Protocol):
    """All that is specific to what is learned; built from a frozen, torch-free settings dataclass."""

    @property
    def name(self) -> str:
        """What cards and messages call it."""
        ...

    def build(self, info: DataInfo, parts: Parts | None = None) -> nn.Module:
        """Returns a new model on the CPU; it holds only what its forward uses.

        Args:
            info: of the data that it is to learn.
            parts: what to start from instead of random weights: ``checkpoints.load_parts`` gives them.
        """
        ...

    def transform(self, sample: Sample, rng: np.random.Generator | None, train: bool) -> list[Example]:
        """Returns what the model sees of a sample; several views where evaluation wants them.

        It runs in a worker process where there are any, so a task is picklable. ``rng`` is the only source of chance:
        the same for a sample in an epoch, however often training was stopped. In evaluation it is None.
        """
        ...

    def collate(self, examples: Sequence[Example], rng: np.random.Generator | None, train: bool) -> Batch:
        """Returns examples as a batch; what mixes several samples happens here. ``rng`` is that of the batch."""
        ...

    def units(self, batch: Batch) -> dict[str, float]:
        """Returns what the losses are means over (images, labelled pixels, boxes): how many of each are in a batch."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> dict[str, tuple[Tensor, str]]:
        """Returns the losses by name, each an fp32 sum over the batch and the unit that it is a mean over.

        Their means are added up and minimised. A sum that carries no gradient, for instance of right answers, is not:
        its mean is only reported. Names and units are the same for every batch. The name "loss" is for a task that
        has one; else it is that of the total. Every batch must reach every parameter, also where it has nothing to
        learn from: add 0 times the outputs there.
        """
        ...

    def decode(self, outputs: Any, metas: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Returns one prediction per example, mapped back to the original where it has places."""
        ...

    def metric(self) -> Metric:
        """Returns an empty metric."""
        ...

    def card(self, info: DataInfo) -> ModelCard:
        """Returns what is to travel with the weights: the task, its settings, names of classes, preprocessing."""
        ...


def _map(value: Any, change: Any) -> Any:
    """Applies a function to every tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_map(item, change) for item in value)
    return value
