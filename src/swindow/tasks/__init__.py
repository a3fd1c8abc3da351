"""What can be learned: a protocol, and one file per task."""

from __future__ import annotations

from .classify import Classify, ClassifySettings, Confusion, Prediction, check_takes_images
from .task import Batch, Example, Metric, Task

__all__ = [
    "TASKS",
    "Batch",
    "Classify",
    "ClassifySettings",
    "Confusion",
    "Example",
    "Metric",
    "Prediction",
    "Task",
    "check_takes_images",
]

# The tasks that data can ask for by name (``DataInfo.task``), each with the class of its settings.
TASKS = {"classify": (Classify, ClassifySettings)}
