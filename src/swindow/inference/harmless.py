"""Whether a .pt2 file can be loaded without running code of whoever wrote it.

``torch.export.load`` unpickles what does not load without, evaluates sizes and guards as expressions, and calls what a
graph names; a compiled library is code.
"""

from __future__ import annotations

import io
import json
import re
import reprlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .exported import short

# The entries of a file that holds a graph and its weights and nothing else, below the folder that all are in.
_NAMES = re.compile(
    r"models/model\.json|data/weights/(?:model_weights_config\.json|weight_\d+)|"
    r"data/constants/(?:model_constants_config\.json|tensor_\d+)|data/sample_inputs/model\.pt|"
    r"extra/swindow\.(?:card|export)|archive_format|archive_version|byteorder|version|"
    r"\.data/(?:version|serialization_id)"
)
# Of a size as PyTorch writes it, for instance FloorDiv(Add(Symbol('s1', integer=True), Integer(3)), Integer(4)).
_SIZE = (
    r"(?:[\s\d()*/+,<>=-]|'[su]\d+'|\b[su]\d+\b|\b(?:Symbol|Integer|Rational|Add|Mul|Pow|FloorDiv|CleanDiv|Mod|"
    r"PythonMod|Max|Min|Equality|Unequality|StrictGreaterThan|GreaterThan|StrictLessThan|LessThan|positive|integer|"
    r"nonnegative|True|False)\b)*"
)
# What each of these may be in the JSON of such a file.
_ALLOWED = {
    "expr_str": re.compile(_SIZE),
    "guards_code": re.compile(r"\[\]|None"),
    "path_name": re.compile(r"(?:weight|tensor)_\d+"),
    "target": re.compile(
        r"torch\.ops\.aten\.(?!from_file|save|load|_print)\w+\.\w+|torch\.sym_\w+|"
        r"_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|and_|or_|ge|gt|le|lt|eq|ne)"
    ),
    "use_pickle": re.compile("False"),
}


def check_harmless(path: Path, compiled: bool) -> None:
    """Raises CheckpointError for a .pt2 file that could run code when it is loaded.

    Args:
        path: the file.
        compiled: whether it holds a compiled library.
    """

    def refused(why: str) -> CheckpointError:
        return CheckpointError(
            f"{path}: {why}, which runs code of whoever wrote the file; "
            "where you know who that is, add --trust, or open it with Predictor.open(path, trust=True)"
        )

    if compiled:
        raise refused("holds a compiled library")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len({name.lower() for name in names}) < len(names) or len({name.split("/")[0] for name in names}) > 1:
                raise refused("holds two entries of one name")  # which of them PyTorch reads is not known
            for name in names:
                if not _NAMES.fullmatch(name.partition("/")[2]):
                    raise refused(f"holds the entry {reprlib.repr(name)}")
                if name.endswith(".pt"):
                    _check_tensors(archive.read(name), refused)
                elif name.endswith(".json"):
                    for key, value in _pairs(json.loads(archive.read(name))):
                        if key in _ALLOWED and not _ALLOWED[key].fullmatch(str(value)):
                            raise refused(f"has the entry {key} {reprlib.repr(value)}")
    except (ValueError, OSError, zipfile.BadZipFile, RecursionError) as error:
        raise CheckpointError(f"{path}: broken ({short(error)})") from error


def _check_tensors(data: bytes, refused: Callable[[str], CheckpointError]) -> None:
    try:
        if data:
            torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # an unpickler raises what the data makes it raise
        raise refused("holds pickled objects") from error


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields every key with its value, in nested JSON."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key, item
            yield from _pairs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(item)
