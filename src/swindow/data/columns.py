"""Reading tables: which columns hold images and classes, and what is in them. CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, nearest

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
IMAGES = ("image", "images", "img", "path", "file", "filename", "file_name", "filepath", "image_path", "image_id")
LABELS = ("label", "labels", "class", "target", "category", "class_name", "label_name", "fine_label", "y")


class Columns(NamedTuple):
    """The columns of a table that hold images and classes; None: they are guessed.

    Attributes:
        image, label: the names of the columns.
        separator: what stands between the labels of an image in a text; None: a text is one class.
    """

    image: str | None = None
    label: str | None = None
    separator: str | None = None


class LabelColumn(NamedTuple):
    """The classes of a table.

    Attributes:
        path: the table.
        image, label: the columns that hold images and classes.
        labels: the class of every row as it stands there; a list where images have several.
        names: of the classes, where the table says them.
    """

    path: Path
    image: str
    label: str
    labels: Sequence[Any]
    names: tuple[str, ...] | None


def read_labels(path: Path, columns: Columns) -> LabelColumn:
    """Returns the classes of a table.

    Raises:
        DataError: it is broken, or has no such columns.
    """
    known = _header(path)
    image = _column(path, known, columns.image, IMAGES, "images")
    label = _column(path, [name for name in known if name != image], columns.label, LABELS, "classes")
    labels: Sequence[Any] = _values(str(path), label)
    if columns.separator is not None:
        labels = [_split(text, columns.separator) if isinstance(text, str) else text for text in labels]
    return LabelColumn(path, image, label, labels, _names(path, label))


def _split(text: str, separator: str) -> list[str]:
    return [label.strip() for label in text.split(separator) if label.strip()]


def _column(path: Path, known: Sequence[str], asked: str | None, usual: Sequence[str], what: str) -> str:
    """The column that is asked for, or the first usual name that is there, in any case of letters."""
    if asked is not None:
        if asked not in known:
            raise DataError(f"{path}: has no column {asked!r}{nearest(asked, known)}; it has {', '.join(known)}")
        return asked
    lower = {name.lower(): name for name in reversed(known)}
    found = next((lower[name] for name in usual if name in lower), None)
    if found is None:
        raise DataError(
            f"{path}: no column is known to hold {what}; it has {', '.join(map(repr, known))}; say which holds images "
            "and which classes (--image-column, --label-column)"
        )
    return found


def _header(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    rows = _rows(str(path))
    if not rows:
        raise DataError(f"{path}: has no rows; expected a header, and an image and a class in each row")
    return list(rows[0])


def _values(path: str, column: str) -> Sequence[Any]:
    """A column of a table."""
    if path.lower().endswith(".parquet"):
        try:
            return _parquet(Path(path)).read(columns=[column]).column(0).to_pylist()
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: column {column!r} cannot be read ({error})") from error
    return [row.get(column) for row in _rows(path)]


def read_images(path: str, column: str) -> Sequence[Any]:
    """Returns the column of images; of a Parquet file as Arrow holds it, in memory, once in a process."""
    return _images_of(path, column, _stamp(path))


@functools.lru_cache(maxsize=8)
def _images_of(path: str, column: str, _: tuple[int, int]) -> Sequence[Any]:
    if path.lower().endswith(".parquet"):
        return _parquet(Path(path)).read(columns=[column]).column(0).combine_chunks()
    return [row.get(column) for row in _rows(path)]


def _parquet(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet files needs pyarrow; try pip install 'swindow[table]'") from error
    try:
        return ParquetFile(path, memory_map=True)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise DataError(f"{path}: not a whole Parquet file ({error})") from error


def _stamp(path: str) -> tuple[int, int]:
    """What changes when a file does: what was read of it before is not used then."""
    try:
        about = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return about.st_mtime_ns, about.st_size


def _rows(path: str) -> list[dict[str, Any]]:
    """The rows of a text file."""
    return _rows_of(path, _stamp(path))


@functools.lru_cache(maxsize=8)
def _rows_of(path: str, _: tuple[int, int]) -> list[dict[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            if not path.lower().endswith(".jsonl"):
                return list(csv.DictReader(file, delimiter="\t" if path.lower().endswith(".tsv") else ","))
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected one JSON object per line")
    return rows


def _names(path: Path, label: str) -> tuple[str, ...] | None:
    """The names of classes in the description that dataset hubs put into Parquet files."""
    if path.suffix.lower() != ".parquet":
        return None
    text = (_parquet(path).schema_arrow.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(text)["info"]["features"][label] if text else None
        names = names.get("feature", names)["names"] if names else None  # a list's items are described inside
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
