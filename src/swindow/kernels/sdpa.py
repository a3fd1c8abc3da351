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
    q, k, v = _by_head(qkv(x), n, heads)  # (B*nW, h, N, d) each
    q, k = similarity(q, k)  # no more axes than four, so that runtimes fuse what is exported
    attended = []
    for start, stop, mask in order.groups:
        q_, k_, v_ = (t.unflatten(0, (y.shape[0], -1))[:, start:stop].flatten(0, 1) for t in (q, k, v))
        x = _attention(q_, k_, v_, bias, mask, dropout)  # (B*nW, h, N, d)
        x = x.transpose(1, 2)  # (B*nW, N, h, d)
        if torch.compiler.is_compiling():  # an exporter may replace the attention by one whose result lies otherwise
            x = x.clone(memory_format=torch.contiguous_format)
        attended.append(x.reshape(y.shape[0], -1, heads * x.shape[-1]))  # (B, nW*N, hd)
    x = attended[0] if len(attended) == 1 else torch.cat(attended, 1)
    return x.index_select(1, order.scatter).unflatten(1, g.grid)  # (B, *grid, hd)


def _by_head(x: Tensor, n: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B*nW, h, N, d) of projected tokens (B, nW*N, 3hd), in windows of n."""
    dim = x.shape[-1] // 3
    q, k, v = (t.reshape(-1, n, heads, dim // heads).transpose(1, 2) for t in x.chunk(3, -1))
    return q, k, v


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Softmax(QK^T + B) V, all (B*nW, h, N, d): every window is a batch of its own."""
    attn_mask = bias if _is_exporting() else bias[None]  # (h, N, N): no axis of 1 to be compared with an open batch
    if mask is not None:
        attn_mask = bias + mask.view(-1, 1, *mask.shape[-2:])  # (1 or nW, h, N, N)
        if mask.ndim == 3:
            attn_mask = attn_mask.repeat(q.shape[0] // mask.shape[0], 1, 1, 1)  # (B*nW, h, N, N)
    if attn_mask.dtype != torch.float32 or attn_mask.device.type != "cpu" or _is_exporting():
        attn_mask = attn_mask.to(q.dtype)  # a CPU adds an fp32 bias to half-precision logits; GPUs and ONNX do not
    with full_precision(q):  # autocast would round the bias
        return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, scale=1.0)


def _is_exporting() -> bool:
    """Whether torch.export looks on, and not torch.compile."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
