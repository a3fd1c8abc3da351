"""Pixels to tokens and tokens to coarser tokens: patch embedding and patch merging (Swin section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels, windows
from ..caching import cached_by_shape, is_static
from ..config import PerAxis, SwinConfig
from ..windows import Geometry, SizeRule
from . import inputs
from .init import linear
from .norms import NORMS


class PatchEmbed(nn.Module):
    """Projects every patch of pixels to C channels: a convolution whose kernel and stride are the patch.

    An image that is no multiple of the patch is padded with zeros at the bottom and right (``patch_remainder="drop"``
    leaves out what fills no patch instead).
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[config.ndim]
        self.patch_size, self.in_chans = config.patch_size, config.in_chans
        self.pads = config.patch_remainder == "pad"
        patch: Any = config.patch_size
        self.proj = convolution(config.in_chans, config.embed_dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps) if config.patch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the tokens (B, *grid, C) of an image (B, in_chans, *pixels); grid = ceil(pixels / patch).

        Raises:
            InputError: see ``inputs.check``.
        """
        self.check(x)
        if self.pads:
            x = pad_to_multiple(x, self.patch_size)
        x = self.proj(x).movedim(1, -1)  # (B, *grid, C)
        x = self.norm(x)
        return x

    def check(self, x: Any) -> None:
        """Raises InputError for what is no input of the model; see ``inputs.check``."""
        inputs.check(x, self.proj, self.in_chans, self.patch_size, self.pads)


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
        self.reduction = linear(neighbours, 2 * dim, bias=False)
        self.normed = NORMS[config.merge_norm]
        self.kernel = kernels.AUTO

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, *grid', 2C) for tokens (B, *grid, C), with grid' = ceil(grid / 2) on the merged axes."""
        x = self.neighbours(x)  # (B, H/2, W/2, 4C)
        reduce = lambda y: kernels.linear(self.reduction, y, kernel=self.kernel)  # noqa: E731
        x = self.normed(self.norm, reduce, x, self.kernel)  # (B, H/2, W/2, 2C)
        return x

    def neighbours(self, x: Tensor) -> Tensor:
        """Returns every 2x2 neighbourhood's channels side by side: (B, H, W, C) to (B, H/2, W/2, 4C)."""
        grid = tuple(x.shape[1:-1])
        step = tuple(2 if axis in self.axes else 1 for axis in range(len(grid)))
        g = windows.resolve(grid, step, (0,) * len(grid), SizeRule(mask_padding=False))
        chans = x.shape[-1] * 2 ** len(self.axes)
        x = x.flatten(1, -2)  # (B, H*W, C)
        if not is_static(grid) or g.pads:
            x = F.pad(x, [0, 0, 0, 1])  # one zero token, which every place of padding reads
        return x.index_select(1, _neighbours(g, x.device)).view(x.shape[0], *windows.count(g), chans)


@cached_by_shape
def _neighbours(g: Geometry, device: torch.device) -> Tensor:
    """The order in which neighbourhoods stand side by side, the first axis fastest in each: (H*W,)."""
    gather, _ = windows.order(g, device)
    n = len(g.window)
    return gather.view(-1, *g.window).permute(0, *range(n, 0, -1)).flatten()


def pad_to_multiple(x: Tensor, step: PerAxis) -> Tensor:
    """Pads an image (B, in_chans, *pixels) with zeros at the bottom and right, to multiples of ``step``."""
    pixels = x.shape[2:]
    if is_static(pixels):
        missing = [-size % s for size, s in zip(pixels, step, strict=True)]
        return F.pad(x, [v for m in reversed(missing) for v in (0, m)]) if any(missing) else x
    for axis, (size, s) in enumerate(zip(pixels, step, strict=True), start=2):
        # A gather whose length is a plain multiple: symbols that a compiler has to think about stay short.
        i = torch.arange(windows.round_up(size, s), device=x.device)
        outside = (i >= size).view(-1, *(1,) * (x.ndim - 1 - axis))
        x = x.index_select(axis, i.clamp(max=size - 1)).masked_fill(outside, 0)
    return x
