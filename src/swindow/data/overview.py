"""What a data set holds: classes, sizes, unreadable images, and images that are there twice."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..card import Preprocess
from ..errors import DataError
from ..media.image import convert, picture
from .sample import Dataset, Splits

GRID = 16  # of the difference hash: 16 x 16 comparisons of neighbouring pixels
FAR = 60  # of its 256 bits that may differ in nearly equal images
ALIKE = 0.95  # correlation of the grey levels of nearly equal images, at 32 x 32 pixels
FLAT = 2.0  # standard deviation of grey levels, of 255, below which an image has too little in it to compare
SMALLEST = 24  # pixels: images with a shorter side are only compared exactly
PORTION = 1000  # images at a time
_GREY, _COLOUR = Preprocess.default(1, 1), Preprocess.default(1, 3)  # sizes do not matter here


class Duplicate(NamedTuple):
    """Two images that show the same.

    Attributes:
        one, other: the numbers of the images, held-out ones after those to train on.
        exact: whether they have the same pixels; else they look nearly the same.
    """

    one: int
    other: int
    exact: bool


@dataclasses.dataclass(frozen=True)
class Overview:
    """What a data set holds.

    Attributes:
        splits: the data.
        sizes: height and width of every image that can be read, in pixels, by its number; those to train on come
            first.
        modes: how often each mode of Pillow occurs: "RGB", "L", ...
        unreadable: the images that cannot be read, each with the reason.
        duplicates: of a training and a held-out image; where nothing is held out yet, of any two.
        contradictions: pairs with the same pixels and different classes, wherever they are.
    """

    splits: Splits
    sizes: dict[int, tuple[int, int]]
    modes: dict[str, int]
    unreadable: tuple[str, ...]
    duplicates: tuple[Duplicate, ...]
    contradictions: tuple[Duplicate, ...]

    def key(self, number: int) -> str:
        """Returns what an image is called."""
        part, i = _place(self.splits, number)
        return part[i].key

    def labels(self) -> np.ndarray | None:
        """Returns the class of every image (images,); None where images have none, or several labels."""
        return _labels(self.splits)

    def image(self, number: int) -> Image.Image:
        """Returns an image for people to look at: 8-bit RGB. Raises DataError."""
        part, i = _place(self.splits, number)
        return picture(convert(part[i].media.decode(), _COLOUR))


def _labels(splits: Splits) -> np.ndarray | None:
    found = [part.labels() for part in splits if part is not None]
    known = [labels for labels in found if labels is not None]
    return np.concatenate(known) if len(known) == len(found) else None


def _place(splits: Splits, number: int) -> tuple[Dataset, int]:
    if number < len(splits.train):
        return splits.train, number
    assert splits.held_out is not None
    return splits.held_out, number - len(splits.train)


class _Looked(NamedTuple):
    """What is kept of an image.

    Attributes:
        size: height and width in pixels.
        mode: of Pillow.
        pixels: a hash of all pixels.
        bits: (256,) int8, its difference hash as -1 and 1.
        levels: (1024,) uint8, its grey levels at 32 x 32 pixels.
    """

    size: tuple[int, int]
    mode: str
    pixels: bytes
    bits: np.ndarray
    levels: np.ndarray


def overview(splits: Splits, on_progress: Callable[[int, int], None] | None = None) -> Overview:
    """Returns what a data set holds. Every image is decoded once.

    Images are nearly the same where a difference hash of 16 x 16 bits (Krawetz 2013) differs little and their grey
    levels at 32 x 32 pixels are correlated: copies of another size, quality, brightness or colour, and photos of one
    series. Crops and mirror images are not found, nor small images (``SMALLEST``).

    Args:
        splits: the data.
        on_progress: called with the images done and their number.
    """
    total = len(splits.train) + (0 if splits.held_out is None else len(splits.held_out))
    looked: dict[int, _Looked] = {}
    unreadable = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
        for start in range(0, total, PORTION):
            some = range(start, min(start + PORTION, total))
            for number, found in zip(some, pool.map(lambda i: _look(splits, i), some), strict=True):
                if isinstance(found, str):
                    unreadable.append(found)
                else:
                    looked[number] = found
                if on_progress is not None:
                    on_progress(number + 1, total)
    numbers = np.array(sorted(looked), np.int64)
    border = len(splits.train) if splits.held_out is not None else None
    twice = list(_equal(looked))
    labels = _labels(splits)
    exact = {(a, b) for a, b in twice if border is None or a < border <= b}
    pairs = exact | set(_near(looked, numbers, border))
    return Overview(
        splits,
        {number: item.size for number, item in looked.items()},
        dict(Counter(item.mode for item in looked.values()).most_common()),
        tuple(unreadable),
        tuple(Duplicate(a, b, looked[a].pixels == looked[b].pixels) for a, b in sorted(pairs)),
        tuple(Duplicate(a, b, True) for a, b in twice if labels is not None and labels[a] != labels[b]),
    )


def _look(splits: Splits, number: int) -> _Looked | str:
    """What is kept of an image, or why it cannot be read."""
    part, i = _place(splits, number)
    try:
        image = part[i].media.decode()
        mode = image.mode
        image = image.convert("RGBA") if image.mode in ("P", "PA") else image  # else palettes would be left out
        grey, levels = (_grey(image, size) for size in ((GRID + 1, GRID), (32, 32)))
    except DataError as error:
        return str(error)
    content = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).digest()
    bits = np.where(grey[:, 1:] > grey[:, :-1], 1, -1).astype(np.int8).ravel()  # (256,)
    return _Looked((image.height, image.width), mode, content, bits, levels.round().astype(np.uint8).ravel())


def _grey(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Grey levels of a small copy (height, width), from 0 to 255."""
    small = picture(convert(image, _GREY)).convert("L").resize(size, Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def _equal(looked: dict[int, _Looked]) -> Iterator[tuple[int, int]]:
    """Pairs of images with the same pixels; of more than two that are equal, each with the first."""
    first: dict[bytes, int] = {}
    for number, item in looked.items():
        if item.pixels in first:
            yield first[item.pixels], number
        else:
            first[item.pixels] = number


def _near(looked: dict[int, _Looked], numbers: np.ndarray, border: int | None) -> Iterator[tuple[int, int]]:
    """Pairs of images that look nearly the same; with a border, of one below it and one from it on."""
    numbers = numbers[[min(looked[number].size) >= SMALLEST for number in numbers.tolist()]]
    if not len(numbers):
        return
    bits = np.stack([looked[number].bits for number in numbers.tolist()]).astype(np.float32)  # (images, 256)
    levels = np.stack([looked[number].levels for number in numbers.tolist()])  # (images, 1024)
    split = len(numbers) if border is None else int((numbers < border).sum())
    rest = bits if border is None else bits[split:]
    for start in range(0, split, PORTION):
        agree = bits[start : min(start + PORTION, split)] @ rest.T  # (portion, others): 256 - 2 x bits that differ
        ones, others = np.nonzero(agree >= bits.shape[1] - 2 * FAR)
        ones, others = ones + start, others + (0 if border is None else split)
        for part in range(0, len(ones), PORTION):
            some = slice(part, part + PORTION)
            a, b = ones[some], others[some]
            alike = (a < b) & _alike(levels[a], levels[b])
            yield from zip(numbers[a[alike]].tolist(), numbers[b[alike]].tolist(), strict=True)


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether grey levels (pairs, 1024) are correlated, and have something in them: (pairs,) bool."""
    one, other = (x.astype(np.float32) - x.mean(1, keepdims=True, dtype=np.float32) for x in (one, other))
    stds = np.sqrt(np.square(one).mean(1)), np.sqrt(np.square(other).mean(1))
    enough = np.minimum(*stds) >= FLAT
    return enough & ((one * other).mean(1) >= ALIKE * stds[0] * stds[1])
