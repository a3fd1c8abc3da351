"""Random erasing: a rectangle of an image becomes noise (Zhong et al. 2020)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TRIES = 10
AREA = (0.02, 1 / 3)  # fraction of the image
ASPECT = (0.3, 1 / 0.3)  # height over width


def erase(x: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """Returns an image in which, with a probability, a rectangle is noise, drawn for every pixel and channel.

    The rectangle covers 2 to 33 % of the image and is smaller than it on both sides; where none that fits is found in
    ten tries, the image stays as it is.

    Args:
        x: (C, H, W), normalised; it is not changed.
        probability: of an image to be changed (fraction).
        rng: all chance.

    Example:
        >>> x = torch.zeros(3, 32, 32)
        >>> 0.02 < float(erase(x, 1.0, np.random.default_rng(0)).ne(0).float().mean()) < 0.34
        True
    """
    if rng.random() > probability:
        return x
    channels, height, width = x.shape
    for _ in range(TRIES):
        area = rng.uniform(*AREA) * height * width
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            x = x.clone()
            noise = rng.standard_normal((channels, h, w), dtype=np.float32)
            x[:, top : top + h, left : left + w] = torch.from_numpy(noise)
            return x
    return x
