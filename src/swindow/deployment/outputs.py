"""The modules that are exported: a model with the outputs that were asked for, and preparation in front of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..card import Preprocess


class Outputs(nn.Module):
    """A model that gives logits, probabilities, features or the pyramid, in fp32 for fp32 inputs.

    Args:
        model: a SwinTransformer in evaluation mode.
        what: see ``swindow.export``.
        several: whether an image may have several labels: probabilities are then those of each class on its own.
    """

    def __init__(self, model: nn.Module, what: str, several: bool = False) -> None:
        super().__init__()
        self.model, self.what, self.several = model, what, several
        self.dtype = next(model.parameters()).dtype

    def forward(self, images: Tensor) -> Any:
        """Returns the outputs for images (B, in_chans, *pixels)."""
        model: Any = self.model
        x = images.to(self.dtype)
        if self.what == "pyramid":
            return [y.to(images.dtype) for y in model.pyramid(x)]
        if self.what == "features":
            return model.features(x).to(images.dtype)
        logits = model(x).to(images.dtype)
        if self.what == "logits":
            return logits
        return logits.sigmoid() if self.several else logits.softmax(-1)


class Photos(nn.Module):
    """Prepares photos in front of a model as ``media.prepare`` does: cut, resize, normalise.

    Resampling is that of Pillow: along rows, then along columns, rounded to 8 bits after each. The weights of all
    pixels stand in one matrix per axis, which follows from the photo's size, so that a photo of any size is two
    products.

    Args:
        model: takes images (B, C, *size).
        how: how they are prepared.
    """

    def __init__(self, model: nn.Module, how: Preprocess) -> None:
        super().__init__()
        self.model, self.how = model, how
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(how.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(how.std).view(-1, 1, 1) * 255)

    def forward(self, photos: Tensor) -> Any:
        """Returns the model's outputs for photos (B, H, W, C), uint8."""
        height, width = self.how.size
        x = photos.permute(0, 3, 1, 2).to(torch.float32)  # (B, C, H, W)
        rows, columns = torch.scalar_tensor(x.shape[2]), torch.scalar_tensor(x.shape[3])  # as tensors: no branch
        step_y, step_x = rows / height, columns / width  # pixels of the photo per pixel of the result
        if self.how.fit == "crop":
            step_y = step_x = torch.minimum(step_y, step_x) * self.how.crop_fraction
        x = _rounded(x @ self._weights(x.shape[3], width, step_x).t()).transpose(2, 3)  # (B, C, w, H)
        x = _rounded(x @ self._weights(x.shape[3], height, step_y).t()).transpose(2, 3)  # (B, C, h, w)
        return self.model((x - self.mean) / self.std)

    def _weights(self, length: int, out: int, step: Tensor) -> Tensor:
        """The share of every pixel of an axis in every pixel of the result, (out, length)."""
        start = (torch.scalar_tensor(length) - step * out) / 2  # the cut is in the middle
        centre = (start + (torch.arange(out) + 0.5) * step)[:, None]  # (out, 1)
        pixel = torch.arange(length)[None, :]  # (1, length)
        if self.how.interpolation == "nearest":
            return (pixel == centre.floor()).to(torch.float32)
        x = (pixel - centre + 0.5).abs() / step.clamp(min=1)
        weights = (1 - x).clamp(min=0) if self.how.interpolation == "bilinear" else _bicubic(x)
        return weights / weights.sum(1, keepdim=True)


def _bicubic(x: Tensor) -> Tensor:
    """Pillow's bicubic filter (a = -0.5) at distances ``x`` of at least 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _rounded(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)
