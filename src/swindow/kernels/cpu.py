"""Shifted-window attention on a CPU, forward and backward: plain matrix products, a few windows at a time.

What a group of windows needs stays in the processor's cache, and no array is so large that the system clears its memory
again in every call. PyTorch's scaled dot-product attention is slower for windows of usual size: it is made for long
sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import private
from ..caching import cached_by_shape
from ..precision import computed, full_precision, wide
from ..windows import Geometry
from . import fast_path, products
from .plan import Plan, plan
from .recompute import reordered
from .reference import Projection, Similarity

LARGE_WINDOW = 576  # tokens from which on PyTorch's attention is faster in inference (speed-tried.md)
GROUP = 2_000_000  # numbers of queries, keys and values at a time (benchmarks/results/speed-tried.md)
TRAINING_GROUP = GROUP // 2  # in training, where backward holds more arrays for each
# The tokens of windows (b*w, N, C) to queries, keys and values (h, b*w, N, d); their plain product is the similarity.
ByHead = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def suits(x: Tensor, product: str | None = None) -> bool:
    """Returns whether blocks pay for a tensor: on a CPU, computed in fp32, float64 or, on some processors, bfloat16."""
    if x.device.type != "cpu":
        return False
    dtype = computed(x)
    return dtype in (torch.float32, torch.float64) or (dtype == torch.bfloat16 and products.bf16_in_blocks(product))


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
        q, k, v = _split(qkv(x), heads)
        return *_similar(similarity, q, k), v

    module = similarity if isinstance(similarity, torch.nn.Module) else None  # its parameters can be asked for
    scaled = getattr(module, "scaled", None)
    if module is None or scaled is None or dropout or not torch.is_grad_enabled() or not fast_path.may_run(y, module):
        return attend_by_head(y, by_head, bias, g, dropout)
    order = plan(g, y.device)
    x = reordered(y.to(computed(y)), order.gather, order.scatter)  # (B, nW*N, C)
    t = qkv(x).contiguous()  # (B, nW*N, 3hd)
    x = _Groups.apply(t, bias, order, scaled, *module.parameters())  # type: ignore[no-untyped-call]  # (B, nW*N, hd)
    return reordered(x, order.scatter, order.gather).unflatten(1, g.grid)  # (B, *grid, hd)


def _split(t: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the projection gives for the tokens of windows (W, N, 3hd): queries, keys and values (h, W, N, d)."""
    q, k, v = t.unflatten(-1, (3, heads, -1)).permute(2, 3, 0, 1, 4).contiguous().unbind()
    return q, k, v


