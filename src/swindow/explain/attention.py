"""Where a model looks, in image coordinates: windows, shift, padding and merging are undone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import windows
from ..config import PerAxis
from ..errors import InputError
from ..windows import Geometry
from .capturing import BlockRecord, Capture

Floats = npt.NDArray[np.float64]


def attention_maps(seen: Capture, pixel: Sequence[int], block: int | str = -1, image: int = 0) -> Floats:
    """Returns where every head of one block looks from the token at a pixel: (h, *pixels), in image coordinates.

    The attention of Swin equation 4, recomputed from the block's recorded input and put back where its keys lie: the
    windows, the cyclic shift and the padding are undone. It is zero outside the query's window. Every pixel holds the
    weight of its token, so the sum over tokens is 1 (less where padding takes part in attention, or ``mask_padding``
    is off).

    Args:
        seen: what ``capture`` recorded.
        pixel: row and column of the query in the image (frame first for clips), from 0.
        block: its place among all blocks, from 0 (negative: from the end), or its name.
        image: which image of the batch.

    Raises:
        InputError: nothing was recorded, or there is no such pixel, block or image.

    Example:
        >>> import swindow
        >>> from swindow import explain
        >>> model = swindow.create("swin_nano").eval()
        >>> with torch.no_grad(), explain.capture(model) as seen:
        ...     logits = model(torch.zeros(1, 3, 32, 32))
        >>> explain.attention_maps(seen, (10, 20), block=1).shape
        (2, 32, 32)
    """
    record = seen.block(block)
    token = token_at(seen, record, pixel, image)
    return on_pixels(_from_token(record, token, image), record.token, seen.pixels)


def rollout(
    seen: Capture,
    pixel: Sequence[int] | None = None,
    block: int | str = -1,
    image: int = 0,
    residual: float = 0.5,
) -> Floats:
    """Returns where a token's information comes from, through all blocks up to one: (*pixels), in image coordinates.

    Attention roll-out (Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 3): in every block
    attention, averaged over heads, is mixed with the identity, which stands for the residual branch; the blocks'
    matrices are multiplied. Here they are window attention on the grid, never held as a whole; a merged token passes
    its weight on to the tokens that it was made of, in equal parts.

    Args:
        seen: what ``capture`` recorded.
        pixel: row and column in the image of the token that looks; None: all tokens of that block together, as the
            pooled features do after the last block.
        block: the last block that counts, as in ``attention_maps``.
        image: which image of the batch.
        residual: the identity's part (fraction).

    Returns:
        (*pixels) float64; every pixel holds the weight of its patch, and the patches' weights sum to 1.

    Raises:
        InputError: nothing was recorded, or there is no such pixel, block or image.
    """
    last = seen.block(block)
    _check_image(seen, image)
    grid = last.geometry.grid
    flow = torch.full((math.prod(grid),), 1 / math.prod(grid), dtype=torch.float64)
    if pixel is not None:
        flow = torch.zeros_like(flow)
        flow[_flat(token_at(seen, last, pixel, image), grid)] = 1
    above = last
    names = [record.name for record in seen.blocks]
    for record in reversed(seen.blocks[: names.index(last.name) + 1]):
        if record.stage != above.stage:
            flow = _unmerge(flow, above, record)
        flow = residual * flow + (1 - residual) * _looked_at(flow, record, image)
        above = record
    flow = flow / flow.sum()  # padding that takes part in attention carries weight off
    return on_pixels(flow.view(above.geometry.grid).numpy(), above.token, seen.pixels)


def token_at(seen: Capture, record: BlockRecord, pixel: Sequence[int], image: int = 0) -> PerAxis:
    """Returns the token of a block's map that covers a pixel.

    Raises:
        InputError: the pixel lies outside the image (or in what its patches leave out), or there is no such image.
    """
    token = tuple(p // t for p, t in zip(pixel, record.token))
    inside = len(pixel) == len(seen.pixels) and all(0 <= p < size for p, size in zip(pixel, seen.pixels))
    if not inside or any(t >= n for t, n in zip(token, record.geometry.grid)):
        raise InputError(
            f"got pixel {tuple(pixel)}, expected one inside the image of {seen.pixels} pixels, rows first, from 0"
        )
    _check_image(seen, image)
    return token


def _check_image(seen: Capture, image: int) -> None:
    if not -len(seen.image) <= image < len(seen.image):
        raise InputError(f"got image {image}, but {len(seen.image)} were recorded")


def on_pixels(values: npt.NDArray[np.generic], token: PerAxis, pixels: PerAxis) -> Floats:
    """Returns a map of tokens (..., *grid) as (..., *pixels): every pixel holds its token's value, 0 where it has none.

    Args:
        values: (..., *grid).
        token: pixels per token side, per axis.
        pixels: size of the image.
    """
    x = values.astype(np.float64)
    lead = x.ndim - len(token)
    for axis, (side, size) in enumerate(zip(token, pixels), start=lead):
        x = x.repeat(side, axis)
        x = x[(slice(None),) * axis + (slice(size),)]
    missing = [(0, size - n) for size, n in zip(pixels, x.shape[lead:])]  # patches that did not fit were left out
    return np.pad(x, [(0, 0)] * lead + missing)


def mean_attention(record: BlockRecord, image: int = 0) -> Tensor:
    """Returns a block's attention averaged over heads, (nW, N, N) float64 on the CPU."""
    with torch.no_grad():
        return record._replace(tokens=record.tokens[[image]]).attention()[0].cpu().double().mean(1)


