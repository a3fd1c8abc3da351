"""The one way to read and prepare an image: decode, turn upright, refuse bombs, scale deep values, resize, normalise.

8-bit images stay 8-bit until they are tensors, as published preprocessing does. Images of more bits and float images
become float ("F" in Pillow, black 0 and white 1) from the file's own depth. Pillow itself reduces colour of 16 bits per
channel to 8 bits when it decodes a file, so that deep images have one channel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from ..card import CHANNELS, Preprocess
from ..errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 150_000_000  # more is refused before it is decoded: a few kB of PNG can unfold into gigabytes
REDUCED = "swindow_reduced"  # in an image's info: its file has more than 8 bits per channel, and Pillow gave 8
BROKEN = (  # what decoders raise for broken data, besides OSError
    SyntaxError, ValueError, EOFError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError,
    struct.error, zlib.error,
)  # fmt: skip
_LOADING = [threading.Lock() for _ in range(64)]
_FILTERS = threading.Lock()
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

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the upright image, from the file's header. Raises DataError as ``read`` does.

        A PNG without EXIF in front of its pixels is decoded: it may come after them.
        """
        with _opened(self.path) as image:
            return _upright_size(image)

    def decode(self) -> Image.Image:
        """Returns the decoded image, upright. Raises DataError as ``read`` does."""
        return read(self.path)


class ImageBytes(NamedTuple):
    """An image file in memory.

    Attributes:
        data: the bytes of the file.
        name: what to call it in messages.
    """

    data: bytes
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """As of ``ImageFile``."""
        with _opened(io.BytesIO(self.data), self.name) as image:
            return _upright_size(image)

    def decode(self) -> Image.Image:
        """Returns the decoded image, upright. Raises DataError as ``read`` does."""
        with _opened(io.BytesIO(self.data), self.name) as image:
            return _upright(image)


