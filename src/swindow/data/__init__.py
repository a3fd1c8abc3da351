"""Data sets: the built-in digits, a folder of class folders, tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from .augment import AUGMENTS, Augment
from .columns import Columns
from .digits import Digits, ImageArray, digits
from .folder import ImageFolder, folder, image_suffixes, images_in, is_image
from .sample import DataInfo, Dataset, Sample, Splits, Subset
from .split import balanced, class_counts, digest, hold_out, limited, stratified_split, warnings
from .table import Table, is_table, table

__all__ = [
    "AUGMENTS",
    "Augment",
    "Columns",
    "DataInfo",
    "Dataset",
    "Digits",
    "ImageArray",
    "ImageFolder",
    "Sample",
    "Splits",
    "Subset",
    "Table",
    "balanced",
    "class_counts",
    "digest",
    "digits",
    "folder",
    "hold_out",
    "image_suffixes",
    "images_in",
    "is_image",
    "is_table",
    "limited",
    "open",
    "stratified_split",
    "table",
    "warnings",
]


def open(
    data: Splits | Dataset | str | Path,
    verify: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    columns: Columns = Columns(),  # noqa: B008  immutable
) -> Splits:
    """Returns the data that DATA on the command line names: ``digits``, or the path of a folder or a table.

    Splits are returned as they are; of a data set nothing is held out. The other arguments are those of
    ``data.folder`` and ``data.table``.

    Raises:
        ConfigError: there are columns, but no table.
        DataError: the data is absent or unusable.
    """
    table_ = isinstance(data, (str, Path)) and str(data) != "digits" and is_table(data)
    if columns != Columns() and not table_:
        raise ConfigError(f"got columns of a table ({', '.join(filter(None, columns))}), but the data is no table")
    if isinstance(data, Splits):
        return data
    if str(data) == "digits":
        return digits()
    if table_:
        assert isinstance(data, (str, Path))
        return table(data, verify, on_progress, columns)
    if isinstance(data, (str, Path)):
        return folder(data, verify, on_progress)
    return Splits(data)
