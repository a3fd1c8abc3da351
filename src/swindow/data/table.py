"""Tables of images and classes: CSV, TSV, JSON lines, Parquet. Images are paths, or bytes as on dataset hubs."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..media import ImageBytes, ImageFile
from .columns import SUFFIXES, Columns, LabelColumn, read_images, read_labels
from .sample import DataInfo, Sample, Splits
from .split import class_counts, digest

NAMES = "classes.txt"  # beside a table of numbers: the name of every class, one per line
SPLIT = re.compile(r"(?P<split>[a-z]+)([-_.]\d+([-_]of[-_]\d+)?)?", re.IGNORECASE)  # train, train-00000-of-00002
TRAINING, HELD_OUT = ("train", "training"), ("val", "valid", "validation", "dev", "test", "testing")
MULTILABEL = "multilabel"  # the task of images with several labels
MOST_BAD = 0.1  # of all images; more unusable ones are an error


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one or several files, each an image with a class.

    Attributes:
        files: the tables; their rows follow one another.
        column: the column that holds the images.
        rows: (file, row) of every sample.
        classes: the class of every sample, an index into ``info.class_names``; a tuple of them where images have
            several labels.
        info: what is known of the data.
    """

    files: tuple[str, ...]
    column: str
    rows: Sequence[tuple[int, int]]
    classes: Sequence[Any]
    info: DataInfo

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        number, row = self.rows[i]
        path = Path(self.files[number])
        key = f"{path.name}:{row}"
        return Sample(_media(read_images(str(path), self.column)[row], path, key), self.target(i), key)

    def target(self, i: int) -> Any:
        """Returns the class of a row; of several labels an array (classes,) of 0 and 1. Reads no image."""
        labels = self.classes[i]
        if not isinstance(labels, tuple):
            return labels
        found = np.zeros(len(self.info.class_names), np.uint8)
        found[list(labels)] = 1
        return found

    def labels(self) -> np.ndarray | None:
        """Returns the class of every image: (len,) int64; None where images have several labels."""
        return None if self.info.task == MULTILABEL else np.asarray(self.classes, np.int64)

    def fingerprint(self) -> str:
        """Changes when names of classes, names of files, rows or labels do; a copy elsewhere has the same."""
        names = [Path(file).name for file in self.files]
        return digest(list(self.info.class_names), names, [list(row) for row in self.rows], list(self.classes))


def is_table(path: str | Path) -> bool:
    """Returns whether a path names a table, by its suffix, or a folder with a table for training."""
    path = Path(path)
    return bool(_splits(path)[0]) if path.is_dir() else path.suffix.lower() in SUFFIXES


