"""A live model of another library as parts of ours, with the same weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import CheckpointError
from .layouts import LAYOUTS
from .layouts.live import of_live
from .loading import parts_of
from .parts import Parts, Request
from .read import Source


def adopted(theirs: Any) -> Parts:
    """Returns the parts of a live model of another library, sharing its weights where they are arranged alike.

    Raises:
        CheckpointError: it is no model of a library that is known here, is built otherwise, or is not finite.
    """
    if not isinstance(theirs, nn.Module):
        known = "; ".join(dict.fromkeys(layout.title for layout in LAYOUTS))
        raise CheckpointError(f"adopt: got a {type(theirs).__name__}, expected a model of one of: {known}")
    name = f"{type(theirs).__module__.split('.')[0]}'s {type(theirs).__name__}"
    said, layout = of_live(theirs, name)
    return parts_of(Source(name, theirs.state_dict()), said, Request(mmap=True, dtype=None), layout)
