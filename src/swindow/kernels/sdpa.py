"""Shifted-window attention on PyTorch's scaled dot-product attention: gather, project, attend, scatter; no roll."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ..windows import Geometry
from .plan import plan
from .reference import Projection, Similarity


def attend(
    y: Tensor,
    qkv: Projection,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
    dropout: float = 0.0,
) -> Tensor:
    """See ``swindow.kernels.attend``."""
    order, heads, n = plan(g, y.device), bias.shape[0], bias.shape[-1]
    x = y.flatten(1, -2)  # (B, H*W, C)
    if order.pads:
        x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
    x = x.index_select(1, order.gather)  # (B, nW*N, C)
    q, k, v = (t.reshape(-1, n, heads, t.shape[-1] // heads).transpose(1, 2) for t in qkv(x).chunk(3, -1))
    q, k = similarity(q, k)  # (B*nW, h, N, d) each: no more axes, so that runtimes fuse what is exported
    attended = []
    for start, stop, apart in order.kinds:
        q_, k_, v_ = (t.unflatten(0, (y.shape[0], -1))[:, start:stop].flatten(0, 1) for t in (q, k, v))
        x = _attention(q_, k_, v_, bias, apart, dropout)  # (B*nW, h, N, d)
        attended.append(x.transpose(1, 2).reshape(y.shape[0], -1, y.shape[-1]))  # (B, nW*N, C)
    x = attended[0] if len(attended) == 1 else torch.cat(attended, 1)
    return x.index_select(1, order.scatter).unflatten(1, g.grid)  # (B, *grid, C)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, apart: Tensor | None, dropout: float) -> Tensor:
    """Softmax(QK^T + B) V, all (B*nW, h, N, d): every window is a batch of its own."""
    mask = bias[None]  # (1, h, N, N)
    if apart is not None:
        mask = bias + apart.view(-1, 1, *apart.shape[-2:])  # (1 or nW, h, N, N)
        if apart.ndim == 3:
            mask = mask.repeat(q.shape[0] // apart.shape[0], 1, 1, 1)  # (B*nW, h, N, N)
    if mask.dtype != torch.float32 or mask.device.type != "cpu":
        mask = mask.to(q.dtype)  # the CPU's attention adds an fp32 bias to half-precision logits, a GPU's does not
    with full_precision(q):  # autocast would round the bias
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=1.0)
