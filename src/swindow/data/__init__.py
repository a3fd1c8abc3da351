"""Labelled images: the built-in digits, or a folder of class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .augment import AUGMENTS, Augment
from .digits import digits
from .folder import folder
from .source import Source, Split
from .split import stratified_split

__all__ = ["AUGMENTS", "Augment", "Source", "Split", "digits", "folder", "open_source", "stratified_split"]


def open_source(
    data: str | Path,
    held_out: float = 0.2,
    seed: int = 0,
    verify: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Returns the source that DATA on the command line names: ``digits``, or the path of a folder of class folders.

    The other arguments are those of ``data.folder``; the digits' split is fixed.

    Raises:
        DataError: the source is absent or unusable.
    """
    if str(data) == "digits":
        return digits()
    return folder(data, held_out, seed, verify, on_progress)
