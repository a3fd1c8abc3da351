"""The pictures of what was measured: that the shift is exact, and what windows save (Swin section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import style
from .cost import Costs, Point, coefficient, exponent
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
    """Returns a Figure of time and memory of windowed and global attention over image sizes, with their fits.

    Args:
        costs: from ``measure_cost``.
        window: tokens per axis of the window.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    lines = {f"windows of {style.sizes(tuple(window))}": costs.windowed, "global": costs.whole}
    grows = [
        f"{name}: time grows as pixels^{exponent(points, 'seconds'):.2f}, memory as ^{exponent(points, 'bytes'):.2f}"
        for name, points in lines.items()
        if len(points) > 1
    ]
    title = "Cost: windowed attention grows with the image, global attention with its square"
    caption = (
        f"Two blocks of the first stage, measured on this machine, one image. {'; '.join(grows)}. "
        "Dashed: proportional to the pixels; dotted: to their square. Fitted to the three largest sizes; small ones "
        "have fixed costs."
    )
    alt = "Two plots with logarithmic axes: global attention's line is twice as steep as windowed attention's."
    figure = style.new_figure(6.4, title, "swindow.explain.measure_cost", caption, alt)
    for ax, what, name, factor in zip(figure.subplots(1, 2), ("seconds", "bytes"), _UNITS, (1e3, 2**-20)):
        for (label, points), colour, power in zip(lines.items(), (_WINDOWED, _GLOBAL), (1, 2)):
            _line(ax, points, what, factor, label, colour, power)
        _dress(ax, name)
    return figure


_UNITS = ("time (ms)", "memory of tensors (MiB)")


def _line(axes: Axes, points: Sequence[Point], what: str, factor: float, label: str, colour: str, power: int) -> None:
    """Measured points and the fit a * pixels^power."""
    sides = np.array([p.side for p in points], dtype=float)
    marker = "o" if power == 1 else "s"
    axes.plot(sides, [factor * getattr(p, what) for p in points], marker, color=colour, label=label)
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
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    style.heading(axes, name, style.WIDTH / 2 - 0.7)


def _scale(figure: Figure, shown: object, axes: Axes) -> Axes:
    """Puts the scale of a picture beside its panel, as a part of that."""
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, aspect=25)  # type: ignore[arg-type]
    bar.ax.tick_params(labelsize=9)
    for part in (axes, bar.ax):
        part.set_gid(axes.get_title())
    return bar.ax
