"""The pictures of shifted windows: where they are, and how shift and mask compute them (Swin section 3.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import windows
from ..config import PerAxis
from ..windows import Geometry
from . import style
from .geometry import PADDING, Ints, Kind, Stage, kinds, label_map, padding_map, region_map, window_map
from .style import Pixels, plural, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def window_figure(stage: Stage, display: Pixels) -> Figure:
    """Returns a Figure of a stage's W-MSA windows (left) and irregular SW-MSA windows (right) on the image, to scale.

    Args:
        stage: one of the stages of ``geometry.record``.
        display: (H, W, 3) uint8, the image for showing.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: ``display`` is no RGB picture.
    """
    style.check_display(display)
    area = _area(stage.w_msa, stage) if stage.sw_msa is None else _larger(stage)
    layout = style.Layout(area, 2)
    alt = f"Each token covers {sizes(stage.token)} pixels. Left: the windows of W-MSA drawn on the image. Right: " + (
        "the irregular windows of SW-MSA, coloured by the label of their region." if stage.shifted else why(stage)
    )
    figure = style.new_figure(
        layout.height + 1.3, describe(stage), "swindow.windows.labels", _caption(stage, display) + layout.note, alt
    )
    left, right = style.panels(figure, layout)
    g = stage.w_msa
    _on_image(left, stage, g, display, layout)
    style.heading(left, f"W-MSA, block 1: {plural(math.prod(g.windows), 'window')} of {sizes(g.window)}", layout.room)
    if stage.sw_msa is None:
        style.sentence(right, why(stage), layout.room)
        return figure
    _on_image(right, stage, stage.sw_msa, display, layout)
    if not stage.shifted:
        style.heading(right, f"SW-MSA, block 2. {why(stage)}", layout.room)
        return figure
    regions = int(region_map(stage.sw_msa).max()) + 1
    text = f"SW-MSA, block 2: {plural(regions, 'irregular window')}, shifted by {_amount(stage.sw_msa)}"
    style.heading(right, text, layout.room)
    return figure


def shift_figure(stage: Stage, display: Pixels) -> Figure:
    """Returns a Figure of the cyclic shift of a stage: the regions before and after, and the image rolled alike.

    Args and Raises are those of ``window_figure``. Where a stage shifts nothing it is drawn so, and the title says it.
    """
    style.check_display(display)
    g = stage.w_msa if stage.sw_msa is None else stage.sw_msa
    layout = style.Layout(_area(g, stage), 3)
    caption = "Tokens of a computed window attend to each other where their labels are equal. Letters: kinds of mask."
    alt = (
        "The regions of the map before the shift, after it with the windows that are computed, "
        "and the image rolled alike."
    )
    source = "swindow.windows.cyclic_shift"
    figure = style.new_figure(layout.height + 1.4, describe(stage), source, caption + layout.note, alt)
    before, after, image = style.panels(figure, layout)
    _regions(before, stage, g, layout)
    _rolled(after, stage, g, kinds(g), layout)
    _rolled_image(image, stage, g, display, layout)
    return figure


def mask_figure(stage: Stage) -> Figure:
    """Returns a Figure of the mask of every kind of window of a stage, with the labels of its tokens.

    Args:
        stage: one of the stages of ``geometry.record``.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    found = kinds(stage.w_msa if stage.sw_msa is None else stage.sw_msa)
    across = len(found) if len(found) <= 6 else 5
    down = math.ceil(len(found) / across)
    masked = sum(kind.mask.any() for kind in found)
    title = f"The masks of stage {stage.number}: {plural(len(found), 'kind')} of window, {masked} with a mask"
    caption = (
        "Above: the labels of a window's tokens. Below: its mask, query (down) by key (across); dark pairs must not "
        "attend, because their labels differ."
    )
    alt = "For each kind of window its regions in colours and its mask as a matrix of light and dark cells."
    figure = style.new_figure(4.6 * down + 1.4, title, "swindow.windows.labels", caption, alt)
    _masks(figure, found, across, down)
    return figure


def describe(stage: Stage) -> str:
    """Returns the sizes of a stage in a sentence: map, window, shift, windows, and how many need no mask."""
    g = stage.w_msa if stage.sw_msa is None else stage.sw_msa
    text = f"Stage {stage.number}: {sizes(g.grid)} tokens, window {sizes(g.window)}"
    if g.window != stage.configured:
        text += f" (narrowed from {sizes(stage.configured)})"
    if g.pads:
        text += f", padded to {sizes(g.padded)}"
    count = plural(math.prod(g.windows), "window")
    free = sum(len(kind.windows) for kind in kinds(g) if not kind.mask.any())
    need = f"{count}; {free:,} need{'s' if free == 1 else ''} no mask"
    if stage.shifted:
        return f"{text}, shift {_amount(g)}: {need}"
    return f"{text}: {need if g.pads else count}, nothing is shifted"


