"""What windows save: windowed and global attention over image sizes, counted, and measured on this machine."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .. import kernels
from ..caching import clear
from ..config import SwinConfig
from ..models import SwinBlock
from ..models.init import SkipInit

_CALLS, _SPENT = 3, 0.05  # calls and seconds at least that a size is timed for; one call warms up, one counts memory
_LEAST, _STEPS = 3, 5  # sizes at least and at most
_FITTED = 3  # sizes, the largest
_SIDE = 14  # tokens per side of the first map

# A power is fitted to three sizes. R^2 would say little of it: it is near 1 for whatever grows. So what counts is the
# time that lies farthest from the fitted line. Where sides double, a time that is 60 % too long at one end moves the
# exponent by 0.17, and the time in the middle 15 % off the line. Multiplications and memory are counted, so that their
# exponents are what they are.
FAR = 0.15  # of the fitted time; beyond, nothing is said to fit
# Multiplications grow at least in proportion to the pixels. Times of a clearly lower power are mostly fixed costs,
# which the line alone does not show: 1 + n / 4 at n = 1, 4 and 16 is within 15 % of a power of 0.5.
LOWEST = 0.75  # power of the pixels; below, nothing is said to fit

# Processor time of the thread: what it waits for others, or is interrupted by them, does not count. Windows counts it
# in steps of 16 ms, too coarse for one call.
_clock = time.perf_counter if os.name == "nt" else time.thread_time


class Point(NamedTuple):
    """One size: pixels per side, seconds of a block pair, and the most bytes that it held at a time."""

    side: int
    seconds: float
    bytes: int


class Count(NamedTuple):
    """One size: pixels per side, and the multiplications of a block pair, windowed and with one window for the map."""

    side: int
    windowed: int
    whole: int


class Costs(NamedTuple):
    """Multiplications, time and memory of two blocks of a model's first stage, one image, over image sizes.

    Attributes:
        windowed: W-MSA and SW-MSA with the model's window; time is that of one thread of the processor.
        whole: the same two blocks with one window that covers the map: global attention.
        counts: the multiplications of both.
    """

    windowed: tuple[Point, ...]
    whole: tuple[Point, ...]
    counts: tuple[Count, ...]


def measure_cost(config: SwinConfig, seconds: float = 4.0, on_progress: Callable[[int], None] | None = None) -> Costs:
    """Counts and measures how cost grows with the image (Swin section 3.2, equations 1 and 2).

    Weights and image are random. Maps begin with 14 tokens per side, or the whole number of windows next to it; sides
    double (windowed, and what is counted) or grow by half of the first (global) until the time is used up. Each size is
    called for 50 ms at least, on one thread of the processor, and the shortest call counts. Other threads of the
    process keep their number of threads.

    Args:
        config: a model for images; its first stage's channels, heads and window are used.
        seconds: to spend on measuring, about; three sizes are measured in any case.
        on_progress: called with the pixels per side of every size that was measured.
    """
    windowed = [[w * max(1, round(_SIDE / w)) * 2**i for w in config.window_size[0]] for i in range(_STEPS)]
    whole = [[_SIDE * times // 2] * 2 for times in (2, 3, 4, 5)]
    found: list[tuple[Point, ...]] = []
    # A new thread also leaves the caller's modes behind: autocast, inference mode, a default device.
    with ThreadPoolExecutor(1, "swindow-cost", _compute_alone) as alone:
        counts = alone.submit(lambda: tuple(_count(config, tuple(grid)) for grid in windowed)).result()
        for grids, covers in ((windowed, False), (whole, True)):
            points: list[Point] = []
            left = seconds / 2
            for i, grid in enumerate(grids):
                if i >= _LEAST:
                    growth = (math.prod(grid) / math.prod(grids[i - 1])) ** (2 if covers else 1)
                    if max(_SPENT, (2 + _CALLS) * growth * points[-1].seconds) > left:
                        break
                began = time.perf_counter()
                points.append(alone.submit(_point, config, tuple(grid), covers).result())
                left -= time.perf_counter() - began
                if on_progress is not None:
                    on_progress(points[-1].side)
            found.append(tuple(points))
    clear()  # the tables of maps that no model will see
    return Costs(found[0], found[1], counts)


def exponent(points: Sequence[Point] | Sequence[Count], what: str) -> float:
    """Returns p of cost = a * pixels^p, fitted by least squares on logarithms: 1 is linear, 2 quadratic.

    Args:
        points: at least two sizes; the three largest count, since small ones have fixed costs.
        what: ``"seconds"`` or ``"bytes"`` of a Point, ``"windowed"`` or ``"whole"`` of a Count.
    """
    return statistics.linear_regression(*_logarithms(points, what)).slope


def fits(points: Sequence[Point]) -> bool:
    """Returns whether times follow a power of the pixels.

    None that ``exponent`` takes is more than ``FAR`` off the fitted one, and the power is at least ``LOWEST``.
    """
    pixels, times = _logarithms(points, "seconds")
    slope, intercept = statistics.linear_regression(pixels, times)
    return slope >= LOWEST and all(
        abs(math.expm1(time - intercept - slope * x)) <= FAR for x, time in zip(pixels, times)
    )


def coefficient(points: Sequence[Point] | Sequence[Count], what: str, power: int) -> float:
    """Returns a of cost = a * pixels^power, fitted as in ``exponent``."""
    points = points[-_FITTED:]
    return math.exp(statistics.mean(math.log(getattr(p, what) / p.side ** (2 * power)) for p in points))


class Multiplications(TorchDispatchMode):
    """Counts the multiplications of matrix products and convolutions, on tensors without data (meta) too.

    Unlike ``FlopCounterMode`` it hangs no hooks on the modules of other threads. Use it outside of inference mode,
    where PyTorch would not take operations apart into products.

    Attributes:
        total: multiplications so far, each with the addition that follows it; additions are not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what it multiplies."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result


