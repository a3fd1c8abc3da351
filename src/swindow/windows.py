"""The geometry of shifted windows on a grid of any number of axes: pure functions, no weights (Swin section 3.2).

A grid is a tuple of tokens per axis, ``(H, W)`` for images or ``(T, H, W)`` for video and volumes; window and shift are
tuples of the same length. ``resolve`` turns a map's size into a ``Geometry``; everything else reads that value.

Letters used in shape comments everywhere:
    B batch                     T H W frames, rows and columns of tokens (of pixels, before the patch embedding)
    C channels                  N tokens in a window
    nW windows per image        h heads               d channels per head
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .caching import is_static
from .config import PerAxis
from .errors import InputError


class SizeRule(NamedTuple):
    """What happens where windows don't fit a map; the three fields are those of SwinConfig."""

    shrink: Literal["axis", "min"] | None = None
    shift_single: bool = False
    mask_padding: bool = True


class Geometry(NamedTuple):
    """How one map is cut into windows: all in tokens per axis, and whether padding is kept out of the softmax."""

    grid: PerAxis
    padded: PerAxis
    window: PerAxis
    shift: PerAxis
    mask_padding: bool

    @property
    def windows(self) -> PerAxis:
        """Windows along each axis of the padded grid."""
        return count(self)

    @property
    def pads(self) -> bool:
        """Whether the grid had to be padded."""
        return self.grid != self.padded


