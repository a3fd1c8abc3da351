"""What a run is made of: data in two parts, the task, the settings, and which samples make up which batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .. import data as data_
from ..card import HeldOut, Preprocess
from ..checkpoints import Parts
from ..data import Dataset, Splits
from ..errors import ConfigError, nearest
from ..tasks import TASKS, Task
from .choice import OF_THE_TASK, Choice, choose
from .config import RunSettings, TrainConfig
from .feed import Batches, Plan
from .progress import Progress


def columns_of(settings: TrainConfig) -> data_.Columns:
    """Returns the columns of a table that a run takes."""
    return data_.Columns(settings.image_column, settings.label_column, settings.label_separator)


def opened(
    data: Splits | Dataset | str | Path, settings: TrainConfig, progress: Progress
) -> tuple[Splits, HeldOut | None]:
    """Returns the data in two, and what was held out of it here; None where it has a split of its own."""
    splits = data_.open(data, settings.verify, progress.verified, columns_of(settings))
    how = None
    if splits.held_out is None:
        whole = splits.train
        how = HeldOut(settings.held_out, settings.seed, whole.labels() is not None, whole.fingerprint())
        splits = data_.hold_out(whole, how)
    return data_.limited(splits, settings.limit, settings.fraction, settings.seed), how


def check_split(start: Parts | None, held_out: HeldOut | None) -> None:
    """Raises ConfigError where the weights to start from have seen images of this data that are to be held out now."""
    before = None if start is None else start.card.split
    if (
        before is not None
        and held_out is not None
        and before != held_out
        and before.fingerprint == held_out.fingerprint
    ):
        raise ConfigError(
            f"the weights were trained on another split of this data (held out {before.share:g}, seed {before.seed}), "
            f"so they have seen images that would be held out now; try --held-out {before.share:g} --seed {before.seed}"
        )


def chosen(task: Task | None, settings: TrainConfig, dataset: Dataset, start: Parts | None) -> tuple[Task, Choice]:
    """Returns the task, and what the run uses."""
    info = dataset.info
    if task is not None:
        given = [name for name in OF_THE_TASK if getattr(settings, name) != getattr(TrainConfig, name)]
        given += [name for name in ("image_size", "value_range") if getattr(settings, name) is not None]
        given += ["balance"] if settings.balance == "loss" else []
        if given:
            raise ConfigError(f"got a task and {given[0]}, which is a setting of the task; give it to the task")
        choice = choose(settings, dataset, None if start is None else (start.config, Preprocess()))
        complete = choice.settings
        if settings.plain_epochs is None:  # those of a recipe belong to the augmentation that the recipe chose
            complete = dataclasses.replace(complete, plain_epochs=0)
        return task, choice._replace(settings=complete, why=f"{choice.why}; as given: the task {task.name}")
    if info.task not in TASKS:
        raise ConfigError(f"{info.name}: unknown task {info.task!r}{nearest(info.task, TASKS)}")
    kind, kind_of_settings = TASKS[info.task]
    how = None if start is None else (start.config, kind.preprocess_of(start.config, start.card))
    choice = choose(settings, dataset, how)
    return kind(kind_of_settings(**choice.task)), choice


def plan_of(splits: Splits, s: RunSettings, rank: int = 0, size: int = 1) -> Plan:
    """Returns which samples make up which batch of a run, for one of its processes."""
    assert splits.held_out is not None
    return Plan(
        samples=len(splits.train),
        held_out=len(splits.held_out),
        batch_size=s.batch_size,
        accumulate=s.accumulate,
        epochs=s.epochs,
        seed=s.seed,
        rank=rank,
        world_size=size,
        repeats=s.repeats,
        shares=data_.balanced(splits.train) if s.balance == "sampling" else None,
    )


def batches_of(splits: Splits, task: Task, s: RunSettings) -> Batches:
    """Returns the batches of a run. Raises ConfigError where plain epochs are asked for and the task has none."""
    plain = (plain_of(task), s.epochs - s.plain_epochs) if s.plain_epochs else None
    return Batches(splits.train, splits.held_out, task, s.seed, plain)


def plain_of(task: Task) -> Task:
    """Returns a task without strong augmentation. Raises ConfigError where it has no such form."""
    plain = getattr(task, "plain", None)
    if plain is None:
        raise ConfigError(f"plain_epochs: got a number of epochs, but the task {task.name} has no method plain()")
    return plain()