def _from_token(record: BlockRecord, token: PerAxis, image: int) -> Floats:
    """Attention from one token to all: (h, *grid)."""
    g = record.geometry
    window, query, keys = place(g, token)
    with torch.no_grad():
        attention = record._replace(tokens=record.tokens[[image]]).attention()[0, window, :, query].cpu().double()
    found = torch.zeros(len(attention), math.prod(g.grid) + 1, dtype=torch.float64)  # (h, H*W + padding)
    found.index_add_(1, keys, attention)
    return found[:, :-1].view(-1, *g.grid).numpy()


def place(g: Geometry, token: PerAxis) -> tuple[int, int, Tensor]:
    """Returns a token's window, its place in that, and the row-major grid indices (N,) of all tokens in the window.

    Padding has the index ``prod(grid)``.
    """
    gather, scatter = windows.order(g)
    window, query = divmod(int(scatter[_flat(token, g.grid)]), math.prod(g.window))
    return window, query, gather.view(-1, math.prod(g.window))[window]


def _looked_at(flow: Tensor, record: BlockRecord, image: int) -> Tensor:
    """Passes the weight of every token (H*W,) on to the tokens that it looks at, (H*W,)."""
    gather, scatter = windows.order(record.geometry)
    attention = mean_attention(record, image)  # (nW, N, N)
    inside = torch.cat((flow, flow.new_zeros(1)))[gather].view(attention.shape[:2])  # (nW, N)
    return torch.einsum("wq,wqk->wk", inside, attention).flatten()[scatter]


def _unmerge(flow: Tensor, above: BlockRecord, below: BlockRecord) -> Tensor:
    """Passes the weight of merged tokens (H*W,) on to those they were made of, on the map of the stage below."""
    x = flow.view(above.geometry.grid)
    for axis, (size, n) in enumerate(zip(x.shape, below.geometry.grid)):
        if below.token[axis] == above.token[axis]:
            continue
        parts = torch.full((size,), 2.0, dtype=x.dtype)
        parts[-1] = n - 2 * (size - 1)  # of an odd number of tokens the last has no neighbour
        x = x / parts.view(-1, *(1,) * (x.ndim - 1 - axis))
        x = x.repeat_interleave(2, axis).narrow(axis, 0, n)
    return x.flatten()


def _flat(token: PerAxis, grid: PerAxis) -> int:
    """The row-major index of a token."""
    return int(np.ravel_multi_index(token, grid))
