"""Shifted-window attention on PyTorch's scaled dot-product attention: gather, project, attend, scatter; no roll.

Windows of one kind (the same mask) are gathered next to each other, so that each kind is one call with one (h, N, N)
mask, and the many windows inside the map need none beyond the bias. There are at most 2 kinds per axis.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import windows
from ..windows import Geometry
from .reference import Projection, Similarity


class _Kind(NamedTuple):
    """Windows of one kind, which stand side by side: their range, and which pairs attend (None: all)."""

    start: int
    stop: int
    allowed: Tensor | None  # (N, N) bool


class _Plan(NamedTuple):
    """What attending on a geometry needs that depends on no weight."""

    gather: Tensor  # (nW * N,)
    scatter: Tensor  # (prod(grid),)
    kinds: tuple[_Kind, ...]


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
    if g.pads:
        x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
    x = x.index_select(1, plan.gather)  # (B, nW*N, C)
    q, k, v = (
        qkv(x).unflatten(1, (-1, n)).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
    )  # (3, B, nW, h, N, d)
    q, k = similarity(q, k)
    attended = []
    for start, stop, allowed in plan.kinds:
        mask = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))
        q_, k_, v_ = (t[:, start:stop].flatten(0, 1) for t in (q, k, v))  # (B*nW, h, N, d) each
        x = F.scaled_dot_product_attention(q_, k_, v_, mask.to(q.dtype)[None], dropout, scale=1.0)
        attended.append(x.transpose(1, 2).reshape(y.shape[0], -1, y.shape[-1]))  # (B, nW*N, C)
    x = attended[0] if len(attended) == 1 else torch.cat(attended, 1)
    return x.index_select(1, plan.scatter).unflatten(1, g.grid)  # (B, *grid, C)


def _plan(g: Geometry, device: torch.device) -> _Plan:
    """The plan of a geometry, from a bounded cache; made afresh while compiling, which must not see the cache."""
    if torch.compiler.is_compiling():
        return _make_plan(g, device)
    plan = _cached_plan(g, device)
    if type(plan.gather) is not Tensor:  # made under a mode such as FakeTensorMode: right now, wrong later
        _cached_plan.cache_clear()
    return plan


@functools.lru_cache(maxsize=64)
def _cached_plan(g: Geometry, device: torch.device) -> _Plan:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be saved for backward later
        return _make_plan(g, device)


def _make_plan(g: Geometry, device: torch.device) -> _Plan:
    """Sorts the windows of a geometry by kind and works out the order of tokens and the mask of each kind."""
    gather, scatter = windows.order(g, device)
    region = windows.labels(g, device)  # (nW, N)
    kinds, kind_of = region.unique(dim=0, return_inverse=True)  # (kinds, N), (nW,)
    by_kind = kind_of.argsort(stable=True)  # (nW,) windows in their new order
    n = region.shape[1]
    gather = gather.view(-1, n)[by_kind].flatten()
    window, token = scatter // n, scatter % n
    scatter = by_kind.argsort()[window] * n + token
    stops = kind_of.bincount().cumsum(0).tolist()
    starts = [0, *stops[:-1]]
    allowed = [None if bool((r == r[0]).all()) else r[:, None] == r[None, :] for r in kinds]
    return _Plan(gather, scatter, tuple(map(_Kind, starts, stops, allowed)))
