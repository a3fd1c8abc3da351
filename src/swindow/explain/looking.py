"""The pictures of where a model looks, on the image: attention, roll-out, Grad-CAM, receptive fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import style
from .attention import attention_maps, rollout, token_at
from .capturing import BlockRecord, Capture
from .geometry import Floats, region_map
from .hierarchy import extent
from .style import Pixels, plural, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLEAR = 0.25  # the least of the image that shows through what lies over it
_ACROSS = 6
_QUERY = "#56B4E9"


def overlay(display: Pixels, heat: Floats) -> Pixels:
    """Returns an image with a map laid over it: dark and grey where the map is 0, yellow where it is largest.

    Args:
        display: (H, W, 3) uint8.
        heat: (H, W), at least 0.
    """
    from matplotlib import colormaps

    share = heat / (heat.max() or 1.0)
    grey = display.astype(np.float64).mean(-1, keepdims=True).repeat(3, -1) / 255
    colour = colormaps["inferno"](share)[..., :3]
    strength = (1 - _CLEAR) * np.sqrt(share)[..., None]
    mixed = (1 - strength) * 0.55 * grey + strength * colour
    return (255 * mixed).round().astype(np.uint8)


def attention_figure(seen: Capture, pixel: Sequence[int], display: Pixels, block: int | str = -1) -> Figure:
    """Returns a Figure of where every head of a block looks from a pixel, in image coordinates (Swin equation 4).

    Args:
        seen: what ``capture`` recorded, for images.
        pixel: row and column of the query, from 0.
        display: (H, W, 3) uint8, the image for showing.
        block: its place among all blocks, from 0 (negative: from the end), or its name.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: ``display`` is no RGB picture, or there is no such pixel or block.
    """
    style.check_display(display)
    record = seen.block(block)
    maps = attention_maps(seen, pixel, block)
    kind = "SW-MSA" if any(record.geometry.shift) else "W-MSA"
    title = (
        f"Attention of stage {record.stage}, block {record.number} ({kind}) from row {pixel[0]}, column {pixel[1]}: "
        f"{plural(len(maps), 'head')}"
    )
    caption = (
        f"Blue: the token of {sizes(record.token)} pixels that looks, and its window, outside of which nothing is "
        "seen. Bright: much attention; every picture on a scale of its own. Windows, shift and padding are undone."
    )
    alt = "One picture per head: the image, bright where the head looks."
    panels = [(f"head {i + 1}, at most {values.max():.2f}", values) for i, values in enumerate(maps)]
    figure, axes = _grid(display, panels, title, "swindow.explain.attention_maps", caption, alt)
    for ax in axes:
        _mark(ax, seen, record, pixel)
    return figure


def rollout_figure(seen: Capture, pixel: Sequence[int], display: Pixels) -> Figure:
    """Returns a Figure of attention roll-out from a pixel's token, after the last block of every stage.

    Args and Raises are those of ``attention_figure``.
    """
    style.check_display(display)
    last = {block.stage: block for block in seen.blocks}
    panels = [(f"up to stage {s}, block {b.number}", rollout(seen, pixel, b.name)) for s, b in last.items()]
    panels.append(("all tokens of the last map", rollout(seen)))
    title = f"Roll-out: where the token at row {pixel[0]}, column {pixel[1]} has its information from"
    caption = (
        "Attention of all blocks up to the one named, averaged over heads, half of it mixed with the identity for the "
        "residual branch, multiplied through the hierarchy (Abnar and Zuidema 2020)."
    )
    alt = "The image, bright where information comes from: a window at first, more with every stage."
    figure, axes = _grid(display, panels, title, "swindow.explain.rollout", caption, alt)
    for ax, record in zip(axes, last.values()):
        _mark(ax, seen, record, pixel, window=False)
    return figure


def grad_cam_figure(heat: Floats, display: Pixels, what: str, trained: bool) -> Figure:
    """Returns a Figure of which places speak for a class.

    Args:
        heat: (H, W) from ``grad_cam``.
        display: (H, W, 3) uint8, the image for showing.
        what: the class in words, with its probability.
        trained: whether the weights have been trained; if not, the title says so.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: ``display`` is no RGB picture.
    """
    style.check_display(display)
    title = f"Grad-CAM: what speaks for {what}" + ("" if trained else ", by an untrained model")
    caption = "The last map's channels, each weighted with the gradient of the class, added up (Selvaraju et al. 2017)."
    if not trained:
        caption += " These weights are untrained, so this means nothing yet."
    alt = "Left: the image. Right: the same, bright where the class is seen."
    panels = [("what speaks for it", heat)]
    return _grid(display, panels, title, "swindow.explain.grad_cam", caption, alt)[0]


def receptive_field_figure(fields: Mapping[str, Floats], pixel: Sequence[int], display: Pixels) -> Figure:
    """Returns a Figure of which pixels a token depends on after every block.

    Args:
        fields: from ``receptive_field``.
        pixel: row and column of the token.
        display: (H, W, 3) uint8, the image for showing.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: ``display`` is no RGB picture.
    """
    style.check_display(display)
    title = f"The empirical receptive field of the token at row {pixel[0]}, column {pixel[1]}, block by block"
    caption = (
        "The gradient of the token with respect to the pixels, on a logarithmic scale of six powers of ten; grey "
        "pixels have no influence at all. W-MSA stays in its window, SW-MSA crosses its borders, merging doubles all."
    )
    alt = "One picture per block: the area that matters is a patch at first and grows from block to block."
    panels = []
    for name, field in fields.items():
        parts = name.split(".")
        where = f"stage {int(parts[1]) + 1}, block {int(parts[3]) + 1}" if len(parts) == 4 else "patch embedding"
        panels.append((f"{where}: {sizes(extent(field))} pixels", logarithmic(field)))
    return _grid(display, panels, title, "swindow.explain.receptive_field", caption, alt)[0]


def logarithmic(field: Floats, powers: float = 6.0) -> Floats:
    """Returns a map from 0 to 1 on a logarithmic scale: 1 the largest, 0 only where it is 0, small values a little."""
    with np.errstate(divide="ignore"):
        share = 1 + np.log10(field / (field.max() or 1.0)) / powers
    return np.where(field > 0, share.clip(0.06, 1), 0.0)


def _grid(
    display: Pixels, panels: Sequence[tuple[str, Floats]], title: str, source: str, caption: str, alt: str
) -> tuple[Figure, list[Axes]]:
    """A figure of the image and of maps laid over it, each with a heading, and the axes of the maps."""
    high, wide = display.shape[:2]
    ratio = min(max(high / wide, 1 / 6), 3.0)
    count = len(panels) + 1
    columns = min(count, _ACROSS if count > 3 else 3, max(1, round(_ACROSS * ratio)))
    rows = math.ceil(count / columns)
    room = style.WIDTH / columns - 0.3
    tall = min(room * ratio, 5.0)
    figure = style.new_figure(rows * (tall + 0.65) + 1.5, title, source, caption, alt)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    style.show_image(axes[0], display, (high, wide))
    style.heading(axes[0], "the image", room, size=10.5)
    for ax, (name, heat) in zip(axes[1:], panels):
        style.show_image(ax, overlay(display, heat), (high, wide))
        style.heading(ax, name, room, size=10.5)
    return figure, axes[1:count]


def _mark(axes: Axes, seen: Capture, record: BlockRecord, pixel: Sequence[int], window: bool = True) -> None:
    """The borders of the token that looks, and of the irregular window that it can see."""
    token, g = token_at(seen, record, pixel), record.geometry
    row, column = (t * side for t, side in zip(token, record.token))
    high, wide = record.token
    corners = [(column, row), (column + wide, row), (column + wide, row + high), (column, row + high)]
    axes.fill(*zip(*corners), fill=False, edgecolor=_QUERY, linewidth=2)
    if not window:
        return
    region = region_map(g)[: g.grid[0], : g.grid[1]]
    at = np.nonzero(region == region[token])
    (top, left), (down, across) = ((int(i) for i in ends) for ends in (map(np.min, at), map(np.max, at)))
    xs = [left * wide, (across + 1) * wide]
    ys = [top * high, (down + 1) * high]
    axes.fill([xs[0], xs[1], xs[1], xs[0]], [ys[0], ys[0], ys[1], ys[1]], fill=False, edgecolor=_QUERY, linewidth=1.2)
