"""One process or many: the same loop under plain python and under torchrun (gloo on the CPU, NCCL on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..devices import pick_device
from ..errors import SwindowError
from ..tasks import Metric

T = TypeVar("T")


class World(NamedTuple):
    """Where this process stands among all of them, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes."""
        if self.size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def on_first(self, do: Callable[[], T]) -> T:
        """Does something on the first process; all return what it returned, or raise the SwindowError it raised."""
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = do()
            except SwindowError as error:
                outcome[1] = error
        if self.size > 1:
            dist.broadcast_object_list(outcome, device=self.device)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def gather(self, value: T) -> list[T]:
        """Returns the value of every process, in their order."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def compute(self, metric: Metric) -> dict[str, Any]:
        """Returns the figures of the metrics of all processes together: computed on the first, the same on all."""
        metrics: list[Any] = self.gather(metric)

        def together() -> dict[str, Any]:
            metrics[0].merge(metrics[1:])
            return metrics[0].compute()

        return self.on_first(together)


class Parallel:
    """A model that learns in one process or in several, each with a copy: gradients are summed over all of them.

    Args:
        model: it lies on the device of this process.
        here: this process.
    """

    def __init__(self, model: nn.Module, here: World) -> None:
        self.model, self.here = model, here
        self.wrapped: nn.Module = model
        if here.size > 1:
            self.wrapped = DistributedDataParallel(model)

    def __call__(self, **inputs: Tensor) -> Any:
        """Returns the model's outputs."""
        return self.wrapped(**inputs)

    def train(self) -> None:
        """Sets the model to training mode."""
        self.wrapped.train()

    def total(self, units: Mapping[str, float]) -> dict[str, Any]:
        """Returns what the units of all processes add up to, 0 taken as 1. On a GPU nobody waits for the result."""
        if self.here.size == 1:
            return {name: count or 1.0 for name, count in units.items()}
        sums = torch.tensor(list(units.values()), dtype=torch.float32).to(self.here.device, non_blocking=True)
        dist.all_reduce(sums)
        return dict(zip(units, torch.where(sums == 0, 1.0, sums).unbind(), strict=True))

    def part(self, last: bool) -> AbstractContextManager[Any]:
        """Returns the context of forward and backward of one part of a step; gradients are exchanged after the last."""
        if self.here.size == 1 or last:
            return nullcontext()
        assert isinstance(self.wrapped, DistributedDataParallel)
        return self.wrapped.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of this process's share of a loss; shares add up, where DDP would average them."""
        (loss * self.here.size if self.here.size > 1 else loss).backward()

    def clip(self, norm: float) -> Tensor:
        """Scales the gradient down to a largest norm; returns the norm that it had, a tensor on the device."""
        return nn.utils.clip_grad_norm_(self.model.parameters(), norm)

    def whole(self) -> nn.Module:
        """Returns the model with all of its weights, to be saved. Every process calls it, as ``state``."""
        return self.model

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Returns the whole state of model and optimizer. Every process calls it: parts may lie with each of them."""
        return {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Joins the processes that torchrun started (one where it started none), and leaves them at the end.

    Raises:
        ConfigError: the device does not exist here.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    place = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(rank, size, place)
    finally:
        dist.destroy_process_group()