class ImageObject(NamedTuple):
    """A PIL image in the place of a file.

    Attributes:
        image: the image; it is not changed.
    """

    image: Image.Image

    def decode(self) -> Image.Image:
        """Returns the image, decoded and upright. Raises DataError as ``read`` does."""
        with _LOADING[id(self.image) // 16 % len(_LOADING)]:  # two threads that load one image would break it
            return read(self.image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an opened image when it stands upright."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # whether its size is the upright one depends on Pillow's version
        width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    on_its_side = image.getexif().get(Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if on_its_side else (height, width)


def read(image: str | Path | Image.Image) -> Image.Image:
    """Returns a decoded image, upright (EXIF); of an animation the first frame.

    Args:
        image: a path or a PIL image. A PIL image is turned where it still has an orientation tag that asks for it; it
            is not changed itself, and what ``read`` returned is not turned again.

    Raises:
        DataError: the file is absent, no image, broken, larger than ``MAX_PIXELS``, or has float values that are not
            finite.
    """
    if isinstance(image, Image.Image):
        with _pillow_errors(_name(image)):
            return _upright(image)
    with _opened(image) as opened:
        return _upright(opened)


def convert(image: Image.Image, how: Preprocess) -> Image.Image:
    """Returns the image as 8-bit grey ("L") or RGB or, where it is deeper than 8 bits, float ("F", one channel).

    Transparency is laid on white. In a float result 0 is black and 1 is white. Which values of the image these are is
    decided by ``how.value_range`` or else by mode, format and tags, never by the values of one image:

    - 16-bit integers: 0 and 65535, also where a camera filled only 12 of the bits: give ``value_range=(0, 4095)``.
    - 12-bit TIFF: 0 and 4095; a copy of such a PIL image has lost the tag that says so.
    - PGM of more than 8 bits: 0 and 65535, to which Pillow scales its largest number.
    - Floats: 0 and 1. Values beyond are used as they are, with a warning: -1 stays as far below black as white is above
      it. For images in -1..1 give ``value_range=(-1, 1)``, for 0..255 ``(0, 255)``.
    - Signed and 32-bit integers: not known, so that ``value_range`` is needed.

    With a ``value_range``, what lies beyond it becomes black or white. 8-bit images ignore it.

    Args:
        image: an upright image; not a float result of this function, whose values would be scaled again.
        how: gives the number of channels and the range.

    Raises:
        DataError: values are not finite, their range is not known, or a ``value_range`` is given for colour of 16 bits
            per channel, which Pillow has reduced to 8.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled(image, how.value_range)
    if how.value_range is not None and image.info.get(REDUCED):
        raise DataError(
            f"{_name(image)}: colour of 16 bits per channel, which Pillow reads with 8, so that value_range "
            f"{how.value_range} cannot be applied; try files of 8 bits, or without value_range"
        )
    if image.mode in ("La", "LAB"):  # Pillow converts these to one other mode only
        image = image.convert("LA" if image.mode == "La" else "RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(CHANNELS[how.channels])


def fit(image: Image.Image, how: Preprocess) -> Image.Image:
    """Returns the image converted (``convert``), cut and resized to ``how.size``.

    Only the pixels inside the cut are resampled, so that a 1 x 10,000 image costs no more than a square one.
    """
    image = convert(image, how)
    height, width = how.size
    box = (0.0, 0.0, float(image.width), float(image.height))
    if how.fit == "crop":
        scale = min(image.width / width, image.height / height) * how.crop_fraction  # source pixels per result pixel
        x, y = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (x, y, x + width * scale, y + height * scale)
    return resize(image, how, box)


def resize(image: Image.Image, how: Preprocess, box: tuple[float, float, float, float]) -> Image.Image:
    """Returns a part of a converted image, resampled to ``how.size``.

    The same picture gives the same result at every depth: bicubic resampling overshoots at edges, which 8 bits cut off
    at black and white after each of its two passes, along rows and along columns; so it is done for floats. What a
    float image has beyond black and white is resampled on its own and added.

    Args:
        image: an image of mode "L", "RGB" or "F".
        how: gives size and interpolation.
        box: left, top, right and bottom of the part, in pixels of the image.
    """
    height, width = how.size
    resample = FILTERS[how.interpolation]
    if image.mode != "F" or how.interpolation != "bicubic":
        return image.resize((width, height), resample, box=box)
    values = np.asarray(image)
    inside = values.clip(0, 1)
    left, top, right, bottom = box
    reach = 2 * max(1.0, (bottom - top) / height) + 1  # of the filter, in rows: others need not be resampled
    first, last = max(0, math.floor(top - reach)), min(image.height, math.ceil(bottom + reach))
    rows = Image.fromarray(inside).resize((width, last - first), resample, box=(left, first, right, last))
    rows = Image.fromarray(np.asarray(rows).clip(0, 1))
    result = np.asarray(rows.resize((width, height), resample, box=(0, top - first, width, bottom - first))).clip(0, 1)
    beyond = values - inside
    if beyond.any():
        result = result + np.asarray(Image.fromarray(beyond).resize((width, height), resample, box=box))
    return Image.fromarray(result)


def to_tensor(image: Image.Image, how: Preprocess) -> Tensor:
    """Returns a fitted image as the model's input: (C, H, W) fp32, normalised; float grey is repeated for RGB."""
    import torch

    deep = image.mode == "F"  # scaled already, one channel
    values: np.ndarray = np.asarray(image, np.float32) / (1 if deep else 255)
    values = values.reshape(image.height, image.width, 1 if deep else how.channels)  # (H, W, C)
    values = (values - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())  # (C, H, W)


def prepare(image: Image.Image | str | Path, how: Preprocess) -> Tensor:
    """Returns the model's input (C, H, W) for a PIL image or the path of an image.

    Raises:
        DataError: as ``read`` and ``convert`` do.
    """
    return to_tensor(fit(read(image), how), how)


def picture(image: Image.Image) -> Image.Image:
    """Returns a fitted image for people to look at: 8-bit RGB, with what lies beyond black and white cut off."""
    if image.mode == "F":
        image = Image.fromarray((np.asarray(image).clip(0, 1) * 255).round().astype(np.uint8))
    return image.convert("RGB")


@contextlib.contextmanager
def _pillow_errors(name: str | Path) -> Iterator[None]:
    """Raises what Pillow raises as DataError."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} pixels are refused") from error
    except OSError as error:
        why = f"cannot be read ({error.strerror})" if error.strerror else f"a broken image ({error})"
        raise DataError(f"{name}: {why}") from error
    except BROKEN as error:
        raise DataError(f"{name}: a broken image ({error})") from error


@contextlib.contextmanager
def _opened(file: str | Path | io.BytesIO, name: str = "") -> Iterator[Image.Image]:
    """The image of a file, not decoded yet. Raises DataError, also for what Pillow raises inside."""
    file = file if isinstance(file, io.BytesIO) else Path(file)
    called = name or file
    with _pillow_errors(str(called)):
        if isinstance(file, Path) and not file.is_file():
            raise DataError(f"{file}: {'is a folder, expected an image' if file.is_dir() else 'there is no such file'}")
        with _header(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{called}: {image.width} x {image.height} pixels; more than {MAX_PIXELS:,} are refused"
                )
            yield image


def _header(path: Path | io.BytesIO) -> Image.Image:
    """The image of a file, not decoded; Pillow's warning of large images is left out, for our own limit."""
    with _FILTERS, warnings.catch_warnings():  # the filters are those of the whole process, so one thread at a time
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _upright(image: Image.Image) -> Image.Image:
    """The decoded image, turned as its EXIF says. One that is upright stays what it is, with format, tags and name."""
    reduced = image.mode != "F" and not image.mode.startswith("I") and _deep(image)
    if isinstance(image, TiffImageFile):  # load() turns it
        image.filename, path = "", image.filename  # else Pillow 11 to 13 map the file with height and width exchanged
        image.load()
        image.filename = path
    image.load()
    if reduced:
        image.info[REDUCED] = True
    if image.mode == "F":
        _check_finite(image)
    turned = image.getexif().get(Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _deep(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet has more than 8 bits per channel."""
    if isinstance(image, TiffImageFile):
        return max(_tag(image, BITSPERSAMPLE) or (8,)) > 8
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # of PNG: the raw mode, "RGB;16B"


def _scaled(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """A deep grey image as float ("F"), black 0 and white 1; of integers, transparency is laid on white."""
    _check_finite(image)
    black, white = value_range or _levels(image)
    stored = np.asarray(image)  # (H, W)
    if _tag(image, BITSPERSAMPLE) == (32,) and _tag(image, SAMPLEFORMAT) in (None, (1,)):
        stored = stored.view(np.uint32)  # Pillow takes them as signed
    values = (stored.astype(np.float64) - black) / (white - black)
    if value_range is not None:
        values = values.clip(0, 1)
    elif image.mode == "F" and ((values < 0) | (values > 1)).any():
        _warn_of_range()
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # the value that stands for it, in a 16-bit PNG
        values[stored == transparent] = 1
    return Image.fromarray(values.astype(np.float32))


def _levels(image: Image.Image) -> tuple[float, float]:
    """The values of a deep image that are black and white, as far as mode, format and tags tell."""
    if image.mode == "F":
        return 0.0, 1.0
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # these are of 16 bits; "I;16" in later Pillows
        raise DataError(
            f"{_name(image)}: which values of its signed or 32-bit integers are black and white is not known; "
            "give both as value_range, for instance (0, 65535)"
        )
    top = 2.0 ** (_tag(image, BITSPERSAMPLE) or (16,))[0] - 1
    return (top, 0.0) if _tag(image, PHOTOMETRIC_INTERPRETATION) == 0 else (0.0, top)  # 0: "white is zero"


def _tag(image: Image.Image, number: int) -> Any:
    """A tag of a TIFF; None where it is absent or the image no TIFF."""
    return image.tag_v2.get(number) if isinstance(image, TiffImageFile) else None


def _check_finite(image: Image.Image) -> None:
    """Raises DataError where float values are not finite."""
    bad = np.count_nonzero(~np.isfinite(np.asarray(image)))
    if bad:
        raise DataError(f"{_name(image)}: {bad} of {image.width * image.height} values are not finite numbers")


def _name(image: Image.Image) -> str:
    """The file of an image, for messages."""
    return str(getattr(image, "filename", "") or "image")


@functools.cache
def _warn_of_range() -> None:
    """Warns once in a process, not for every image."""
    warnings.warn(
        "float images have values outside 0 to 1, which are used as they are; give value_range, the values of black "
        "and white, to scale them: for instance (-1, 1) or (0, 255)",
        stacklevel=2,
    )
