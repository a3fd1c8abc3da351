"""The layers that treat every token alike. On a CPU they go through blocks of tokens that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 5_000_000  # bytes of an MLP's hidden layer at a time (benchmarks/results/speed-tried.md)
ROWS, WEIGHTS = 128, 2**20  # up to so many rows, from so many weights on, oneDNN's product is the faster one
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def in_blocks(x: Tensor) -> bool:
    """Whether blocks of tokens pay: on a CPU in full precision, and nobody records or transforms what is called."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x W^T + b, (..., out) for tokens (..., in): oneDNN's product in inference where tokens are few."""
    few = x.numel() <= ROWS * x.shape[-1] and weight.numel() >= WEIGHTS and not torch.is_grad_enabled()
    if few and in_blocks(x) and x.dtype == torch.float32 and ONEDNN and type(weight) in (Tensor, nn.Parameter):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def mlp(y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """See ``swindow.kernels.mlp``.

    In blocks, the hidden layer of a large batch is not written to memory that the system has to clear first, and read
    back twice; in training, only its values before the GELU are kept for backward.
    """
    if torch.is_grad_enabled():
        trained: Tensor = _Mlp.apply(y, weight1, bias1, weight2, bias2)  # type: ignore[no-untyped-call]
        return trained
    blocks = y.flatten(0, -2).split(_rows(y, weight1))
    done = [linear(torch.ops.aten.gelu_(linear(b, weight1, bias1)), weight2, bias2) for b in blocks]
    return (done[0] if len(done) == 1 else torch.cat(done)).view(*y.shape[:-1], -1)


def plain_mlp(y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """``mlp`` in one go."""
    return F.linear(F.gelu(F.linear(y, weight1, bias1)), weight2, bias2)


def differentiably(f: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Backward of ``f`` by PyTorch's own rules, for where the gradients are to be differentiated again."""
    wanted = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(f(*inputs), wanted, gradient, create_graph=True))
    return tuple(next(found) if x.requires_grad else None for x in inputs)


def _rows(y: Tensor, weight1: Tensor) -> int:
    """Tokens in a block."""
    return max(1, BLOCK // (len(weight1) * y.element_size()))


class _Mlp(torch.autograd.Function):
    """``mlp`` in training: keeps tokens and hidden layer, and applies the GELU again in backward."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        tokens = y.flatten(0, -2)
        hidden, out = y.new_empty(len(tokens), len(weight1)), y.new_empty(len(tokens), len(weight2))
        step = _rows(y, weight1)
        for block, h, o in zip(tokens.split(step), hidden.split(step), out.split(step)):
            torch.addmm(bias1, block, weight1.t(), out=h)
            torch.addmm(bias2, F.gelu(h), weight2.t(), out=o)
        ctx.save_for_backward(hidden, y, weight1, bias1, weight2, bias2)
        return out.view(*y.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiably(plain_mlp, inputs, gradient)
        y, weight1, _, weight2, _ = inputs
        tokens, d_out = y.flatten(0, -2), gradient.flatten(0, -2)
        d_tokens = torch.empty_like(tokens)
        d_weight1, d_weight2 = torch.zeros_like(weight1), torch.zeros_like(weight2)
        d_bias1 = weight1.new_zeros(len(weight1))
        step = _rows(tokens, weight1)
        for block, h, d_block, d in zip(*(t.split(step) for t in (tokens, hidden, d_tokens, d_out))):
            d_weight2.addmm_(d.t(), F.gelu(h))
            d_h = torch.ops.aten.gelu_backward(d @ weight2, h)
            d_weight1.addmm_(d_h.t(), block)
            d_bias1 += d_h.sum(0)
            torch.mm(d_h, weight1, out=d_block)
        return d_tokens.view(y.shape), d_weight1, d_bias1, d_weight2, d_out.sum(0)
