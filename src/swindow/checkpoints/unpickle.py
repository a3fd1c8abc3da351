"""Reading PyTorch's pickled files without running anything that is in them."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .files import reason
from .layouts.pickled import DICTIONARIES, OBJECTS


class Unread:
    """Stands for an object of a known class that is of no use here. It does nothing with what it is given."""

    def __new__(cls, *_: Any) -> Unread:
        """Takes whatever the object was made from."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def torch_load(path: Path, verify: bool = True) -> Any:
    """Returns what a file of ``torch.save`` holds, its tensors mapped from the file where its format allows.

    No code in the file is run: tensors, plain containers and classes of ``layouts/pickled.py`` are all that is read.

    Args:
        path: of the file.
        verify: whether its checksums are verified, for which all of it is read.

    Raises:
        CheckpointError: the file is broken, compressed, of another kind, or holds an object of another class, which is
            named.
    """
    mapped = zipfile.is_zipfile(path)
    if mapped:
        _check_archive(path, verify)
    known: list[Any] = [(OrderedDict, name) for name in DICTIONARIES] + [(Unread, name) for name in OBJECTS]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # another one is no harm
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_why(path, error)) from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: asks for more memory than there is; it is broken or malicious") from error
    # A stream of damaged opcodes fails in as many ways as there are operations; none of them ran code of the file.
    except (
        OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError,
        AssertionError, UnicodeError, RecursionError, ImportError, struct.error,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path}: not a whole file of torch.save ({_brief(error)})") from error


def _check_archive(path: Path, verify: bool) -> None:
    """Refuses archives whose data is damaged, or unfolds to more than the file itself holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total > path.stat().st_size:
                raise CheckpointError(
                    f"{path}: got compressed data that unfolds to {total:,} bytes; torch.save compresses nothing, "
                    "expected a file written by it"
                )
            damaged = archive.testzip() if verify else None
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole file of torch.save ({reason(error)})") from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: {damaged} is damaged, it does not fit its checksum; get the file again (verify=False takes "
            "one that was written without checksums)"
        )


def _why(path: Path, error: pickle.UnpicklingError) -> str:
    """Why an unpickler refused."""
    name = re.search(r"GLOBAL (\S+)", str(error))
    if name is None:
        return f"{path}: not a whole file of torch.save; it is broken or of another kind"
    return (
        f"{path}: holds an object of {name[1]}, which cannot be read without running code of the file; none was run. "
        "Try, where you trust it: torch.save({'model': weights}, ...) of the state dict in it, and load that"
    )


def _brief(error: Exception) -> str:
    """The beginning of a message, on one line."""
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__
