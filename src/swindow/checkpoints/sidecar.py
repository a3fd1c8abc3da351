"""Helpers for the JSON files that lie beside the weights of some libraries; each library's are read in its layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..card import ModelCard, Preprocess
from ..errors import ConfigError

Sidecars = Mapping[str, Mapping[str, Any]]  # file name to the JSON object in it


def pair(value: Any) -> tuple[int, int]:
    """Returns an int or a pair as a pair. Raises ValueError for anything else, and for numbers below 1."""
    found = (value, value) if isinstance(value, int) else tuple(value)
    if len(found) != 2 or not all(type(v) is int and 0 < v < 2**31 for v in found):
        raise ValueError(f"{value!r}, expected numbers above 0")
    return found


def tuples(value: Any) -> Any:
    """Returns lists, at any depth, as tuples."""
    return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value


def windows(value: Any) -> Any:
    """Returns windows in any form that SwinConfig takes, lists as tuples. Raises ValueError for anything else."""

    def check(one: Any) -> None:
        if isinstance(one, tuple):
            for part in one:
                check(part)
        elif type(one) is not int or not 0 <= one < 2**31:
            raise ValueError(f"{value!r}, expected windows: whole numbers")

    found = tuples(value)
    check(found)
    return found


def prepared(file: str, **how: Any) -> tuple[ModelCard, dict[str, str]]:
    """Returns a card with the preprocessing that a file asks for; else an empty one, and what swindow cannot do."""
    try:
        return ModelCard(preprocess=Preprocess(**how)), {}
    except ConfigError as error:
        why = f"the library's defaults: {file} asks for what swindow cannot do ({error})"
        return ModelCard(), {"preprocess": why}
