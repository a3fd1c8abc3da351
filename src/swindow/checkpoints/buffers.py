"""Buffers that other libraries save beside the weights: worked out where they are written, read for what they tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import windows
from ..config import PerAxis, SwinConfig
from ..windows import SizeRule
from .evidence import Evidence
from .match import Buffer


class Block(NamedTuple):
    """One block of a model: which, and what its buffers depend on."""

    config: SwinConfig
    stage: int
    number: int
    grid: PerAxis | None  # of its stage, where the size of images is known

    @property
    def window(self) -> PerAxis:
        """Its window."""
        return self.config.window_size[self.stage]


def index(block: Block) -> Tensor:
    """``relative_position_index``: (N, N) rows of the table."""
    return windows.relative_position_index(block.window)


def flat_index(block: Block) -> Tensor:
    """The same, (N * N,), as torchvision has it."""
    return index(block).flatten()


def coordinates(block: Block) -> Tensor:
    """``relative_coords_table``: (1, 2M-1, 2M-1, 2) log-spaced offsets."""
    trained = block.config.pretrained_window_size or block.config.window_size
    offsets = windows.log_spaced_offsets(block.window, trained[block.stage]).float()
    return offsets.view(1, *(2 * w - 1 for w in block.window), -1)


def mask(block: Block) -> Tensor | None:
    """``attn_mask``: (nW, N, N), 0 where tokens attend and -100 where not; None in a block that is not shifted."""
    assert block.grid is not None
    shift = tuple(w // 2 for w in block.window)
    g = windows.resolve(block.grid, block.window, shift, SizeRule("min", False, False))
    if block.number % 2 == 0 or not any(g.shift):
        return None
    labels = windows.labels(g)  # (nW, N)
    return torch.where(labels[:, :, None] == labels[:, None], 0.0, -100.0)


BUFFERS: dict[str, Callable[[Block], Tensor | None]] = {
    "index": index,
    "flat_index": flat_index,
    "coordinates": coordinates,
    "mask": mask,
}


def maps(config: SwinConfig, input_size: PerAxis, rounds_down: bool = False) -> list[PerAxis]:
    """Tokens per axis of every stage, for images of a size in pixels."""

    def divided(size: int, by: int) -> int:
        return max(1, size // by if rounds_down else -(-size // by))

    grids = [tuple(divided(size, patch) for size, patch in zip(input_size, config.patch_size, strict=True))]
    for _ in range(config.num_stages - 1):
        grids.append(tuple(divided(g, 2) if axis in config.merge_axes else g for axis, g in enumerate(grids[-1])))
    return grids


# --- what they tell ---------------------------------------------------------------------------------------------------


def evidence_of(found: Sequence[Buffer], patch_size: PerAxis) -> Evidence:
    """Returns what the buffers of a file say: windows, those they were trained with, the size of images.

    Args:
        found: the buffers.
        patch_size: pixels per axis.
    """
    axes = len(patch_size)
    windows: dict[int, PerAxis] = {}
    trained: dict[int, PerAxis] = {}
    grids: dict[int, PerAxis] = {}
    for kind, stage, _, _, tensor in found:
        if kind in ("index", "flat_index") and stage not in windows:
            side = math.isqrt(tensor.numel())
            if side * side == tensor.numel():
                windows[stage] = _window(tensor.reshape(side, side).long(), axes)
        elif kind == "coordinates" and stage not in trained and tensor.ndim == axes + 2:
            window = tuple((size + 1) // 2 for size in tensor.shape[1:-1])
            windows.setdefault(stage, window)
            trained[stage] = _trained(tensor, window)
    for kind, stage, _, _, tensor in found:
        if kind == "mask" and stage in windows and stage not in grids and tensor.ndim == 3:
            grids[stage] = _grid(tensor, windows[stage])
    size = None
    if grids:  # exact, since the official code takes no other sizes
        first = min(grids)
        size = tuple(g * 2**first * patch for g, patch in zip(grids[first], patch_size))
    return Evidence("its buffers", windows=windows, trained=trained, input_size=size)


def _window(found: Tensor, axes: int) -> PerAxis:
    """The window whose index this is: steps of 1 along the last axis, of 2M-1 along the one before, and so on."""
    steps = (found[:, 0] - found[0, 0]).tolist()
    window: list[int] = []
    tokens, stride = 1, 1  # in one step along this axis: tokens that are passed, rows of the table
    for _ in range(axes - 1):
        side = 1
        while side * tokens < len(steps) and steps[side * tokens] == side * stride:
            side += 1
        window.insert(0, side)
        tokens, stride = tokens * side, stride * (2 * side - 1)
    return (max(1, len(steps) // tokens), *window)


def _trained(table: Tensor, window: PerAxis) -> PerAxis:
    """The window that coordinates are normalised by: their largest is log2(8 (M-1) / (P-1) + 1) / log2(8)."""
    found = []
    for axis, w in enumerate(window):
        largest = float(table[..., axis].max())
        scale = 2 ** (3 * largest) - 1 if 0 < largest < 10 else 0.0  # 8 (M-1) / (P-1)
        found.append(1 + round(8 * (w - 1) / scale) if w > 1 and scale else w)
    return tuple(found)


def _grid(mask: Tensor, window: PerAxis) -> PerAxis:
    """The map that a mask is for: in the first row of windows, the last is the first that has a border in it."""
    border = mask.flatten(1).ne(0).any(1).tolist()
    columns = border.index(True) + 1 if True in border else len(border)
    return (len(border) // columns * window[0], columns * window[-1])


def mismatch(tensor: Tensor, expected: Tensor | None) -> bool:
    """Whether a file's buffer is not what the model it describes would have."""
    if expected is None or tensor.shape != expected.shape:
        return True
    tensor = tensor.cpu()
    if tensor.is_floating_point():
        return not torch.allclose(tensor.float(), expected.float(), atol=2e-2 if tensor.dtype.itemsize < 4 else 1e-4)
    return not torch.equal(tensor.long(), expected.long())
