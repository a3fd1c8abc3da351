"""The pictures of the relative position index and the relative position bias (Swin section 3.2, equation 4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import windows
from ..config import PerAxis
from ..errors import InputError
from ..models import SwinBlock
from ..models.position_bias import ContinuousPositionBias
from . import style
from .geometry import Bools, Floats, Ints, bias_table, index_steps
from .style import plural, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = 3  # tokens per side of the window whose index is shown step by step
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
    small = (min(window[0], SMALL), min(window[1], SMALL))
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
    source = "swindow.models.position_bias"
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


def log_spaced_figure(block: SwinBlock, where: str, trained: bool) -> Figure:
    """Returns a Figure of SwinV2's continuous position bias: log-spaced coordinates, and the bias along a row of them.

    Args:
        block: a block whose position bias is continuous (SwinV2 section 3.3, equation 4).
        where: the block in words, for instance ``"stage 1, block 2"``.
        trained: whether the weights have been trained; if not, the title says so.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: the block's position bias is a table.
    """
    bias = block.attn.position_bias
    if not isinstance(bias, ContinuousPositionBias):
        raise InputError("log_spaced_figure: got a block with a table of biases, expected a continuous one (SwinV2)")
    wide = block.window[1]
    double = (block.window[0], 2 * wide)
    title = f"Log-spaced coordinates and continuous bias of {where}" + ("" if trained else ", untrained")
    caption = (
        "Left: offsets as the small network of the bias sees them, sign(x) log2(1 + |x|) / log2(8), where the largest "
        "offset trained with is x = 8. Far offsets crowd together, so a window twice as wide reaches little beyond "
        "what was trained. Right: 16 sigmoid(MLP) for keys in the same row; open circles lie beyond the window."
    )
    alt = "Left: a curve that flattens to both sides. Right: one line per head over the column offset."
    figure = style.new_figure(6.0, title, "swindow.windows.log_spaced_offsets", caption, alt)
    left, right = figure.subplots(1, 2)
    columns = np.arange(1 - 2 * wide, 2 * wide)
    within = np.abs(columns) < wide
    spaced = windows.log_spaced_offsets(double, bias.window)[:, 1].view(-1, len(columns))[0].numpy()
    left.plot(columns, columns / max(bias.window[1] - 1, 1), color="#8A8A8A", linewidth=1, label="linear")
    _dots(left, columns, spaced, within, "#0072B2", "log-spaced")
    left.set_ylabel("coordinate")
    with torch.no_grad():
        table = bias_table(bias(double).cpu().double(), double)  # (h, 2M-1, 4M-1)
    colours = ("#0072B2", "#D55E00", "#009E73", "#E69F00")
    for head, (values, colour) in enumerate(zip(table[:, double[0] - 1], colours)):
        _dots(right, columns, values, within, colour, f"head {head + 1}")
    right.set_ylabel("bias")
    for ax, name in ((left, "Coordinates"), (right, "Bias of the first heads, row offset 0")):
        ax.set_xlabel("column offset (tokens)")
        ax.tick_params(labelsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=10)
        style.heading(ax, name, style.WIDTH / 2 - 0.7)
    return figure


def _dots(axes: Axes, x: Ints, y: Floats, within: Bools, colour: str, label: str) -> None:
    """A line with filled circles inside the window and open ones beyond it."""
    axes.plot(x, y, color=colour, linewidth=1, alpha=0.6)
    axes.plot(x[within], y[within], "o", color=colour, markersize=4, label=label)
    axes.plot(x[~within], y[~within], "o", color=colour, markersize=4, markerfacecolor="none")


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
        ink = "white" if value < middle or value == high == low else style.ON_COLOUR
        axes.text(
            column, row, f"{value}".replace("-", "−"), ha="center", va="center", fontsize=10, color=ink, in_layout=False
        )
