"""The training loop. It knows tasks by their protocol and none of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import data as data_
from ..card import HeldOut, Preprocess
from ..checkpoints import Parts, load_parts, replacing
from ..data import Dataset, Splits
from ..errors import ConfigError, TrainingError, nearest
from ..kernels import products
from ..models import SwinTransformer
from ..tasks import TASKS, Batch, Task
from . import folder, plots, summary
from . import state as states
from .config import CHANGEABLE, RunSettings, TrainConfig
from .feed import Batches, Plan, leave_if_imported_by_worker, seed_model, stream, usable_workers
from .learner import Learner
from .measure import measure
from .optimizer import optimizer_class
from .parallel import World, world
from .progress import Progress, Several
from .recipes import OF_THE_TASK, Choice, choose
from .tally import Tally

# Steps; elsewhere than on a CPU 10, since a device works ahead of this process until something is read.
READ_EVERY = {"cpu": 1}


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
        columns = data_.Columns(asked.image_column, asked.label_column, asked.label_separator)
        found = data_.open(data, verify=False, columns=columns).train
        task, choice = chosen(task, asked, found, start)  # first: wrong settings are found before images are decoded
        optimizer_class(choice.settings.optimizer)
        splits, held_out = opened(data, asked, progress)
        check_split(start, held_out)
        for line in (choice.why, *summary.of_data(splits, held_out)):
            progress.note(line)
        run = Run(splits, held_out, task, choice.settings, start, here, progress)
        here.on_first(lambda: folder.clear(asked.out, overwrite))
        run.resume(allow_changes)
        for line in summary.of_run(run):
            progress.note(line)
        stack.callback(run.close)
        run.all_epochs()
        return run.finish()


def opened(
    data: Splits | Dataset | str | Path, settings: TrainConfig, progress: Progress
) -> tuple[Splits, HeldOut | None]:
    """Returns the data in two, and what was held out of it here; None where it has a split of its own."""
    columns = data_.Columns(settings.image_column, settings.label_column, settings.label_separator)
    splits = data_.open(data, settings.verify, progress.verified, columns)
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
        return task, choice._replace(why=f"{choice.why}; as given: the task {task.name}")
    if info.task not in TASKS:
        raise ConfigError(f"{info.name}: unknown task {info.task!r}{nearest(info.task, TASKS)}")
    kind, kind_of_settings = TASKS[info.task]
    how = None if start is None else (start.config, kind.preprocess_of(start.config, start.card))
    choice = choose(settings, dataset, how)
    return kind(kind_of_settings(**choice.task)), choice


def processor(device: torch.device, product: str | None) -> str:
    """Returns what computes on a device, in one line: a run on another one is not bit-equal."""
    if device.type == "cpu":
        return products.description(product)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


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


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of what a metric has computed, without its tables."""
    return {name: value for name, value in found.items() if value is None or isinstance(value, (int, float))}


