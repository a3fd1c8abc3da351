"""What windows save: windowed and global attention measured over image sizes, on this machine."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .. import caching
from ..config import SwinConfig
from ..models import SwinBlock

_ROUNDS = 3  # timed, after one that is not; one more counts memory
_LEAST, _STEPS = 3, 5  # sizes at least and at most
_FITTED = 3  # sizes, the largest
_SIDE = 14  # tokens per side of the first map


class Point(NamedTuple):
    """One size: pixels per side, seconds of a block pair, and the most bytes that it held at a time."""

    side: int
    seconds: float
    bytes: int


class Costs(NamedTuple):
    """Time and memory of two blocks of a model's first stage, one image, over image sizes.

    Attributes:
        windowed: W-MSA and SW-MSA with the model's window.
        whole: the same two blocks with one window that covers the map: global attention.
    """

    windowed: tuple[Point, ...]
    whole: tuple[Point, ...]


def measure_cost(config: SwinConfig, seconds: float = 4.0, on_progress: Callable[[int], None] | None = None) -> Costs:
    """Measures how time and memory grow with the image (Swin section 3.2, equations 1 and 2).

    Weights and image are random. Maps begin with 14 tokens per side, or the whole number of windows next to it; sides
    double (windowed) or double in two steps (global) until the time is used up. Each is called several times, and the
    shortest counts.

    Args:
        config: a model for images; its first stage's channels, heads and window are used.
        seconds: to spend on measuring, about.
        on_progress: called with the pixels per side of every size that was measured.
    """
    windowed = [[w * max(1, round(_SIDE / w)) * 2**i for w in config.window_size[0]] for i in range(_STEPS)]
    whole = [[_SIDE * times // 2] * 2 for times in (2, 3, 4, 6, 8)]
    found: list[tuple[Point, ...]] = []
    for grids, covers in ((windowed, False), (whole, True)):
        points: list[Point] = []
        left = seconds / 2
        for i, grid in enumerate(grids):
            if i >= _LEAST:
                growth = (math.prod(grid) / math.prod(grids[i - 1])) ** (2 if covers else 1)
                if (2 + _ROUNDS) * growth * points[-1].seconds > left:
                    break
            began = time.perf_counter()
            points.append(_point(config, tuple(grid), covers))
            left -= time.perf_counter() - began
            if on_progress is not None:
                on_progress(points[-1].side)
        found.append(tuple(points))
    caching.clear()  # the tables of maps that no model will see
    return Costs(*found)


def exponent(points: Sequence[Point], what: str) -> float:
    """Returns p of cost = a * pixels^p, fitted by least squares on logarithms: 1 is linear, 2 quadratic.

    Args:
        points: at least two sizes; the three largest count, since small ones have fixed costs.
        what: ``"seconds"`` or ``"bytes"``.
    """
    points = points[-_FITTED:]
    pixels = [math.log(p.side**2) for p in points]
    return statistics.linear_regression(pixels, [math.log(getattr(p, what)) for p in points]).slope


def coefficient(points: Sequence[Point], what: str, power: int) -> float:
    """Returns a of cost = a * pixels^power, fitted as in ``exponent``."""
    points = points[-_FITTED:]
    return math.exp(statistics.mean(math.log(getattr(p, what) / p.side ** (2 * power)) for p in points))


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations return, as long as somebody holds them.

    Attributes:
        peak: the most bytes held at a time inside the ``with`` block. What an operation holds inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what it returns."""
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in given:  # else a view, or written in place
                self._count(t.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


@torch.no_grad()
def _point(config: SwinConfig, grid: tuple[int, ...], covers: bool) -> Point:
    """Times a block pair on a map of ``grid`` tokens, with the model's windows or one that covers the map."""
    if covers:
        window = (grid, *config.window_size[1:])
        config = dataclasses.replace(config, window_size=window, pretrained_window_size=None)
    with torch.random.fork_rng(devices=[]):  # whoever calls keeps their random numbers
        pair = nn.Sequential(SwinBlock(config, 0, 0), SwinBlock(config, 0, 1)).eval()
        x = torch.randn(1, *grid, config.width(0))
    pair(x)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        pair(x)
        times.append(time.perf_counter() - start)
    with PeakMemory() as memory:
        pair(x)
    side = math.isqrt(math.prod(n * p for n, p in zip(grid, config.patch_size)))
    return Point(side, min(times), memory.peak)