def why(stage: Stage) -> str:
    """Returns a sentence on why a stage, or an axis of it, shifts nothing; empty where both axes are shifted."""
    g = stage.sw_msa
    if g is None:
        return "This stage has one block, so there is no SW-MSA and nothing is shifted."
    if g.windows == (1, 1) and not any(g.shift):
        return "Nothing is shifted: one window covers the map."
    reasons = [_why_not(g, axis) for axis, s in enumerate(g.shift) if not s]
    if len(reasons) == 2 and reasons[0] == reasons[1]:
        return f"Nothing is shifted: {reasons[0]}."
    names = [name for name, s in zip(("Rows", "Columns"), g.shift) if not s]
    return " ".join(f"{name} are not shifted: {reason}." for name, reason in zip(names, reasons))


def _why_not(g: Geometry, axis: int) -> str:
    """Why an axis is not shifted."""
    if g.windows[axis] == 1:
        return "one window covers that axis"
    if g.window[axis] == 1:
        return "a window of one token cannot be shifted by half"
    return "the window was narrowed to the map (shrink rule of the config)"


def _amount(g: Geometry) -> str:
    """The shift in words: one number where both axes have it."""
    rows, columns = g.shift
    return str(rows) if rows == columns else f"{plural(rows, 'row')} and {plural(columns, 'column')}"


def _area(g: Geometry, stage: Stage) -> PerAxis:
    """Pixels (height, width) under the padded map."""
    return tuple(p * t for p, t in zip(g.padded, stage.token))


def _larger(stage: Stage) -> PerAxis:
    """Pixels that hold both of a stage's maps; they differ where a shrink rule is at work."""
    assert stage.sw_msa is not None
    return tuple(map(max, _area(stage.w_msa, stage), _area(stage.sw_msa, stage)))


def _caption(stage: Stage, display: Pixels) -> str:
    """What the colours and the hatching of a window figure mean."""
    text = f"A token of this stage covers {sizes(stage.token)} pixels."
    if stage.shifted:
        text += (
            " Colours and numbers are labels; what is uncoloured has label 0. A coloured window shares a computed "
            "window with other labels, and the mask keeps them apart."
        )
        text += f" {why(stage)}" if why(stage) else ""
    if stage.w_msa.pads or (stage.sw_msa is not None and stage.sw_msa.pads):
        masked = stage.w_msa.mask_padding
        text += (
            f" Hatched: padding, which {'is masked' if masked else 'takes part in attention (mask_padding is off)'}."
        )
    covered = tuple(g * t for g, t in zip(stage.w_msa.grid, stage.token))
    if any(c > n for c, n in zip(covered, display.shape)):
        text += " Dots: zeros that fill the image up to whole tokens."
    return text


def _on_image(axes: Axes, stage: Stage, g: Geometry, display: Pixels, layout: style.Layout) -> None:
    """The image with the windows of a block in place, regions coloured, padding hatched."""
    style.show_image(axes, display, display.shape[:2], layout.stretch)
    style.dots(axes, style.beyond(display, tuple(n * t for n, t in zip(g.grid, stage.token))))
    if any(g.shift):
        style.show_labels(axes, label_map(g), stage.token, 0.5, image_below=True, stretch=layout.stretch)
    _hatch_padding(axes, stage, g)
    style.frame(axes, _area(g, stage), layout.stretch)
    if any(g.shift):
        _numbers(axes, np.where(label_map(g) == 0, PADDING, label_map(g)), stage.token, layout)
    # Padding that nothing attends to is one area; a window's part of it is still that window's.
    areas = region_map(g) if any(g.shift) else window_map(g)
    style.outline(axes, areas, stage.token, layout.scale)
    axes.set_xlabel("pixels")


def _hatch_padding(axes: Axes, stage: Stage, g: Geometry, rolled: bool = False) -> None:
    """Hatches the padding; where it takes part in attention, the colour of its region shows through."""
    style.hatch(axes, padding_map(g, rolled), stage.token, face="#F4F4F4" if g.mask_padding else "none")


def _regions(axes: Axes, stage: Stage, g: Geometry, layout: style.Layout) -> None:
    """The regions of the map in place, with their labels as numbers."""
    labels = label_map(g)
    style.show_labels(axes, labels, stage.token, stretch=layout.stretch)
    _hatch_padding(axes, stage, g)
    style.outline(axes, region_map(g), stage.token, layout.scale, colour="black")
    _numbers(axes, labels, stage.token, layout)
    style.heading(axes, "Before: the regions in place (numbers: windows.labels)", layout.room)
    axes.set_xlabel("pixels")


