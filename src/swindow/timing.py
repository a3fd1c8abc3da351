"""Times of functions that are called in turns, and their ratios.

Times on a shared machine say little; ratios of times taken in turns, in one process, say much.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]


class Ratio(NamedTuple):
    """A time over another's, round by round: the median and the quartiles."""

    median: float
    low: float
    high: float


def interleaved(cases: Mapping[str, Call], rounds: int, warm: int = 2, pause: float = 0) -> dict[str, list[float]]:
    """Calls every case in turn, ``rounds`` times over, and returns their seconds; ``warm`` rounds before do not count.

    A slow moment of the machine falls on one round of all cases, not on all rounds of one. ``pause`` (s) before each
    call lets threads of the one before fall asleep, where cases have threads of different libraries.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(warm + rounds):
        for name, call in cases.items():
            time.sleep(pause)
            start = time.perf_counter()
            call()
            _wait()
            if i >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> Ratio:
    """Returns the times of a case over those of another, taken in turns with it."""
    each = [a / b for a, b in zip(seconds, base, strict=True)]
    low, median, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return Ratio(median, low, high)


def _wait() -> None:
    """Waits for a GPU's work to end."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
