"""Timing tiles where it is asked for: the fused kernel takes the fastest that was found on this GPU.

With the environment variable ``SWINDOW_TILES`` set to "tune", a kernel that meets a window, a number of channels per
head or a type for the first time is run with every tile that fits the GPU, which takes seconds for small windows and
minutes for large ones. What was fastest is kept in ``~/.cache/swindow/tiles.json`` (or below ``XDG_CACHE_HOME``) and
read from there in later runs. Without the variable the table of ``gpu`` decides: a resumed run then computes as before.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import triton.testing
from torch import Tensor
from triton.errors import TritonError

from ..errors import ConfigError
from .gpu import Tile

WARPS, STAGES = (2, 4, 8), (1, 2, 3)
WRONG = 0.05  # of the norm: a tile whose results are farther from those of the table's tile is not taken
_found: dict[Path, dict[str, Tile]] = {}  # what the files hold, read once


def wanted() -> bool:
    """Returns whether tiles are to be timed.

    Raises:
        ConfigError: ``SWINDOW_TILES`` is not "tune".
    """
    value = os.environ.get("SWINDOW_TILES", "")
    if value not in ("", "tune"):
        raise ConfigError(f"SWINDOW_TILES: got {value!r}, expected 'tune' or nothing")
    return value == "tune"


def candidates(blocks: Iterable[int]) -> list[Tile]:
    """Returns the tiles to try."""
    return list(itertools.starmap(Tile, itertools.product(blocks, WARPS, STAGES)))


def fastest(key: str, usual: Tile, tiles: Iterable[Tile], run: Callable[[Tile], tuple[Tensor, ...]]) -> Tile:
    """Returns the tile with which a kernel is fastest: from the file, else timed and written to it.

    While a CUDA graph is recorded nothing is timed.

    Args:
        key: what was timed: GPU, versions, kernel, window, type.
        usual: the tile of the table.
        tiles: those to try; one that the GPU has not enough of something for, or that computes something else, is left
            out.
        run: launches the kernel with a tile and returns its results.
    """
    path = _path()
    if path not in _found:
        _found[path] = _read(path)
    known = _found[path]
    if key in known or torch.cuda.is_current_stream_capturing():
        return known.get(key, usual)
    expected, seconds = run(usual), {}
    for tile in tiles:
        try:
            if all(map(_near, run(tile), expected)):
                seconds[tile] = triton.testing.do_bench(lambda tile=tile: run(tile), return_mode="median")
        except (TritonError, RuntimeError) as error:
            if not isinstance(error, TritonError) and "PassManager" not in str(error):
                raise
    known[key] = min(seconds, key=lambda tile: seconds[tile], default=usual)
    _write(path, {**_read(path), **known})
    return known[key]


def _near(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    return bool((found.float() - expected.float()).norm() <= WRONG * expected.float().norm())


def _path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "swindow" / "tiles.json"


def _read(path: Path) -> dict[str, Tile]:
    """What a file holds; nothing, said so, where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        return {key: Tile(*map(int, values)) for key, values in json.loads(text).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"{path}: not read, tiles are timed again ({error})", stacklevel=2)
        return {}


def _write(path: Path, known: dict[str, Tile]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(known, file, indent=1)
        os.replace(file.name, path)  # in one step: another process may read it now
    except OSError as error:
        warnings.warn(f"{path}: not written, a later process times tiles again ({error})", stacklevel=2)
