"""Mixup and CutMix: images of a batch, and their targets, are mixed with those of its reverse."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def mix(x: Tensor, mixup: float, cutmix: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Returns a batch in which every image is mixed with that at its place in the reversed batch, and its own share.

    One share is drawn for the batch, lambda ~ Beta(alpha, alpha). Mixup (Zhang et al. 2018) blends images, CutMix (Yun
    et al. 2019) puts a rectangle of the other into each; there the share is that of the pixels, as the rectangle is cut
    off by the image's border. Where both are asked for, each is taken half of the time.

    Args:
        x: (B, C, H, W); it is not changed.
        mixup: alpha of Mixup; 0: none.
        cutmix: alpha of CutMix; 0: none.
        rng: all chance.

    Returns:
        images (B, C, H, W), and the share of each that is its own (fraction): targets are to be mixed alike.
    """
    if not mixup and not cutmix:
        return x, 1.0
    cuts = bool(cutmix) and (not mixup or rng.random() < 0.5)
    share = float(rng.beta(cutmix, cutmix) if cuts else rng.beta(mixup, mixup))
    other = x.flip(0)
    if not cuts:
        return torch.lerp(other, x, share), share
    height, width = x.shape[-2:]
    top, bottom, left, right = _box(height, width, share, rng)
    x = x.clone()
    x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return x, 1 - (bottom - top) * (right - left) / (height * width)


def _box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle of 1 - share of the image, about a random middle, inside the image."""
    ratio = math.sqrt(1 - share)
    h, w = int(height * ratio), int(width * ratio)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, left = max(0, y - h // 2), max(0, x - w // 2)
    return top, min(height, y + (h + 1) // 2), left, min(width, x + (w + 1) // 2)
