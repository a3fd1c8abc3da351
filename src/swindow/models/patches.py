"""Pixels to tokens and tokens to coarser tokens: patch embedding and patch merging (Swin section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels, windows
from ..caching import cached_by_shape, is_static
from ..config import PerAxis, SwinConfig
from ..errors import InputError
from ..windows import Geometry, SizeRule
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
            InputError: the image has another number of axes or channels, or no pixels.
        """
        self._check(x)
        if self.pads:
            x = pad_to_multiple(x, self.patch_size)
        x = self.proj(x).movedim(1, -1)  # (B, *grid, C)
        x = self.norm(x)
        return x

    def _other_axes(self, x: Tensor) -> str:
        """What to do with an input of another number of axes."""
        n, chans = len(self.patch_size), self.in_chans
        what = {2: "image", 3: "clip"}.get(n, "sequence")
        if n == 3 and x.ndim == 4 and (x.shape[1] == chans or x.shape[0] != chans):
            return "x.unsqueeze(2) for images, as clips of one frame"
        if n == 2 and x.ndim == 5:
            return "x.transpose(1, 2).flatten(0, 1) for the frames of clips, as images"
        return f"x.unsqueeze(0) for a single {what}" if x.ndim == n + 1 else f"an input of {n + 2} axes"

    def _check(self, x: object) -> None:
        if not isinstance(x, Tensor):
            hint = (
                "torch.export.export(model, (images,)), or a Tracer whose leaf modules are PatchEmbed and SwinStage"
                if isinstance(x, torch.fx.Proxy)
                else "torch.as_tensor(images)"
            )
            raise InputError(f"got an input of type {type(x).__name__}, expected a tensor; try {hint}")
        n, chans = len(self.patch_size), self.in_chans
        axes = ("height", "width") if n == 2 else ("frames", "height", "width")[-n:]
        expected = f"expected (batch, {chans} channels, {', '.join(axes)})"
        if x.ndim != n + 2:
            raise InputError(f"got an input of shape {tuple(x.shape)}, {expected}; try {self._other_axes(x)}")
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
        self.reduction = linear(neighbours, 2 * dim, bias=False)
        self.normed = NORMS[config.merge_norm]
        self.kernel = kernels.AUTO

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, *grid', 2C) for tokens (B, *grid, C), with grid' = ceil(grid / 2) on the merged axes."""
        x = self.neighbours(x)  # (B, H/2, W/2, 4C)
        reduce = lambda y: kernels.linear(self.reduction, y, kernel=self.kernel)  # noqa: E731
        x = self.normed(self.norm, reduce, x)  # (B, H/2, W/2, 2C)
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
        return x.index_select(1, _neighbours(g, x.device)).view(x.shape[0], *g.windows, chans)


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
        i = torch.arange(-(-size // s) * s, device=x.device)
        outside = (i >= size).view(-1, *(1,) * (x.ndim - 1 - axis))
        x = x.index_select(axis, i.clamp(max=size - 1)).masked_fill(outside, 0)
    return x
