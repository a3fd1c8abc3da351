"""The pictures of what was measured: that the shift is exact, and what windows save (Swin section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from . import style
from .cost import Costs, Count, Point, coefficient, exponent, fits
from .exact import Exactness
from .geometry import Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST = 1e-9  # the smallest difference on the scale
_WINDOWED, _GLOBAL = "#0072B2", "#D55E00"


def exact_figure(found: Exactness, stage: Stage) -> Figure:
    """Returns a Figure of one block's attention with shift and mask, over irregular windows, and their difference.

    Args:
        found: from ``exactness``, for the block whose geometry is the stage's SW-MSA (or W-MSA where there is none).
        stage: the block's stage.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    layout = style.Layout(tuple(found.shifted.shape[:2]), 4)
    title = f"Stage {stage.number}: shift and mask give what irregular windows give, within {found.error:.1g}"
    caption = (
        "The first two: the length of every token's result. The last two: the largest difference of a token from the "
        "irregular windows, over the largest value, on a logarithmic scale. "
        f"Without the mask it is {found.error_without_mask:.1g}."
    )
    alt = "Two equal maps; their difference, which is dark; that without the mask, bright where windows needed one."
    figure = style.new_figure(layout.height + 1.8, title, "swindow.explain.exactness", caption, alt)
    axes = style.panels(figure, layout)
    lengths = [x.norm(dim=-1).cpu().double().numpy() for x in (found.shifted, found.irregular)]
    top = max(x.max() for x in lengths)
    names = ["cyclic shift and mask: the model", "irregular windows, one by one"]
    for ax, name, values in zip(axes, names, lengths):
        shown = ax.imshow(values, cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
        style.heading(ax, name, layout.room)
    _scale(figure, shown, axes[1]).set_ylabel("length", fontsize=9)
    largest = float(found.irregular.abs().max())
    names = [
        f"their difference: at most {found.error:.1g}",
        f"without the mask: at most {found.error_without_mask:.1g}",
    ]
    for ax, name, x in zip(axes[2:], names, (found.shifted, found.unmasked)):
        apart = (x - found.irregular).abs().amax(-1).cpu().double().numpy() / largest
        powers = np.log10(apart.clip(min=_LEAST))
        shown = ax.imshow(powers, cmap="inferno", vmin=np.log10(_LEAST), vmax=0, interpolation="nearest")
        style.heading(ax, name, layout.room)
    _scale(figure, shown, axes[3]).set_ylabel("power of ten", fontsize=9)
    for ax in axes:
        ax.set_aspect(layout.stretch)
        style.ticks(ax)
        ax.set_xlabel("tokens")
    return figure


def cost_figure(costs: Costs, window: Sequence[int]) -> Figure:
    """Returns a Figure of multiplications, time and memory of windowed and global attention over image sizes.

    Each has a line of power 1 (windowed) or 2 (global), but not times that follow no power. The caption has the fitted
    powers.

    Args:
        costs: from ``measure_cost``.
        window: tokens per axis of the window.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    names = {"windowed": f"windows of {style.sizes(tuple(window))}", "whole": "global"}
    grows = []
    for kind, name in names.items():
        multiplications, time, memory = growth(costs, kind)
        grows.append(f"{name}: multiplications {multiplications}, time {time}, memory {memory}")
    title = "Cost: multiplications grow with the image in windows, with its square globally"
    caption = (
        "Two blocks of the first stage, one image. Multiplications and memory are counted; time is measured on this "
        f"machine, on one thread. Growth, {'; '.join(grows)}. Dashed: proportional to the pixels; dotted: to their "
        "square. Fitted to the three largest sizes, as small ones have fixed costs."
    )
    alt = "Three plots with logarithmic axes: global attention's line is twice as steep as windowed attention's."
    figure = style.new_figure(5.6, title, "swindow.explain.measure_cost", caption, alt)
    for ax, (what, (name, factor)) in zip(figure.subplots(1, 3), _UNITS.items()):
        for (kind, label), colour, power in zip(names.items(), (_WINDOWED, _GLOBAL), (1, 2)):
            points = costs.counts if what == "multiplications" else getattr(costs, kind)
            _line(ax, points, kind if what == "multiplications" else what, factor, label, colour, power)
        _dress(ax, name)
    return figure


def growth(costs: Costs, kind: str) -> tuple[str, str, str]:
    """Returns how multiplications, time and memory grow: ``"pixels^1.02"``, or ``"not fitted"``.

    Args:
        costs: from ``measure_cost``.
        kind: ``"windowed"`` or ``"whole"``.
    """
    points = getattr(costs, kind)
    multiplications, memory = exponent(costs.counts, kind), exponent(points, "bytes")
    time = f"pixels^{exponent(points, 'seconds'):.2f}" if fits(points) else "not fitted"
    return f"pixels^{multiplications:.2f}", time, f"pixels^{memory:.2f}"


_UNITS = {  # what is drawn: its name, and the factor to its unit
    "multiplications": ("multiplications (billions)", 1e-9),
    "seconds": ("time (ms)", 1e3),
    "bytes": ("memory of tensors (MiB)", 2**-20),
}


def _line(
    axes: Axes,
    points: Sequence[Point] | Sequence[Count],
    what: str,
    factor: float,
    label: str,
    colour: str,
    power: int,
) -> None:
    """Costs, and a * pixels^power through them unless they are times that follow no power."""
    sides = np.array([p.side for p in points], dtype=float)
    marker = "o" if power == 1 else "s"
    axes.plot(sides, [factor * getattr(p, what) for p in points], marker, color=colour, label=label)
    if what != "seconds" or fits(cast("Sequence[Point]", points)):
        fit = factor * coefficient(points, what, power) * sides ** (2 * power)
        axes.plot(sides, fit, "--" if power == 1 else ":", color=colour, linewidth=1.5, label=_FITS[power])


_FITS = {1: "proportional to pixels", 2: "to pixels squared"}


def _dress(axes: Axes, name: str) -> None:
    """Logarithmic axes with plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set(xscale="log", yscale="log", xlabel="side of the image (pixels)", ylabel=name)
    sides = sorted({int(x) for line in axes.lines for x in np.asarray(line.get_xdata())})
    axes.set_xticks(sides, [str(s) for s in sides], rotation=45)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.grid(color="#8A8A8A", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    style.heading(axes, name, style.WIDTH / 3 - 0.7)


def _scale(figure: Figure, shown: object, axes: Axes) -> Axes:
    """Puts the scale of a picture beside its panel, as a part of that."""
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, aspect=25)  # type: ignore[arg-type]
    bar.ax.tick_params(labelsize=9)
    for part in (axes, bar.ax):
        part.set_gid(axes.get_title())
    return bar.ax
