"""The one way to read and prepare an image: decode, turn upright, refuse bombs, resize, crop, normalise."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..card import CHANNELS, Preprocess
from ..errors import DataError

MAX_PIXELS = 150_000_000  # more is refused before it is decoded: a few kB of PNG can unfold into gigabytes
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image that is decoded when it is needed: a path, small to send to another process.

    Attributes:
        path: the file.
    """

    path: str

    def decode(self) -> Image.Image:
        """Returns the decoded image, upright. Raises DataError as ``read`` does."""
        return read(self.path)


def read(path: str | Path) -> Image.Image:
    """Returns the decoded image of a file, upright (EXIF); of an animation the first frame.

    Raises:
        DataError: the file is absent, no image, broken, or larger than ``MAX_PIXELS``.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, expected an image' if path.is_dir() else 'there is no such file'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"{path}: {image.width} x {image.height} pixels; more than {MAX_PIXELS:,} are refused"
                    )
                image.load()
                return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: more than {MAX_PIXELS:,} pixels are refused") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise for broken data
        raise DataError(f"{path}: a broken image ({error})") from error


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Returns the image as 8-bit grey (1) or RGB (3); transparency is laid on white, 16-bit grey scaled to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        top = 255.0 if values.size == 0 or values.max() <= 255 else 65535.0
        image = Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(CHANNELS[channels])


def fit(image: Image.Image, how: Preprocess) -> Image.Image:
    """Returns the image converted, cut and resized to ``how.size``.

    Only the pixels inside the cut are resampled, so that a 1 x 10,000 image costs no more than a square one.
    """
    image = convert(image, how.channels)
    height, width = how.size
    box = (0.0, 0.0, float(image.width), float(image.height))
    if how.fit == "crop":
        scale = min(image.width / width, image.height / height) * how.crop_fraction  # source pixels per result pixel
        x, y = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (x, y, x + width * scale, y + height * scale)
    return image.resize((width, height), FILTERS[how.interpolation], box=box)


def to_tensor(image: Image.Image, how: Preprocess) -> Tensor:
    """Returns a fitted image as the model's input: (C, H, W) fp32, normalised."""
    values = np.asarray(image, np.float32).reshape(image.height, image.width, how.channels) / 255  # (H, W, C)
    values = (values - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())  # (C, H, W)


def prepare(image: Image.Image | str | Path, how: Preprocess) -> Tensor:
    """Returns the model's input (C, H, W) for an image or the path of one. Raises DataError as ``read`` does."""
    return to_tensor(fit(image if isinstance(image, Image.Image) else read(image), how), how)
