"""Several views of a sample, by one model or several: what to compute, how, and how the results become one.

Test-time views and ensembles are made here; tiles of large images and clips of long videos fit the same three steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch

from ..card import ModelCard
from ..data import Sample
from ..errors import ConfigError, DataError
from ..tasks import Classify, Example, MultiLabel, task_of
from .exported import LARGEST_PHOTO, SMALLEST_PHOTO
from .runtimes import Runtime


class Member(NamedTuple):
    """What runs a model, and the task that prepares its inputs and reads its outputs."""

    runtime: Runtime
    task: Classify | MultiLabel


class Piece(NamedTuple):
    """One input of one model.

    Attributes:
        model: which of the models, and at which size: an index.
        example: what it is given.
    """

    model: int
    example: Example

    @property
    def bucket(self) -> Hashable:
        """Pieces of one bucket can be in one batch."""
        return self.model, tuple((name, tuple(x.shape)) for name, x in self.example.inputs.items())


class _Decoded(NamedTuple):
    """A media handle of something that is decoded already, so that several pieces decode it once."""

    decoded: Any

    def decode(self) -> Any:
        return self.decoded


class Views:
    """Plans the pieces of a sample, runs them, and merges their results.

    Args:
        members: a runtime and the card of its model; several of them are an ensemble, whose answers are averaged.
            Their classes have the same names, in any order.
        flip: average over each image and its mirror image.
        sizes: average over images prepared with these sides, in pixels; empty: only the size of each model.

    Raises:
        ConfigError: a size is not above 0.
        DataError: models of an ensemble know other classes.
    """

    def __init__(
        self, members: Sequence[tuple[Runtime, ModelCard]], flip: bool = False, sizes: Sequence[int] = ()
    ) -> None:
        for size in sizes:
            if type(size) is not int or size < 1:
                raise ConfigError(f"sizes: got {size!r}, expected sides in pixels, above 0")
        if sizes and any(runtime.takes_photos for runtime, _ in members):
            raise ConfigError("sizes: got sizes for a file that prepares photos itself, expected none")
        pairs = [(runtime, task_of(card).of(card)) for runtime, card in members]
        self.task, self.flip = pairs[0][1], flip
        self.members = [
            Member(runtime, task if size is None else task.at((size, size)))
            for runtime, task in pairs
            for size in (sizes or (None,))
        ]
        self._orders = [_order(member.task, self.task) for member in self.members]

    @property
    def on_cpu(self) -> bool:
        """Whether a model runs on the CPU."""
        return any(member.runtime.device.type == "cpu" for member in self.members)

    def plan(self, sample: Sample) -> list[Piece]:
        """Returns what has to be computed for a sample. It decodes the sample.

        Raises:
            DataError: the sample is broken.
        """
        sample = sample._replace(media=_Decoded(sample.media.decode()))
        return [
            Piece(k, example)
            for k, member in enumerate(self.members)
            for example in (
                [_photo(member.task, sample)]
                if member.runtime.takes_photos
                else member.task.transform(sample, None, train=False)
            )
        ]

    def forward(self, pieces: Sequence[Piece]) -> list[Any]:
        """Returns the prediction of each of some pieces, all of one bucket."""
        k = pieces[0].model
        runtime, task = self.members[k]
        batch = task.collate([piece.example for piece in pieces], None, train=False)
        inputs = [batch.inputs]
        if self.flip:
            width = -2 if runtime.takes_photos else -1
            inputs.append({name: x.flip(width) for name, x in batch.inputs.items()})
        views = [task.decode(runtime(x), batch.metas) for x in inputs]
        merged = [task.merge(some) for some in zip(*views, strict=True)]
        order = self._orders[k]
        return merged if order is None else [prediction[order] for prediction in merged]

    def merge(self, predictions: Sequence[Any]) -> Any:
        """Returns the prediction of a sample from those of its pieces."""
        return self.task.merge(predictions)


def _photo(task: Classify | MultiLabel, sample: Sample) -> Example:
    """A photo for a file that prepares it itself. Raises DataError where it is too large or too small for that."""
    example = task.photo(sample)
    sides = tuple(example.inputs["x"].shape[:2])
    if min(sides) < SMALLEST_PHOTO or max(sides) > LARGEST_PHOTO:
        raise DataError(
            f"{sample.key or 'image'}: {sides[1]} x {sides[0]} pixels; the exported file takes sides from "
            f"{SMALLEST_PHOTO} to {LARGEST_PHOTO}"
        )
    return example


def _order(task: Classify | MultiLabel, first: Classify | MultiLabel) -> torch.Tensor | None:
    """For every class of the first model, which output of another it is; None: the same order."""
    if task.class_names == first.class_names:
        return None
    if task.numbered and first.class_names and task.class_names and len(first.class_names) == len(task.class_names):
        return None
    if not (task.class_names and first.class_names) or set(task.class_names) != set(first.class_names):
        odd = sorted(set(task.class_names or ()) ^ set(first.class_names or ()))
        raise DataError(f"ensemble: the models know different classes, for instance {', '.join(map(repr, odd[:3]))}")
    return torch.tensor([task.class_names.index(name) for name in first.class_names])
