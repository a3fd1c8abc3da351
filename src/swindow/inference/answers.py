"""Answers written to a file as they come: CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, OutputError
from ..tasks import Prediction
from .predictor import Failure

GROUP = 4096  # rows that are written to a Parquet file at once


class Writer(Protocol):
    """Takes answers one at a time."""

    def write(self, answer: Prediction | Failure) -> None:
        """Adds an answer."""
        ...

    def close(self) -> None:
        """Ends the file."""
        ...


@contextmanager
def writer(path: Path, class_names: Sequence[str], top: int, all_classes: bool = False) -> Iterator[Writer]:
    """Opens a file for answers. It gets its name at the end; until then, and after an error, it is ``path.partial``.

    Columns of CSV and Parquet: image, class, probability, class_2, probability_2, ... up to ``top``; with
    ``all_classes`` also p_NAME for every class; error. JSON lines are as ``answer_as_json`` gives them.

    Args:
        path: ends in .csv, .jsonl or .parquet, which needs pyarrow.
        class_names: all classes of the model.
        top: how many classes to name.
        all_classes: whether to write the probability of every class. The answers must have all of them.

    Raises:
        ConfigError: the path has another ending, or pyarrow is not installed.
        OutputError: the file cannot be written.
    """
    kinds: dict[str, Callable[[Path, Sequence[str], int], Writer]]
    kinds = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet}
    if path.suffix not in kinds:
        raise ConfigError(f"{path}: expected a name that ends in {', '.join(kinds)}")
    partial, names = path.with_name(path.name + ".partial"), class_names if all_classes else ()
    with _errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = kinds[path.suffix](partial, names, min(top, len(class_names)))
    try:
        yield opened
    finally:
        with _errors(path):
            opened.close()
    with _errors(path):
        os.replace(partial, path)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Raises what the system says of a file as OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def answer_as_json(answer: Prediction | Failure) -> dict[str, Any]:
    """Returns an answer as the command line prints it with ``--json``."""
    if isinstance(answer, Failure):
        return {"image": answer.image, "error": str(answer.error)}
    pairs = zip(answer.classes, answer.probabilities, strict=True)
    labels = {} if answer.threshold is None else {"labels": list(answer.labels)}
    return {"image": answer.image, **labels, "predictions": [{"class": name, "probability": p} for name, p in pairs]}


class _JsonLines:
    def __init__(self, path: Path, names: Sequence[str], top: int) -> None:
        self.file, self.top = path.open("w", encoding="utf-8", errors="surrogateescape"), None if names else top

    def write(self, answer: Prediction | Failure) -> None:
        found = answer_as_json(answer)
        if "predictions" in found:
            found["predictions"] = found["predictions"][: self.top]
        self.file.write(json.dumps(found, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.file.close()


class _Rows:
    """What tables share: the columns, and an answer as a row.

    Args:
        names: the classes that have a column.
        top: how many classes are named.
    """

    def __init__(self, names: Sequence[str], top: int) -> None:
        self.names, self.top = names, top
        self.columns: dict[str, type] = {"image": str}
        for i in range(1, top + 1):
            ending = "" if i == 1 else f"_{i}"
            self.columns |= {f"class{ending}": str, f"probability{ending}": float}
        self.columns |= {f"p_{name}": float for name in names}
        self.columns["error"] = str

    def row(self, answer: Prediction | Failure) -> Mapping[str, Any]:
        if isinstance(answer, Failure):
            return dict.fromkeys(self.columns) | {"image": answer.image, "error": str(answer.error)}
        pairs = list(zip(answer.classes, answer.probabilities, strict=True))
        of = dict(pairs)
        values = [
            answer.image,
            *(value for pair in pairs[: self.top] for value in pair),
            *map(of.get, self.names),
            None,
        ]
        return dict(zip(self.columns, values, strict=True))


class _Csv:
    def __init__(self, path: Path, names: Sequence[str], top: int) -> None:
        self.rows = _Rows(names, top)
        self.file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self.csv = csv.DictWriter(self.file, list(self.rows.columns))
        self.csv.writeheader()

    def write(self, answer: Prediction | Failure) -> None:
        self.csv.writerow(self.rows.row(answer))

    def close(self) -> None:
        self.file.close()


class _Parquet:
    def __init__(self, path: Path, names: Sequence[str], top: int) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ConfigError(
                "parquet files need pyarrow; try pip install pyarrow, or a .csv or .jsonl file"
            ) from error
        self.rows, self.waiting = _Rows(names, top), list[Mapping[str, Any]]()
        kinds = {str: pa.string(), float: pa.float32()}
        self.schema = pa.schema([(_unicode(name), kinds[kind]) for name, kind in self.rows.columns.items()])
        self.table, self.file = pa.Table, pq.ParquetWriter(path, self.schema)

    def write(self, answer: Prediction | Failure) -> None:
        row = self.rows.row(answer)
        texts = {
            name: row[name] and row[name].encode(errors="backslashreplace").decode() for name in ("image", "error")
        }
        self.waiting.append({**row, **texts})  # a file's name need not be valid Unicode
        if len(self.waiting) == GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        if self.waiting:
            self.file.write_table(self.table.from_pylist(self.waiting, self.schema))
            self.waiting = []


def _unicode(value: Any) -> Any:
    """A text that is valid Unicode, which a file's name need not be; other values as they are."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