def _similar(
    similarity: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, *parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """Scales queries and keys (h, W, N, d)."""
    q, k = similarity(q.transpose(0, 1), k.transpose(0, 1), *parameters)
    return q.transpose(0, 1), k.transpose(0, 1)


def attend_by_head(y: Tensor, by_head: ByHead, bias: Tensor, g: Geometry, dropout: float = 0.0) -> Tensor:
    """Attends for tokens (B, *grid, C) whose projection and similarity are one function; bias (h, N, N)."""
    order = plan(g, y.device)
    n, chans = bias.shape[1], y.shape[-1]
    count = order.gather.shape[0] // n  # windows of an image
    x = y.flatten(1, -2)  # (B, H*W, C)
    if order.pads:
        x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
    at_once = max(1, GROUP // (3 * n * chans))  # windows in a group
    attended = []
    for images in x.split(max(1, at_once // count)):  # (b, H*W, C)
        groups = []
        for start in range(0, count, at_once):
            tokens = order.gather[start * n : (start + at_once) * n]
            q, k, v = by_head(images.index_select(1, tokens).view(-1, n, chans))  # (h, b*w, N, d) each
            groups.append(_attend_group(q, k, v, bias, order, images.shape[0], start, dropout))
        o = groups[0] if len(groups) == 1 else torch.cat(groups, 1)  # (h, b*nW, N, d)
        rows = _rows(g, y.device, images.shape[0], len(o))  # (b*H*W*h,)
        attended.append(o.view(-1, o.shape[-1]).index_select(0, rows).view(-1, *g.grid, len(o) * o.shape[-1]))
    return attended[0] if len(attended) == 1 else torch.cat(attended)  # (B, *grid, h*d)


def _attend_group(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, order: Plan, images: int, start: int, dropout: float = 0.0
) -> Tensor:
    """Softmax(QK^T + B) V, all (h, b*w, N, d), for the windows from number ``start`` on of every image."""
    with full_precision(q):
        probabilities = _probabilities(wide(q), wide(k), bias, order, images, start).to(v.dtype)
        if dropout:
            probabilities = torch.dropout(probabilities, dropout, train=True)
        return probabilities.bmm(v.flatten(0, 1)).view(v.shape)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor, order: Plan, images: int, start: int) -> Tensor:
    """Softmax(QK^T + B) of queries and keys (h, b*w, N, d): (h*b*w, N, N)."""
    logits = q.flatten(0, 1).bmm(k.flatten(0, 1).transpose(1, 2))  # (h*b*w, N, N)
    by_window = logits.view(bias.shape[0], images, -1, *bias.shape[1:])  # (h, b, w, N, N)
    by_window += bias[:, None, None]
    for first, stop, mask in order.groups:
        if mask is not None:
            by_window[:, :, max(first - start, 0) : None if stop is None else max(stop - start, 0)] += mask
    return logits.softmax(-1)


class _Groups(torch.autograd.Function):
    """Attention in training: keeps queries, keys and values.

    In full precision it works out the probabilities again in backward; in half precision it keeps them.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, bias: Tensor, order: Plan, similarity: Similarity, *parameters: Tensor) -> Tensor:
        ctx.order, ctx.similarity, ctx.number = order, similarity, len(parameters)
        out, kept = t.new_empty(*t.shape[:-1], t.shape[-1] // 3), []
        with full_precision(t):
            for start, box, result in _boxes(bias, t, out):
                q, k, v = _split(box.view(-1, bias.shape[1], t.shape[-1]), len(bias))
                q, k = _similar(similarity, q, k, *parameters)
                p = _probabilities(wide(q), wide(k), bias, order, len(box), start).to(v.dtype)  # (h*b*w, N, N)
                _by_head(result, v).copy_(p.bmm(v.flatten(0, 1)).view(v.shape))  # (h, b*w, N, d)
                if torch.finfo(p.dtype).bits < 32:
                    kept.append(p)
        ctx.save_for_backward(t, bias, *parameters, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        t, bias, *others = ctx.saved_tensors
        parameters, kept = others[: ctx.number], iter(others[ctx.number :])
        if fast_path.needs_plain_backward(gradient):
            d_t, d_bias, *rest = fast_path.differentiably(
                _Groups.plainly(ctx.order, ctx.similarity), (t, bias, *parameters), gradient
            )
            return d_t, d_bias, None, None, *rest
        learned = [p for p in parameters if p.requires_grad]
        d_t, sums = torch.empty_like(t), [torch.zeros_like(wide(p)) for p in (bias, *learned)]
        with full_precision(t):
            for start, box, d_box, d_out in _boxes(bias, t, d_t, gradient.contiguous()):
                raw_q, raw_k, v = _split(box.view(-1, bias.shape[1], t.shape[-1]), len(bias))
                with torch.enable_grad():
                    q, k = _similar(ctx.similarity, raw_q.requires_grad_(), raw_k.requires_grad_(), *parameters)
                p = next(kept, None)  # (h*b*w, N, N)
                if p is None:
                    p = _probabilities(q.detach(), k.detach(), bias, ctx.order, len(box), start)
                d_o = _by_head(d_out, v).flatten(0, 1)  # (h*b*w, N, d)
                d_v = p.transpose(1, 2).bmm(d_o)
                d_p = d_o.bmm(v.flatten(0, 1).transpose(1, 2))  # (h*b*w, N, N)
                d_logits = private.softmax_backward(d_p, p)
                sums[0] += wide(d_logits).view(len(bias), -1, *bias.shape[1:]).sum(1)
                d_q = d_logits.bmm(k.detach().flatten(0, 1)).view(q.shape)
                d_k = d_logits.transpose(1, 2).bmm(q.detach().flatten(0, 1)).view(k.shape)
                d_q, d_k, *more = torch.autograd.grad((q, k), (raw_q, raw_k, *learned), (d_q, d_k))
                for total, one in zip(sums[1:], more):
                    total += one
                for place, d in zip(d_box.chunk(3, -1), (d_q, d_k, d_v)):
                    _by_head(place, v).copy_(d.view(v.shape))
        given = (total.to(p.dtype) for total, p in zip(sums[1:], learned))
        return d_t, sums[0].to(bias.dtype), None, None, *(next(given) if p.requires_grad else None for p in parameters)

    @staticmethod
    def plainly(order: Plan, similarity: Similarity) -> Callable[..., Tensor]:
        """The same in one group, of PyTorch's own functions."""

        def attend(t: Tensor, bias: Tensor, *parameters: Tensor) -> Tensor:
            q, k, v = _split(t.view(-1, bias.shape[1], t.shape[-1]), len(bias))
            o = _attend_group(*_similar(similarity, q, k, *parameters), v, bias, order, len(t), 0)  # (h, B*nW, N, d)
            return o.permute(1, 2, 0, 3).reshape(*t.shape[:-1], -1)

        return attend


def _by_head(x: Tensor, like: Tensor) -> Tensor:
    """Looks at tokens of windows (b, w*N, C) by head: (h, b*w, N, d)."""
    heads, _, n, d = like.shape
    return x.unflatten(-1, (heads, d)).unflatten(1, (-1, n)).flatten(0, 1).permute(2, 0, 1, 3)


def _boxes(bias: Tensor, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """Groups of windows: the number of the first, and of every tensor (B, nW*N, ...) what belongs to the group."""
    t, n = tensors[0], bias.shape[1]
    count = t.shape[1] // n
    at_once = max(1, TRAINING_GROUP // (n * t.shape[-1]))
    for images in zip(*(t.split(max(1, at_once // count)) for t in tensors)):
        for start in range(0, count, at_once):
            yield start, *(t[:, start * n : (start + at_once) * n] for t in images)


@cached_by_shape
def _rows(g: Geometry, device: torch.device, images: int, heads: int) -> Tensor:
    """Where in (h, b, nW, N) every head of every token of the grid stands: (b*H*W*h,)."""
    n = math.prod(g.windows) * math.prod(g.window)  # places of an image
    image, head = torch.arange(images, device=device), torch.arange(heads, device=device)
    return (plan(g, device).scatter[:, None] + image[:, None, None] * n + head * (images * n)).flatten()
