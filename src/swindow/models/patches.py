"""Pixels to tokens and tokens to coarser tokens: patch embedding and patch merging (Swin section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import is_tensor_like

from .. import kernels, private, windows
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
            InputError: see ``check``.
        """
        self.check(x)
        if self.pads:
            x = pad_to_multiple(x, self.patch_size)
        x = self.proj(x).movedim(1, -1)  # (B, *grid, C)
        x = self.norm(x)
        return x

    def check(self, x: Any) -> None:
        """Checks an input of the model; a batch of 0 images is one.

        What only stands for a tensor (``torch.fx.Proxy``) is let through.

        Raises:
            InputError: it is no dense tensor; it has another number of axes or channels, or no pixels; it is of another
                type than the weights (without autocast) or on another device.
        """
        if not isinstance(x, Tensor):
            if is_tensor_like(x):
                return
            raise InputError(f"got an input of type {_type_name(x)}, expected a tensor {self._shape()}; try {_made(x)}")
        if x.is_nested or x.layout is not torch.strided:
            layout, hint = ("nested", "one call per size") if x.is_nested else (x.layout, "x.to_dense()")
            raise InputError(f"got an input of layout {layout}, expected a dense tensor {self._shape()}; try {hint}")
        self._check_shape(x)
        self._check_kind(x)

    def weight(self) -> Tensor | None:
        """Returns a floating parameter of the projection, which tells type and device; None: there is none.

        The projection may be another layer than was built here: adapted, quantised or wrapped.
        """
        return next((p for p in self.proj.parameters() if p.is_floating_point()), None)

    def _shape(self) -> str:
        """The shape that an input should have, in words."""
        axes = (
            ("height", "width") if len(self.patch_size) == 2 else ("frames", "height", "width")[-len(self.patch_size) :]
        )
        return f"(batch, {self.in_chans} channels, {', '.join(axes)})"

    def _other_axes(self, x: Tensor) -> str:
        """What to do with an input of another number of axes."""
        n, chans = len(self.patch_size), self.in_chans
        what = {2: "image", 3: "clip"}.get(n, "sequence")
        if n == 3 and x.ndim == 4 and (x.shape[1] == chans or x.shape[0] != chans):
            return "x.unsqueeze(2) for images, as clips of one frame"
        if n == 2 and x.ndim == 5:
            return "x.transpose(1, 2).flatten(0, 1) for the frames of clips, as images"
        return f"x.unsqueeze(0) for a single {what}" if x.ndim == n + 1 else f"an input of {n + 2} axes"

    def _check_shape(self, x: Tensor) -> None:
        got, expected = f"got an input of shape {tuple(x.shape)}", f"expected {self._shape()}"
        if x.ndim != len(self.patch_size) + 2:
            raise InputError(f"{got}, {expected}; try {self._other_axes(x)}")
        if x.shape[1] != self.in_chans:
            hint = (
                "move the channels to axis 1"
                if x.shape[-1] == self.in_chans
                else f"create the model with in_chans={x.shape[1]}"
            )
            raise InputError(f"{got}, {expected}; try: {hint}")
        pixels = x.shape[2:]
        if is_static(pixels) and 0 in pixels:
            raise InputError(
                f"got an empty input of shape {tuple(x.shape)}, {expected}; try height and width of at least 1"
            )
        if not self.pads and any(a < p for a, p in zip(pixels, self.patch_size)):
            raise InputError(f"{got}, smaller than a patch {self.patch_size}; pad it")

    def _check_kind(self, x: Tensor) -> None:
        """Raises InputError for a type or device that the projection does not take."""
        weight = self.weight()
        if not x.is_floating_point() and not (x.is_quantized and weight is None):
            raise InputError(f"got an input of type {x.dtype}, expected a floating type; try {_floating(x)}")
        if weight is None or private.has_hooks(self.proj):  # which may move or convert it
            return
        if x.device != weight.device:
            raise InputError(
                f"got an input on {x.device}, expected the model's {weight.device}; try {_moved(x, weight)}"
            )
        if x.dtype != weight.dtype and not _casts(x, weight):
            raise InputError(
                f"got an input of type {x.dtype}, expected the model's {weight.dtype}; try x.to({weight.dtype})"
            )


def _casts(x: Tensor, weight: Tensor) -> bool:
    """Returns whether autocast converts both; it does not convert float64."""
    types = (x.dtype, weight.dtype)
    return not x.is_meta and torch.is_autocast_enabled(x.device.type) and torch.float64 not in types


def _type_name(x: object) -> str:
    """The name of an object's type, with its package where it has one."""
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _made(x: object) -> str:
    """How a tensor is made of another object."""
    if type(x).__module__ == "numpy":
        return "torch.from_numpy(x)"
    if isinstance(x, (list, tuple)) and x:
        return "torch.stack(x)" if all(isinstance(image, Tensor) for image in x) else "torch.tensor(x)"
    return "swindow.predict(model, x) for files and PIL images"


def _floating(x: Tensor) -> str:
    """How a tensor of a floating type is made of another."""
    if x.is_complex():
        return "x.abs(), or torch.cat((x.real, x.imag), 1) with twice the channels"
    if x.is_quantized:
        return "x.dequantize()"
    return "x.float() / 255, normalised" if x.dtype == torch.uint8 else "x.float(), normalised"


def _moved(x: Tensor, weight: Tensor) -> str:
    """How an input comes to the device of the weights."""
    if x.is_meta:
        return "an input with data, which a meta tensor has not, or model.to('meta') for shapes alone"
    if weight.is_meta:
        return "a model with weights, or x.to('meta') for shapes alone"
    return f"x.to('{weight.device}')"


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
