"""The order in which the fast ways to attend take windows: those with the same mask side by side, as a group.

Each group is one call with one (h, N, N) bias, and the many windows inside the map need no mask at all. There are at
most 3 groups per axis: those inside, the last window, and the one before it where the shift moves padding into it.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import windows
from ..caching import cached_by_shape, is_static
from ..windows import Geometry


class Group(NamedTuple):
    """Windows that stand side by side: their range, and which pairs of tokens may not attend."""

    start: int
    stop: int | None  # None: to the last
    mask: Tensor | None  # fp32, -inf where a pair may not attend, else 0: (N, N) for all, or (nW, N, N); None: 0


class Plan(NamedTuple):
    """What attending on a geometry needs that depends on no weight."""

    gather: Tensor  # (nW * N,)
    scatter: Tensor  # (prod(grid),)
    groups: tuple[Group, ...]
    pads: bool


@cached_by_shape
def plan(g: Geometry, device: torch.device) -> Plan:
    """Groups the windows of a geometry by mask and works out the order of tokens and the mask of each group.

    The groups follow from sizes, never from what a tensor holds, so that it runs where tensors hold nothing (meta,
    fake tensors).
    """
    if torch.compiler.is_compiling():
        return _plan_of_one_group(g, device)
    gather, scatter = windows.order(g, device)
    region = windows.labels(g, device).unflatten(0, g.windows)  # (H/M, W/M, N)
    n = region.shape[-1]
    number = torch.arange(math.prod(g.windows), device=device).view(g.windows)  # (H/M, W/M)
    numbers: list[Tensor] = []
    groups: list[Group] = []
    start = 0
    for ranges in itertools.product(*(_ranges(g, axis) for axis in range(len(g.grid)))):
        place = tuple(slice(r.start, r.stop) for r in ranges)
        numbers.append(number[place].flatten())
        first = region[place].reshape(-1, n)[0]  # (N,)
        mask = None if all(r.inside for r in ranges) else _minus_infinity(first[:, None] != first[None, :])
        groups.append(Group(start, start + len(numbers[-1]), mask))
        start += len(numbers[-1])
    order = torch.cat(numbers)  # (nW,) windows in their new order
    gather = gather.view(-1, n)[order].flatten()
    scatter = order.argsort()[scatter // n] * n + scatter % n
    return Plan(gather, scatter, tuple(groups), g.pads)


def _plan_of_one_group(g: Geometry, device: torch.device) -> Plan:
    """A plan in which every window has a mask of its own: plain arithmetic, which a compiler folds into other work.

    Where sizes are open, nothing is decided by them: one compiled model serves all.
    """
    gather, scatter = windows.order(g, device)
    pads = not is_static(g.grid) or g.pads
    mask = None
    if not is_static(g.shift) or any(g.shift) or (g.mask_padding and pads):
        region = windows.labels(g, device)  # (nW, N)
        mask = _minus_infinity(region[:, :, None] != region[:, None, :])  # (nW, N, N)
    return Plan(gather, scatter, (Group(0, None, mask),), pads)


def _minus_infinity(masked: Tensor) -> Tensor:
    return torch.zeros((), device=masked.device).masked_fill(masked, -math.inf)


class _Range(NamedTuple):
    """Windows along one axis that belong to one group; inside: all their tokens are of one region."""

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
