"""What the steps of a run add up to, kept on the device until it is read, so that no step waits for a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .parallel import World


class Step(NamedTuple):
    """What a step gave, over all processes: of every loss its sum and its units; the gradient's norm."""

    sums: dict[str, tuple[float, float]]
    norm: float


class Tally:
    """Collects the sums of steps.

    Args:
        here: this process; the sums of all are added up when they are read.

    Attributes:
        units: the unit of every loss, as of the last batch.
        minimised: the losses that had a gradient in any batch; the others are only reported.
    """

    def __init__(self, here: World) -> None:
        self.here = here
        self.units: dict[str, str] = {}
        self.minimised: tuple[str, ...] = ()
        self._sums: list[Tensor] = []
        self._counts: list[list[float]] = []
        self._dtype = torch.float32 if here.device.type == "mps" else torch.float64

    def __len__(self) -> int:
        return len(self._sums)

    def sums(self, losses: Mapping[str, tuple[Tensor, str]]) -> Tensor:
        """Returns the sums of a part's losses as one tensor on the device, without their gradients."""
        self.units = {name: unit for name, (_, unit) in losses.items()}
        found = (name for name, (value, _) in losses.items() if value.requires_grad)
        self.minimised = tuple(dict.fromkeys((*self.minimised, *found)))
        return torch.stack([value.detach().to(self._dtype) for value, _ in losses.values()])

    def add(self, sums: Tensor, counts: Mapping[str, float], norm: Tensor) -> None:
        """Adds a step: the sums of its losses, how many units it has in this process, the norm of its gradient."""
        self._sums.append(torch.cat([sums, norm.detach().to(self._dtype)[None]]))
        self._counts.append([counts[unit] for unit in self.units.values()])

    def read(self, flag: bool = False) -> tuple[list[Step], bool]:
        """Returns the steps that were added since the last reading, and the first process's ``flag``, in every process.

        This waits for the device, and for the other processes, which must read after the same steps.
        """
        sums = torch.stack(self._sums)  # (steps, losses + 1)
        counts = torch.tensor(self._counts, dtype=self._dtype)  # (steps, losses)
        flags = torch.full((len(sums), 1), float(flag and self.here.first), dtype=self._dtype)
        counts = torch.cat([counts, flags], 1).to(sums.device)
        rows = self.here.sum(torch.cat([sums, counts], 1)).tolist()
        self._sums, self._counts, k = [], [], len(self.units)
        found = []
        for row in rows:
            pairs = zip(row[:k], row[k + 1 : -1], strict=True)
            found.append(Step(dict(zip(self.units, pairs, strict=True)), row[k] / self.here.size))
        return found, rows[-1][-1] > 0
