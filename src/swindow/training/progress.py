"""What a training run tells while it runs. This one says nothing; the command line has one that draws a bar."""

from __future__ import annotations

from typing import Any


class Progress:
    """Is told how a run gets on; override what should be shown."""

    def note(self, text: str) -> None:
        """Something a person should know, in one line."""

    def started(self, steps: int, done: int) -> None:
        """Training begins: steps in all, and steps done by an earlier process that was stopped."""

    def step(self, loss: float, accuracy: float, images_per_s: float) -> None:
        """A step is done: loss and accuracy (fraction) of the epoch so far, speed."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch is done and evaluated: its line of metrics.jsonl."""

    def verified(self, done: int, files: int) -> None:
        """So many of the files have been looked at."""

    def finished(self) -> None:
        """Training is over, or was stopped by an error."""
