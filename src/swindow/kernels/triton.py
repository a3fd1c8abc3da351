"""Shifted-window attention as one fused kernel for NVIDIA GPUs, forward and backward, in Triton.

The projection of the whole map is read where it lies: every program finds the tokens of its window by arithmetic, with
the cyclic shift and the padding folded in; the mask is computed from regions, never loaded; logits and probabilities
stay on the chip. Windows of any size and of 1 to 3 axes go through in blocks, as in FlashAttention (Dao et al. 2022,
algorithm 1, and its backward); SwinV2's cosines are taken inside.

Its results are tested in Triton's interpreter. It has not run on a GPU yet: ask for it with
``kernels.using("triton")``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from ..errors import InputError
from ..precision import wide
from ..windows import Geometry
from . import triton_device
from .reference import Projection, Similarity

BLOCK = 64  # tokens of a window in a block
CHUNK = 64  # windows that one program of the bias gradient goes through


def attend(
    y: Tensor,
    qkv: Projection,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
    dropout: float = 0.0,
) -> Tensor:
    """See ``swindow.kernels.attend``.

    Raises:
        InputError: attention dropout, or a type that the kernel is not made for.
    """
    if dropout or y.dtype == torch.float64:
        raise InputError(
            f"kernel 'triton': got dropout {dropout} and {y.dtype}, expected 0 and 16 or 32 bits; try 'sdpa'"
        )
    t = qkv(y).contiguous()  # (B, *grid, 3C)
    padding = qkv(y.new_zeros(1, y.shape[-1])).flatten() if g.pads else t.new_zeros(t.shape[-1])  # (3C,)
    learned: Any = similarity
    cosine = hasattr(similarity, "logit_scale")
    d = y.shape[-1] // len(bias)
    scale = learned.scale().flatten() if cosine else wide(bias).new_full((len(bias),), d**-0.5)  # (h,)
    out: Tensor = _Attend.apply(t, padding, wide(bias).contiguous(), scale, g, cosine)  # type: ignore[no-untyped-call]
    return out


class _Attend(torch.autograd.Function):
    """Launches the kernels; of the attention, backward keeps the result and the logarithm of every softmax's sum."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, padding: Tensor, bias: Tensor, scale: Tensor, g: Geometry, cosine: bool) -> Tensor:
        heads, n = bias.shape[:2]
        windows = math.prod(g.windows)
        out = t.new_empty(*t.shape[:-1], t.shape[-1] // 3)
        lse = bias.new_empty(t.shape[0], windows, heads, n)
        fixed = _fixed(g, heads, out.shape[-1] // heads, cosine)
        blocks = triton.cdiv(n, BLOCK)
        triton_device.forward[(blocks * windows, heads, t.shape[0])](t, padding, bias, scale, out, lse, **fixed)
        ctx.save_for_backward(t, padding, bias, scale, out, lse)
        ctx.fixed, ctx.launch, ctx.windows = fixed, (blocks * windows, heads, t.shape[0]), windows
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("kernel 'triton' has no second derivative; try kernels.using('sdpa')")
        t, padding, bias, scale, out, lse = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_t, d_padding = torch.empty_like(t), torch.zeros_like(padding, dtype=torch.float32)
        d_bias, d_scale = torch.zeros_like(bias), torch.zeros_like(scale)
        inputs = (t, padding, bias, scale, out, lse, d_out)
        triton_device.backward_queries[ctx.launch](*inputs, d_t, d_scale, **ctx.fixed)
        triton_device.backward_keys[ctx.launch](*inputs, d_t, d_padding, **ctx.fixed)
        if ctx.needs_input_grad[2]:
            blocks, (_, heads, batch) = triton.cdiv(bias.shape[1], BLOCK), ctx.launch
            total = batch * ctx.windows
            chunk = min(CHUNK, triton.next_power_of_2(total))
            launch = (blocks * blocks, heads, triton.cdiv(total, chunk))
            triton_device.backward_bias[launch](*inputs, d_bias, total, CHUNK=chunk, **ctx.fixed)
        return d_t, d_padding.to(padding.dtype), d_bias, d_scale if ctx.fixed["COSINE"] else None, None, None


def _fixed(g: Geometry, heads: int, d: int, cosine: bool) -> dict[str, Any]:
    """What the kernels are compiled for."""
    fill = 3 - len(g.grid)
    named = {"G": g.grid, "P": g.padded, "W": g.window}
    sizes = {f"{name}{i}": v for name, tuple_ in named.items() for i, v in enumerate((1,) * fill + tuple(tuple_))}
    shifts = {f"S{i}": v for i, v in enumerate((0,) * fill + tuple(g.shift))}
    rest = {"MASK_PADDING": g.mask_padding, "COSINE": cosine, "H": heads, "D": d}
    return sizes | shifts | rest | {"BLOCK": BLOCK, "BLOCK_D": max(16, triton.next_power_of_2(d))}
