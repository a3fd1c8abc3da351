"""What the command line shows while something long runs: a bar on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

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


def say(console: Console, text: str) -> None:
    """Prints a line as it is: no markup, no colours guessed into it, no wrapping inside words."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
