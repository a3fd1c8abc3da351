"""How good a model is on labelled images it was not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from .. import data as data_
from ..card import HeldOut
from ..data import Dataset, Splits
from ..errors import ConfigError, DataError, OutputError, SwindowError
from ..models import SwinTransformer
from ..tasks import MultiLabel
from .class_evaluation import ClassTally, Evaluation
from .label_evaluation import LabelEvaluation, LabelTally
from .predictor import Predictor


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
    outputs = task.outputs_of(info)
    if save_mistakes is not None and isinstance(task, MultiLabel):
        raise ConfigError("save_mistakes: got a model that gives several labels, expected one that gives one class")
    parts, measured_on = chosen(splits, trained, held_out, seed, all)
    if save_mistakes is not None:  # a folder that cannot be made is found before anything is measured
        try:
            Path(save_mistakes).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{save_mistakes}: cannot be made ({error.strerror or error})") from error
    tally = LabelTally(outputs, task) if isinstance(task, MultiLabel) else ClassTally(outputs, task)
    broken = _run(predictor, parts, batch_size, tally, on_progress)
    total = sum(map(len, parts))
    if len(broken) == total:
        raise DataError(f"{info.name}: none of {total} images could be read; the first: {broken[0]}")
    if save_mistakes is not None and isinstance(tally, ClassTally):
        tally.draw(Path(save_mistakes))
    return tally.result((*info.skipped, *broken), measured_on)


def _run(
    predictor: Predictor,
    parts: Sequence[Dataset],
    batch_size: int,
    tally: ClassTally | LabelTally,
    on_progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Adds the predictions of all images to a tally; returns why some could not be read."""
    total, done = sum(map(len, parts)), 0
    broken: list[str] = []
    stream = predictor.stream((part[i] for part in parts for i in range(len(part))), batch_size)
    while some := list(islice(stream, batch_size)):
        broken += [str(found) for _, found in some if isinstance(found, SwindowError)]
        read = [(sample, found) for sample, found in some if not isinstance(found, SwindowError)]
        if read:
            tally.add(*zip(*read, strict=True))
        done += len(some)
        if on_progress is not None:
            on_progress(done, total)
    return broken


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
