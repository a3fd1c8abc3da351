"""Training: one loop on plain torch for any task, exact in its resuming, the same under torchrun."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "TrainConfig": "config",  # imports no torch, so that the command line can show its help at once
    "Progress": "progress",
    "TrainResult": "run",
    "parameter_groups": "optimizer",
    "train": "run",
}

__all__ = ["Progress", "TrainConfig", "TrainResult", "parameter_groups", "train"]

if TYPE_CHECKING:
    from .config import TrainConfig as TrainConfig
    from .optimizer import parameter_groups as parameter_groups
    from .progress import Progress as Progress
    from .run import TrainResult as TrainResult
    from .run import train as train


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
