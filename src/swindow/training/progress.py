"""What a training run tells while it runs. This one says nothing; the command line has one that draws a bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Progress:
    """Is told how a run gets on; override what should be shown."""

    def note(self, text: str) -> None:
        """Something a person should know, in one line."""

    def verified(self, done: int, files: int) -> None:
        """So many of the files have been looked at."""

    def started(self, steps: int, done: int, epochs: int) -> None:
        """Training begins: steps of all epochs, steps done by an earlier process that was stopped, epochs."""

    def step(self, done: int, figures: Mapping[str, float], images_per_s: float) -> None:
        """Steps are done, so many of all epochs: the means of the losses over the epoch so far, speed."""

    def evaluated(self, done: int, batches: int) -> None:
        """So many batches of this epoch's held-out data have been measured."""

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """An epoch is done and evaluated: its line of metrics.jsonl."""

    def saved(self, done: int) -> None:
        """The state after so many steps of all epochs has been saved: a run that is stopped now goes on from there."""

    def finished(self) -> None:
        """Training is over, or was stopped by an error."""


class Several(Progress):
    """Tells several others.

    Args:
        others: who is told, in this order.
    """

    def __init__(self, others: Sequence[Progress]) -> None:
        self.others = others


def _told(name: str) -> Callable[..., None]:
    """A method of Several that calls the method of that name of each of the others."""

    def tell(self: Several, *arguments: Any, **named: Any) -> None:
        for other in self.others:
            getattr(other, name)(*arguments, **named)

    return tell


for _name in [name for name in vars(Progress) if not name.startswith("_")]:
    setattr(Several, _name, _told(_name))
del _name
