"""How good a model is on labelled images it was not trained on, class by class, and which images it gets wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import data as data_
from ..card import HeldOut
from ..data import Dataset, Sample, Splits
from ..errors import ConfigError, DataError, OutputError, SwindowError
from ..media import contact_sheet, convert, picture
from ..models import SwinTransformer
from ..tasks import Classify, Confusion, MultiLabel
from .predictor import Predictor

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


def evaluate(
    model: Predictor | SwinTransformer | str | Path,
    data: Splits | Dataset | str | Path,
    batch_size: int = 64,
    device: str | None = None,
    held_out: float | None = None,
    seed: int | None = None,
    all: bool = False,
    save_mistakes: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    columns: data_.Columns = data_.Columns(),  # noqa: B008  immutable
) -> Evaluation | LabelEvaluation:
    """Returns how good a model is on images it was not trained on, as far as that is known.

    These are, in this order: the held-out images of data that has a split of its own; those that training held out,
    where the model's card says that it was trained on this data; every image, where the card records no split. Other
    data is refused unless ``all``, or ``held_out`` and ``seed``, say which images to take.

    Args:
        model: a model, the path of a checkpoint, or a ``Predictor``, which can average over views and models. A model
            is not changed.
        data: what ``data.open`` takes: ``digits``, a folder of class folders, a table; a data set; or data that is
            split.
        batch_size: images per forward pass.
        device: as in ``Predictor.open``.
        held_out, seed: the share of every class to measure on (fraction), and what decides which images these are,
            where the data has no split of its own.
        all: measure on every image.
        save_mistakes: a folder, made if need be, for ``mistakes.png``: a contact sheet of the most certain mistakes.
        on_progress: called with the images done and their number.
        columns: of a table, those that hold images and classes; None: guessed by their names.

    Raises:
        CheckpointError, DataError: as ``load`` and ``data.open``; DataError too where the classes differ, or no image
            can be read.
        ConfigError: there is no such device, or the held-out images are unknown.
        InputError: the model has no head, or takes no images.
    """
    predictor = model if isinstance(model, Predictor) else Predictor.open(model, device=device)
    splits, trained = data_.open(data, verify=False, columns=columns), predictor.card.split
    if splits.held_out is None and trained is not None and trained.fingerprint != splits.train.fingerprint():
        splits = data_.open(data, columns=columns)  # training may have left out broken images
    info = splits.train.info
    task = predictor.views.task
    if info.task != task.name:
        raise DataError(
            f"{info.name} is data for the task {info.task!r}, the model has learned {task.name!r}; try another table, "
            "or --label-separator where a text holds several labels"
        )
    outputs, names = task.outputs_of(info), task.class_names
    assert names is not None
    if save_mistakes is not None and isinstance(task, MultiLabel):
        raise ConfigError("save_mistakes: got a model that gives several labels, expected one that gives one class")
    parts, measured_on = chosen(splits, trained, held_out, seed, all)
    if save_mistakes is not None:  # a folder that cannot be made is found before anything is measured
        try:
            Path(save_mistakes).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{save_mistakes}: cannot be made ({error.strerror or error})") from error
    tally: _Tally | _LabelTally = _LabelTally(outputs, task) if isinstance(task, MultiLabel) else _Tally(outputs)
    total, done = sum(map(len, parts)), 0
    samples = (part[i] for part in parts for i in range(len(part)))
    stream = predictor.stream(samples, batch_size)
    while some := list(islice(stream, batch_size)):
        tally.add(some)
        done += len(some)
        if on_progress is not None:
            on_progress(done, total)
    if not tally.images:
        raise DataError(f"{info.name}: none of {total} images could be read; the first: {tally.broken[0]}")
    if isinstance(tally, _LabelTally):
        return tally.result([names[k] for k in outputs], info.skipped, measured_on)
    assert isinstance(task, Classify)
    found = tally.confusion.compute()
    wrong = sorted(tally.wrong, key=lambda item: -item[3])
    if save_mistakes is not None:
        _draw(wrong[:SHEET], task, Path(save_mistakes))
    assert tally.confusion.sums is not None
    sums = tally.confusion.sums.tolist()
    rows = [_figures(names[k], *(row[k] for row in sums)) for k in outputs]
    return Evaluation(
        accuracy=found["accuracy"],
        loss=found["loss"],
        images=found["images"],
        top5=found.get("top5"),
        calibration_error=found["calibration_error"],
        classes=tuple(rows),
        macro=_macro(rows),
        mistakes=tuple(Mistake(sample.key, names[truth], names[taken], p) for sample, truth, taken, p in wrong),
        skipped=(*info.skipped, *tally.broken),
        confusion=tuple(map(tuple, found["confusion"])) if "confusion" in found else None,
        names=names,
        measured_on=measured_on,
    )


class _Tally:
    """Adds up predictions.

    Args:
        outputs: for every class of the data the model's output that stands for it.
    """

    def __init__(self, outputs: Sequence[int]) -> None:
        self.outputs = outputs
        self.confusion = Confusion()
        self.images = 0
        self.wrong: list[tuple[Sample, int, int, float]] = []  # with the true output, the likeliest, its probability
        self.broken: list[str] = []

    def add(self, some: Sequence[tuple[Sample, Any]]) -> None:
        """Adds samples with their predictions or the errors that reading them raised."""
        read = [(sample, found) for sample, found in some if not isinstance(found, SwindowError)]
        self.broken += [str(found) for _, found in some if isinstance(found, SwindowError)]
        if not read:
            return
        predictions = [found for _, found in read]
        targets = torch.tensor([self.outputs[sample.target] for sample, _ in read])  # (B,)
        self.confusion.update(predictions, targets)
        log_p = torch.stack(predictions)  # (B, classes)
        likeliest = log_p.argmax(1)  # (B,)
        self.images += len(read)
        for i in (likeliest != targets).nonzero().flatten().tolist():
            taken = int(likeliest[i])
            self.wrong.append((read[i][0], int(targets[i]), taken, float(log_p[i, taken].exp())))


class _LabelTally:
    """Adds up predictions of several labels.

    Args:
        outputs: for every class of the data the model's output that stands for it.
        task: gives the metric.
    """

    def __init__(self, outputs: Sequence[int], task: MultiLabel) -> None:
        self.outputs, self.metric = list(outputs), task.metric()
        self.images = 0
        self.broken: list[str] = []

    def add(self, some: Sequence[tuple[Sample, Any]]) -> None:
        """Adds samples with their predictions or the errors that reading them raised."""
        read = [(sample, found) for sample, found in some if not isinstance(found, SwindowError)]
        self.broken += [str(found) for _, found in some if isinstance(found, SwindowError)]
        if read:
            targets = torch.tensor(np.stack([sample.target for sample, _ in read]))
            self.metric.update([found[self.outputs] for _, found in read], targets)
            self.images += len(read)

    def result(self, names: Sequence[str], skipped: Sequence[str], measured_on: str) -> LabelEvaluation:
        """Returns the figures."""
        found = self.metric.compute()
        rows = found.pop("labels")
        classes = tuple(LabelFigures(name, **row) for name, row in zip(names, rows, strict=True))
        return LabelEvaluation(**found, classes=classes, skipped=(*skipped, *self.broken), measured_on=measured_on)


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


def _draw(wrong: Sequence[tuple[Sample, int, int, float]], task: Classify, folder: Path) -> None:
    """Writes the contact sheet."""
    names = task.class_names
    assert names is not None
    sheet = contact_sheet(
        (
            picture(convert(sample.media.decode(), task.settings.preprocess)),
            (sample.key, f"{names[truth]}, taken for", f"{names[taken]} ({p:.0%})"),
        )
        for sample, truth, taken, p in wrong
    )
    try:
        sheet.save(folder / "mistakes.png")
    except OSError as error:
        raise OutputError(f"{folder}: the contact sheet cannot be written ({error.strerror or error})") from error


def chosen(
    data: Splits, trained: HeldOut | None, held_out: float | None, seed: int | None, every: bool
) -> tuple[Sequence[Dataset], str]:
    """Returns the images to measure on, in one part or several, and which these are in words.

    Args:
        data: what there is.
        trained: what training held out, as the model's card says; None: it says nothing.
        held_out, seed, every: what is asked for.
    """
    whole = data.train
    if (held_out is None) != (seed is None) or (every and held_out is not None):
        raise ConfigError(
            "evaluate: give --held-out (held_out) and --seed (seed) together, or --all (all), or none of them"
        )
    if every:
        return [part for part in data if part is not None], "all images, as asked for"
    if data.held_out is not None:
        if held_out is not None:
            raise ConfigError(
                f"{whole.info.name} has a split of its own; leave --held-out and --seed out, or try --all (every image)"
            )
        return [data.held_out], "the images that the data itself holds out"
    same = trained is not None and trained.fingerprint == whole.fingerprint()
    if held_out is not None and seed is not None:
        how, which = HeldOut(held_out, seed, whole.labels() is not None), f"{held_out:.0%} of the images, seed {seed}"
        if same and trained is not None and trained != dataclasses.replace(how, fingerprint=trained.fingerprint):
            which += (
                f"; the model was trained on some of them, for it held out {trained.share:.0%}, seed {trained.seed}"
            )
    elif trained is None:
        return [whole], "all images: the checkpoint does not say which it was trained on; some may be among them"
    elif same:
        how, which = trained, f"the images held out from training: {trained.share:.0%}, seed {trained.seed}"
    else:
        raise ConfigError(
            f"{whole.info.name} is not the data that the model was trained on, or has changed since, so the held-out "
            "images are unknown; try --all (every image), or --held-out SHARE with --seed NUMBER"
        )
    held = data_.hold_out(whole, how).held_out
    assert held is not None
    return [held], which
