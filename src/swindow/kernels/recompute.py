"""Normalised tokens in training on a CPU: backward computes them again from what the LayerNorm saves for itself.

The linear layer after a LayerNorm needs its input for the gradient of the weight. Computing it again costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import private
from . import fast_path


class Saved(NamedTuple):
    """What an operation saves for backward in place of an input; ``restore(*tensors)`` is the input, differentiable."""

    restore: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]

    @property
    def recomputes(self) -> bool:
        """Whether ``restore`` computes the input; else the input itself is saved."""
        return self.restore is not _itself


def saved(y: Tensor) -> Saved:
    """Returns what to save for backward in place of ``y``: the input, weight and bias of the LayerNorm it comes from.

    It is ``y`` itself unless ``y`` comes from ``norm``, directly or through ``reordered``, and has not been changed
    since. It is ``y`` itself, too, while saved-tensor hooks are active, for example inside a checkpoint.
    """
    restore = getattr(y.grad_fn, "swindow_restore", None)
    if restore is None or y._version > 0 or private.has_saved_tensor_hooks():
        return Saved(_itself, (y,))
    node: Any = y.grad_fn
    return Saved(restore, node.saved_tensors[:3])


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Returns the LayerNorm of tokens (..., C) over the last axis, in fp32 or float64; weight and bias (C,)."""
    y: Tensor = _Norm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    return y


def reordered(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Returns tokens in another order, (B, L, C).

    Args:
        x: (B, *grid, C) or (B, M, C).
        there: (L,) the token at each place; an index past the last token reads zeros.
        back: (M,) the place of each token, for the gradient.
    """
    y: Tensor = _Reorder.apply(x, there, back, saved(x))  # type: ignore[no-untyped-call]
    return y


def _itself(y: Tensor) -> Tensor:
    return y


class _Norm(torch.autograd.Function):
    """LayerNorm over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.swindow_restore = lambda x, weight, bias: F.layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if fast_path.needs_plain_backward(gradient):
            return *fast_path.differentiably(ctx.swindow_restore, (x, weight, bias), gradient), None
        wanted = ctx.needs_input_grad[:3]
        return *private.layer_norm_backward(gradient, x, mean, rstd, weight, bias, wanted), None


class _Reorder(torch.autograd.Function):
    """Taking tokens elsewhere, whose gradient is taken back: PyTorch's own backward adds token by token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, source: Saved) -> Tensor:
        restore = source.restore  # the lambda must not hold the tensors: backward frees them
        if source.recomputes:
            ctx.swindow_restore = lambda *tensors: reordered(restore(*tensors), there, back)
        ctx.save_for_backward(*(source.tensors if source.recomputes else ()), there, back)
        ctx.shape = x.shape
        x = x if x.ndim == 3 else x.flatten(1, -2)  # (B, M, C); many gradients at once cannot be flattened
        if len(there) > x.shape[1]:
            x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
        return x.index_select(1, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *_, there, back = ctx.saved_tensors
        return reordered(gradient, back, there).view(ctx.shape), None, None, None
