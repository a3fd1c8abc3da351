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
    q, k, v = (
        qkv(x).unflatten(1, (-1, n)).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
    )  # (3, B, nW, h, N, d)
    q, k = similarity(q, k)
    attended = []
    for start, stop, apart in order.kinds:
        q_, k_, v_ = (t[:, start:stop] for t in (q, k, v))
        x = _attention(q_, k_, v_, bias, apart, dropout)  # (B, nW, h, N, d)
        attended.append(x.transpose(2, 3).reshape(y.shape[0], -1, y.shape[-1]))  # (B, nW*N, C)
    x = attended[0] if len(attended) == 1 else torch.cat(attended, 1)
    return x.index_select(1, order.scatter).unflatten(1, g.grid)  # (B, *grid, C)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, apart: Tensor | None, dropout: float) -> Tensor:
    """Attention in windows, all (B, nW, h, N, d). With one mask for all, windows stand for batches, else for heads."""
    mask = bias if apart is None else bias + apart.unsqueeze(-3)  # (h, N, N) or (nW, h, N, N)
    if mask.ndim == 3:
        q_, k_, v_ = (t.flatten(0, 1) for t in (q, k, v))  # (B*nW, h, N, d) each
    else:
        mask = mask.flatten(0, 1)  # (nW*h, N, N)
        q_, k_, v_ = (t.flatten(1, 2) for t in (q, k, v))  # (B, nW*h, N, d) each
    if mask.dtype != torch.float32 or mask.device.type != "cpu":
        mask = mask.to(q.dtype)  # the CPU's attention adds an fp32 bias to half-precision logits, a GPU's does not
    with full_precision(q):  # autocast would round the bias
        x = F.scaled_dot_product_attention(q_, k_, v_, mask[None], dropout, scale=1.0)
    return x.view(q.shape)
