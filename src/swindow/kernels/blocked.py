"""Shifted-window attention for inference on a CPU: plain matrix products, a few windows at a time.

What a group of windows needs stays in the processor's cache, and no array is so large that the system clears its memory
again in every call. PyTorch's scaled dot-product attention is slower here: it is made for long sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..caching import remembered
from ..precision import full_precision, wide
from ..windows import Geometry
from .plan import Plan, plan
from .reference import Projection, Similarity

GROUP = 4_000_000  # bytes of queries, keys and values at a time (benchmarks/results/speed.md)
# The tokens of windows (b*w, N, C) to queries, keys and values (h, b*w, N, d); their plain product is the similarity.
ByHead = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def attend(
    y: Tensor,
    qkv: Projection,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
    dropout: float = 0.0,
) -> Tensor:
    """See ``swindow.kernels.attend``."""
    heads = bias.shape[0]

    def by_head(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = qkv(x).view(*x.shape[:-1], 3, heads, -1).permute(2, 3, 0, 1, 4).contiguous()  # (3, h, b*w, N, d)
        q, k = similarity(t[0].transpose(0, 1), t[1].transpose(0, 1))  # (b*w, h, N, d) each
        return q.transpose(0, 1), k.transpose(0, 1), t[2]

    return attend_by_head(y, by_head, bias, g, dropout)


def attend_by_head(y: Tensor, by_head: ByHead, bias: Tensor, g: Geometry, dropout: float = 0.0) -> Tensor:
    """Attends for tokens (B, *grid, C) whose projection and similarity are one function; bias (h, N, N)."""
    order = plan(g, y.device)
    heads, n, chans = bias.shape[0], bias.shape[1], y.shape[-1]
    count = order.gather.shape[0] // n  # windows of an image
    x = y.flatten(1, -2)  # (B, H*W, C)
    if order.pads:
        x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
    at_once = max(1, GROUP // (3 * n * chans * x.element_size()))  # windows in a group
    attended = []
    for images in x.split(max(1, at_once // count)):  # (b, H*W, C)
        groups = []
        for start in range(0, count, at_once):
            tokens = order.gather[start * n : (start + at_once) * n]
            q, k, v = by_head(images.index_select(1, tokens).view(-1, n, chans))  # (h, b*w, N, d) each
            groups.append(_attend_group(q, k, v, bias, order, images.shape[0], start, dropout))
        o = groups[0] if len(groups) == 1 else torch.cat(groups, 1)  # (h, b*nW, N, d)
        o = o.view(-1, chans // heads).index_select(0, _rows(g, y.device, images.shape[0], heads))  # (b*H*W*h, d)
        attended.append(o.view(-1, *g.grid, chans))
    return attended[0] if len(attended) == 1 else torch.cat(attended)  # (B, *grid, C)


def _attend_group(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, order: Plan, images: int, start: int, dropout: float
) -> Tensor:
    """Softmax(QK^T + B) V, all (h, b*w, N, d), for the windows from number ``start`` on of every image."""
    with full_precision(q):
        logits = wide(q).flatten(0, 1).bmm(wide(k).flatten(0, 1).transpose(1, 2))  # (h*b*w, N, N)
        by_window = logits.view(bias.shape[0], images, -1, *bias.shape[1:])  # (h, b, w, N, N)
        by_window += bias[:, None, None]
        for first, stop, apart in order.kinds:
            if apart is not None:
                by_window[:, :, max(first - start, 0) : None if stop is None else max(stop - start, 0)] += apart
        probabilities = logits.softmax(-1).to(v.dtype)
        if dropout:
            probabilities = torch.dropout(probabilities, dropout, train=True)
        return probabilities.bmm(v.flatten(0, 1)).view(v.shape)


@remembered
def _rows(g: Geometry, device: torch.device, images: int, heads: int) -> Tensor:
    """Where in (h, b, nW, N) every head of every token of the grid stands: (b*H*W*h,)."""
    n = math.prod(g.windows) * math.prod(g.window)  # places of an image
    image, head = torch.arange(images, device=device), torch.arange(heads, device=device)
    return (plan(g, device).scatter[:, None] + image[:, None, None] * n + head * (images * n)).flatten()
