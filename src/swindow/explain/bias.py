"""The pictures of the relative position index and the relative position bias (Swin section 3.2, equation 4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .. import windows
from ..config import PerAxis
from . import style
from .geometry import Floats, Ints, index_steps
from .style import plural, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALL = 3  # tokens per side of the window whose index is shown step by step
_LEGIBLE = 12  # most rows of a table whose cells hold numbers


def position_index_figure(window: PerAxis, table: PerAxis | None = None) -> Figure:
    """Returns a Figure that computes the relative position index step by step, and shows the one the model uses.

    Args:
        window: tokens per axis of the window in use. The steps are shown for its corner of at most 3x3 tokens.
        table: tokens per axis of the window that the model's bias table was built for; the same by default.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: the window is larger than the table's.
    """
    table = window if table is None else table
    used = windows.relative_position_index(window, table).numpy()
    small = (min(window[0], _SMALL), min(window[1], _SMALL))
    rows = 2 * small[1] - 1
    title = f"Relative position index, step by step for a window of {sizes(small)} tokens"
    source = "swindow.windows.relative_position_index"
    caption = (
        "Cells are query (down) by key (across), tokens numbered row by row. The index is the row of the bias table. "
        "Because row offsets are multiplied, every pair of offsets has a row of its own: "
        "(2, 1) and (1, 2) stay apart."
    )
    alt = "Six tables: row offset, moved to start at 0, scaled; column offset, moved to start at 0; their sum."
    figure = style.new_figure(8.6, title, source, caption, alt)
    axes = figure.subplots(2, 4)
    names = ["row offset", f"+ {small[0] - 1}: starts at 0", f"x {rows} (that is 2 x {small[1]} - 1)"]
    names += ["column offset", f"+ {small[1] - 1}: starts at 0", "sum of the two: the index"]
    _tokens(axes[0, 0], small)
    for ax, name, values in zip([*axes[0, 1:], *axes[1, 1:]], names, index_steps(small).values(), strict=True):
        _table(ax, name, values)
    rows_used = math.prod(2 * t - 1 for t in table)
    text = f"the model's: window {sizes(window)}, {len(used)}x{len(used)} pairs, table of {plural(rows_used, 'row')}"
    if table != window:
        text += f" (made for {sizes(table)}; its centre is read)"
    _table(axes[1, 0], text, used)
    return figure


def position_bias_figure(pictures: Floats, where: str, trained: bool) -> Figure:
    """Returns a Figure of the relative position bias of one block, a picture per head, all on one scale.

    Args:
        pictures: (h, 2M-1, 2M-1) from ``geometry.bias_pictures``.
        where: the block in words, for instance ``"stage 1, block 2"``.
        trained: whether the weights have been trained; if not, the title says so.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    heads, high, wide = pictures.shape
    across = min(heads, 8 if heads > 12 else 6 if heads > 4 else 4)
    down = math.ceil(heads / across)
    state = "" if trained else ", untrained"
    title = f"Relative position bias of {where}{state}: {plural(heads, 'head')}, {plural(high * wide, 'offset')}"
    source = "swindow.models.RelativePositionBias"
    caption = (
        "What is added to the similarity of a query and a key that lies so many rows and columns before it. "
        "The centre is the token itself."
    )
    if not trained:
        caption += " These weights are untrained, so this is noise; training gives it structure."
    alt = "One picture per head; bright offsets are attended to more."
    side = min(4.0, 12.6 / across - 0.4)
    tall = min(side * high / wide, 4.0)
    figure = style.new_figure(down * (tall + 0.7) + 1.6, title, source, caption, alt)
    _heads(figure, pictures, down, across, side)
    return figure


def _heads(figure: Figure, pictures: Floats, down: int, across: int, side: float) -> None:
    """The table of every head, ``side`` inches wide, and the scale they share."""
    heads, high, wide = pictures.shape
    axes = figure.subplots(down, across, squeeze=False)
    for ax in axes.flat[heads:]:
        ax.set_axis_off()
    low, top = float(pictures.min()), float(pictures.max())
    extent = (-wide / 2, wide / 2, high / 2, -high / 2)  # offsets at the centres of their cells
    for i, (ax, values) in enumerate(zip(axes.flat, pictures)):
        shown = ax.imshow(values, cmap="viridis", vmin=low, vmax=top, extent=extent, interpolation="nearest")
        style.ticks(ax, wide / high, most=5)
        style.heading(ax, f"head {i + 1}", side)
        if i % across == 0:
            ax.set_ylabel("row offset")
        if i + across >= heads:
            ax.set_xlabel("column offset")
    figure.colorbar(shown, ax=axes, shrink=0.8, aspect=30, panchor=False).ax.tick_params(labelsize=9)


def _tokens(axes: Axes, window: PerAxis) -> None:
    """The window with its tokens numbered."""
    _table(axes, f"the window: {plural(math.prod(window), 'token')}", np.arange(math.prod(window)).reshape(window))


def _table(axes: Axes, name: str, values: Ints) -> None:
    """A table of numbers as a picture, with the numbers in the cells where they can be read."""
    axes.imshow(values, cmap="viridis", interpolation="nearest")
    style.heading(axes, name, style.WIDTH / 4 - 0.3)
    axes.spines[:].set(visible=False)
    if max(values.shape) > _LEGIBLE:
        style.ticks(axes, most=6)
        return
    axes.set(xticks=range(values.shape[1]), yticks=range(values.shape[0]))
    axes.tick_params(labelsize=9, colors=style.INK, length=0)
    low, high = int(values.min()), int(values.max())
    middle = 0.55 * low + 0.45 * high
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value < middle or value == high == low else "black"
        axes.text(
            column, row, f"{value}".replace("-", "−"), ha="center", va="center", fontsize=10, color=ink, in_layout=False
        )
