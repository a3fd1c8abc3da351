"""Mixup and CutMix: images of a batch, and their targets, are mixed with those of its reverse."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def soft_targets(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Returns targets (B, classes) fp32 that sum to 1: the class, a fraction of it spread evenly over all classes.

    Args:
        targets: (B,) numbers of classes.
        classes: how many there are.
        smoothing: the fraction that is spread.

    Example:
        >>> soft_targets(torch.tensor([1]), 4, 0.1)
        tensor([[0.0250, 0.9250, 0.0250, 0.0250]])
    """
    found = torch.full((len(targets), classes), smoothing / classes)
    return found.scatter_(1, targets[:, None], 1 - smoothing + smoothing / classes)


def mix(x: Tensor, targets: Tensor, mixup: float, cutmix: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Returns a batch in which every image is mixed with that at its place in the reversed batch.

    One share is drawn for the batch, lambda ~ Beta(alpha, alpha). Mixup (Zhang et al. 2018) blends images, CutMix (Yun
    et al. 2019) puts a rectangle of the other into each; there lambda is that of the rectangle as it is cut off by the
    image's border. Where both are asked for, each is taken half of the time.

    Args:
        x: (B, C, H, W); it is not changed.
        targets: (B, classes), as ``soft_targets`` gives.
        mixup: alpha of Mixup; 0: none.
        cutmix: alpha of CutMix; 0: none.
        rng: all chance.

    Returns:
        images and targets.
    """
    if not mixup and not cutmix:
        return x, targets
    cuts = bool(cutmix) and (not mixup or rng.random() < 0.5)
    share = float(rng.beta(cutmix, cutmix) if cuts else rng.beta(mixup, mixup))
    other = x.flip(0)
    if cuts:
        height, width = x.shape[-2:]
        top, bottom, left, right = _box(height, width, share, rng)
        x = x.clone()
        x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        x = torch.lerp(other, x, share)
    return x, torch.lerp(targets.flip(0), targets, share)


def _box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle of 1 - share of the image, about a random middle, inside the image."""
    ratio = math.sqrt(1 - share)
    h, w = int(height * ratio), int(width * ratio)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, left = max(0, y - h // 2), max(0, x - w // 2)
    return top, min(height, y + (h + 1) // 2), left, min(width, x + (w + 1) // 2)
