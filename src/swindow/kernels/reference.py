"""Shifted-window attention as the paper says it: pad, roll, partition, attend, merge, roll back, crop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import windows
from ..precision import full_precision, wide
from ..windows import Geometry

Projection = Callable[[Tensor], Tensor]  # (..., C) to (..., 3C)
# Scales queries and keys, both (..., N, d), so that their plain product is the similarity.
Similarity = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def attend(
    y: Tensor,
    qkv: Projection,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
    dropout: float = 0.0,
) -> Tensor:
    """See ``swindow.kernels.attend``."""
    q, k, v = _project(y, qkv, bias.shape[0], g)  # (B, nW, h, N, d) each
    probabilities = torch.dropout(_softmax(q, k, bias, g, similarity), dropout, train=dropout > 0)
    x = (probabilities @ v).transpose(2, 3).flatten(3)  # (B, nW, N, C)
    x = windows.merge(x, g.window, g.padded)  # (B, *padded, C)
    x = windows.cyclic_shift(x, [-s for s in g.shift])
    return windows.crop(x, g)  # (B, *grid, C)


def weights(
    y: Tensor,
    qkv: Projection,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
) -> Tensor:
    """Returns the attention probabilities (B, nW, h, N, N), query by key; arguments as of ``kernels.attend``."""
    q, k, _ = _project(y, qkv, bias.shape[0], g)
    return _softmax(q, k, bias, g, similarity)


def _project(y: Tensor, qkv: Projection, heads: int, g: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of every window, (B, nW, h, N, d) each."""
    x = windows.pad(y, g)  # (B, *padded, C)
    x = windows.cyclic_shift(x, g.shift)
    x = windows.partition(x, g.window)  # (B, nW, N, C)
    q, k, v = qkv(x).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)  # (3, B, nW, h, N, d)
    return q, k, v


def _softmax(
    q: Tensor,
    k: Tensor,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
) -> Tensor:
    """Softmax(similarity(Q, K) + B) with the mask, (B, nW, h, N, N); logits and softmax in fp32 at least."""
    q, k = similarity(q, k)
    region = windows.labels(g, q.device)  # (nW, N)
    apart = region[:, :, None] != region[:, None, :]  # (nW, N, N)
    with full_precision(q):
        logits = wide(q) @ wide(k).transpose(-2, -1) + bias
        return logits.masked_fill(apart[:, None], float("-inf")).softmax(-1).to(q.dtype)
