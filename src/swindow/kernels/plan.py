"""The order in which the fast ways to attend take windows: those of one kind (the same mask) side by side.

Each kind is one call with one (h, N, N) bias, and the many windows inside the map need no mask at all. There are at
most 3 kinds per axis: those inside, the last window, and the one before it where the shift moves padding into it.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import windows
from ..caching import known, remembered
from ..windows import Geometry


class Kind(NamedTuple):
    """Windows that stand side by side: their range, and which pairs of tokens may not attend."""

    start: int
    stop: int | None  # None: to the last
    apart: Tensor | None  # fp32, -inf where a pair is apart, else 0: (N, N) for all of them, or (nW, N, N); None: 0


class Plan(NamedTuple):
    """What attending on a geometry needs that depends on no weight."""

    gather: Tensor  # (nW * N,)
    scatter: Tensor  # (prod(grid),)
    kinds: tuple[Kind, ...]
    pads: bool


@remembered
def plan(g: Geometry, device: torch.device) -> Plan:
    """Sorts the windows of a geometry by kind and works out the order of tokens and the mask of each kind.

    The kinds follow from sizes, never from what a tensor holds, so that it runs where tensors hold nothing (meta,
    fake tensors).
    """
    if torch.compiler.is_compiling():
        return _plan_of_one_kind(g, device)
    gather, scatter = windows.order(g, device)
    region = windows.labels(g, device).unflatten(0, g.windows)  # (H/M, W/M, N)
    n = region.shape[-1]
    number = torch.arange(math.prod(g.windows), device=device).view(g.windows)  # (H/M, W/M)
    numbers: list[Tensor] = []
    kinds: list[Kind] = []
    start = 0
    for ranges in itertools.product(*(_ranges(g, axis) for axis in range(len(g.grid)))):
        place = tuple(slice(r.start, r.stop) for r in ranges)
        numbers.append(number[place].flatten())
        first = region[place].reshape(-1, n)[0]  # (N,)
        apart = None if all(r.inside for r in ranges) else _minus_infinity(first[:, None] != first[None, :])
        kinds.append(Kind(start, start + len(numbers[-1]), apart))
        start += len(numbers[-1])
    order = torch.cat(numbers)  # (nW,) windows in their new order
    gather = gather.view(-1, n)[order].flatten()
    scatter = order.argsort()[scatter // n] * n + scatter % n
    return Plan(gather, scatter, tuple(kinds), g.pads)


def _plan_of_one_kind(g: Geometry, device: torch.device) -> Plan:
    """A plan in which every window has a mask of its own: plain arithmetic, which a compiler folds into other work.

    Where sizes are open, nothing is decided by them: one compiled model serves all.
    """
    gather, scatter = windows.order(g, device)
    pads = not known(g.grid) or g.pads
    apart = None
    if any(g.shift) or (g.mask_padding and pads):
        region = windows.labels(g, device)  # (nW, N)
        apart = _minus_infinity(region[:, :, None] != region[:, None, :])  # (nW, N, N)
    return Plan(gather, scatter, (Kind(0, None, apart),), pads)


def _minus_infinity(apart: Tensor) -> Tensor:
    return torch.zeros((), device=apart.device).masked_fill(apart, -math.inf)


class _Range(NamedTuple):
    """Windows along one axis that are of one kind; inside: all their tokens are of one region."""

    start: int
    stop: int
    inside: bool


def _ranges(g: Geometry, axis: int) -> list[_Range]:
    """The windows inside, then each of the few after them."""
    n, p, w, s = g.grid[axis], g.padded[axis], g.window[axis], g.shift[axis]
    ends_meet = p - w if s else p  # where on the rolled axis the window begins that holds both ends of the map
    padding = n - s if g.mask_padding and n < p else p  # where on the rolled axis padding begins
    inside = max(0, min(ends_meet, padding)) // w
    rest = [_Range(i, i + 1, False) for i in range(inside, p // w)]
    return [_Range(0, inside, True), *rest] if inside else rest