def _numbers(axes: Axes, labels: Ints, token: PerAxis, layout: style.Layout) -> None:
    """The label of every region, written in its middle where there is room."""
    for label in np.unique(labels[labels != PADDING]):
        places = np.nonzero(labels == label)
        high, wide = ((int(np.ptp(at)) + 1) * t for at, t in zip(places, token))
        room = 0.72 * layout.scale * min(wide, high)  # points
        if room < 8:
            continue
        y, x = ((int(at.min()) + int(at.max()) + 1) / 2 * t for at, t in zip(places, token))
        style.tag(axes, x, y, str(label), min(13, 0.7 * room))


def _rolled(axes: Axes, stage: Stage, g: Geometry, found: tuple[Kind, ...], layout: style.Layout) -> None:
    """The regions after the cyclic shift, with the windows that are computed and the letter of each one's kind."""
    style.show_labels(axes, label_map(g, rolled=True), stage.token, stretch=layout.stretch)
    _hatch_padding(axes, stage, g, rolled=True)
    style.outline(axes, window_map(g, rolled=True), stage.token, layout.scale, colour="black")
    side = tuple(w * t for w, t in zip(g.window, stage.token))
    room = 0.72 * layout.scale * min(side)
    for letter, kind in zip("ABCDEFGHI", found):
        places = kind.windows if room >= 12 else kind.windows[len(kind.windows) // 2 :][:1]
        for place in places:
            row, column = divmod(place, g.windows[1])
            style.tag(axes, (column + 0.5) * side[1], (row + 0.5) * side[0], letter, min(13, max(8, 0.4 * room)))
    if any(g.shift):
        text = f"After rolling {g.shift[0]} up and {g.shift[1]} left: computed windows and their kind of mask"
    else:
        text = "Nothing is rolled: computed windows and their kind of mask"
    style.heading(axes, text, layout.room)
    axes.set_xlabel("pixels")


def _rolled_image(axes: Axes, stage: Stage, g: Geometry, display: Pixels, layout: style.Layout) -> None:
    """The image itself, padded and rolled as its tokens are."""
    area, covered = _area(g, stage), tuple(n * t for n, t in zip(g.grid, stage.token))
    display = display[: covered[0], : covered[1]]  # patches may leave out the rest
    pixels = [s * t for s, t in zip(g.shift, stage.token)]
    outside = style.beyond(display, area)
    canvas = np.full((*area, 4), 0, dtype=np.uint8)
    canvas[~outside] = np.dstack([display, np.full(display.shape[:2], 255, dtype=np.uint8)]).reshape(-1, 4)
    outside[covered[0] :] = outside[:, covered[1] :] = False  # padding is hatched
    rolled, empty = (
        windows.cyclic_shift(torch.from_numpy(x)[None], pixels)[0].numpy() for x in (canvas, outside[..., None])
    )
    style.show_image(axes, rolled, area, layout.stretch)
    style.dots(axes, empty[..., 0])
    _hatch_padding(axes, stage, g, rolled=True)
    style.outline(axes, window_map(g, rolled=True), stage.token, layout.scale)
    style.heading(axes, "The image rolled alike: what each computed window sees", layout.room)
    axes.set_xlabel("pixels")


def _masks(figure: Figure, found: tuple[Kind, ...], across: int, down: int) -> None:
    """For every kind of window: the labels of its tokens and its mask."""
    from matplotlib.colors import ListedColormap

    axes = figure.subplots(2 * down, across, squeeze=False, height_ratios=[1, 2] * down)
    for ax in axes.flat:
        ax.set_axis_off()
    inches = style.WIDTH / across - 0.4
    for i, (letter, kind) in enumerate(zip("ABCDEFGHI", found)):
        small, large = axes[i // across * 2 : i // across * 2 + 2, i % across]
        small.set_gid(letter)
        large.set_gid(letter)  # one panel of a page
        style.show_labels(small, kind.labels, (1, 1))
        style.hatch(small, kind.labels == PADDING, (1, 1))
        cells = np.arange(kind.labels.size).reshape(kind.labels.shape)
        style.outline(small, cells, (1, 1), 100 / max(cells.shape), colour="black")  # an inch wide
        style.heading(small, f"{letter}: {plural(len(kind.windows), 'window')}", inches)
        large.imshow(kind.mask, cmap=ListedColormap(style.MASK), vmin=0, vmax=1, interpolation="nearest")
        large.spines[:].set(color="#8A8A8A")
        large.set_axis_on()
        large.set(xticks=[], yticks=[])
        n = len(kind.mask)
        text = f"{int(kind.mask.sum()):,} of {n * n:,} pairs masked" if kind.mask.any() else "no mask needed"
        style.heading(large, f"{n}x{n}: {text}", inches)
