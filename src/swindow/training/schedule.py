"""The learning rate of every step."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, warmup: int, peak: float, least: float, first: float = 0.0) -> float:
    """Returns the learning rate of a step: linear from ``first`` to ``peak``, then a cosine down to ``least``.

    Args:
        step: from 0.
        steps: of the whole run.
        warmup: steps of the linear part; the last of them is at ``peak``, and none is at ``first`` itself.
        peak, least, first: learning rates.

    Example:
        >>> [round(learning_rate(s, 10, 2, 1.0, 0.1), 3) for s in (0, 1, 2, 9)]
        [0.5, 1.0, 1.0, 0.134]
    """
    if step < warmup:
        return first + (peak - first) * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return least + (peak - least) * (1 + math.cos(math.pi * done)) / 2
