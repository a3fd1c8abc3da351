"""Pixels to tokens and tokens to coarser tokens: patch embedding and patch merging (Swin section 3.1)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import PerAxis, SwinConfig
from ..errors import InputError
from .norms import NORMS


class PatchEmbed(nn.Module):
    """Projects every patch of pixels to C channels: a convolution whose kernel and stride are the patch.

    An image that is no multiple of the patch is padded with zeros at the bottom and right (``patch_remainder="drop"``
    leaves out what fills no patch instead).
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[config.ndim]
        self.patch_size = config.patch_size
        self.pads = config.patch_remainder == "pad"
        patch: Any = config.patch_size
        self.proj = convolution(config.in_chans, config.embed_dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps) if config.patch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the tokens (B, *grid, C) of an image (B, in_chans, *pixels); grid = ceil(pixels / patch).

        Raises:
            InputError: the image has another number of axes or channels, or no pixels.
        """
        self._check(x)
        if self.pads:
            x = pad_to_multiple(x, self.patch_size, first=2)
        x = self.proj(x).movedim(1, -1)  # (B, *grid, C)
        x = self.norm(x)
        return x

    def _check(self, x: Tensor) -> None:
        n, chans = len(self.patch_size), self.proj.in_channels
        axes = ("height", "width") if n == 2 else ("frames", "height", "width")[-n:]
        expected = f"expected (batch, {chans} channels, {', '.join(axes)})"
        if x.ndim != n + 2:
            raise InputError(
                f"got an input of shape {tuple(x.shape)}, {expected}; try x.unsqueeze(0) for a single image"
            )
        if x.shape[1] != chans:
            hint = (
                "move the channels to axis 1"
                if x.shape[-1] == chans
                else f"create the model with in_chans={x.shape[1]}"
            )
            raise InputError(f"got an input of shape {tuple(x.shape)}, {expected}; try: {hint}")
        if not self.pads and any(a < p for a, p in zip(x.shape[2:], self.patch_size)):
            raise InputError(f"got an input of shape {tuple(x.shape)}, smaller than a patch {self.patch_size}; pad it")
        if 0 in x.shape:
            raise InputError(f"got an empty input of shape {tuple(x.shape)}, {expected}; try sizes of at least 1")
        weight = self.proj.weight.dtype
        if x.dtype != weight and x.is_floating_point() and not torch.is_autocast_enabled(x.device.type):
            raise InputError(f"got an input of type {x.dtype}, expected the model's {weight}; try x.to({weight})")
        if not x.is_floating_point():
            raise InputError(
                f"got an input of type {x.dtype}, expected a floating type; try x.float() / 255, normalised"
            )


class PatchMerging(nn.Module):
    """Halves the resolution and doubles the channels between two stages.

    Every 2x2 neighbourhood, in the order (row, column) = 00, 10, 01, 11 (with more axes too, the first runs fastest),
    is concatenated to 4C channels, normalised and projected to 2C without bias; SwinV2 normalises the 2C instead. Odd
    sizes are padded with zeros.

    Args:
        config: the model's config.
        stage: the stage that it follows, from 0.
    """

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.axes = config.merge_axes
        dim, neighbours = config.width(stage), config.width(stage) * 2 ** len(self.axes)
        self.norm = nn.LayerNorm(neighbours if config.merge_norm == "pre" else 2 * dim, eps=config.norm_eps)
        self.reduction = nn.Linear(neighbours, 2 * dim, bias=False)
        self.normed = NORMS[config.merge_norm]

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, *grid', 2C) for tokens (B, *grid, C), with grid' = ceil(grid / 2) on the merged axes."""
        x = self.neighbours(x)  # (B, H/2, W/2, 4C)
        x = self.normed(self.norm, self.reduction, x)  # (B, H/2, W/2, 2C)
        return x

    def neighbours(self, x: Tensor) -> Tensor:
        """Returns every 2x2 neighbourhood's channels side by side: (B, H, W, C) to (B, H/2, W/2, 4C)."""
        step = [2 if axis in self.axes else 1 for axis in range(x.ndim - 2)]
        x = pad_to_multiple(x.movedim(-1, 1), step, first=2).movedim(1, -1)
        parts = []
        for offset in itertools.product((0, 1), repeat=len(self.axes)):
            part = x
            for axis, start in zip(
                self.axes, reversed(offset), strict=True
            ):  # product runs its last fastest, we the first
                part = part[(slice(None),) * (axis + 1) + (slice(start, None, 2),)]
            parts.append(part)
        return torch.cat(parts, -1)


def pad_to_multiple(x: Tensor, step: PerAxis | list[int], first: int) -> Tensor:
    """Pads the axes from ``first`` to the last with zeros at their ends, to multiples of ``step``."""
    missing = [-size % s for size, s in zip(x.shape[first:], step, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, [v for m in reversed(missing) for v in (0, m)])