def _logarithms(points: Sequence[Point] | Sequence[Count], what: str) -> tuple[list[float], list[float]]:
    """Of the pixels and the costs of the sizes that are fitted."""
    points = points[-_FITTED:]
    return [math.log(p.side**2) for p in points], [math.log(getattr(p, what)) for p in points]


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


def _compute_alone() -> None:
    """Has the calling thread, a new one, compute without others; the rest of the process does not notice.

    Beside other work, the times of two threads gave exponents between -1 and 1.5; those of one do not.
    ``torch.set_num_threads`` sets two numbers (in builds with OpenMP, which those on PyPI are): that of the calling
    thread, and that with which new threads begin. A second thread puts the latter back at once. A child process would
    do without that, but takes 2 s to import torch, and needs an interpreter that can be started, which frozen programs
    do not have.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    other = threading.Thread(target=torch.set_num_threads, args=(usual,))
    other.start()
    other.join()


def _count(config: SwinConfig, grid: tuple[int, ...]) -> Count:
    """Counts a block pair's multiplications on a map of ``grid`` tokens."""
    x = torch.empty(1, *grid, config.width(0), device="meta")
    totals = []
    for covers in (False, True):
        with torch.no_grad(), Multiplications() as counter:
            _pair(config, grid, covers)(x)
        totals.append(counter.total)
    return Count(_side(config, grid), *totals)


@torch.no_grad()
def _point(config: SwinConfig, grid: tuple[int, ...], covers: bool) -> Point:
    """Times a block pair on a map of ``grid`` tokens, with the model's windows or one that covers the map."""
    generator = torch.Generator().manual_seed(0)  # whoever calls keeps their random numbers
    pair = _pair(config, grid, covers).to_empty(device="cpu")
    for parameter in pair.parameters():
        parameter.normal_(std=0.02, generator=generator)
    for block in cast("list[SwinBlock]", pair):
        block.attn.kernel = kernels.kernel("cpu")  # also under PeakMemory, where another would be chosen
    x = torch.randn(1, *grid, config.width(0), generator=generator)
    pair(x)
    times: list[float] = []
    while len(times) < _CALLS or sum(times) < _SPENT:
        start = _clock()
        pair(x)
        times.append(_clock() - start)
    with PeakMemory() as memory:
        pair(x)
    return Point(_side(config, grid), min(times), memory.peak)


def _pair(config: SwinConfig, grid: tuple[int, ...], covers: bool) -> nn.Sequential:
    """Two blocks of the first stage, without data."""
    if covers:
        window = (grid, *config.window_size[1:])
        config = dataclasses.replace(config, window_size=window, pretrained_window_size=None)
    with torch.device("meta"), SkipInit():
        return nn.Sequential(SwinBlock(config, 0, 0), SwinBlock(config, 0, 1)).eval()


def _side(config: SwinConfig, grid: tuple[int, ...]) -> int:
    """The side in pixels of an image of as many pixels as the map has."""
    return math.isqrt(math.prod(n * p for n, p in zip(grid, config.patch_size)))
