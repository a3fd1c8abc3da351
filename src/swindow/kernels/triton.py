"""Shifted-window attention as one fused kernel for NVIDIA GPUs, forward and backward, in Triton.

The projection of the whole map is read where it lies: every program finds the tokens of its window by arithmetic, with
the cyclic shift and the padding folded in; the mask is computed from regions, never loaded; logits and probabilities
stay on the chip. A window that fits one block (up to 64 tokens) is read once, in forward and in backward, and a program
goes through several of them, so that the bias is read once for all. Larger ones, of 1 to 3 axes, go through in blocks,
as in FlashAttention (Dao et al. 2022, algorithm 1, and its backward); SwinV2's cosines are taken inside.

It is a custom operator with a fake implementation, so that ``torch.compile`` and ``torch.export`` take it as it is.
It is the default where ``gpu.FASTER`` says so; ``model.set_kernel("triton")`` selects it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..errors import InputError
from ..precision import wide
from ..windows import Geometry
from . import gpu, triton_kernels, triton_tuning
from .gpu import Tile
from .reference import Projection, Similarity

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
    scale = learned.scale()
    scale = scale.flatten() if learned.cosine else wide(bias).new_full(bias.shape[:1], scale)  # (h,)
    sizes = [list(v) for v in (g.grid, g.padded, g.window, g.shift)]
    padded = F.pad(
        wide(bias), (0, -bias.shape[-1] % 16)
    ).contiguous()  # (h, N, N filled up to a multiple of 16): aligned rows
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
    inputs = (t, padding, bias, scale, *_empty(t, bias, g))
    with torch.cuda.device_of(t):  # Triton launches on the current device
        _forward(_tile(inputs, g, cosine, _forward), inputs, (), g, cosine)
    return inputs[4:]


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
    """The gradients of t, padding, bias and scale; those of small tensors in fp32, empty where there is none."""
    g = Geometry(tuple(grid), tuple(padded), tuple(window), tuple(shift), mask_padding)
    inputs = (t, padding, bias, scale, out, lse, d_out.contiguous())
    gradients = _zeros(inputs, g, cosine)
    with torch.cuda.device_of(t):
        _backward_pass(_tile(inputs, g, cosine, _backward_pass), inputs, gradients, g, cosine)
    return gradients


@_backward.register_fake
def _(d_out: Tensor, t: Tensor, padding: Tensor, bias: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    grid, padded, window, shift, mask_padding, cosine = rest[2:]
    g = Geometry(tuple(grid), tuple(padded), tuple(window), tuple(shift), mask_padding)
    return _zeros((t, padding, bias, scale), g, cosine)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.sizes = inputs[4:]


def _gradients(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
    d_t, d_padding, d_bias, d_scale = _backward(d_out, *ctx.saved_tensors, *ctx.sizes)
    padding = d_padding.to(ctx.saved_tensors[1].dtype) if len(d_padding) else None
    return d_t, padding, d_bias, d_scale if len(d_scale) else None, *(None,) * len(ctx.sizes)


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("kernel 'triton' has no second derivative; try model.set_kernel('sdpa')")


_attend.register_autograd(_gradients, setup_context=_setup)
_backward.register_autograd(_refuse)


@register_flop_formula(torch.ops.swindow.window_attention)
def _flops(t: Any, padding: Any, bias: Any, scale: Any, grid: Any, padded: list[int], *_: Any, **__: Any) -> int:
    """What FLOP counters count, from shapes: QK^T and the product with V."""
    tokens = t[0] * math.prod(padded)
    return 2 * 2 * tokens * bias[1] * (t[-1] // 3)


@register_flop_formula(torch.ops.swindow.window_attention_backward)
def _backward_flops(d_out: Any, *rest: Any, **_: Any) -> int:
    """As for PyTorch's attention: QK^T again, and two products for each of its two."""
    t, padding, bias, scale, _, _, grid, padded = rest[:8]
    return 5 * _flops(t, padding, bias, scale, grid, padded) // 2


