"""How good a model is that tells one class per image: class by class, and which images it gets wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import Sample
from ..errors import OutputError
from ..media import contact_sheet, convert, picture
from ..tasks import Classify, Confusion

SHEET = 60  # of the worst mistakes are drawn


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """How one class is recognised.

    Attributes:
        name: the name of the class.
        images: how many images show it.
        right: how many of these are recognised.
        recall: share of its images that are recognised; None where there are none.
        precision: share of the images taken for it that show it; 0 where none is taken for it.
        f1: harmonic mean of precision and recall.
    """

    name: str
    images: int
    right: int
    recall: float | None
    precision: float
    f1: float | None


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image whose likeliest class is wrong.

    Attributes:
        image: its path below the folder of the data.
        truth: the name of its class.
        predicted: the name of the likeliest class.
        probability: of that class (fraction).
    """

    image: str
    truth: str
    predicted: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        accuracy: share of images whose likeliest class is right (fraction).
        loss: mean cross-entropy (nats), without label smoothing.
        images: how many images it was measured on.
        top5: share of images whose class is among the five likeliest; None for a model of up to ten classes.
        calibration_error: how far the probability of the likeliest class is from how often it is right (fraction).
        classes: the figures of every class of the data.
        macro: means of recall, precision and f1 over the classes that have images.
        mistakes: those images whose likeliest class is wrong, the most certain mistakes first.
        skipped: the images that could not be read, each with the reason.
        confusion: (outputs, outputs) counts, true class by predicted class, over all classes of the model; None for
            more than 2000 classes.
        names: the names of the model's classes, in the order of its outputs.
        measured_on: which images these are, in words.
    """

    accuracy: float
    loss: float
    images: int
    top5: float | None
    calibration_error: float
    classes: tuple[ClassFigures, ...]
    macro: dict[str, float]
    mistakes: tuple[Mistake, ...]
    skipped: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    names: tuple[str, ...]
    measured_on: str


class ClassTally:
    """Adds up predictions.

    Args:
        outputs: for every class of the data the model's output that stands for it.
        task: names the classes, and says how images are prepared.
    """

    def __init__(self, outputs: Sequence[int], task: Classify) -> None:
        assert task.class_names is not None
        self.outputs, self.names, self.how = outputs, task.class_names, task.settings.preprocess
        self.confusion = Confusion()
        self.wrong: list[tuple[Sample, int, int, float]] = []  # with the true output, the likeliest, its probability

    def add(self, samples: Sequence[Sample], predictions: Sequence[Any]) -> None:
        """Adds samples and what the model says of them: log-probabilities (classes,)."""
        targets = torch.tensor([self.outputs[sample.target] for sample in samples])  # (B,)
        self.confusion.update(predictions, targets)
        log_p = torch.stack(list(predictions))  # (B, classes)
        likeliest = log_p.argmax(1)  # (B,)
        for i in (likeliest != targets).nonzero().flatten().tolist():
            taken = int(likeliest[i])
            self.wrong.append((samples[i], int(targets[i]), taken, float(log_p[i, taken].exp())))

    def result(self, skipped: Sequence[str], measured_on: str) -> Evaluation:
        """Returns the figures."""
        found, names = self.confusion.compute(), self.names
        assert self.confusion.sums is not None
        sums = self.confusion.sums.tolist()
        rows = tuple(_figures(names[k], *(row[k] for row in sums)) for k in self.outputs)
        return Evaluation(
            accuracy=found["accuracy"],
            loss=found["loss"],
            images=found["images"],
            top5=found.get("top5"),
            calibration_error=found["calibration_error"],
            classes=rows,
            macro=_macro(rows),
            mistakes=tuple(Mistake(s.key, names[truth], names[taken], p) for s, truth, taken, p in self._worst_first()),
            skipped=tuple(skipped),
            confusion=tuple(map(tuple, found["confusion"])) if "confusion" in found else None,
            names=names,
            measured_on=measured_on,
        )

    def _worst_first(self) -> list[tuple[Sample, int, int, float]]:
        return sorted(self.wrong, key=lambda item: -item[3])

    def draw(self, folder: Path) -> None:
        """Writes ``mistakes.png``, a contact sheet of the most certain mistakes.

        Raises:
            OutputError: it cannot be written.
        """
        sheet = contact_sheet(
            (
                picture(convert(sample.media.decode(), self.how)),
                (sample.key, f"{self.names[truth]}, taken for", f"{self.names[taken]} ({p:.0%})"),
            )
            for sample, truth, taken, p in self._worst_first()[:SHEET]
        )
        try:
            sheet.save(folder / "mistakes.png")
        except OSError as error:
            raise OutputError(f"{folder}: the contact sheet cannot be written ({error.strerror or error})") from error


def _figures(name: str, images: int, taken: int, right: int) -> ClassFigures:
    """The figures of a class; the definitions are those of scikit-learn, with 0 for 0 of 0.

    Args:
        name: of the class.
        images: how many show it.
        taken: how many are taken for it.
        right: how many of these show it.
    """
    precision = right / taken if taken else 0.0
    if not images:
        return ClassFigures(name, 0, 0, None, precision, None)
    return ClassFigures(name, images, right, right / images, precision, 2 * right / (images + taken))


def _macro(rows: Sequence[ClassFigures]) -> dict[str, float]:
    """The means over the classes that have images."""
    there = [row for row in rows if row.images]
    return {name: sum(getattr(row, name) for row in there) / len(there) for name in ("recall", "precision", "f1")}
