"""Shifted-window attention as one fused kernel for NVIDIA GPUs, forward and backward, in Triton.

The projection of the whole map is read where it lies: every program finds the tokens of its window by arithmetic, with
the cyclic shift and the padding folded in; the mask is computed from regions, never loaded; logits and probabilities
stay on the chip. A window that fits one block (up to 64 tokens) is read once, in forward and in backward, and a program
goes through several of them, so that the bias is read once for all. Larger ones, of 1 to 3 axes, go through in blocks,
as in FlashAttention (Dao et al. 2022, algorithm 1, and its backward); SwinV2's cosines are taken inside.

It is a custom operator with a fake implementation, so that ``torch.compile`` and ``torch.export`` take it as it is.
Ask for it with ``model.set_kernel("triton")``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ..errors import InputError
from ..precision import wide
from ..windows import Geometry
from . import triton_kernels
from .reference import Projection, Similarity


class Tile(NamedTuple):
    """How a kernel is cut for the GPU: tokens of a window in a block, warps, and stages of its pipeline."""

    block: int
    warps: int
    stages: int


# By the tokens of a window, up to so many: the tiles of forward and backward (benchmarks/gpu.py --part tiles).
TILES = {
    16: (Tile(16, 1, 2), Tile(16, 1, 2)),
    32: (Tile(32, 2, 2), Tile(32, 2, 2)),
    64: (Tile(64, 4, 3), Tile(64, 4, 3)),
    1 << 30: (Tile(64, 4, 2), Tile(64, 4, 2)),
}
TILE_FP32 = Tile(32, 4, 1)  # products in fp32 need registers: larger blocks spill
CHUNK = 64  # windows at most that one program goes through
PROGRAMS = (1024, 512)  # of forward and backward at least, where there are that many windows times heads


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
    padding = qkv(y.new_zeros(1, y.shape[-1])).flatten() if g.pads else t.new_empty(t.shape[-1])  # (3C,)
    learned: Any = similarity
    scale = (wide(bias).new_ones(len(bias), 1, 1) * learned.scale()).flatten()  # (h,)
    sizes = [list(v) for v in (g.grid, g.padded, g.window, g.shift)]
    padded = F.pad(wide(bias), (0, -bias.shape[-1] % 16))  # (h, N, N filled up to a multiple of 16): aligned rows
    return _attend(t, padding, padded, scale, *sizes, g.mask_padding, learned.cosine)[0]


@torch.library.custom_op("swindow::window_attention", mutates_args=())
def _attend(
    t: Tensor,
    padding: Tensor,
    bias: Tensor,
    scale: Tensor,
    grid: list[int],
    padded: list[int],
    window: list[int],
    shift: list[int],
    mask_padding: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    """The attended tokens (B, *grid, C), and the logarithm of every softmax's sum (B, nW, h, N) for backward."""
    g = Geometry(tuple(grid), tuple(padded), tuple(window), tuple(shift), mask_padding)
    (heads, n), batch, count = bias.shape[:2], len(t), math.prod(g.windows)
    out, lse = _empty(t, bias, g)
    tile = _tile(n, t.dtype, backward=False)
    fixed = _fixed(g, heads, out.shape[-1] // heads, cosine, tile)
    inputs = (t, padding, bias, scale, out, lse)
    if n <= tile.block:
        chunk = _chunk(batch * count, heads, backward=False)
        launch: tuple[int, ...] = (triton.cdiv(batch * count, chunk), heads)
        triton_kernels.forward_whole[launch](*inputs, batch * count, CHUNK=chunk, **fixed)
    else:
        triton_kernels.forward[(triton.cdiv(n, tile.block) * count, heads, batch)](*inputs, **fixed)
    return out, lse


@_attend.register_fake
def _(t: Tensor, padding: Tensor, bias: Tensor, scale: Tensor, *sizes: Any) -> tuple[Tensor, Tensor]:
    grid, padded, window, shift, mask_padding, _ = sizes
    return _empty(t, bias, Geometry(tuple(grid), tuple(padded), tuple(window), tuple(shift), mask_padding))


@torch.library.custom_op("swindow::window_attention_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    t: Tensor,
    padding: Tensor,
    bias: Tensor,
    scale: Tensor,
    out: Tensor,
    lse: Tensor,
    grid: list[int],
    padded: list[int],
    window: list[int],
    shift: list[int],
    mask_padding: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of t, padding, bias and scale; those of small tensors in fp32."""
    g = Geometry(tuple(grid), tuple(padded), tuple(window), tuple(shift), mask_padding)
    (heads, n), batch, count = bias.shape[:2], len(t), math.prod(g.windows)
    d_t, d_padding = torch.empty_like(t), torch.zeros_like(padding, dtype=torch.float32)
    d_bias, d_scale = torch.zeros_like(bias), torch.zeros_like(scale)
    tile = _tile(n, t.dtype, backward=True)
    fixed = _fixed(g, heads, out.shape[-1] // heads, cosine, tile)
    inputs = (t, padding, bias, scale, out, lse, d_out.contiguous())
    total, blocks = batch * count, triton.cdiv(n, tile.block)
    chunk = _chunk(total, heads * blocks * blocks, backward=True)
    if blocks == 1:
        gradients = (d_t, d_padding, d_bias, d_scale)
        triton_kernels.backward_whole[(triton.cdiv(total, chunk), heads)](
            *inputs, *gradients, total, CHUNK=chunk, **fixed
        )
    else:
        launch = (blocks * count, heads, batch)
        triton_kernels.backward_queries[launch](*inputs, d_t, d_scale, **fixed)
        triton_kernels.backward_keys[launch](*inputs, d_t, d_padding, **fixed)
        launch = (blocks * blocks, heads, triton.cdiv(total, chunk))
        triton_kernels.backward_bias[launch](*inputs, d_bias, total, CHUNK=chunk, **fixed)
    return d_t, d_padding, d_bias, d_scale


@_backward.register_fake
def _(d_out: Tensor, t: Tensor, padding: Tensor, bias: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, dtype=None if x is t else torch.float32) for x in (t, padding, bias, scale))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.sizes = inputs[4:]


def _gradients(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
    d_t, d_padding, d_bias, d_scale = _backward(d_out, *ctx.saved_tensors, *ctx.sizes)
    padding = ctx.saved_tensors[1]
    return d_t, d_padding.to(padding.dtype), d_bias, d_scale, *(None,) * len(ctx.sizes)


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("kernel 'triton' has no second derivative; try model.set_kernel('sdpa')")


_attend.register_autograd(_gradients, setup_context=_setup)
_backward.register_autograd(_refuse)


def _empty(t: Tensor, bias: Tensor, g: Geometry) -> tuple[Tensor, Tensor]:
    """Where the results of forward go."""
    heads, n = bias.shape[:2]
    return t.new_empty(*t.shape[:-1], t.shape[-1] // 3), bias.new_empty(t.shape[0], math.prod(g.windows), heads, n)


def _tile(n: int, dtype: torch.dtype, backward: bool) -> Tile:
    """The tile for windows of n tokens."""
    tile = next(tiles[backward] for most, tiles in TILES.items() if n <= most)
    return TILE_FP32 if dtype == torch.float32 and tile.block > 32 else tile


def _chunk(total: int, others: int, backward: bool) -> int:
    """How many of ``total`` windows one program goes through, where each is worked on by ``others`` programs."""
    return max(1, min(CHUNK, triton.next_power_of_2(total * others // PROGRAMS[backward] + 1) // 2))


def _fixed(g: Geometry, heads: int, d: int, cosine: bool, tile: Tile) -> dict[str, Any]:
    """What the kernels are compiled for, and the sizes of the map."""
    fill = 3 - len(g.grid)
    named = {"G": g.grid, "P": g.padded, "W": g.window}
    sizes = {f"{name}{i}": v for name, tuple_ in named.items() for i, v in enumerate((1,) * fill + tuple(tuple_))}
    shifts = {f"S{i}": v for i, v in enumerate((0,) * fill + tuple(g.shift))}
    rest = {"PADS": g.pads, "MASK_PADDING": g.mask_padding, "COSINE": cosine, "H": heads, "D": d}
    blocks = {"BLOCK": tile.block, "BLOCK_D": max(16, triton.next_power_of_2(d))}
    return sizes | shifts | rest | blocks | {"num_warps": tile.warps, "num_stages": tile.stages}
