"""Timing tiles where it is asked for: the fused kernel takes the fastest that was found on this GPU.

With the environment variable ``SWINDOW_TILES`` set to "tune", a kernel that meets a window, a number of channels per
head or a type for the first time is run with every tile that fits the GPU, which takes seconds. What was fastest is
kept in ``~/.cache/swindow/tiles.json`` (or below ``XDG_CACHE_HOME``) and read from there in later runs. Without the
variable the table of ``gpu`` decides: a resumed run then computes as before.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import triton.testing
from triton.runtime.errors import OutOfResources

from ..errors import ConfigError
from .gpu import Tile

WARPS, STAGES = (2, 4, 8), (1, 2, 3)
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


def fastest(key: str, tiles: Iterable[Tile], run: Callable[[Tile], None]) -> Tile:
    """Returns the tile with which a kernel is fastest: from the file, else timed and written to it.

    Args:
        key: what was timed: GPU, versions, kernel, window, type.
        tiles: those to try; one that needs more than the GPU has is left out.
        run: launches the kernel with a tile.
    """
    path = _path()
    known = _found.setdefault(path, _read(path))
    if key not in known:
        seconds = {}
        for tile in tiles:
            try:
                seconds[tile] = triton.testing.do_bench(lambda tile=tile: run(tile), return_mode="median")
            except OutOfResources:
                continue
        known[key] = min(seconds, key=lambda tile: seconds[tile])
        _write(path, _read(path) | known)
    return known[key]


def _path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "swindow" / "tiles.json"


def _read(path: Path) -> dict[str, Tile]:
    if not path.exists():
        return {}
    return {key: Tile(*values) for key, values in json.loads(path.read_text(encoding="utf-8")).items()}


def _write(path: Path, known: dict[str, Tile]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(known, file, indent=1)
    os.replace(file.name, path)  # in one step: another process may read it now
