"""Which operations an image gets, and how strong: RandAugment and TrivialAugment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...card import Preprocess
from ...errors import DataError
from ...media.image import FILTERS
from . import operations as ops
from .geometric import Augment
from .operations import Filling, Operation

FULL = 10.0  # the magnitude at which an operation is as strong as it gets


class Choice(NamedTuple):
    """An operation and what its argument is.

    Attributes:
        operation: the operation.
        argument: of a magnitude, from 0, and a sign; None: it has none.
        signed: whether the sign is drawn; else it is 1.
    """

    operation: Operation
    argument: Callable[[float, int], float] | None = None
    signed: bool = False

    def applied(self, image: Image.Image, magnitude: float, sign: int, filling: Filling) -> Image.Image:
        """Returns the changed image."""
        return self.operation(image, self.argument(magnitude, sign) if self.argument else 0.0, filling)


def _enhanced(magnitude: float, sign: int) -> float:
    return max(0.1, 1 + sign * 0.9 * magnitude / FULL)


# Cubuk et al., RandAugment (2020), with the arguments of timm's "increasing" set: a larger magnitude is stronger.
RAND_AUGMENT: dict[str, Choice] = {
    "auto contrast": Choice(ops.auto_contrast),
    "equalize": Choice(ops.equalize),
    "invert": Choice(ops.invert),
    "rotate": Choice(ops.rotate, lambda m, sign: sign * 30 * m / FULL, signed=True),
    "posterize": Choice(ops.posterize, lambda m, _: 4 - int(4 * m / FULL)),
    "solarize": Choice(ops.solarize, lambda m, _: 256 - min(256, int(256 * m / FULL))),
    "solarize add": Choice(ops.solarize_add, lambda m, _: min(128, int(110 * m / FULL))),
    "color": Choice(ops.color, _enhanced, signed=True),
    "contrast": Choice(ops.contrast, _enhanced, signed=True),
    "brightness": Choice(ops.brightness, _enhanced, signed=True),
    "sharpness": Choice(ops.sharpness, _enhanced, signed=True),
    "shear x": Choice(ops.shear_x, lambda m, sign: sign * 0.3 * m / FULL, signed=True),
    "shear y": Choice(ops.shear_y, lambda m, sign: sign * 0.3 * m / FULL, signed=True),
    "translate x": Choice(ops.translate_x, lambda m, sign: sign * 0.45 * m / FULL, signed=True),
    "translate y": Choice(ops.translate_y, lambda m, sign: sign * 0.45 * m / FULL, signed=True),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """A few operations in a row, each with a probability (Cubuk et al. 2020; timm's ``rand-m9-mstd0.5-inc1``).

    Attributes:
        magnitude: how strong, 0 to 10.
        std: standard deviation of the magnitude, drawn for every operation.
        count: operations per image, drawn with replacement.
        probability: of each to be applied.
    """

    magnitude: float = 9.0
    std: float = 0.5
    count: int = 2
    probability: float = 0.5

    def __call__(self, image: Image.Image, filling: Filling, rng: np.random.Generator) -> Image.Image:
        """Returns the changed image.

        Args:
            image: 8 bits, "L" or "RGB".
            filling: how pixels are moved.
            rng: all chance.
        """
        known = list(RAND_AUGMENT.values())
        for number in rng.integers(len(known), size=self.count):
            if rng.random() > self.probability:
                continue
            choice = known[number]
            magnitude = min(max(rng.normal(self.magnitude, self.std), 0.0), FULL)
            sign = -1 if choice.signed and rng.random() > 0.5 else 1
            image = choice.applied(image, magnitude, sign, filling)
        return image


STEPS = 30  # of a magnitude, from 0 to the strongest

# Mueller and Hutter, TrivialAugment (2021), its wide set; None: the image as it is.
TRIVIAL_AUGMENT: dict[str, Choice | None] = {
    "identity": None,
    "shear x": Choice(ops.shear_x, lambda m, sign: sign * 0.99 * m / STEPS, signed=True),
    "shear y": Choice(ops.shear_y, lambda m, sign: sign * 0.99 * m / STEPS, signed=True),
    "translate x": Choice(ops.shift_x, lambda m, sign: sign * 32 * m / STEPS, signed=True),
    "translate y": Choice(ops.shift_y, lambda m, sign: sign * 32 * m / STEPS, signed=True),
    "rotate": Choice(ops.rotate, lambda m, sign: sign * 135 * m / STEPS, signed=True),
    "brightness": Choice(ops.brightness, lambda m, sign: 1 + sign * 0.99 * m / STEPS, signed=True),
    "color": Choice(ops.color, lambda m, sign: 1 + sign * 0.99 * m / STEPS, signed=True),
    "contrast": Choice(ops.contrast, lambda m, sign: 1 + sign * 0.99 * m / STEPS, signed=True),
    "sharpness": Choice(ops.sharpness, lambda m, sign: 1 + sign * 0.99 * m / STEPS, signed=True),
    "posterize": Choice(ops.posterize, lambda m, _: 8 - round(6 * m / STEPS)),
    "solarize": Choice(ops.solarize, lambda m, _: 255 - 255 * m / STEPS),
    "auto contrast": Choice(ops.auto_contrast),
    "equalize": Choice(ops.equalize),
}


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """One operation, of any strength (Mueller and Hutter 2021; torchvision's ``TrivialAugmentWide``)."""

    def __call__(self, image: Image.Image, filling: Filling, rng: np.random.Generator) -> Image.Image:
        """Returns the changed image; arguments as of ``RandAugment``."""
        choice = list(TRIVIAL_AUGMENT.values())[rng.integers(len(TRIVIAL_AUGMENT))]
        if choice is None:
            return image
        magnitude = float(rng.integers(STEPS + 1)) if choice.argument else 0.0
        sign = -1 if choice.signed and rng.integers(2) else 1
        return choice.applied(image, magnitude, sign, filling)


def color_jitter(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    """Returns the image with other brightness, contrast and saturation, in random order.

    Each by a factor from ``1 - amount`` (at least 0) to ``1 + amount``: torchvision's ``ColorJitter`` without hue, as
    timm uses it.

    Raises:
        DataError: the image has more than 8 bits.
    """
    _check_bits(image, "color_jitter=0")
    known, filling = (ops.brightness, ops.contrast, ops.color), Filling(Image.Resampling.NEAREST, 0)
    for number in rng.permutation(len(known)):
        image = known[number](image, rng.uniform(max(0.0, 1 - amount), 1 + amount), filling)
    return image


def _check_bits(image: Image.Image, instead: str) -> None:
    if image.mode == "F":
        raise DataError(f"automatic augmentation takes images of 8 bits, got one of more bits; try {instead}")


def _filling(image: Image.Image, how: Preprocess) -> Filling:
    """Moved pixels are resampled as images are resized; the mean colour comes in."""
    _check_bits(image, "auto_augment='none'")
    colour = tuple(round(255 * mean) for mean in how.mean)
    return Filling(FILTERS[how.interpolation], colour if len(colour) > 1 else colour[0])


def _none(image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Image.Image:
    return image


def _rand(image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Image.Image:
    return RandAugment()(image, _filling(image, how), rng)


def _trivial(image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Image.Image:
    return TrivialAugment()(image, _filling(image, how), rng)


# By name: (8-bit image, how it is prepared, chance) to the changed image.
POLICIES: dict[str, Augment] = {"none": _none, "randaugment": _rand, "trivialaugment": _trivial}
