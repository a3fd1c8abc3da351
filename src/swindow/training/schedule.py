"""The learning rate of every step."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, warmup: int, peak: float, least: float) -> float:
    """Returns the learning rate of a step: linear from nearly 0 to ``peak``, then a cosine down to ``least``.

    Example:
        >>> [round(learning_rate(s, 10, 2, 1.0, 0.1), 3) for s in (0, 1, 2, 9)]
        [0.5, 1.0, 1.0, 0.134]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return least + (peak - least) * (1 + math.cos(math.pi * done)) / 2
