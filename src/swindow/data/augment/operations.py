"""What automatic augmentation does to an image: shear, rotation, solarisation, contrast, ...

All take an 8-bit image, "L" or "RGB", and return one of the same size and mode. Those that move pixels fill what comes
in with a colour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps

Colour = int | tuple[int, ...]


class Filling(NamedTuple):
    """How pixels are moved: the resampling filter, and the colour of what comes in."""

    resample: Image.Resampling
    colour: Colour


Operation = Callable[[Image.Image, float, Filling], Image.Image]


def _moved(image: Image.Image, matrix: tuple[float, ...], filling: Filling) -> Image.Image:
    """The image whose pixel (x, y) is that at (ax + by + c, dx + ey + f), for the matrix (a, b, c, d, e, f)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=filling.resample, fillcolor=filling.colour
    )


def shear_x(image: Image.Image, factor: float, filling: Filling) -> Image.Image:
    """Moves every row by ``factor`` times its number."""
    return _moved(image, (1, factor, 0, 0, 1, 0), filling)


def shear_y(image: Image.Image, factor: float, filling: Filling) -> Image.Image:
    """Moves every column by ``factor`` times its number."""
    return _moved(image, (1, 0, 0, factor, 1, 0), filling)


def translate_x(image: Image.Image, fraction: float, filling: Filling) -> Image.Image:
    """Moves the image to the left by a fraction of its width."""
    return _moved(image, (1, 0, fraction * image.width, 0, 1, 0), filling)


def translate_y(image: Image.Image, fraction: float, filling: Filling) -> Image.Image:
    """Moves the image up by a fraction of its height."""
    return _moved(image, (1, 0, 0, 0, 1, fraction * image.height), filling)


def shift_x(image: Image.Image, pixels: float, filling: Filling) -> Image.Image:
    """Moves the image to the right by whole pixels, rounded towards 0."""
    return _moved(image, (1, 0, -int(pixels), 0, 1, 0), filling)


def shift_y(image: Image.Image, pixels: float, filling: Filling) -> Image.Image:
    """Moves the image down by whole pixels, rounded towards 0."""
    return _moved(image, (1, 0, 0, 0, 1, -int(pixels)), filling)


def rotate(image: Image.Image, degrees: float, filling: Filling) -> Image.Image:
    """Turns the image counter-clockwise about its middle."""
    return image.rotate(degrees, resample=filling.resample, fillcolor=filling.colour)


def auto_contrast(image: Image.Image, _: float, __: Filling) -> Image.Image:
    """Spreads the values of every channel over the whole range."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, _: float, __: Filling) -> Image.Image:
    """Makes all values of every channel about equally frequent."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, _: float, __: Filling) -> Image.Image:
    """Returns the negative."""
    return ImageOps.invert(image)


def posterize(image: Image.Image, bits: float, _: Filling) -> Image.Image:
    """Keeps so many of the 8 bits of every value; with none, the image is black."""
    if bits < 1:  # Pillow refuses it since its version 12
        return image.point([0] * 256 * len(image.getbands()))
    return image if bits >= 8 else ImageOps.posterize(image, int(bits))


def solarize(image: Image.Image, threshold: float, _: Filling) -> Image.Image:
    """Inverts the values from a threshold on (0 to 256)."""
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type]  # a float will do


def solarize_add(image: Image.Image, value: float, _: Filling) -> Image.Image:
    """Adds to the values below 128, up to 255."""
    table = [min(255, i + int(value)) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


def color(image: Image.Image, factor: float, _: Filling) -> Image.Image:
    """Changes the saturation: 0 grey, 1 as it is."""
    return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float, _: Filling) -> Image.Image:
    """Changes the contrast: 0 the mean grey, 1 as it is."""
    return ImageEnhance.Contrast(image).enhance(factor)


def brightness(image: Image.Image, factor: float, _: Filling) -> Image.Image:
    """Changes the brightness: 0 black, 1 as it is."""
    return ImageEnhance.Brightness(image).enhance(factor)


def sharpness(image: Image.Image, factor: float, _: Filling) -> Image.Image:
    """Changes the sharpness: 0 blurred, 1 as it is, 2 sharpened."""
    return ImageEnhance.Sharpness(image).enhance(factor)
