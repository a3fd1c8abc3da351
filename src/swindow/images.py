"""The one way to read and prepare an image: decode, turn upright, refuse bombs, resize, crop, normalise."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import ConfigError, DataError

MAX_PIXELS = 150_000_000  # more is refused before it is decoded: a few kB of PNG can unfold into gigabytes
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODES = {1: "L", 3: "RGB"}
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input; it travels with a checkpoint.

    Attributes:
        size: height and width of the result, in pixels.
        fit: ``"crop"`` keeps the proportions and cuts the centre out, ``"squash"`` stretches the whole image.
        crop_fraction: with ``"crop"``, the side of the cut over the image's short side; the official 224 / 256.
        interpolation: "nearest", "bilinear" or "bicubic" (antialiased).
        mean, std: per channel, for values from 0 to 1; their length is the number of channels, 1 (grey) or 3 (RGB).
    """

    size: tuple[int, int] = (224, 224)
    fit: Literal["crop", "squash"] = "crop"
    crop_fraction: float = 224 / 256
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for field in ("size", "mean", "std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))  # JSON gives lists
        if len(self.mean) not in MODES or len(self.std) != len(self.mean):
            raise ConfigError(f"mean and std: got {self.mean} and {self.std}, expected 1 or 3 numbers in each")
        if len(self.size) != 2 or min(self.size) < 1 or not 0 < self.crop_fraction <= 1 or min(self.std) <= 0:
            raise ConfigError(f"got {self}, expected size >= 1, 0 < crop_fraction <= 1 and std > 0")
        if self.interpolation not in FILTERS or self.fit not in ("crop", "squash"):
            raise ConfigError(f"got {self}, expected interpolation in {list(FILTERS)} and fit 'crop' or 'squash'")

    @property
    def channels(self) -> int:
        """Channels of the result: 1 or 3."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, metadata: Mapping[str, Any], size: int = 224, channels: int = 3) -> Preprocess:
        """Returns what a model's metadata says, else ImageNet's values for a size in pixels and 1 or 3 channels.

        Raises:
            ConfigError: the model takes neither 1 nor 3 channels, so that no image file fits it.
        """
        if "preprocess" in metadata:
            return cls(**metadata["preprocess"])
        if channels not in MODES:
            raise ConfigError(f"the model takes {channels} channels; image files give 1 or 3, so pass tensors to it")
        grey = channels == 1  # the mean over ImageNet's channels
        return cls((size, size), mean=(0.449,) if grey else IMAGENET_MEAN, std=(0.226,) if grey else IMAGENET_STD)


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
    return image.convert(MODES[channels])


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
