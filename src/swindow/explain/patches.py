"""The picture of patch partition and embedding: pixels become tokens (Swin section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..config import PerAxis
from . import style
from .geometry import Record, first_component
from .style import Pixels, plural, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ZOOM = 4  # patches along each side of the enlarged part


def patch_figure(record: Record, display: Pixels) -> Figure:
    """Returns a Figure of the patch grid on the image, some patches enlarged, and the tokens they become.

    Args:
        record: what ``geometry.record`` returned for the model and the image.
        display: (H, W, 3) uint8, the same pixels for showing.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: ``display`` is no RGB picture.
    """
    style.check_display(display)
    grid, patch = record.tokens.shape[:2], record.patch
    layout = style.Layout(_size(record), 3)
    title = (
        f"Patches: {sizes(record.image)} pixels become {sizes(grid)} tokens of {sizes(patch)} pixels, "
        f"{plural(record.tokens.shape[-1], 'channel')} each"
    )
    caption = _caption(record)
    alt = "Left: the patch grid on the image. Middle: a few patches enlarged. Right: the tokens, as one number each."
    figure = style.new_figure(layout.height + 1.4, title, "swindow.models.PatchEmbed", caption + layout.note, alt)
    whole, part, tokens = style.panels(figure, layout)
    _patches(whole, record, display, layout)
    _enlarge(part, record, display, layout)
    _tokens(tokens, record, layout)
    return figure


def _caption(record: Record) -> str:
    """What happens to the tokens next, and what the dots mean."""
    text = "  >  ".join(f"stage {s.number}: {sizes(s.w_msa.grid)} x {s.channels}" for s in record.stages) + "."
    if len(record.stages) > 1:
        text = (
            f"Patch merging then halves the map's sides and doubles the channels (rows x columns x channels):\n{text}"
        )
    if any(covered > n for covered, n in zip(_size(record), record.image)):
        text += " Dots: the image is filled up with zeros to whole patches."
    return text


def _size(record: Record) -> PerAxis:
    """Pixels (height, width) under all patches."""
    return tuple(g * p for g, p in zip(record.tokens.shape, record.patch))


def _patches(axes: Axes, record: Record, display: Pixels, layout: style.Layout) -> None:
    """The image with the patch grid, and a box around the part that is enlarged."""
    grid, (high, wide) = record.tokens.shape[:2], record.patch
    style.show_image(axes, display, _size(record), layout.stretch)
    style.dots(axes, style.beyond(display, _size(record)))
    drawn = style.outline(axes, np.arange(grid[0] * grid[1]).reshape(grid), record.patch, layout.scale)
    text = f"The image, {plural(grid[0] * grid[1], 'patch', 'es')}"
    style.heading(axes, text + ("" if drawn else " (borders too fine to draw)"), layout.room)
    axes.set_xlabel("pixels")
    top, left, rows, columns = _zoom(grid)
    xs, ys = [left, left + columns, left + columns, left], [top, top, top + rows, top + rows]
    box = ([x * wide for x in xs], [y * high for y in ys])
    axes.fill(*box, fill=False, edgecolor="#D55E00", linewidth=3, zorder=5)


def _zoom(grid: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The enlarged patches: first row and column, number of rows and columns."""
    rows, columns = (min(g, _ZOOM) for g in grid)
    return (grid[0] - rows) // 2, (grid[1] - columns) // 2, rows, columns


def _enlarge(axes: Axes, record: Record, display: Pixels, layout: style.Layout) -> None:
    """A few patches, with each one's row and column on the grid."""
    (top, left, rows, columns), (high, wide) = _zoom(record.tokens.shape[:2]), record.patch
    style.show_image(axes, display, _size(record))
    style.dots(axes, style.beyond(display, _size(record)))
    style.ticks(axes)
    axes.set_xlim(left * wide, (left + columns) * wide)
    axes.set_ylim((top + rows) * high, top * high)
    axes.vlines([(left + i) * wide for i in range(columns + 1)], *axes.get_ylim(), color="white", linewidth=2.5)
    axes.hlines([(top + i) * high for i in range(rows + 1)], *axes.get_xlim(), color="white", linewidth=2.5)
    for row in range(top, top + rows):
        for column in range(left, left + columns):
            style.tag(axes, (column + 0.5) * wide, (row + 0.5) * high, f"{row},{column}", 9)
    axes.spines[:].set(visible=True, color="#D55E00", linewidth=3)
    numbers = high * wide * record.channels_in
    text = f"Enlarged: row,column of the token. {sizes(record.patch)} pixels are {plural(numbers, 'number')}"
    style.heading(axes, text, layout.room)
    axes.set_xlabel("pixels")


def _tokens(axes: Axes, record: Record, layout: style.Layout) -> None:
    """The tokens of the model for this image, as their first principal component."""
    axes.imshow(first_component(record.tokens), cmap="viridis", interpolation="nearest")
    axes.set_aspect(layout.stretch)
    rows, columns = record.tokens.shape[:2]
    style.ticks(axes, columns / (rows * layout.stretch))
    style.heading(
        axes, "The tokens that the model made, as the first principal component of their channels", layout.room
    )
    axes.set_xlabel("tokens")
