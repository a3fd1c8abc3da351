"""What the command line shows while something long runs: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich import progress as bars
from rich.console import Console

from .training.progress import Progress

QUIET = 30.0  # seconds without a line before one says where a run stands
NOT_RESULTS = ("lr", "images_per_s", "seconds")  # of the figures of an epoch


class ConsoleProgress(Progress):
    """Shows how a training run gets on: a bar on a terminal, elsewhere a line now and then.

    Args:
        console: where to.

    Attributes:
        saved_step: the step that a stopped run goes on from; None before training begins.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.epochs = console, 0
        self.bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task: bars.TaskID | None = None
        self.steps = self.done = self.done_before = 0
        self.saved_step: int | None = None
        self.begun = self.last_line = time.monotonic()
        self.status, self.over = "", threading.Event()
        self.clock: threading.Thread | None = None

    def note(self, text: str) -> None:
        """Prints the line."""
        self._say(text)

    def verified(self, done: int, files: int) -> None:
        """Moves a bar of its own while files are looked at."""
        self._show("looking at the images", done, files, "")
        if done == files:
            self._remove()

    def started(self, steps: int, done: int, epochs: int) -> None:
        """Draws the bar."""
        self.epochs = epochs
        if 0 < done < steps:
            self._say(f"going on after step {done} of {steps}")
        if done == steps:
            self._say("this run is complete; nothing is left to train")
        self.steps, self.done, self.done_before, self.begun = steps, done, done, time.monotonic()
        self.saved_step = done
        self._show("training", done, steps, "")

    def step(self, done: int, figures: Mapping[str, float], images_per_s: float) -> None:
        """Moves the bar."""
        self.done = done
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        self._show("training", done, self.steps, f"{shown}  {images_per_s:.0f} images/s  {self._left()}")

    def evaluated(self, done: int, batches: int) -> None:
        """Says that the epoch is being evaluated."""
        self._show("training", self.done, self.steps, f"measuring held-out data: batch {done} of {batches}")

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Prints the epoch's line."""
        held_out = [
            f"{name} {value:.4f}"
            for name, value in figures.items()
            if isinstance(value, float) and not name.startswith("train_") and name not in NOT_RESULTS
        ]
        self._say(
            f"epoch {figures['epoch']:>3}/{self.epochs}  train loss {figures['train_loss']:.4f}  "
            f"held out: {'  '.join(held_out)}  {figures['images_per_s']:.0f} images/s  {self._left()}"
        )

    def saved(self, done: int) -> None:
        """Remembers it, for when the run is stopped."""
        self.saved_step = done

    def finished(self) -> None:
        """Takes the bar away."""
        self._remove()
        self.over.set()

    def _left(self) -> str:
        """How long the rest of the run takes at the speed of this process so far, evaluation included."""
        steps = self.done - self.done_before
        if not steps or self.done == self.steps:
            return ""
        seconds = (time.monotonic() - self.begun) / steps * (self.steps - self.done)
        return f"{datetime.timedelta(seconds=round(seconds))} left"

    def _show(self, what: str, done: int, of: int, figures: str) -> None:
        """Moves the bar; where there is none, keeps the line that is printed when none has been for a while."""
        self.status = f"{what}: {done} of {of}  {figures}"
        if not self.console.is_terminal:
            if self.clock is None:
                self.clock = threading.Thread(target=self._tick, daemon=True)
                self.clock.start()
            return
        if self.task is None:
            self.bars.start()
            self.task = self.bars.add_task(what, total=of, completed=done, figures=figures)
        self.bars.update(self.task, description=what, completed=done, total=of, figures=figures)

    def _tick(self) -> None:
        """Prints where the run stands when nothing has been printed for a while, however long a step takes."""
        with suppress(BrokenPipeError):  # what reads has gone, which ends the command when it prints its next line
            while not self.over.wait(max(0.0, self.last_line + QUIET - time.monotonic())):
                if time.monotonic() - self.last_line >= QUIET:
                    self._say(self.status.strip())

    def _say(self, text: str) -> None:
        self.last_line = time.monotonic()
        say(self.console, text)

    def _remove(self) -> None:
        self.bars.stop()
        if self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None


@contextmanager
def steps(console: Console, what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar on a terminal, elsewhere a line now and then.

    Yields what moves it: a step's name (or ""), how many are done, how many there are.
    """
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(
        *columns, bars.TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as shown:
        task, last_line = shown.add_task(what, total=None), time.monotonic()

        def step(name: str, done: int, total: int) -> None:
            nonlocal last_line
            shown.update(task, description=f"{what} {name}", completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last_line >= QUIET:
                say(console, f"{what}: {done} of {total}")
                last_line = time.monotonic()

        yield step


def report(found: dict[str, Any]) -> list[str]:
    """Lines for what ``checkpoints.describe`` returns: the model, then what became of the file's tensors."""
    config = found["config"]
    windows, trained = _windows(config["window_size"]), config["pretrained_window_size"]
    size, names, split = found["input_size"], found.get("class_names"), found.get("split")
    lines = {
        "source": found.get("source", "none: random weights"),
        "layout": found.get("layout", "swindow"),
        "variant": found["variant"] or "no published one",
        "input": "any size" if size is None else f"{'x'.join(map(str, size))} pixels, any size runs",
        "parameters": f"{found['parameters']:,}",
        "cost": "" if found["gmacs"] is None else f"{found['gmacs']} GMACs at that size",
        "blocks": f"{_row(config['depths'])}, heads {_row(config['num_heads'])}, {config['embed_dim']} channels first",
        "windows": windows if trained is None else f"{windows}, trained with {_windows(trained)}",
        "classes": f"{config['num_classes']}" + ("" if not names else f": {_some(names)}"),
        "task": found.get("task", ""),
        "data": found.get("data", ""),
        "held out": f"{split['share']:.0%} of it, seed {split['seed']}" if split else "",
        "licence": found.get("licence", ""),
        "description": found.get("description", ""),
        "preprocess": ", ".join(f"{key} {_plain(value)}" for key, value in found.get("preprocess", {}).items()),
        "matched": f"{found['matched']} tensors" if "matched" in found else "",
        "new": _some(found.get("initialised", ())),
    }
    shown = [f"{key:>14}  {value}" for key, value in lines.items() if value]
    for kind in ("assumed", "resized", "dropped"):
        reasons: dict[str, list[str]] = {}
        for key, why in found.get(kind, {}).items():
            reasons.setdefault(why, []).append(key)
        for why, keys in reasons.items():
            shown.append(f"{kind:>14}  {_some(keys)}: {why}")
    return shown


def _windows(windows: Sequence[Sequence[int]]) -> str:
    return " ".join(_plain(window) for window in windows)


def _plain(value: Any) -> str:
    """``224x224`` for a size, ``0.485 0.456`` for other numbers, else the value."""
    if not isinstance(value, (list, tuple)):
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    return ("x" if all(isinstance(v, int) for v in value) else " ").join(map(_plain, value))


def _row(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers))


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(str, names[:3])) + more


def say(console: Console, text: str) -> None:
    """Prints a line as it is: no markup, no colours guessed into it, no wrapping inside words."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
