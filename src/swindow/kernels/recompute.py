"""Normalised tokens in training on a CPU: backward computes them again from what the LayerNorm keeps for itself.

The linear layer after a LayerNorm needs its input for the gradient of the weight. Computing it again costs little.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import private
from . import fast_path

Node = Any  # of PyTorch's graph: ``y.grad_fn``


def source(y: Tensor) -> Node | None:
    """Returns the node that ``y`` comes from if ``again`` can compute ``y`` from it; None if ``y`` has to be saved.

    None also while a checkpoint, for instance, decides how tensors are saved: it would not be asked.
    """
    node = y.grad_fn
    return node if getattr(node, "swindow_again", None) and not private.has_saved_tensor_hooks() else None


def again(node: Node) -> Tensor:
    """Returns the tensor of a ``source``, computed again; differentiable where gradients are enabled."""
    result: Tensor = node.swindow_again(node)
    return result


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Returns the LayerNorm of tokens (..., C) over the last axis, in fp32 or float64; weight and bias (C,)."""
    y: Tensor = _Norm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    return y


def reordered(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Returns the tokens (B, *grid, C) at the places that ``there`` tells, (B, L, C). Past the end stands 0.

    ``back`` takes them back, (H*W,) places of L.
    """
    y: Tensor = _Reorder.apply(x, there, back, source(x))  # type: ignore[no-untyped-call]
    return y


class _Norm(torch.autograd.Function):
    """LayerNorm over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.eps, ctx.swindow_again = eps, _Norm.again
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    def again(ctx: Any) -> Tensor:
        x, weight, bias, _, _ = ctx.saved_tensors
        return F.layer_norm(x, weight.shape, weight, bias, ctx.eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if fast_path.needs_plain_backward(gradient):
            plain = lambda x, w, b: F.layer_norm(x, w.shape, w, b, ctx.eps)  # noqa: E731
            return *fast_path.differentiably(plain, (x, weight, bias), gradient), None
        wanted = ctx.needs_input_grad[:3]
        return *private.layer_norm_backward(gradient, x, mean, rstd, weight, bias, wanted), None


class _Reorder(torch.autograd.Function):
    """Taking tokens elsewhere, whose gradient is taken back: PyTorch's own backward adds token by token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, node: Node | None) -> Tensor:
        ctx.shape, ctx.node = x.shape, node
        if node is not None:
            ctx.swindow_again = _Reorder.again
        ctx.save_for_backward(there, back)
        x = x if x.ndim == 3 else x.flatten(1, -2)  # (B, H*W, C); many gradients at once cannot be flattened
        if len(there) > x.shape[1]:
            x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
        return x.index_select(1, there)

    @staticmethod
    def again(ctx: Any) -> Tensor:
        return reordered(again(ctx.node), *ctx.saved_tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        there, back = ctx.saved_tensors
        return reordered(gradient, back, there).view(ctx.shape), None, None, None
