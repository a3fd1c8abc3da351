"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import variants
from ..card import ModelCard, Preprocess, preprocessing
from ..checkpoints import load, replacing, save
from ..data import AUGMENTS, Source, open_source
from ..errors import ConfigError, OutputError, TrainingError
from ..models import SwinTransformer, create
from . import figures
from . import state as states
from .batches import Images, epoch_order, epoch_steps, loader, seed_model
from .config import TrainConfig
from .distributed import World, world
from .evaluation import Evaluation, count, summary
from .optimizer import adamw, learning_rate
from .progress import Progress

FILES = ("model.safetensors", "best.safetensors", "metrics.jsonl", "curves.png", "confusion.png", states.FILE)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a training run made.

    Attributes:
        out: the folder: ``model.safetensors`` (weights after the last epoch), ``best.safetensors`` (of the epoch with
            the best held-out accuracy), ``metrics.jsonl``, ``curves.png``, ``confusion.png`` and ``state.pt``.
        accuracy, loss, images: held-out accuracy (fraction), cross-entropy (nats) and images after the last epoch.
        best: the metrics of the best epoch.
        history: the metrics of every epoch, as in ``metrics.jsonl``.
        skipped: the files that could not be used, each with the reason.
    """

    out: Path
    accuracy: float
    loss: float
    images: int
    best: dict[str, Any]
    history: list[dict[str, Any]]
    skipped: tuple[str, ...]


def train(
    data: Source | str | Path,
    settings: TrainConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains a classifier, evaluating after every epoch; returns what was made.

    A run that was stopped in ``settings.out`` goes on, and ends with the same weights as one that never was (bit for
    bit on the CPU): all chance is a function of the seed, the epoch and the image, never of what ran before.

    Args:
        data: a Source, or what ``data.open_source`` takes: ``digits`` or a folder of class folders.
        settings: the settings; TrainConfig's defaults if left out.
        overwrite: removes the files of the run that ``settings.out`` holds and starts afresh.
        progress: is told how the run gets on.

    Raises:
        ConfigError: a setting is wrong, or ``settings.out`` holds a run with other settings.
        DataError: the data is absent or unusable.
        OutputError: a file cannot be written; the last state is intact, and the run can go on from it.
        TrainingError: the loss is no longer finite.
    """
    settings, progress = settings or TrainConfig(), progress or Progress()
    with world(settings.device) as here, contextlib.ExitStack() as stack:
        if not here.first:
            progress = Progress()
        stack.callback(progress.finished)
        if not isinstance(data, Source):
            data = open_source(data, settings.held_out, settings.seed, settings.verify, progress.verified)
        for problem in data.skipped:
            progress.note(f"skipped {problem}")
        run = Run(data, settings, here, overwrite)
        run.all_epochs(progress)
        return run.finish(progress)


