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

# Classes of configurations and logs that lie beside weights. Dictionaries are read as dictionaries ...
DICTIONARIES = (
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "detectron2.config.config.CfgNode",
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict",
    "addict.addict.Dict",
    "easydict.EasyDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
# ... and of these nothing but their place is kept.
OBJECTS = (
    "argparse.Namespace",
    "mmengine.config.config.Config",
    "mmcv.utils.config.Config",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool", "Str")),
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.PurePosixPath",
    "datetime.datetime",
    "datetime.timedelta",
)


class Unread:
    """Stands for an object of a known class that is of no use here. It does nothing with what it is given."""

    def __new__(cls, *_: Any) -> Unread:
        """Takes whatever the object was made from."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def torch_load(path: Path) -> Any:
    """Returns what a file of ``torch.save`` holds, its tensors mapped from the file where its format allows.

    No code in the file is run: tensors, plain containers and the classes listed above are all that is read.

    Raises:
        CheckpointError: the file is broken, compressed, of another kind, or holds an object of another class, which is
            named.
    """
    mapped = zipfile.is_zipfile(path)
    if mapped:
        _check_archive(path)
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


def _check_archive(path: Path) -> None:
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
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole file of torch.save ({reason(error)})") from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: {damaged} is damaged, it does not fit its checksum; get the file again (one written without "
            "checksums can be given as the state dict that torch.load returns)"
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
