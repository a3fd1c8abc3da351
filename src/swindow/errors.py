"""The errors a user can cause, all under one root.

    SwindowError
    ├── ConfigError       a field of SwinConfig, a setting, or the name of a variant is wrong
    ├── InputError        a tensor or a grid has the wrong shape, number of channels or type
    ├── DataError         an image or a data set is absent, broken, empty or unusable
    ├── CheckpointError   a file of weights is absent, broken, or of another kind
    ├── TrainingError     training went wrong in a way that other settings may mend
    └── OutputError       a result could not be written (what stood there before is intact)

Every message says what was got, what was expected and what to try, on one line.
``except swindow.SwindowError`` catches them all; anything else that escapes is a fault of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SwindowError(Exception):
    """The root of every error a user of swindow can cause. Its message is one line, whatever was quoted in it."""

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).split()))


class ConfigError(SwindowError):
    """A configuration field, a setting or a variant's name is wrong."""


class InputError(SwindowError):
    """A tensor or a grid handed to the library has the wrong shape or type."""


class DataError(SwindowError):
    """An image or a data set is absent, broken, empty or unusable."""


class CheckpointError(SwindowError):
    """A file of weights is absent, broken or of another kind."""


class TrainingError(SwindowError):
    """Training went wrong, for instance the loss is no longer finite."""


class OutputError(SwindowError):
    """A result could not be written; what stood at that place before is intact."""


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Returns names side by side; of more than ``most`` the first ones, and how many follow.

    Example:
        >>> shortened(["cat", "dog"])
        "'cat', 'dog'"
        >>> shortened("abcd", most=2)
        "'a', 'b' ... and 2 more"
    """
    more = f" ... and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'a' or 'b'?)"`` for the known names nearest to ``name``, or ``""``.

    Example:
        >>> nearest("swin_tinny", ["swin_tiny", "swin_large"])
        " (did you mean 'swin_tiny'?)"
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
