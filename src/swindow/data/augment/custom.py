"""A function of the user's own in the place of our augmentation, for instance of another library."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...card import Preprocess
from ...errors import DataError
from ...media.image import convert, fit, to_tensor

if TYPE_CHECKING:
    from torch import Tensor


def called(function: Callable[[Any], Any], image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Tensor:
    """Returns what a function makes of an image, as the model's input: (C, H, W) fp32, normalised.

    The generators of ``random``, NumPy and PyTorch are seeded before, so that a run that is resumed is the same.

    Args:
        function: takes an upright PIL image ("L", "RGB", or "F" from 0 to 1 where the file has more than 8 bits);
            returns a PIL image or an array (H, W, C) of uint8, which are resized or cropped where their size is
            another one, or a tensor (C, H, W) or (1, C, H, W) of the model's size: uint8, or floats from 0 (black) to
            1 (white), not normalised.
        image: the image.
        how: how it is prepared.
        rng: all chance.

    Raises:
        DataError: the result is something else.
    """
    import torch

    seed = int(rng.integers(2**32))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  what other libraries draw from
    torch.manual_seed(seed)
    found, how = function(convert(image, how)), dataclasses.replace(how, value_range=None)  # which is applied now
    if isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.ndim in (2, 3) and found.shape[2:] != (2,):
        try:
            found = Image.fromarray(found[..., 0] if found.shape[2:] == (1,) else found)
        except TypeError as error:
            raise DataError(f"augment: the function returned an array {found.shape}, expected (H, W, C)") from error
    if isinstance(found, Image.Image):
        return to_tensor(convert(found, how) if found.size == how.size[::-1] else fit(found, how), how)
    expected = (how.channels, *how.size)
    if not isinstance(found, torch.Tensor):
        raise DataError(
            f"augment: the function returned {type(found).__name__}, expected a PIL image, an array (H, W, C) of uint8 "
            f"or a tensor {expected}"
        )
    found = found[0] if found.ndim == 4 and len(found) == 1 else found
    if tuple(found.shape) != expected:
        raise DataError(
            f"augment: the function returned a tensor of shape {tuple(found.shape)}, expected {expected}; try to "
            "resize or crop in it"
        )
    values = found.float() / (255 if found.dtype == torch.uint8 else 1)
    if not (found.dtype == torch.uint8 or found.is_floating_point()) or values.min() < -0.5 or values.max() > 1.5:
        raise DataError(
            f"augment: the function returned a tensor of {found.dtype} from {values.min():g} to {values.max():g}, "
            "expected uint8, or floats from 0 to 1; try it without Normalize"
        )
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (how.mean, how.std))
    return (values - mean) / std
