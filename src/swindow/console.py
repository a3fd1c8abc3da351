"""What the command line shows while something long runs: a bar on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import progress as bars
from rich.console import Console

from .training.progress import Progress


class ConsoleProgress(Progress):
    """Shows how a training run gets on."""

    def __init__(self, console: Console, epochs: int) -> None:
        self.console, self.epochs = console, epochs
        self.bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[figures]}"),
            bars.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task: bars.TaskID | None = None

    def note(self, text: str) -> None:
        """Prints the line."""
        say(self.console, text)

    def verified(self, done: int, files: int) -> None:
        """Moves a bar of its own while files are looked at."""
        if self.task is None:
            self.bars.start()
            self.task = self.bars.add_task("looking at the images", total=files, figures="")
        self.bars.update(self.task, completed=done)
        if done == files:
            self.finished()

    def started(self, steps: int, done: int) -> None:
        """Draws the bar."""
        if 0 < done < steps:
            say(self.console, f"going on after step {done} of {steps}")
        if done == steps:
            say(self.console, "this run is complete; nothing is left to train")
        self.bars.start()
        self.task = self.bars.add_task("training", total=steps, completed=done, figures="")

    def step(self, loss: float, accuracy: float, images_per_s: float) -> None:
        """Moves the bar."""
        if self.task is not None:
            figures = f"loss {loss:.3f}  accuracy {accuracy:.3f}  {images_per_s:.0f} images/s"
            self.bars.update(self.task, advance=1, figures=figures)

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Prints the epoch's line."""
        say(
            self.console,
            f"epoch {metrics['epoch']:>3}/{self.epochs}  train loss {metrics['train_loss']:.4f}  "
            f"held-out loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.4f}  "
            f"{metrics['images_per_s']:.0f} images/s",
        )

    def finished(self) -> None:
        """Takes the bar away."""
        self.bars.stop()
        if self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None


@contextmanager
def steps(console: Console, what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar on a terminal; yields what moves it: a step's name, how many are done, how many there are."""
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(
        *columns, bars.TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as shown:
        task = shown.add_task(what, total=None)

        def step(name: str, done: int, total: int) -> None:
            shown.update(task, description=f"{what} {name}", completed=done, total=total)

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