def count(g: Geometry) -> PerAxis:
    """Returns ``g.windows``; PyTorch 2.6 to 2.9 compile this, but not the property of a named tuple."""
    return tuple(p // w for p, w in zip(g.padded, g.window))


def resolve(grid: Sequence[int], window: Sequence[int], shift: Sequence[int], rule: SizeRule | None = None) -> Geometry:
    """Decides window, shift and padding for a map; the only place that knows the size rules.

    Args:
        grid: tokens per axis of the map, each at least 1.
        window: tokens per axis of the configured window.
        shift: tokens per axis of the cyclic shift, 0 <= shift < window (0 for W-MSA, window // 2 for SW-MSA).
        rule: what to do where the window does not fit; swindow's own rule by default.

    Returns:
        The Geometry. Padding is at the bottom and right and precedes the shift. Where padding is masked, a window
        larger than its axis is narrowed to the axis: no result changes, and nothing is computed for padding.

    Raises:
        InputError: the tuples differ in length, or a number is out of range.

    Example:
        >>> resolve((10, 4), (7, 7), (3, 3))
        Geometry(grid=(10, 4), padded=(14, 4), window=(7, 4), shift=(3, 0), mask_padding=True)
    """
    shrink, shift_single, mask_padding = SizeRule() if rule is None else rule
    own_rule = shrink is None and mask_padding and not shift_single
    g, w, s = tuple(grid), tuple(window), tuple(shift)
    if not (len(g) == len(w) == len(s) > 0) or min(g) < 1 or min(w) < 1 or any(not 0 <= b < a for a, b in zip(w, s)):
        raise InputError(
            f"resolve: got grid {g}, window {w}, shift {s}, expected one number per axis in each, "
            "grid and window at least 1 and 0 <= shift < window"
        )
    if own_rule and not is_static(g):
        return _open(g, w, s)
    if shrink == "axis" or own_rule:
        w = tuple(min(a, b) for a, b in zip(w, g))
    elif shrink == "min" and any(b <= a for a, b in zip(w, g)):
        w, s = tuple(min(a, min(g)) for a in w), (0,) * len(s)
    padded = tuple(round_up(a, b) for a, b in zip(g, w))
    single = [b > 0 and p == a for p, a, b in zip(padded, w, s)]  # shifted, and one window covers the axis
    s = tuple((min(b, a - 1) if shift_single else 0) if one else b for a, b, one in zip(w, s, single))
    return Geometry(g, padded, w, s, mask_padding)


def round_up(size: int, step: int) -> int:
    """Returns the smallest multiple of ``step`` that is not below ``size``.

    No negative number is divided: ONNX rounds quotients towards 0, Python down.
    """
    return (size + step - 1) // step * step


def _open(grid: PerAxis, window: PerAxis, shift: PerAxis) -> Geometry:
    """swindow's own rule for a map whose size a compiler or an exporter keeps open, without a branch on it.

    A window larger than its axis keeps its size, which changes no result, as padding is masked.
    """
    padded = tuple(round_up(a, b) for a, b in zip(grid, window))
    several = (1 - 1 // (p // w) for p, w in zip(padded, window))  # 0 where one window covers the axis, else 1
    return Geometry(grid, padded, window, tuple(s * more if s else 0 for s, more in zip(shift, several)), True)


def partition(x: Tensor, window: Sequence[int]) -> Tensor:
    """Cuts a map into windows, row-major, tokens of a window row-major.

    Args:
        x: (B, *grid, C), the grid a multiple of the window.
        window: tokens per axis.

    Returns:
        (B, nW, N, C).

    Raises:
        InputError: the grid is not a multiple of the window.

    Example:
        >>> partition(torch.arange(16).view(1, 4, 4, 1), (2, 2))[0, :, :, 0].tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    """
    grid, w = tuple(x.shape[1:-1]), tuple(window)
    if len(grid) != len(w) or any(a % b for a, b in zip(grid, w)):
        raise InputError(
            f"partition: grid {grid} is not a multiple of window {w}; "
            "pad it first (windows.resolve gives the padded size)"
        )
    n = len(w)
    x = x.reshape(x.shape[0], *(v for g, a in zip(grid, w) for v in (g // a, a)), x.shape[-1])  # (B, H/M, M, W/M, M, C)
    x = x.permute(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)  # (B, H/M, W/M, M, M, C)
    return x.flatten(1 + n, 2 * n).flatten(1, n)  # (B, nW, N, C)


def merge(x: Tensor, window: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Puts windows back on their map; undoes ``partition``.

    Args:
        x: (B, nW, N, C).
        window: tokens per axis.
        grid: tokens per axis of the map, a multiple of the window.

    Returns:
        (B, *grid, C).

    Raises:
        InputError: number or size of the windows does not fit the grid.
    """
    w, g = tuple(window), tuple(grid)
    n, per_axis = len(w), tuple(a // b for a, b in zip(g, w))
    if x.ndim != 4 or x.shape[1:3] != (math.prod(per_axis), math.prod(w)) or any(a % b for a, b in zip(g, w)):
        raise InputError(
            f"merge: got windows {tuple(x.shape)}, expected (B, {math.prod(per_axis)}, {math.prod(w)}, C) "
            f"for grid {g} and window {w}"
        )
    x = x.reshape(x.shape[0], *per_axis, *w, x.shape[-1])  # (B, H/M, W/M, M, M, C)
    x = x.permute(0, *(axis for i in range(1, n + 1) for axis in (i, i + n)), 2 * n + 1)  # (B, H/M, M, W/M, M, C)
    return x.reshape(x.shape[0], *g, x.shape[-1])  # (B, H, W, C)


def pad(x: Tensor, g: Geometry) -> Tensor:
    """Pads a map (B, *grid, C) with zeros at the bottom and right to (B, *padded, C)."""
    if not g.pads:
        return x
    amounts = [v for p, a in zip(reversed(g.padded), reversed(g.grid)) for v in (0, p - a)]
    return F.pad(x, [0, 0, *amounts])


def crop(x: Tensor, g: Geometry) -> Tensor:
    """Removes the padding: (B, *padded, C) to (B, *grid, C)."""
    for axis, size in enumerate(g.grid, start=1):
        x = x.narrow(axis, 0, size)
    return x


def cyclic_shift(x: Tensor, shift: Sequence[int]) -> Tensor:
    """Rolls a map (B, *grid, C) towards the top left by ``shift`` tokens per axis; negative shifts roll it back."""
    if not any(shift):
        return x
    return torch.roll(x, tuple(-s for s in shift), tuple(range(1, 1 + len(shift))))


def order(g: Geometry, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Returns the ways between grid order and window order, with padding and shift folded in.

    Returns:
        gather: (nW * N,) int64, for each place in window order the row-major index of its token on the grid, or
            ``prod(grid)`` where that place is padding.
        scatter: (prod(grid),) int64, for each token of the grid its place in window order.

    Example:
        >>> gather, scatter = order(resolve((2, 2), (2, 2), (1, 1), SizeRule(shift_single=True)))
        >>> gather.tolist(), scatter.tolist()
        ([3, 2, 1, 0], [3, 2, 1, 0])
    """
    gather, padding, window, token = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(4))
    places = _places(g, device)
    for axis, (n, p, w, s) in enumerate(zip(g.grid, g.padded, g.window, g.shift)):
        source = _wrapped(places[axis] + s, p)  # the token at i came from i + s
        gather = gather * n + source
        padding = padding + (source >= n)
        i = torch.arange(n, device=device).view(-1, *(1,) * (len(g.grid) - 1 - axis))
        i = _wrapped(i + p - s, p)  # and goes to i - s
        window, token = window * (p // w) + i // w, token * w + i % w
    gather = torch.where(padding > 0, math.prod(g.grid), gather)
    return gather.flatten(), (window * math.prod(g.window) + token).flatten()


def _wrapped(i: Tensor, p: int) -> Tensor:
    """Positions from 0 to 2p - 1 on an axis of length p that is rolled: i % p, which ONNX lacks where p is open."""
    return torch.where(i >= p, i - p, i)


def _places(g: Geometry, device: torch.device | None) -> list[Tensor]:
    """For each axis, the place on it of every token in window order, (nW, N)."""
    windows = torch.arange(math.prod(count(g)), device=device)
    tokens = torch.arange(math.prod(g.window), device=device)
    places = []
    for n, w in zip(reversed(count(g)), reversed(g.window)):
        window, windows = _digit(windows, n)
        token, tokens = _digit(tokens, w)
        places.append(window[:, None] * w + token)  # (nW, N)
    return places[::-1]


def _digit(number: Tensor, base: int) -> tuple[Tensor, Tensor]:
    """The last digit of numbers of at least 0, and what stands before it; without %, see ``_wrapped``."""
    rest = number // base
    return number - rest * base, rest


def labels(g: Geometry, device: torch.device | None = None) -> Tensor:
    """Returns the region of every token in window order; tokens of a window attend where their labels are equal.

    After the shift, the last window of an axis holds tokens from both ends of the map. With i a position on the padded
    and rolled axis of length p, window w and shift s, ``(i >= p - w) + (i >= p - s)`` tells them apart (the first term
    only sets the last window off from the others). Where padding is masked, it is one more region.

    Returns:
        (nW, N) int64.

    Example:
        >>> labels(resolve((4,), (2,), (1,))).tolist()
        [[0, 0], [1, 2]]
    """
    places = _places(g, device)
    label = torch.zeros_like(places[0])  # (nW, N)
    padding = torch.zeros_like(label, dtype=torch.bool)
    for i, n, p, w, s in zip(places, g.grid, g.padded, g.window, g.shift):
        if not is_static((s,)) or s:
            label = 3 * label + (i >= p - w) + (i >= p - s)
        padding = padding | (_wrapped(i + s, p) >= n)  # the token at i came from i + s
    if g.mask_padding:
        label = label.masked_fill(padding, 3 ** len(g.grid))
    return label


def relative_position_index(
    window: Sequence[int], table: Sequence[int] | None = None, device: torch.device | None = None
) -> Tensor:
    """Returns, for every pair of tokens in a window, the row of the bias table that holds their offset.

    The offset of query from key along an axis is moved to start at 0; the axes combine as digits of one number, so
    that with M columns a row offset counts 2M - 1 times a column offset and (2, 1) and (1, 2) stay apart.

    Args:
        window: tokens per axis of the window in use.
        table: tokens per axis of the window that the table was built for; the same by default. A smaller window
            reads the centre of the table, where its offsets are.
        device: where the result is made.

    Returns:
        (N, N) int64, query by key.

    Raises:
        InputError: the window is larger than the table's.

    Example:
        >>> relative_position_index((1, 2)).tolist()
        [[1, 0], [2, 1]]
    """
    w = tuple(window)
    t = w if table is None else tuple(table)
    if len(w) != len(t) or any(a > b for a, b in zip(w, t)):
        raise InputError(f"relative_position_index: window {w} does not fit a table made for window {t}")
    axes = torch.meshgrid([torch.arange(a, device=device) for a in w], indexing="ij")
    index = torch.zeros(math.prod(w), math.prod(w), dtype=torch.int64, device=device)
    for axis, size in zip(axes, t, strict=True):
        position = axis.flatten()
        offset = position[:, None] - position[None, :]  # (N, N) query minus key
        index = index * (2 * size - 1) + offset + size - 1
    return index


def log_spaced_offsets(window: Sequence[int], trained: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Returns every offset between two tokens of a window, log-spaced (SwinV2 section 3.3, equation 4).

    An offset over the largest of the window that was trained with, times 8, is x: sign(x) log2(1 + |x|) / log2(8).
    An axis of window 1 has the one offset 0.

    Args:
        window: tokens per axis of the window in use.
        trained: tokens per axis of the window that the bias was trained with.
        device: where the result is made.

    Returns:
        ((2M-1)(2M-1)..., axes) float64, in the order of the rows that ``relative_position_index`` counts.

    Example:
        >>> log_spaced_offsets((2,), (2,)).round(decimals=3).flatten().tolist()
        [-1.057, 0.0, 1.057]
    """
    number: Any = {"dtype": torch.float64, "device": device}
    axes = [torch.arange(1 - w, w, **number) * (8 / max(t - 1, 1)) for w, t in zip(window, trained)]
    x = torch.stack(torch.meshgrid(axes, indexing="ij"), -1).flatten(0, -2)  # ((2M-1)(2M-1), axes)
    return x.sign() * (1 + x.abs()).log2() / 3
