"""Data sets: the built-in digits, or a folder of class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .augment import AUGMENTS, Augment
from .digits import Digits, ImageArray, digits
from .folder import ImageFolder, folder, image_suffixes, images_in, is_image
from .sample import DataInfo, Dataset, Sample, Splits, Subset
from .split import digest, hold_out, stratified_split, warnings

__all__ = [
    "AUGMENTS",
    "Augment",
    "DataInfo",
    "Dataset",
    "Digits",
    "ImageArray",
    "ImageFolder",
    "Sample",
    "Splits",
    "Subset",
    "digest",
    "digits",
    "folder",
    "hold_out",
    "image_suffixes",
    "images_in",
    "is_image",
    "open",
    "stratified_split",
    "warnings",
]


def open(
    data: Splits | Dataset | str | Path, verify: bool = True, on_progress: Callable[[int, int], None] | None = None
) -> Splits:
    """Returns the data that DATA on the command line names: ``digits``, or the path of a folder of class folders.

    Splits are returned as they are; of a data set nothing is held out. The other arguments are those of
    ``data.folder``.

    Raises:
        DataError: the data is absent or unusable.
    """
    if isinstance(data, Splits):
        return data
    if str(data) == "digits":
        return digits()
    if isinstance(data, (str, Path)):
        return folder(data, verify, on_progress)
    return Splits(data)
