"""Random changes to training images. All chance comes from the generator handed in: same generator, same image.

They take an upright image and return a fitted one: "L" or "RGB" of 8 bits, or float "F" where the image is deeper
(``media.convert``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from ...card import Preprocess
from ...media.image import convert, fit, resize

# (image, how it is prepared, chance) to the image of the training step, of size how.size
Augment = Callable[[Image.Image, Preprocess, np.random.Generator], Image.Image]


def photo(image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Image.Image:
    """A random part of the image (8 to 100 % of its area, sides 3:4 to 4:3), resized; flipped half of the time.

    The random resized crop and horizontal flip of the official recipe.
    """
    original, image = image, convert(image, how)
    for _ in range(10):
        area = image.width * image.height * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= image.width and h <= image.height:
            x, y = rng.uniform(0, image.width - w), rng.uniform(0, image.height - h)
            image = resize(image, how, (x, y, x + w, y + h))
            break
    else:  # a very long image: no such part fits
        image = fit(original, how)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def crop(image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Image.Image:
    """The image shifted by up to an eighth of its sides, black where it ends; flipped half of the time.

    Pad and crop, as usual for CIFAR: 4 pixels of 32.
    """
    image = fit(image, how)
    x, y = (int(rng.integers(-(side // 8), side // 8 + 1)) for side in image.size)
    image = image.crop((x, y, x + image.width, y + image.height))  # beyond its borders Pillow puts 0
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def affine(image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Image.Image:
    """A small rotation, shift, scaling and shear: for digits and signs, which a flip would turn into another thing."""
    image = fit(image, how)
    angle, shear = np.radians(rng.uniform(-12, 12)), np.radians(rng.uniform(-8, 8))
    scale_x, scale_y = rng.uniform(0.88, 1.12, size=2)
    moved = rng.uniform(-0.1, 0.1, size=2) * np.array(image.size)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[scale_x, math.tan(shear)], [0, scale_y]])  # of a place in the result, to the source
    centre = np.array([image.width / 2, image.height / 2])
    offset = centre - matrix @ (centre + moved)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    numbers = tuple(map(float, coefficients))
    return image.transform(image.size, Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR)


def none(image: Image.Image, how: Preprocess, rng: np.random.Generator) -> Image.Image:
    """No change: the image as it is evaluated."""
    return fit(image, how)


AUGMENTS: dict[str, Augment] = {"photo": photo, "crop": crop, "affine": affine, "none": none}
