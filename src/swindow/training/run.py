"""A training run, from the data and the settings to the weights."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import data as data_
from ..checkpoints import load_parts
from ..data import Dataset, Splits
from ..errors import nearest
from ..tasks import Task
from . import folder, summary
from .config import TrainConfig
from .feed import leave_if_imported_by_worker
from .loop import Loop
from .optimizer import optimizer_class
from .parallel import world
from .progress import Progress, Several
from .setup import check_split, chosen, columns_of, opened


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a training run made.

    The figures after the last epoch can be had as attributes too: for classification ``result.accuracy`` (fraction),
    ``result.loss`` (nats) and ``result.images``, all of the held-out data.

    Attributes:
        out: the folder: ``model.safetensors`` (weights after the last epoch), ``best.safetensors`` (of the best
            epoch), ``ema.safetensors`` (the moving average after the last epoch, where one was kept),
            ``metrics.jsonl``, ``curves.png``, a picture of every table of the metric, and ``state.pt``.
        metrics: the figures of the last epoch.
        best: the figures of the best epoch.
        history: the figures of every epoch, as in ``metrics.jsonl``.
        skipped: the files that could not be used, each with the reason.
    """

    out: Path
    metrics: dict[str, Any]
    best: dict[str, Any]
    history: list[dict[str, Any]]
    skipped: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        figures = self.__dict__.get("metrics", {})
        if name in figures:
            return figures[name]
        raise AttributeError(f"TrainResult has no attribute {name!r}{nearest(name, figures)}")


def train(
    data: Splits | Dataset | str | Path,
    settings: TrainConfig | None = None,
    *,
    task: Task | None = None,
    overwrite: bool = False,
    allow_changes: bool = False,
    progress: Progress | None = None,
    callbacks: Sequence[Progress] = (),
) -> TrainResult:
    """Trains a model, evaluating it after every epoch; returns what was made.

    A run that was stopped in ``settings.out`` goes on, and ends with the same weights as one that never was (bit for
    bit on the CPU): all chance is a function of the seed, the epoch and the sample, never of what ran before.

    Args:
        data: what ``data.open`` takes: ``digits`` or a folder of class folders; a data set, of which a share is held
            out; or data that is split.
        settings: the settings; TrainConfig's defaults if left out.
        task: what is to be learned; by default what the data suggests, with what ``settings`` says of it.
        overwrite: removes the files of the run that ``settings.out`` holds and starts afresh.
        allow_changes: the run in ``settings.out`` goes on also where ``settings`` differ in what may change: epochs,
            learning rates, weight decay, augmentation, ... (``config.CHANGEABLE``). Weights and optimizer are kept, and
            metrics.jsonl says what changed.
        progress: is told how the run gets on.
        callbacks: are told the same, for instance for a logger of one's own. Of several processes only the first tells.

    Raises:
        ConfigError: a setting is wrong, or ``settings.out`` holds a run with other settings or one that is at work.
        DataError: the data is absent or unusable.
        OutputError: a file cannot be written; the last state is intact, and the run can go on from it.
        TrainingError: the loss is no longer finite; the last state is from before that.
    """
    leave_if_imported_by_worker()
    asked, progress = settings or TrainConfig(), Several((*([progress] if progress else []), *callbacks))
    with world(asked.device) as here, contextlib.ExitStack() as stack:
        if not here.first:
            progress = Several(())
        stack.callback(progress.finished)
        here.on_first(lambda: stack.enter_context(folder.held(asked.out)))
        start = None if asked.weights is None else load_parts(asked.weights)
        found = data_.open(data, verify=False, columns=columns_of(asked)).train
        task, choice = chosen(task, asked, found, start)  # first: wrong settings are found before images are decoded
        optimizer_class(choice.settings.optimizer)
        splits, held_out = opened(data, asked, progress)
        check_split(start, held_out)
        for line in (choice.why, *summary.of_data(splits, held_out)):
            progress.note(line)
        run = Loop(splits, held_out, task, choice.settings, start, here, progress)
        here.on_first(lambda: folder.clear(asked.out, overwrite))
        run.resume(allow_changes)
        for line in summary.of_run(run):
            progress.note(line)
        stack.callback(run.close)
        run.all_epochs()
        run.draw()
        return TrainResult(asked.out, run.state.history[-1], run.best, run.state.history, run.info.skipped)
