"""How good a model is on labelled images it was not trained on."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

from .. import data as data_
from ..card import HeldOut, ModelCard
from ..checkpoints import load
from ..data import Dataset, Splits
from ..errors import ConfigError
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
    where the model's card says that it was trained on this data; every image, where the card records no split. Other
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
        ConfigError: there is no such device, or the held-out images are unknown.
        InputError: the model has no head.
    """
    leave_if_imported_by_worker()
    if not isinstance(model, SwinTransformer):
        model = load(model)
    card = model.card or ModelCard()
    splits = data_.open(data)
    info = splits.train.info
    task, metrics = Classify.of(model, info), []
    parts, measured_on = chosen(splits, card.split, held_out, seed, all)
    place = pick_device(device)
    for images in parts:
        source, work = Batches(None, images, task), batches(range(len(images)), batch_size)
        usable, why = usable_workers(source, workers)
        if why:
            warnings.warn(why, stacklevel=2)
        feed = stream(source, work, usable, pin=place.type == "cuda")
        metrics.append(measure(model.to(place), task, feed, len(work), place))
    metrics[0].merge(metrics[1:])
    found = metrics[0].compute()
    return Evaluation(
        accuracy=found["accuracy"],
        loss=found["loss"],
        images=found["images"],
        confusion=tuple(map(tuple, found["confusion"])),
        classes=card.class_names or info.class_names,
        measured_on=measured_on,
    )


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