def _empty(t: Tensor, bias: Tensor, g: Geometry) -> tuple[Tensor, Tensor]:
    """Where the results of forward go."""
    heads, n = bias.shape[:2]
    return t.new_empty(*t.shape[:-1], t.shape[-1] // 3), bias.new_empty(t.shape[0], math.prod(g.windows), heads, n)


def _zeros(inputs: tuple[Tensor, ...], g: Geometry, cosine: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the gradients of t, padding, bias and scale go; programs add to all but the first."""
    t, padding, bias, scale = inputs[:4]
    d_padding = torch.zeros_like(padding, dtype=torch.float32) if g.pads else bias.new_empty(0)
    d_scale = torch.zeros_like(scale) if cosine else bias.new_empty(0)
    return torch.empty_like(t), d_padding, torch.zeros_like(bias), d_scale


def _forward(tile: Tile, inputs: tuple[Tensor, ...], results: tuple[()], g: Geometry, cosine: bool) -> None:
    """Launches the kernel of forward: tokens, padding, bias, scale; then where the results go."""
    t, bias = inputs[0], inputs[2]
    heads, n = bias.shape[:2]
    batch, count = len(t), math.prod(g.windows)
    fixed = _fixed(g, heads, t.shape[-1] // 3 // heads, cosine, tile)
    if n <= tile.block:
        chunk = _chunk(batch * count, heads, backward=False)
        launch: tuple[int, ...] = (_blocks(batch * count, chunk), heads)
        triton_kernels.forward_whole[launch](*inputs, batch * count, CHUNK=chunk, **fixed)
    else:
        triton_kernels.forward[(_blocks(n, tile.block) * count, heads, batch)](*inputs, **fixed)


def _backward_pass(
    tile: Tile, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...], g: Geometry, cosine: bool
) -> None:
    """Launches the kernels of backward: the tensors of forward and the gradient of its result; then the gradients."""
    t, bias = inputs[0], inputs[2]
    heads, n = bias.shape[:2]
    batch, count = len(t), math.prod(g.windows)
    fixed = _fixed(g, heads, t.shape[-1] // 3 // heads, cosine, tile)
    total, blocks = batch * count, _blocks(n, tile.block)
    chunk = _chunk(total, heads * blocks * blocks, backward=True)
    if blocks == 1:
        launch: tuple[int, ...] = (_blocks(total, chunk), heads)
        triton_kernels.backward_whole[launch](*inputs, *gradients, total, CHUNK=chunk, **fixed)
        return
    d_t, d_padding, d_bias, d_scale = gradients
    launch = (blocks * count, heads, batch)
    triton_kernels.backward_queries[launch](*inputs, d_t, d_scale, **fixed)
    triton_kernels.backward_keys[launch](*inputs, d_t, d_padding, **fixed)
    launch = (blocks * blocks, heads, _blocks(total, chunk))
    triton_kernels.backward_bias[launch](*inputs, d_bias, total, CHUNK=chunk, **fixed)


def _tile(inputs: tuple[Tensor, ...], g: Geometry, cosine: bool, launch: Callable[..., None]) -> Tile:
    """The tile for windows of a geometry: by the table, or the fastest where that is asked for."""
    t, bias = inputs[0], inputs[2]
    heads, n = bias.shape[:2]
    d, backward = t.shape[-1] // 3 // heads, launch is _backward_pass
    tile = gpu.tile(n, d, t.dtype, backward, gpu.capability(t.device.index))
    if not triton_tuning.wanted() or gpu.is_interpreted():
        return tile
    parts = [torch.cuda.get_device_name(t.device), f"Triton {triton.__version__}", launch.__name__.strip("_")]
    parts += [f"window {'x'.join(map(str, g.window))}", f"{d} channels", str(t.dtype).removeprefix("torch.")]
    parts += [word for word, yes in (("cosine", cosine), ("padded", g.pads)) if yes]

    def run(tile: Tile) -> tuple[Tensor, ...]:  # into tensors of its own: programs add to gradients
        results = _zeros(inputs, g, cosine) if backward else _empty(t, bias, g)
        launch(tile, inputs if backward else (*inputs[:4], *results), results if backward else (), g, cosine)
        return results

    blocks = (tile.block,) if n <= tile.block else (16, 32) if tile == gpu.WIDE else (16, 32, 64, 128)
    return triton_tuning.fastest(", ".join(parts), tile, triton_tuning.candidates(blocks), run)


def _blocks(n: int, size: int) -> int:
    """How many blocks hold n, the last filled up (``triton.cdiv`` takes microseconds here)."""
    return -(-n // size)


def _chunk(total: int, others: int, backward: bool) -> int:
    """How many of ``total`` windows one program goes through, where each is worked on by ``others`` programs."""
    share = max(1, total * others // PROGRAMS[backward])
    return min(CHUNK, 1 << share.bit_length() - 1)  # a power of two


@functools.lru_cache(256)
def _fixed(g: Geometry, heads: int, d: int, cosine: bool, tile: Tile) -> dict[str, Any]:
    """What the kernels are compiled for, and the sizes of the map."""
    fill = 3 - len(g.grid)
    named = {"G": g.grid, "P": g.padded, "W": g.window}
    sizes = {f"{name}{i}": v for name, tuple_ in named.items() for i, v in enumerate((1,) * fill + tuple(tuple_))}
    shifts = {f"S{i}": v for i, v in enumerate((0,) * fill + tuple(g.shift))}
    rest = {"PADS": g.pads, "MASK_PADDING": g.mask_padding, "COSINE": cosine, "H": heads, "D": d}
    blocks = {"BLOCK": tile.block, "BLOCK_D": max(16, triton.next_power_of_2(d))}
    return sizes | shifts | rest | blocks | {"num_warps": tile.warps, "num_stages": tile.stages}