class Run:
    """A training run in one process: the model, how it is trained, and how far it has got."""

    def __init__(self, source: Source, settings: TrainConfig, here: World, overwrite: bool) -> None:
        if settings.batch_size % here.size:
            raise ConfigError(
                f"batch_size: got {settings.batch_size}, expected a multiple of the {here.size} processes"
            )
        if len(source.train) < here.size:
            raise ConfigError(f"{source.name} has {len(source.train)} training images for {here.size} processes")
        self.source, self.settings, self.here, self.out = source, settings, here, settings.out
        self.model, self.how = build(source, settings)
        self.model.to(here.device)
        self.optimizer = adamw(self.model, settings.weight_decay)
        self.lr = source.lr if settings.lr is None else settings.lr
        self.augment = source.augment if settings.augment == "auto" else AUGMENTS[settings.augment]
        self.workers = settings.workers
        if self.workers is None:
            self.workers = 0 if source.name == "digits" else min(4, os.cpu_count() or 1)
        bf16_here = here.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.bf16 = settings.precision == "bf16" or (settings.precision == "auto" and bf16_here)
        self.identity = {**settings.identity(), "data": states.fingerprint(source), "processes": here.size}
        if here.first:
            _prepare_folder(self.out, overwrite)
        here.wait()
        self.state = states.resume(self.out, self.identity, self.model, self.optimizer)
        self.parallel: nn.Module = self.model
        if here.size > 1:
            self.parallel = DistributedDataParallel(self.model)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return epoch_steps(len(self.source.train), self.settings.batch_size, self.here.size)

    def all_epochs(self, progress: Progress) -> None:
        """Trains from where the run stands to its last epoch."""
        progress.started(self.settings.epochs * self.steps, self.state.epoch * self.steps + self.state.step)
        for epoch in range(self.state.epoch, self.settings.epochs):
            started = time.monotonic()
            images_before = self.state.sums[2]
            self.epoch(epoch, progress, started, images_before)
            seconds = time.monotonic() - started
            self.end_epoch((self.state.sums[2] - images_before) / seconds, seconds)
            progress.epoch(self.state.history[-1])

    def epoch(self, epoch: int, progress: Progress, started: float, images_before: float) -> None:
        """Takes the steps of an epoch that are not done yet, saving now and then."""
        s, here, saved = self.settings, self.here, time.monotonic()
        order = epoch_order(len(self.source.train), s.batch_size, s.seed, epoch, here.rank, here.size)
        steps = [split(batch, s.accumulate) for batch in order[self.state.step :]]
        dataset = Images(self.source.train, self.how, self.augment, s.seed, epoch)
        parts = [part for step in steps for part in step]
        assert self.workers is not None
        feed = loader(dataset, parts, self.workers, pin=here.device.type == "cuda")
        self.parallel.train()
        for step in steps:
            sums = self.step(epoch * self.steps + self.state.step, feed, len(step), sum(map(len, step)))
            loss, right, images = (a + b for a, b in zip(self.state.sums, sums, strict=True))
            self.state.sums = (loss, right, images)
            self.state.step += 1
            speed = (images - images_before) / (time.monotonic() - started)
            progress.step(loss / images, right / images, speed)
            if time.monotonic() - saved >= 60 * s.save_minutes and self.state.step < self.steps:
                self.save_state()
                saved = time.monotonic()

    def step(self, step: int, feed: Iterator[tuple[Tensor, Tensor]], parts: int, images: int) -> list[float]:
        """One step of the optimizer; returns summed loss, right answers and images, over all processes."""
        s, here = self.settings, self.here
        lr = learning_rate(step, s.epochs * self.steps, round(s.warmup_epochs * self.steps), self.lr, s.min_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sums = torch.zeros(3, dtype=torch.float64)
        for part in range(parts):
            x, labels = (t.to(here.device, non_blocking=True) for t in next(feed))
            seed_model(s.seed, step, part, here.rank)
            last = part == parts - 1
            with self.parallel.no_sync() if here.size > 1 and not last else contextlib.nullcontext():  # type: ignore[operator]
                with torch.autocast(here.device.type, torch.bfloat16, enabled=self.bf16):
                    logits = self.parallel(x)  # (B, classes)
                losses = F.cross_entropy(logits.float(), labels, label_smoothing=s.label_smoothing, reduction="sum")
                (losses / images).backward()  # the mean over the parts here; DDP takes the mean over the processes
            right = (logits.argmax(-1) == labels).sum()
            sums += torch.tensor([losses.item(), right.item(), len(labels)], dtype=torch.float64)
        loss, right_, count_ = here.sum(sums).tolist()
        if not loss < float("inf"):
            raise TrainingError(
                f"the loss is {loss} at step {step} (epoch {step // self.steps + 1}); "
                f"try a lower lr than {self.lr}, more warmup_epochs or a smaller clip"
            )
        nn.utils.clip_grad_norm_(self.model.parameters(), s.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return [loss, right_, count_]

    def end_epoch(self, images_per_s: float, seconds: float) -> None:
        """Evaluates and writes weights, metrics and state: the state last, as a kill before it repeats all of this."""
        assert self.workers is not None
        s = self.settings
        counts = count(self.model, self.source.held_out, self.how, self.here, s.batch_size, self.workers)
        found = summary(counts, self.source.classes)
        loss, right, images = self.state.sums
        self.state.epoch += 1
        self.state.history.append(
            {
                "epoch": self.state.epoch,
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": loss / images,
                "train_accuracy": right / images,
                "loss": found.loss,
                "accuracy": found.accuracy,
                "images": found.images,
                "images_per_s": round(images_per_s, 1),
                "seconds": round(seconds, 2),
            }
        )
        self.state.step, self.state.sums = 0, (0.0, 0.0, 0.0)
        self.state.confusion = [list(row) for row in found.confusion]
        if self.here.first:
            if self.state.best is self.state.history[-1]:
                save(self.model, self.out / "best.safetensors")
            save(self.model, self.out / "model.safetensors")
            with replacing(self.out / "metrics.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(metrics) + "\n" for metrics in self.state.history))
        self.save_state()

    def save_state(self) -> None:
        """Writes the state of the run."""
        if self.here.first:
            states.save(self.out, self.state, self.identity, self.model, self.optimizer)

    def finish(self, progress: Progress) -> TrainResult:
        """Draws the figures and returns the result."""
        last, best = self.state.history[-1], self.state.best
        assert best is not None
        if self.here.first:
            evaluation = Evaluation(
                last["accuracy"],
                last["loss"],
                last["images"],
                tuple(map(tuple, self.state.confusion)),
                self.source.classes,
            )
            try:
                figures.curves(self.state.history, self.out / "curves.png")
                figures.confusion(evaluation, self.out / "confusion.png")
            except ImportError:
                progress.note("no pictures: they need matplotlib; try pip install 'swindow[train]'")
        return TrainResult(
            self.out, last["accuracy"], last["loss"], last["images"], best, self.state.history, self.source.skipped
        )


def build(source: Source, settings: TrainConfig) -> tuple[SwinTransformer, Preprocess]:
    """Returns the model that a run starts from, on the CPU, and how its images are prepared."""
    torch.manual_seed(settings.seed)
    rate = {} if settings.drop_path_rate is None else {"drop_path_rate": settings.drop_path_rate}
    classes = len(source.classes)
    if settings.weights is None:
        name = settings.variant or source.variant
        how = source.preprocess(settings.image_size or source.image_size or variants.image_size(name))
        model = create(name, num_classes=classes, in_chans=how.channels, **rate)
    else:
        start = load(settings.weights, num_classes=classes)
        how = preprocessing(start.card, channels=start.config.in_chans)
        if settings.image_size:
            how = dataclasses.replace(how, size=(settings.image_size,) * 2)
        model = SwinTransformer(start.config.replace(**rate))
        model.load_state_dict(start.state_dict())
    model.set_grad_checkpointing(settings.grad_checkpointing)
    model.card = ModelCard(task="classify", class_names=source.classes, preprocess=how, data=source.name)
    return model, how


def split(batch: list[int], parts: int) -> list[list[int]]:
    """Returns a batch in at most ``parts`` parts, as equal as can be, none empty.

    Example:
        >>> split([1, 2, 3, 4, 5], 2)
        [[1, 2, 3], [4, 5]]
    """
    size = -(-len(batch) // parts)
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def _prepare_folder(out: Path, overwrite: bool) -> None:
    """Makes the folder of a run; removes what a kill left half-written and, to overwrite a run, the files of runs."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES if overwrite else ():  # and no others: the folder may hold somebody's notes
            (out / name).unlink(missing_ok=True)
        for left in out.glob(".*.tmp"):
            left.unlink()
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be used as the folder of a run ({error.strerror}); try another out"
        ) from error
