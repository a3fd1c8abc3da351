"""How good a model is on labelled images it was not trained on."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import data as data_
from ..card import HeldOut
from ..checkpoints import load
from ..data import DataInfo, Dataset, Sample, Splits
from ..errors import ConfigError, DataError
from ..models import SwinTransformer
from ..tasks import Classify
from .feed import Batches, batches, leave_if_imported_by_worker, stream, usable_workers
from .measure import measure
from .parallel import pick_device


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        accuracy: share of images whose likeliest class is right (fraction).
        loss: mean cross-entropy (nats), without label smoothing.
        images: how many images it was measured on.
        confusion: (classes, classes) counts, true class by predicted class.
        classes: the names of the classes.
        measured_on: which images these are, in words.
    """

    accuracy: float
    loss: float
    images: int
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]
    measured_on: str


def evaluate(
    model: SwinTransformer | str | Path,
    data: Splits | Dataset | str | Path,
    batch_size: int = 64,
    device: str = "auto",
    held_out: float | None = None,
    seed: int | None = None,
    workers: int = 0,
    all: bool = False,
) -> Evaluation:
    """Returns how good a model is on images it was not trained on, as far as that is known.

    These are, in this order: the held-out images of data that has a split of its own; those that training held out,
    where the model's card says that it was trained on this data; every image, where the card tells of no split. Other
    data is refused unless ``all``, or ``held_out`` and ``seed``, say which images to take.

    Args:
        model: a model, or the path of a checkpoint. A model is moved to ``device`` and left in evaluation mode.
        data: what ``data.open`` takes: ``digits`` or a folder of class folders; a data set; or data that is split.
        batch_size: images per forward pass.
        device: as in TrainConfig.
        held_out, seed: the share of every class to measure on (fraction), and what decides which images these are,
            where the data has no split of its own.
        workers: processes that read images.
        all: measure on every image.

    Raises:
        CheckpointError, DataError: as ``load`` and ``data.open``; DataError too where the classes differ.
        ConfigError: there is no such device, or it is not known which images the model was not trained on.
        InputError: the model has no head.
    """
    leave_if_imported_by_worker()
    if not isinstance(model, SwinTransformer):
        model = load(model)
    task = Classify.of(model)
    images, measured_on = chosen(data_.open(data), model.card and model.card.split, held_out, seed, all)
    source = Batches(None, relabelled(images, model), task)
    usable, why = usable_workers(source, workers)
    if why:
        warnings.warn(why, stacklevel=2)
    place, work = pick_device(device), batches(range(len(images)), batch_size)
    feed = stream(source, work, usable, pin=place.type == "cuda")
    found = measure(model.to(place), task, feed, len(work), place).compute()
    names = (model.card and model.card.class_names) or images.info.class_names
    confusion = tuple(map(tuple, found.pop("confusion")))
    return Evaluation(**found, confusion=confusion, classes=names, measured_on=measured_on)


def chosen(
    data: Splits, trained: HeldOut | None, held_out: float | None, seed: int | None, every: bool
) -> tuple[Dataset, str]:
    """Returns the images to measure on, and which these are in words.

    Args:
        data: what there is.
        trained: what training held out, as the model's card says; None: it says nothing.
        held_out, seed, every: what is asked for.
    """
    whole = data.train
    if (held_out is None) != (seed is None) or (every and held_out is not None):
        raise ConfigError("evaluate: give held_out and seed together, or all, or none of them")
    if every:
        return (whole if data.held_out is None else Joined((whole, data.held_out))), "all images, as asked for"
    if data.held_out is not None:
        return data.held_out, "the images that the data itself holds out"
    same = trained is not None and trained.fingerprint == whole.fingerprint()
    if held_out is not None and seed is not None:
        asked = HeldOut(held_out, seed, whole.labels() is not None, trained.fingerprint if same and trained else None)
        seen = "; the model was trained on some of them" if same and asked != trained else ""
        return data_.hold_out(whole, asked).held_out or whole, f"{held_out:.0%} of the images, seed {seed}{seen}"
    if trained is None:
        return whole, "all images: the checkpoint does not say that it was trained on any of them"
    if not same:
        raise ConfigError(
            f"{whole.info.name} is not the data that the model was trained on, or has changed since, so it is not known "
            "which images are new to it; try --all (every image), or --held-out SHARE with --seed"
        )
    return (
        data_.hold_out(whole, trained).held_out or whole,
        f"the images held out from training ({trained.share:.0%}, seed {trained.seed})",
    )


def relabelled(images: Dataset, model: SwinTransformer) -> Dataset:
    """The images with the numbers that the model gives their classes; DataError where it lacks one."""
    names, info = model.card and model.card.class_names, images.info
    if names is None:
        if len(info.class_names) != model.config.num_classes:
            raise DataError(f"got {len(info.class_names)} classes in {info.name}, the model has {model.config.num_classes}")
        return images
    unknown = [name for name in info.class_names if name not in names]
    if unknown:
        raise DataError(f"{info.name} has class {unknown[0]!r}, which the model does not know; it knows {list(names)}")
    return Relabelled(images, tuple(map(names.index, info.class_names)))


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """A data set with other numbers for its classes.

    Attributes:
        dataset: the data set.
        numbers: for every class of it the number to give.
    """

    dataset: Dataset
    numbers: Sequence[int]

    @property
    def info(self) -> DataInfo:
        """As of the data set."""
        return self.dataset.info

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Sample:
        sample = self.dataset[i]
        return sample._replace(target=self.numbers[sample.target])

    def labels(self) -> np.ndarray | None:
        """Returns the numbers given."""
        labels = self.dataset.labels()
        return None if labels is None else np.asarray(self.numbers)[labels]

    def fingerprint(self) -> str:
        """Changes when the data set or the numbers do."""
        return data_.digest(self.dataset.fingerprint(), list(self.numbers))
