"""What can be learned: a protocol, and one file per task."""

from __future__ import annotations

from typing import Any

from ..card import ModelCard
from ..errors import InputError
from .classify import Classify, ClassifySettings, Confusion
from .images import ImageTask, check_takes_images
from .multilabel import Labels, MultiLabel, MultiLabelSettings
from .prediction import Prediction
from .task import Batch, Example, Metric, Task

__all__ = [
    "TASKS",
    "Batch",
    "Classify",
    "ClassifySettings",
    "Confusion",
    "Example",
    "ImageTask",
    "Labels",
    "Metric",
    "MultiLabel",
    "MultiLabelSettings",
    "Prediction",
    "Task",
    "check_takes_images",
    "task_of",
]

# The tasks that data can ask for by name (``DataInfo.task``), each with the class of its settings.
TASKS: dict[str, tuple[Any, Any]] = {
    "classify": (Classify, ClassifySettings),
    "multilabel": (MultiLabel, MultiLabelSettings),
}


def task_of(card: ModelCard | None) -> type[Classify] | type[MultiLabel]:
    """Returns the task that a model has learned; where its card does not say, classification.

    Raises:
        InputError: it has learned a task that this version does not know.
    """
    name = (card.task if card else None) or Classify.name
    if name not in TASKS:
        raise InputError(f"the model has learned the task {name!r}; this version knows {', '.join(TASKS)}")
    return TASKS[name][0]
