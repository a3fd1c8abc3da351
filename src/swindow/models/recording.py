"""Telling who looks inside a model what its parts return, without changing it: see ``swindow.explain.capture``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from .. import private

Recorder = Callable[[nn.Module, tuple[Any, ...], Tensor], None]  # called with a part, its inputs and its result
_recorders: ContextVar[tuple[_Recording, ...]] = ContextVar("swindow_recorders", default=())


class _Recording:
    """A recorder; None once its block has ended, so that threads and tasks with a copy of this stop recording too."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder: Recorder | None = recorder


def recorded(part: nn.Module, *inputs: Any) -> Tensor:
    """Returns ``part(*inputs)``, and tells the recorders of this thread or task of it.

    Forward hooks would do the same for one thread. But they belong to the module: other threads' passes call them,
    copies carry them on, and hanging them up disturbs a copy that another thread is just making.
    """
    return record(part, inputs, part(*inputs))


def record(part: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> Tensor:
    """Returns the result of a part, however it was computed, and tells the recorders of this thread or task of it.

    Not of what gradient checkpointing works out again in backward.
    """
    if not torch.compiler.is_compiling() and not private.in_backward():
        for each in _open():
            if (recorder := each.recorder) is not None:  # another thread may just have ended it
                recorder(part, inputs, result)
    return result


def is_recording() -> bool:
    """Returns whether this thread or task has a recorder."""
    return bool(_open())


def _open() -> tuple[_Recording, ...]:
    return tuple(recording for recording in _recorders.get() if recording.recorder is not None)


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Has a recorder told of what the models return that are called in this thread or task inside the ``with`` block.

    Blocks may overlap and end in any order, in any thread. asyncio tasks that are started inside belong to it, too.
    """
    mine = _Recording(recorder)
    _recorders.set((*_open(), mine))
    try:
        yield
    finally:
        mine.recorder = None
        _recorders.set(_open())
