"""What a model takes, checked before any work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import is_tensor_like

from .. import private
from ..caching import is_static
from ..config import PerAxis
from ..errors import InputError


def check(x: Any, proj: nn.Module, in_chans: int, patch_size: PerAxis, pads: bool) -> None:
    """Checks an input (B, in_chans, *pixels) of a model; a batch of 0 images is one.

    Other objects that stand for a tensor are let through.

    Args:
        x: the input.
        proj: the layer that it goes through first; it may be adapted, quantised or wrapped.
        in_chans: channels of the input.
        patch_size: pixels per patch side and axis.
        pads: whether pixels that fill no patch are completed.

    Raises:
        InputError: it is no dense tensor; it has another number of axes or channels, or no pixels; it is of another
            type than the weights (without autocast) or on another device.
    """
    axes = ("height", "width") if len(patch_size) == 2 else ("frames", "height", "width")[-len(patch_size) :]
    expected = f"(batch, {in_chans} channels, {', '.join(axes)})"
    if not isinstance(x, Tensor):
        if is_tensor_like(x) and not isinstance(x, torch.fx.Proxy):
            return
        raise InputError(f"got an input of type {_type_name(x)}, expected a tensor {expected}; try {_made(x)}")
    if x.is_nested or x.layout is not torch.strided:
        layout, hint = ("nested", "one call per size") if x.is_nested else (x.layout, "x.to_dense()")
        raise InputError(f"got an input of layout {layout}, expected a dense tensor {expected}; try {hint}")
    _check_shape(x, f"expected {expected}", in_chans, patch_size, pads)
    _check_kind(x, proj)


def weight_of(layer: nn.Module) -> Tensor | None:
    """Returns a floating parameter of a layer, which tells type and device; None: there is none (quantised layers)."""
    for parameter in layer.parameters():  # PyTorch 2.6 to 2.8 do not compile next(..., None)
        if parameter.is_floating_point():
            return parameter
    return None


def _check_shape(x: Tensor, expected: str, in_chans: int, patch_size: PerAxis, pads: bool) -> None:
    got, pixels = f"got an input of shape {tuple(x.shape)}", x.shape[2:]
    if x.ndim != len(patch_size) + 2:
        raise InputError(f"{got}, {expected}; try {_other_axes(x, in_chans, len(patch_size))}")
    if x.shape[1] != in_chans:
        last = x.shape[-1] == in_chans
        hint = "move the channels to axis 1" if last else f"create the model with in_chans={x.shape[1]}"
        raise InputError(f"{got}, {expected}; try: {hint}")
    if is_static(pixels) and 0 in pixels:
        raise InputError(
            f"got an empty input of shape {tuple(x.shape)}, {expected}; try height and width of at least 1"
        )
    if not pads and any(a < p for a, p in zip(pixels, patch_size)):
        raise InputError(f"{got}, smaller than a patch {patch_size}; pad it")


def _check_kind(x: Tensor, proj: nn.Module) -> None:
    """Raises InputError for a type or device that the layer does not take."""
    weight = weight_of(proj)
    if not x.is_floating_point() and not (x.is_quantized and weight is None):
        raise InputError(f"got an input of type {x.dtype}, expected a floating type; try {_floating(x)}")
    if weight is None or private.has_hooks(proj):  # which may move or convert it
        return
    if x.device != weight.device:
        raise InputError(f"got an input on {x.device}, expected the model's {weight.device}; try {_moved(x, weight)}")
    if x.dtype != weight.dtype and not _casts(x, weight):
        raise InputError(
            f"got an input of type {x.dtype}, expected the model's {weight.dtype}; try x.to({weight.dtype})"
        )


def _other_axes(x: Tensor, chans: int, n: int) -> str:
    """What to do with an input of another number of axes than the n of the model."""
    what = {2: "image", 3: "clip"}.get(n, "sequence")
    if n == 3 and x.ndim == 4 and (x.shape[1] == chans or x.shape[0] != chans):
        return "x.unsqueeze(2) for images, as clips of one frame"
    if n == 2 and x.ndim == 5:
        return "x.transpose(1, 2).flatten(0, 1) for the frames of clips, as images"
    return f"x.unsqueeze(0) for a single {what}" if x.ndim == n + 1 else f"an input of {n + 2} axes"


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
    if isinstance(x, torch.fx.Proxy):
        return "torch.export.export(model, (images,)), or a Tracer whose leaf modules are PatchEmbed and SwinStage"
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
