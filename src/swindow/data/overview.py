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
        """Returns the class of every image (images,), -1 where it has none; None where no image has a class."""
        found = [None if part is None else part.labels() for part in self.splits]
        if found[0] is None:
            return None
        return np.concatenate([labels for labels in found if labels is not None])

    def image(self, number: int) -> Image.Image:
        """Returns an image for people to look at: 8-bit RGB. Raises DataError."""
        part, i = _place(self.splits, number)
        return picture(convert(part[i].media.decode(), _COLOUR))


def _place(splits: Splits, number: int) -> tuple[Dataset, int]:
    if number < len(splits.train):
        return splits.train, number
    assert splits.held_out is not None
    return splits.held_out, number - len(splits.train)


class _Looked(NamedTuple):
    """What is kept of an image: its size, mode, a hash of its pixels, and its difference hash (256,) of -1 and 1."""

    size: tuple[int, int]
    mode: str
    pixels: bytes
    bits: np.ndarray


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
    labels = Overview(splits, {}, {}, (), (), ()).labels()
    exact = {(a, b) for a, b in twice if border is None or a < border <= b}
    near = {pair for pair in _near(looked, numbers, border) if pair not in exact and _alike(splits, *pair)}
    return Overview(
        splits,
        {number: item.size for number, item in looked.items()},
        dict(Counter(item.mode for item in looked.values()).most_common()),
        tuple(unreadable),
        tuple(Duplicate(a, b, (a, b) in exact) for a, b in sorted(exact | near)),
        tuple(Duplicate(a, b, True) for a, b in twice if labels is not None and labels[a] != labels[b]),
    )


def _look(splits: Splits, number: int) -> _Looked | str:
    """What is kept of an image, or why it cannot be read."""
    part, i = _place(splits, number)
    try:
        image = part[i].media.decode()
        grey = _grey(image, (GRID + 1, GRID))
    except DataError as error:
        return str(error)
    content = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).digest()
    bits = np.where(grey[:, 1:] > grey[:, :-1], 1, -1).astype(np.int8).ravel()  # (256,)
    return _Looked((image.height, image.width), image.mode, content, bits)


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
    """Pairs of images whose difference hashes are close; with a border, of one below it and one from it on."""
    numbers = numbers[[min(looked[number].size) >= SMALLEST for number in numbers.tolist()]]
    if not len(numbers):
        return
    bits = np.stack([looked[number].bits for number in numbers.tolist()]).astype(np.float32)  # (images, 256)
    split = len(numbers) if border is None else int((numbers < border).sum())
    rest = bits if border is None else bits[split:]
    for start in range(0, split, PORTION):
        agree = bits[start : min(start + PORTION, split)] @ rest.T  # (portion, others): 256 - 2 x bits that differ
        for i, j in zip(*np.nonzero(agree >= bits.shape[1] - 2 * FAR), strict=True):
            one, other = start + int(i), int(j) + (0 if border is None else split)
            if one < other:
                yield int(numbers[one]), int(numbers[other])


def _alike(splits: Splits, one: int, other: int) -> bool:
    """Whether two images have nearly the same grey levels, and have something in them."""
    levels = []
    for number in (one, other):
        part, i = _place(splits, number)
        levels.append(_grey(part[i].media.decode(), (32, 32)))
    one_std, other_std = (float(level.std()) for level in levels)
    if min(one_std, other_std) < FLAT:
        return False
    covariance = float(((levels[0] - levels[0].mean()) * (levels[1] - levels[1].mean())).mean())
    return covariance / (one_std * other_std) >= ALIKE
