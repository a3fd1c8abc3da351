"""The MLP on a CPU, forward and backward, a block of tokens at a time that stays in the processor's cache."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import private
from ..precision import computed
from . import fast_path, products, recompute

BLOCK = 2_500_000  # numbers of an MLP's hidden layer at a time (benchmarks/results/speed-tried.md)
TRAINING_BLOCK = BLOCK // 2  # in training, where backward holds more arrays of this size


def mlp(
    y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, product: str | None = None
) -> Tensor:
    """Returns two linear layers with an exact (erf) GELU between them.

    In blocks, the hidden layer of a large batch is not written to memory that the system has to clear first, and read
    back twice; in training, only its values before the GELU are kept for backward.

    Args:
        y: tokens (..., C).
        weight1, bias1: (hidden, C), (hidden,).
        weight2, bias2: (out, hidden), (out,).
        product: see ``products.choice``.

    Returns:
        (..., out).
    """
    if recomputes(y):
        trained: Tensor = _Mlp.apply(  # type: ignore[no-untyped-call]
            y, weight1, bias1, weight2, bias2, product, recompute.saved(y)
        )
        return trained
    dtype = computed(y)
    y = y.to(dtype)  # once for all blocks; weights that are trained are left to autocast, which caches its casts
    weight1, bias1, weight2, bias2 = (t if t.requires_grad else t.to(dtype) for t in (weight1, bias1, weight2, bias2))
    done = [
        products.linear(products.linear(block, weight1, bias1, product, gelu=True), weight2, bias2, product)
        for block in y.flatten(0, -2).split(tokens_in_block(weight1))
    ]
    return (done[0] if len(done) == 1 else torch.cat(done)).view(*y.shape[:-1], len(weight2))


def recomputes(y: Tensor) -> bool:
    """Returns whether backward applies the GELU again: in full precision. In half precision, keeping it is faster."""
    return torch.is_grad_enabled() and computed(y) in (torch.float32, torch.float64)


def tokens_in_block(weight1: Tensor, training: bool = False) -> int:
    """Returns how many tokens go through an MLP at a time; weight1 (hidden, C)."""
    return max(1, (TRAINING_BLOCK if training else BLOCK) // len(weight1))


class _Mlp(torch.autograd.Function):
    """``mlp`` in training: saves the hidden layer before the GELU, and the tokens unless they come from a LayerNorm."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        product: str | None,
        source: recompute.Saved,
    ) -> Tensor:
        hidden = products.linear(y.flatten(0, -2), weight1, bias1, product)  # (tokens, hidden)
        out = y.new_empty(len(hidden), len(weight2))
        step = tokens_in_block(weight1, training=True)
        for h, o in zip(hidden.split(step), out.split(step)):
            o.copy_(products.linear(F.gelu(h), weight2, bias2, product))
        ctx.product, ctx.restore = product, source.restore
        ctx.save_for_backward(hidden, weight1, bias1, weight2, bias2, *source.tensors)
        return out.view(*y.shape[:-1], len(weight2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight1, bias1, weight2, bias2, *tensors = ctx.saved_tensors
        if fast_path.needs_plain_backward(gradient):
            with torch.enable_grad():
                y = ctx.restore(*tensors)
            return *fast_path.differentiably(_plain_mlp, (y, weight1, bias1, weight2, bias2), gradient), None, None
        learns1, learns2 = any(ctx.needs_input_grad[1:3]), any(ctx.needs_input_grad[3:5])
        d_out, chosen = gradient.flatten(0, -2), products.choice(ctx.product)
        d_tokens = gradient.new_empty(len(hidden), weight1.shape[1])
        tokens = ctx.restore(*tensors).flatten(0, -2) if learns1 else d_tokens  # else not read
        d_weight1, d_weight2 = torch.zeros_like(weight1), torch.zeros_like(weight2)
        d_bias1 = weight1.new_zeros(len(weight1))
        step = tokens_in_block(weight1, training=True)
        for block, h, d, d_block in zip(*(t.split(step) for t in (tokens, hidden, d_out, d_tokens))):
            if learns2:
                d_weight2 += products.weight_gradient(d, F.gelu(h), chosen)
            d_h = private.gelu_backward_(products.input_gradient(d, weight2, chosen), h)
            if learns1:
                d_weight1 += products.weight_gradient(d_h, block, chosen)
                d_bias1 += d_h.sum(0)
            d_block.copy_(products.input_gradient(d_h, weight1, chosen))
        d_y = d_tokens.view(*gradient.shape[:-1], -1)
        return d_y, d_weight1, d_bias1, d_weight2, d_out.sum(0) if learns2 else None, None, None


def _plain_mlp(y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """``mlp`` in one go, of PyTorch's own functions."""
    return F.linear(F.gelu(F.linear(y, weight1, bias1)), weight2, bias2)
