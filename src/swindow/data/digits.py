"""The built-in data: scikit-learn's 1,797 handwritten digits (UCI Optical Recognition of Handwritten Digits, 8x8)."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
from PIL import Image

from ..card import HeldOut
from ..errors import DataError
from .sample import DataInfo, Sample, Splits
from .split import digest, hold_out

# The split is part of the data set: 20 % of every class, the same for every run.
SPLIT = HeldOut(share=0.2, seed=0)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageArray:
    """An image in memory.

    Attributes:
        pixels: grey (H, W) or RGB (H, W, 3), uint8.
    """

    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def decode(self) -> Image.Image:
        """Returns the image."""
        return Image.fromarray(self.pixels)


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
    """All the digits.

    Attributes:
        images: (1797, 8, 8) uint8, grey.
        classes: (1797,) int64, 0 to 9.
    """

    images: np.ndarray
    classes: np.ndarray

    @property
    def info(self) -> DataInfo:
        """What is known of the data."""
        return DataInfo("digits", class_names=tuple("0123456789"), channels=1, recipe="digits", in_memory=True)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Sample:
        return Sample(ImageArray(self.images[i]), int(self.classes[i]), f"digits/{i:04d}")

    def labels(self) -> np.ndarray:
        """Returns the class of every image: (len,) int64."""
        return self.classes

    def fingerprint(self) -> str:
        """Changes when images or labels do."""
        return digest(hashlib.sha256(self.images.tobytes()).hexdigest(), self.classes.tolist())


def digits() -> Splits:
    """Returns the digits: 10 classes, 1,797 grey images, 1,438 to train on and 359 held out.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("'digits' comes with scikit-learn; try pip install 'swindow[train]'") from error
    data = load_digits()
    images = (data.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8); the source counts from 0 to 16
    return hold_out(Digits(images, data.target.astype(np.int64)), SPLIT)