def table(
    path: str | Path,
    verify: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    columns: Columns = Columns(),  # noqa: B008  immutable
) -> Splits:
    """Returns the images of a table, or of the tables in a folder.

    Images are paths, below the folder of the table, or bytes of image files (a binary column, or the ``image`` column
    of dataset hubs). Classes are names or numbers from 0; numbers get names from the table's own description or from
    ``classes.txt`` beside it. In a folder, ``train.parquet`` (or ``train-00000-of-00002.parquet``, ...) is to train on;
    ``validation``, ``val`` or, without them, ``test`` is held out. Where classes are lists, or texts with a separator
    between them, images have several labels each, and the task is "multilabel".

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file (needs pyarrow), or a folder with some. CSV has a header.
        verify: decode every image once now, so that broken ones are reported and skipped.
        on_progress: called with the images verified so far and their number.
        columns: those that hold images and classes; None: guessed by their names.

    Raises:
        DataError: a table is broken or has no such columns, a class is missing or no class, or more than 10 % of the
            images are unusable.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    training, held_out = _splits(path) if path.is_dir() else ([path], [])
    read = [[read_labels(file, columns) for file in files] for files in (training, held_out) if files]
    names = _class_names(training[0], [one for files in read for one in files])
    first = read[0][0]
    several = any(isinstance(label, list) for files in read for one in files for label in one.labels)
    info = DataInfo(
        name=os.path.basename(os.path.abspath(path)) if path.is_dir() else path.stem,
        task=MULTILABEL if several else "classify",
        class_names=names,
        notes=(f"{first.path.name}: images from column {first.image!r}, classes from column {first.label!r}",),
    )
    found, skipped = [], []
    for files in read:
        whole = _joined(files, info)
        bad = _problems(whole, on_progress) if verify else {}
        skipped += list(bad.values())
        kept = [i for i in range(len(whole)) if i not in bad]
        rows, classes = [whole.rows[i] for i in kept], [whole.classes[i] for i in kept]
        found.append(dataclasses.replace(whole, rows=rows, classes=classes))
    _check(path, names, found[0])
    info = dataclasses.replace(info, skipped=tuple(skipped))
    return Splits(*(dataclasses.replace(one, info=info) for one in found))


def _joined(files: Sequence[LabelColumn], info: DataInfo) -> Table:
    """The rows of several files as one table."""
    numbers = {name: number for number, name in enumerate(info.class_names)}
    rows: list[tuple[int, int]] = []
    classes: list[Any] = []
    for number, one in enumerate(files):
        for row, label in enumerate(one.labels):
            rows.append((number, row))
            if info.task != MULTILABEL:
                classes.append(_number(one, label, numbers, row))
            elif isinstance(label, list):
                classes.append(tuple(sorted({_number(one, item, numbers, row) for item in label})))
            else:
                raise DataError(f"{one.path}: row {row} has class {label!r}, expected a list, as other rows have")
    if not rows:
        raise DataError(f"{files[0].path}: has no rows; expected an image and a class in each")
    return Table(tuple(str(one.path) for one in files), files[0].image, rows, classes, info)


def _splits(folder: Path) -> tuple[list[Path], list[Path]]:
    """The tables of a folder to train on, and those that are held out."""
    found: dict[str, list[Path]] = {}
    classes = any(entry.is_dir() for name in TRAINING for entry in (folder / name).glob("*"))
    places = [folder, folder / "data"] if folder.is_dir() and not classes else []  # a table beside class folders: no
    for file in sorted(file for place in places if place.is_dir() for file in place.iterdir() if file.is_file()):
        match = SPLIT.fullmatch(file.stem)
        if match and file.suffix.lower() in SUFFIXES:
            found.setdefault(match["split"].lower(), []).append(file)
    training = next((found[name] for name in TRAINING if name in found), [])
    return training, next((found[name] for name in HELD_OUT if name in found), []) if training else []


# --- classes ----------------------------------------------------------------------------------------------------------


def _class_names(path: Path, tables: Sequence[LabelColumn]) -> tuple[str, ...]:
    """Names of classes: as the table or ``classes.txt`` says, or as they stand in the table; else numbers."""
    labels = [
        item for one in tables for label in one.labels for item in (label if isinstance(label, list) else [label])
    ]
    if not all(_whole(label) is not None for label in labels):
        return tuple(sorted({str(label) for label in labels if label not in (None, "")}))
    known = next((one.names for one in tables if one.names), None)
    beside = path.with_name(NAMES)
    if known is None and beside.is_file():
        known = tuple(line.strip() for line in beside.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    count = max((_whole(label) or 0 for label in labels), default=-1) + 1
    if known is not None and len(known) < count:
        raise DataError(f"{path}: has class {count - 1}, but there are {len(known)} names of classes")
    return known if known is not None else tuple(map(str, range(count)))


def _number(one: LabelColumn, label: Any, numbers: Mapping[str, int], row: int) -> int:
    whole = _whole(label)
    if label in (None, "") or (whole is not None and whole < 0):
        raise DataError(f"{one.path}: row {row} has class {label!r}, expected a name, or a number from 0")
    name = str(label)
    if name in numbers:
        return numbers[name]
    assert whole is not None, "every name was counted"
    return whole


def _whole(label: Any) -> int | None:
    """A class as a number; None where it is a name."""
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        return int(label)
    return int(label) if isinstance(label, str) and re.fullmatch(r"-?\d+", label) else None


def _check(path: Path, names: Sequence[str], train: Table) -> None:
    if len(names) < 2:
        raise DataError(f"{path}: got {len(names)} class{'es' * (len(names) != 1)}, expected at least two")
    missing = [name for name, count in zip(names, class_counts(train), strict=True) if not count]
    if missing:
        raise DataError(f"{path}: no usable images of class {', '.join(missing[:5])} to train on")


# --- images -----------------------------------------------------------------------------------------------------------


def _media(value: Any, path: Path, key: str) -> ImageBytes | ImageFile:
    """The handle of an image: of bytes, or of a path below the folder of the table."""
    value = value.as_py() if hasattr(value, "as_py") else value
    data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
    if isinstance(data, bytes):
        return ImageBytes(data, key)
    if isinstance(name, str) and name:
        return ImageFile(str(path.parent / name))
    raise DataError(f"{path}: {key} holds no image, got {str(value)[:60]!r}; expected a path or the bytes of a file")


def _problems(data: Table, on_progress: Callable[[int, int], None] | None) -> dict[int, str]:
    """The samples that cannot be used, and why. Decodes them all."""

    def problem(i: int) -> str | None:
        try:
            data[i].media.decode()
        except DataError as error:
            return str(error)
        return None

    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(data), 1000):
            for i, bad in zip(range(start, len(data)), pool.map(problem, range(start, min(start + 1000, len(data))))):
                if bad is not None:
                    found[i] = bad
            if on_progress is not None:
                on_progress(min(start + 1000, len(data)), len(data))
    if len(found) > MOST_BAD * len(data):
        raise DataError(
            f"{data.files[0]}: {len(found)} of {len(data)} images are unusable, more than {MOST_BAD:.0%}; the first: "
            + "; ".join(itertools.islice(found.values(), 3))
        )
    return found
