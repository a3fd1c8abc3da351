"""Shifted-window attention on PyTorch's scaled dot-product attention: gather, project, attend, scatter; no roll.

Windows of one kind (the same mask) are gathered next to each other, so that each kind is one call with one (h, N, N)
mask, and the many windows inside the map need none beyond the bias. There are at most 3 kinds per axis: those inside,
the last window, and the one before it where the shift moves padding into it.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import windows
from ..caching import known, remembered
from ..precision import full_precision
from ..windows import Geometry
from .reference import Projection, Similarity


class _Kind(NamedTuple):
    """Windows that stand side by side: their range, and which pairs attend."""

    start: int
    stop: int | None  # None: to the last
    allowed: Tensor | None  # (N, N) bool for all of them, or (nW, N, N); None: all pairs


class _Plan(NamedTuple):
    """What attending on a geometry needs that depends on no weight."""

    gather: Tensor  # (nW * N,)
    scatter: Tensor  # (prod(grid),)
    kinds: tuple[_Kind, ...]
    pads: bool


def attend(
    y: Tensor,
    qkv: Projection,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
    dropout: float = 0.0,
) -> Tensor:
    """See ``swindow.kernels.attend``."""
    plan, heads, n = _plan(g, y.device), bias.shape[0], bias.shape[-1]
    x = y.flatten(1, -2)  # (B, H*W, C)
    if plan.pads:
        x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
    x = x.index_select(1, plan.gather)  # (B, nW*N, C)
    q, k, v = (
        qkv(x).unflatten(1, (-1, n)).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
    )  # (3, B, nW, h, N, d)
    q, k = similarity(q, k)
    attended = []
    for start, stop, allowed in plan.kinds:
        q_, k_, v_ = (t[:, start:stop] for t in (q, k, v))
        x = _attention(q_, k_, v_, bias, allowed, dropout)  # (B, nW, h, N, d)
        attended.append(x.transpose(2, 3).reshape(y.shape[0], -1, y.shape[-1]))  # (B, nW*N, C)
    x = attended[0] if len(attended) == 1 else torch.cat(attended, 1)
    return x.index_select(1, plan.scatter).unflatten(1, g.grid)  # (B, *grid, C)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, allowed: Tensor | None, dropout: float) -> Tensor:
    """Attention in windows, all (B, nW, h, N, d). With one mask for all, windows stand for batches, else for heads."""
    if allowed is None or allowed.ndim == 2:
        mask = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))  # (h, N, N)
        q_, k_, v_ = (t.flatten(0, 1) for t in (q, k, v))  # (B*nW, h, N, d) each
    else:
        mask = bias.masked_fill(~allowed[:, None], float("-inf")).flatten(0, 1)  # (nW*h, N, N)
        q_, k_, v_ = (t.flatten(1, 2) for t in (q, k, v))  # (B, nW*h, N, d) each
    if mask.dtype != torch.float32 or mask.device.type != "cpu":
        mask = mask.to(q.dtype)  # the CPU's attention adds an fp32 bias to half-precision logits, a GPU's does not
    with full_precision(q):  # autocast would round the bias
        x = F.scaled_dot_product_attention(q_, k_, v_, mask[None], dropout, scale=1.0)
    return x.view(q.shape)


@remembered
def _plan(g: Geometry, device: torch.device) -> _Plan:
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
    kinds: list[_Kind] = []
    start = 0
    for ranges in itertools.product(*(_ranges(g, axis) for axis in range(len(g.grid)))):
        place = tuple(slice(r.start, r.stop) for r in ranges)
        numbers.append(number[place].flatten())
        first = region[place].reshape(-1, n)[0]  # (N,)
        allowed = None if all(r.inside for r in ranges) else first[:, None] == first[None, :]
        kinds.append(_Kind(start, start + len(numbers[-1]), allowed))
        start += len(numbers[-1])
    order = torch.cat(numbers)  # (nW,) windows in their new order
    gather = gather.view(-1, n)[order].flatten()
    scatter = order.argsort()[scatter // n] * n + scatter % n
    return _Plan(gather, scatter, tuple(kinds), g.pads)


def _plan_of_one_kind(g: Geometry, device: torch.device) -> _Plan:
    """A plan in which every window has a mask of its own: plain arithmetic, which a compiler folds into other work.

    Where sizes are open, nothing is decided by them: one compiled model serves all.
    """
    gather, scatter = windows.order(g, device)
    pads = not known(g.grid) or g.pads
    allowed = None
    if any(g.shift) or (g.mask_padding and pads):
        region = windows.labels(g, device)  # (nW, N)
        allowed = region[:, :, None] == region[:, None, :]  # (nW, N, N)
    return _Plan(gather, scatter, (_Kind(0, None, allowed),), pads)


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
