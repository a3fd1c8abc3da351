"""How good a model is that tells several labels per image, label by label."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data import Sample
from ..tasks import MultiLabel


@dataclasses.dataclass(frozen=True)
class LabelFigures:
    """How one label is recognised, where images have several.

    Attributes:
        name: the label.
        images: how many images have it.
        average_precision: area under its precision over recall; None where no image has it.
        precision, recall, f1: at the model's threshold; 0 for 0 of 0.
    """

    name: str
    images: int
    average_precision: float | None
    precision: float
    recall: float
    f1: float


@dataclasses.dataclass(frozen=True)
class LabelEvaluation:
    """The result of an evaluation of a model that gives several labels per image.

    Attributes:
        mean_average_precision: mean of the classes' average precision; None where no image has a label.
        f1: of all labels together, at the model's threshold.
        f1_macro: mean over the classes.
        loss: binary cross-entropy (nats), a mean over classes and images.
        images: how many images it was measured on.
        classes: the figures of every class of the data.
        skipped: the images that could not be read, each with the reason.
        measured_on: which images these are, in words.
    """

    mean_average_precision: float | None
    f1: float
    f1_macro: float
    loss: float
    images: int
    classes: tuple[LabelFigures, ...]
    skipped: tuple[str, ...]
    measured_on: str


class LabelTally:
    """Adds up predictions.

    Args:
        outputs: for every label of the data the model's output that stands for it.
        task: names the labels and gives the metric.
    """

    def __init__(self, outputs: Sequence[int], task: MultiLabel) -> None:
        assert task.class_names is not None
        self.outputs, self.names, self.metric = list(outputs), task.class_names, task.metric()

    def add(self, samples: Sequence[Sample], predictions: Sequence[Any]) -> None:
        """Adds samples and what the model says of them: probabilities (labels,)."""
        targets = torch.tensor(np.stack([sample.target for sample in samples]))
        self.metric.update([found[self.outputs] for found in predictions], targets)

    def result(self, skipped: Sequence[str], measured_on: str) -> LabelEvaluation:
        """Returns the figures."""
        found = self.metric.compute()
        rows = found.pop("labels")
        names = [self.names[k] for k in self.outputs]
        classes = tuple(LabelFigures(name, **row) for name, row in zip(names, rows, strict=True))
        return LabelEvaluation(**found, classes=classes, skipped=tuple(skipped), measured_on=measured_on)
