"""The built-in data: scikit-learn's 1,797 handwritten digits (UCI Optical Recognition of Handwritten Digits, 8x8)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..card import Preprocess
from ..errors import DataError
from .augment import affine
from .source import Source, Split
from .split import stratified_split

SPLIT_SEED = 0  # the split is part of the data set: 20 % of every class, the same for every run
MEAN, STD = 0.305, 0.376  # of the digits' values, 0 to 1


def digits() -> Source:
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
    train, held_out = stratified_split(data.target.tolist(), 0.2, SPLIT_SEED)

    def split(indices: list[int]) -> Split:
        return Split(
            tuple(f"digits/{i:04d}" for i in indices),
            tuple(int(data.target[i]) for i in indices),
            lambda i: Image.fromarray(images[indices[i]]),
        )

    return Source(
        name="digits",
        classes=tuple("0123456789"),
        train=split(train),
        held_out=split(held_out),
        variant="swin_nano",
        image_size=16,  # twice the digits' own: with patches of 2 every pixel of theirs is a token
        lr=3e-3,
        augment=affine,
        preprocess=preprocess,
    )


def preprocess(size: int) -> Preprocess:
    """Returns how a digit is prepared: grey, the whole image, resized to ``size`` pixels."""
    return Preprocess((size, size), "squash", interpolation="bicubic", mean=(MEAN,), std=(STD,))
