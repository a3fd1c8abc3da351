"""The training loop. It knows tasks by their protocol and none of them."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .. import data as data_
from ..card import HeldOut
from ..checkpoints import Parts, replacing
from ..data import Splits
from ..errors import ConfigError, TrainingError
from ..kernels import products
from ..models import SwinTransformer
from ..tasks import Batch, Task
from . import plots
from . import state as states
from .config import CHANGEABLE, RunSettings
from .feed import seed_model, stream, usable_workers
from .learner import Learner
from .measure import measure
from .parallel import World
from .progress import Progress
from .setup import batches_of, plan_of
from .tally import Tally

# Steps; elsewhere than on a CPU 10, since a device works ahead of this process until something is read.
READ_EVERY = {"cpu": 1}


def processor(device: torch.device, product: str | None) -> str:
    """Returns what computes on a device, in one line: a run on another one is not bit-equal."""
    if device.type == "cpu":
        return products.description(product)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of what a metric has computed, without its tables."""
    return {name: value for name, value in found.items() if value is None or isinstance(value, (int, float))}


class Loop:
    """The training loop of one process: the model, how it is trained, and how far it has got."""

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
        """Evaluates, and writes weights, metrics and state."""
        figures, tables = self.evaluated()
        state = self.state
        state.epoch += 1
        state.history.append(
            {
                "epoch": state.epoch,
                "lr": self.learner.rate,
                **{f"train_{name}": value for name, value in self.means().items()},
                **figures,
                "images_per_s": round(images_per_s, 1),
                "seconds": round(seconds, 2),
                "processor": " then ".join(state.processors),
                **({"changed": "; ".join(state.changes)} if state.changes else {}),
            }
        )
        state.step, state.sums, state.changes, state.tables = 0, {}, [], tables
        state.processors = state.processors[-1:]
        self.write()
        self.progress.epoch(state.history[-1])

    def evaluated(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The figures and the tables of the metric on the held-out data; figures of averaged weights begin with ema."""
        count = len(self.plan.evaluation())
        metrics = measure(self.learner.models(), self.task, self.feed, count, self.here.device, self.progress.evaluated)
        found, *averaged = map(self.here.compute, metrics)
        figures = numbers(found)
        tables = {name: value for name, value in found.items() if name not in figures}
        for more in averaged:  # counts are the same
            figures |= {f"ema_{name}": value for name, value in numbers(more).items() if not isinstance(value, int)}
        for name, value in figures.items():
            if value is not None and not math.isfinite(value):
                self.diverged(f"the {name} of the held-out data is {value} after epoch {self.state.epoch + 1}")
        return figures, tables

    def write(self) -> None:
        """Writes what an epoch made; the state last, as a kill before that repeats all of it."""
        names = ["model.safetensors"]
        if self.best is self.state.history[-1]:
            names.insert(0, "best.safetensors")
        model, weights, average = self.learner.parallel.whole(), self.learner.state(), self.learner.average

        def files() -> None:
            for name in names:
                states.save_weights(model, self.card, self.out / name)
            if average is not None:
                states.save_weights(average.model, self.card, self.out / "ema.safetensors")
            with replacing(self.out / "metrics.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in self.state.history))
            states.save(self.out, self.state, self.identity, weights)

        self.here.on_first(files)
        self.after_saving()

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

    def draw(self) -> None:
        """Draws curves, and a picture of every table of the metric, in the first process."""
        if not self.here.first:
            return
        try:
            plots.curves(self.state.history, self.out / "curves.png")
            for name, table in self.state.tables.items():
                if name in plots.TABLES:
                    plots.TABLES[name](table, self.info.class_names, self.out / f"{name}.png")
        except ImportError:
            self.progress.note("no pictures: they need matplotlib; try pip install 'swindow[train]'")