class Run:
    """A training run in one process: the model, how it is trained, and how far it has got."""

    def __init__(
        self,
        splits: Splits,
        held_out: HeldOut | None,
        task: Task,
        settings: RunSettings,
        start: Parts | None,
        here: World,
        progress: Progress,
    ) -> None:
        s, info = settings, splits.train.info
        assert splits.held_out is not None
        if s.batch_size % here.size:
            raise ConfigError(f"batch_size: got {s.batch_size}, expected a multiple of the {here.size} processes")
        if len(splits.train) < here.size:
            raise ConfigError(f"{info.name} has {len(splits.train)} training samples for {here.size} processes")
        self.task, self.settings, self.here, self.progress = task, s, here, progress
        self.info, self.out = info, s.out
        torch.manual_seed(s.seed)
        self.model: nn.Module = task.build(info, start)
        card = task.card(info)
        self.card = card.replace(split=held_out).after(None if start is None else start.card)
        for module in self.model.modules():
            if isinstance(module, SwinTransformer):
                module.set_grad_checkpointing(s.grad_checkpointing)
                if s.product is not None:
                    module.set_kernel(product=s.product)
        self.model.to(here.device)
        self.identity = {
            **s.identity(),
            "task": card.replace(split=None).to_dict(),
            "data": data_.digest(splits.train.fingerprint(), splits.held_out.fingerprint()),
            "processes": here.size,
        }
        self.plan = plan_of(splits, s, here.rank, here.size)
        steps = self.plan.steps
        self.learner = Learner(self.model, s, s.epochs * steps, round(s.warmup_epochs * steps), here)
        self.batches = batches_of(splits, task, s)
        asked = (0 if info.in_memory else min(4, os.cpu_count() or 1)) if s.workers is None else s.workers
        self.workers, why = usable_workers(self.batches, asked)
        if why:
            progress.note(why)
        self.tally = Tally(here)
        self.read_every = READ_EVERY.get(here.device.type, 10)

    def resume(self, allow_changes: bool = False) -> None:
        """Goes back to where the run in the folder stopped, if there is one."""
        self.state, weights, changes = states.resume(self.out, self.identity, CHANGEABLE if allow_changes else ())
        if changes:
            self.state.changes += changes
            self.progress.note(f"going on with other settings: {'; '.join(changes)}")
        if self.state.epoch > self.settings.epochs:
            raise ConfigError(f"epochs: got {self.settings.epochs}, the run in {self.out} has done {self.state.epoch}")
        self.learner.begin(weights)
        self.note_processor()
        work = self.plan.work(self.state.epoch, self.state.step)
        self.feed: Iterator[Batch] = stream(self.batches, work, self.workers, pin=self.here.device.type == "cuda")

    def note_processor(self) -> None:
        """Writes down what computes from here on, and says so where another processor computed before."""
        now = "; ".join(dict.fromkeys(self.here.gather(processor(self.here.device, self.settings.product))))
        before = self.state.moved_to(now)
        if before is not None and self.state.epoch < self.settings.epochs:
            self.progress.note(
                f"processor: got {now}, the saved state is from {before}; the resumed run will not be bit-equal to one "
                "that stays on one processor; try --product torch (or onednn) for a new run that moves between machines"
            )

    def close(self) -> None:
        """Ends the workers."""
        self.feed.close()  # type: ignore[attr-defined]  # it is a generator

    def all_epochs(self) -> None:
        """Trains from where the run stands to its last epoch."""
        steps = self.plan.steps
        self.progress.started(
            self.settings.epochs * steps, self.state.epoch * steps + self.state.step, self.settings.epochs
        )
        self.saved = time.monotonic()
        for epoch in range(self.state.epoch, self.settings.epochs):
            if self.is_over():
                return
            started, images = time.monotonic(), 0
            self.learner.parallel.train()
            for parts in self.plan.training(epoch, self.state.step):
                self.step(epoch, parts)
                images += self.here.size * sum(len(part.indices) for part in parts)
                self.state.step += 1
                if self.state.step % self.read_every == 0 or self.state.step == steps:
                    self.read(epoch, images / (time.monotonic() - started))
            seconds = time.monotonic() - started
            self.end_epoch(images / seconds, seconds)

    def is_over(self) -> bool:
        """Whether the last epochs, as many as ``patience`` says, were no better than the best; says so."""
        patience, history = self.settings.patience, self.state.history
        if patience is None or not history or history[-1]["epoch"] - self.best["epoch"] < patience:
            return False
        self.progress.note(f"stopped: no epoch of the last {patience} was better than epoch {self.best['epoch']}")
        return True

    def step(self, epoch: int, parts: list[Any]) -> None:
        """One step of the optimizer."""
        learner, here, step = self.learner, self.here, epoch * self.plan.steps + self.state.step
        learner.start_step(step)
        batches = [next(self.feed) for _ in parts]
        counts: dict[str, float] = {}
        for batch in batches:
            for unit, count in self.task.units(batch).items():
                counts[unit] = counts.get(unit, 0.0) + count
        n, sums = learner.parallel.total(counts), torch.zeros(())
        for part, batch in enumerate(batches):
            batch = batch.to(here.device)
            seed_model(self.settings.seed, step, part, here.rank)
            with learner.parallel.part(last=part == len(batches) - 1):
                with learner.autocast():
                    outputs = learner.parallel(**batch.inputs)
                losses = self.task.loss(outputs, batch)
                minimised = [value / n[unit] for value, unit in losses.values() if value.requires_grad]
                if not minimised:
                    raise TrainingError(f"task {self.task.name}: no loss has a gradient, got {', '.join(losses)}")
                learner.backward(sum(minimised[1:], start=minimised[0]))
            sums = self.tally.sums(losses) + (sums if part else 0.0)
            del outputs, losses, minimised  # before the next part needs the memory
        self.tally.add(sums, counts, learner.end_step(step))

    def read(self, epoch: int, images_per_s: float) -> None:
        """Reads what the last steps gave, checks that it is finite, reports it, and saves the state now and then."""
        first = self.state.step - len(self.tally)
        late = time.monotonic() - self.saved >= 60 * self.settings.save_minutes
        steps, save = self.tally.read(late)
        for step, (sums, norm) in enumerate(steps, start=first + 1):
            loss = sum(value for value, _ in sums.values())
            if not (math.isfinite(loss) and (math.isfinite(norm) or self.learner.may_leave_out())):
                self.diverged(f"the loss is {loss}, the gradient's norm {norm} at step {step} of epoch {epoch + 1}")
            for name, found in sums.items():
                before = self.state.sums.get(name, (0.0, 0.0))
                self.state.sums[name] = (before[0] + found[0], before[1] + found[1])
        self.progress.step(epoch * self.plan.steps + self.state.step, self.means(), images_per_s)
        if save and self.state.step < self.plan.steps:
            self.save_state()

    def means(self) -> dict[str, float]:
        """The means of the losses over the epoch so far, and their total."""
        means = self.state.means()
        return {"loss": sum(means[name] for name in self.tally.minimised), **means}

    def diverged(self, what: str) -> None:
        """Raises TrainingError; nothing has been saved since the figures were finite."""
        raise TrainingError(f"{what}; try a lower lr than {self.learner.lr:g}, more warmup_epochs or a smaller clip")

    def end_epoch(self, images_per_s: float, seconds: float) -> None:
        """Evaluates and writes weights, metrics and state: the state last, as a kill before it repeats all of this."""
        count = len(self.plan.evaluation())
        models = self.learner.models()
        metrics = measure(models, self.task, self.feed, count, self.here.device, self.progress.evaluated)
        found, *averaged = map(self.here.compute, metrics)
        figures = numbers(found) | {
            f"ema_{name}": value
            for more in averaged
            for name, value in numbers(more).items()
            if not isinstance(value, int)
        }  # counts are the same
        for name, value in figures.items():
            if value is not None and not math.isfinite(value):
                self.diverged(f"the {name} of the held-out data is {value} after epoch {self.state.epoch + 1}")
        self.state.epoch += 1
        self.state.history.append(
            {
                "epoch": self.state.epoch,
                "lr": self.learner.rate,
                **{f"train_{name}": value for name, value in self.means().items()},
                **figures,
                "images_per_s": round(images_per_s, 1),
                "seconds": round(seconds, 2),
                "processor": " then ".join(self.state.processors),
                **({"changed": "; ".join(self.state.changes)} if self.state.changes else {}),
            }
        )
        self.state.step, self.state.sums, self.state.changes = 0, {}, []
        self.state.processors = self.state.processors[-1:]
        self.state.tables = {name: value for name, value in found.items() if name not in figures}
        names = ["model.safetensors"]
        if self.best is self.state.history[-1]:
            names.insert(0, "best.safetensors")
        model, weights, average = self.learner.parallel.whole(), self.learner.state(), self.learner.average

        def write() -> None:
            for name in names:
                states.save_weights(model, self.card, self.out / name)
            if average is not None:
                states.save_weights(average.model, self.card, self.out / "ema.safetensors")
            with replacing(self.out / "metrics.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in self.state.history))
            states.save(self.out, self.state, self.identity, weights)

        self.here.on_first(write)
        self.after_saving()
        self.progress.epoch(self.state.history[-1])

    @property
    def best(self) -> dict[str, Any]:
        """The figures of the best epoch so far."""
        return states.best_epoch(self.state.history, self.task.metric().best)

    def save_state(self) -> None:
        """Writes the state of the run."""
        weights = self.learner.state()
        self.here.on_first(lambda: states.save(self.out, self.state, self.identity, weights))
        self.after_saving()

    def after_saving(self) -> None:
        """Remembers when that was, and reports it."""
        self.saved = time.monotonic()
        self.progress.saved(self.state.epoch * self.plan.steps + self.state.step)

    def finish(self) -> TrainResult:
        """Draws the pictures and returns the result."""
        history = self.state.history
        if self.here.first:
            try:
                plots.curves(history, self.out / "curves.png")
                for name, table in self.state.tables.items():
                    if name in plots.TABLES:
                        plots.TABLES[name](table, self.info.class_names, self.out / f"{name}.png")
            except ImportError:
                self.progress.note("no pictures: they need matplotlib; try pip install 'swindow[train]'")
        return TrainResult(self.out, history[-1], self.best, history, self.info.skipped)
