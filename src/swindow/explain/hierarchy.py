"""The pictures of the hierarchy: stages to scale, and the patch merging between them (Swin section 3.1, figure 3a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from ..config import PerAxis
from ..models import PatchMerging, SwinStage
from ..models.meta import meta_model
from . import style
from .capturing import Capture
from .cost import Multiplications
from .geometry import Floats, Ints, first_component
from .style import Pixels, plural, sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ORDER = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")  # of Okabe and Ito, one per place in a 2x2 neighbourhood
_SLANT = (0.62, 0.42)  # to the right and up, of what lies behind
_SHARE = 0.9  # of the first map's longer side, the depth that the most channels are drawn with


class Level(NamedTuple):
    """What one stage is.

    Attributes:
        number: which stage, from 1.
        grid: tokens per axis.
        token: pixels per token side, per axis.
        channels, depth, heads: numbers per token, blocks, attention heads.
        parameters: of its blocks and of the patch merging after them.
        macs: multiplications and additions, in pairs, of the same for this image.
        field: pixels per axis that a token in the middle depends on after the stage's last block.
        map: (*grid) the first principal component of its tokens for this image.
    """

    number: int
    grid: PerAxis
    token: PerAxis
    channels: int
    depth: int
    heads: int
    parameters: int
    macs: int
    field: PerAxis
    map: Floats


def levels(seen: Capture, fields: Mapping[str, Floats]) -> tuple[Level, ...]:
    """Returns the stages of a model on an image.

    Args:
        seen: what ``capture`` recorded.
        fields: what ``receptive_field`` returned for a pixel in the middle of the image.
    """
    model, config = seen.model, seen.model.config
    macs = _macs(seen)
    found = []
    for i, stage in enumerate(cast("list[SwinStage]", model.stages)):
        last = [block for block in seen.blocks if block.stage == i + 1][-1]
        parameters = sum(p.numel() for p in stage.parameters())
        tokens = seen[last.name][0].cpu().double().numpy()
        size = (last.geometry.grid, last.token, config.width(i), config.depths[i], config.num_heads[i])
        cost = (parameters, macs[i], extent(fields[last.name]))
        found.append(Level(i + 1, *size, *cost, first_component(tokens)))
    return tuple(found)


def extent(field: Floats) -> PerAxis:
    """Returns the size in pixels, per axis, of the box around everything that is not 0."""
    return tuple(int(np.ptp(at)) + 1 if len(at) else 0 for at in np.nonzero(field))


def merging_order(merge: PatchMerging) -> Ints:
    """Returns which token of a 2x2 neighbourhood (numbered row by row) stands where in the concatenation: (4,).

    Read off the model's own code: 0, 2, 1, 3, that is (row, column) = 00, 10, 01, 11. Two tokens where only one axis
    is merged.
    """
    grid = tuple(2 if axis in merge.axes else 1 for axis in range(2))
    numbered = torch.arange(float(np.prod(grid))).view(1, *grid, 1)
    return merge.neighbours(numbered).flatten().long().numpy()


def merging_names(merge: PatchMerging) -> tuple[PerAxis, list[str]]:
    """Returns the neighbourhood, (rows, columns), and its tokens' names, row and column, row by row: 00, 01, ..."""
    step = (2 if 0 in merge.axes else 1, 2 if 1 in merge.axes else 1)
    return step, [f"{row}{column}" for row in range(step[0]) for column in range(step[1])]


def hierarchy_figure(found: Sequence[Level], display: Pixels) -> Figure:
    """Returns a Figure of the image and every stage to one scale: side in pixels of the image, depth in channels.

    Args:
        found: from ``levels``.
        display: (H, W, 3) uint8, the image for showing.

    Raises:
        ConfigError: matplotlib is not installed.
        InputError: ``display`` is no RGB picture.
    """
    style.check_display(display)
    total = sum(level.parameters for level in found)
    title = f"The hierarchy: {plural(len(found), 'stage')}, {sizes(found[0].grid)} to {sizes(found[-1].grid)} tokens"
    per = max(level.channels for level in found) / (_SHARE * max(found[0].grid))
    caption = (
        f"To scale: the face of a box is the stage's map, its depth the channels ({per:.0f} channels are as long as a "
        "token of stage 1 is wide). Faces show the first principal component of the tokens. The receptive field is "
        "what the token in the middle depends on after the stage's last block. "
        f"The stages hold {total:,} parameters; patch merging counts to the stage before it."
    )
    alt = "One box per stage: from stage to stage the faces shrink while the boxes get deeper."
    columns = min(len(found) + 1, 5)
    rows = -(-(len(found) + 1) // columns)
    room = style.WIDTH / columns - 0.3
    figure = style.new_figure(rows * (room + 2.2) + 1.2, title, "swindow.models.SwinTransformer", caption, alt)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    axes[0].imshow(display)
    axes[0].set_axis_off()
    style.heading(axes[0], f"The image: {sizes(display.shape[:2])} pixels", room)
    for ax in axes[1:]:
        ax.set_axis_off()
    across = max(level.grid[1] + _SLANT[0] * level.channels / per for level in found)
    up = max(level.grid[0] + _SLANT[1] * level.channels / per for level in found)
    for ax, level in zip(axes[1:], found):
        _box(ax, level, level.channels / per)
        ax.set(xlim=(-0.5, across + 0.5), ylim=(-0.5, up + 0.5), aspect="equal")
        style.heading(ax, _words(level), room, size=10.5)
    return figure


def merging_figure(number: int, channels: int, merge: PatchMerging) -> Figure:
    """Returns a Figure of patch merging: which tokens of a 2x2 neighbourhood go where, in colour.

    Args:
        number: the stage before it, from 1.
        channels: C, of that stage.
        merge: the model's patch merging.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    order, (step, names) = merging_order(merge), merging_names(merge)
    n = len(order)
    title = f"Patch merging after stage {number}: {n} tokens of {channels} channels become one of {2 * channels}"
    said = ", ".join(names[place] for place in order)
    first = "then" if merge.normed.__name__ == "pre_norm" else "and"
    after = "" if merge.normed.__name__ == "pre_norm" else ", then LayerNorm"
    layers = ("LayerNorm, " + first if not after else "a") + f" linear layer without bias ({n}C to 2C){after}"
    caption = (
        f"Numbers are row and column in the neighbourhood. The order is {said}: the first axis runs fastest. "
        "Where the map has an odd side, zeros are added at the bottom and right."
    )
    alt = "Left: a map of 4x4 tokens, coloured by place. Middle: the concatenation. Right: the merged tokens."
    figure = style.new_figure(6.0, title, "swindow.models.PatchMerging", caption, alt)
    left, middle, right = figure.subplots(1, 3)
    _map(left, step, names)
    _concatenation(middle, [names[place] for place in order], [_ORDER[place] for place in order], channels)
    _merged(right, step)
    room = style.WIDTH / 3 - 0.7
    style.heading(left, "Before: tokens by their place", room)
    style.heading(middle, f"One neighbourhood's channels side by side: {n}C = {n * channels:,}", room)
    style.heading(right, f"After {layers}: {2 * channels:,} channels each", room)
    return figure


def _macs(seen: Capture) -> list[int]:
    """Multiplications and additions, in pairs, of every stage for one image."""
    empty = meta_model(seen.model.config).eval()  # nothing is computed, and no fast path hides from the counter
    with torch.inference_mode(False), torch.no_grad():
        x, counts = seen["patch_embed"][:1].to("meta"), []
        for stage in empty.stages:
            with Multiplications() as counter:
                _, x = stage(x)
            counts.append(counter.total)
    return counts


def _words(level: Level) -> str:
    """A stage in a few lines."""
    return (
        f"Stage {level.number}: {sizes(level.grid)} tokens x {level.channels:,}\n"
        f"token {sizes(level.token)} pixels\n"
        f"{plural(level.depth, 'block')}, {plural(level.heads, 'head')}\n"
        f"{_short(level.parameters)} parameters\n"
        f"{_short(level.macs)} MACs\n"
        f"receptive field {sizes(level.field)}"
    )


def _short(count: int) -> str:
    """A number with three digits or so: 28.3 M."""
    for unit, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def _box(axes: Axes, level: Level, depth: float) -> None:
    """A map that stands on the ground, with its channels behind it, drawn obliquely; one unit is a token's side."""
    high, wide = level.grid
    dx, dy = (slant * depth for slant in _SLANT)
    axes.imshow(level.map, cmap="viridis", interpolation="nearest", extent=(0, wide, 0, high))
    top = [(0, high), (dx, high + dy), (wide + dx, high + dy), (wide, high)]
    side = [(wide, 0), (wide + dx, dy), (wide + dx, high + dy), (wide, high)]
    for corners, shade in ((top, "#A9C7DD"), (side, "#7FA8C6")):
        axes.fill(*zip(*corners), facecolor=shade, edgecolor=style.INK, linewidth=0.8)


def _map(axes: Axes, step: tuple[int, ...], names: list[str]) -> None:
    """4x4 tokens, each in the colour of its place in its neighbourhood."""
    for row in range(4):
        for column in range(4):
            place = row % step[0] * step[1] + column % step[1]
            _cell(axes, column, row, 1, 1, _ORDER[place], names[place])
    for i in range(0, 5, step[0]):
        axes.plot([0, 4], [i, i], color="black", linewidth=2.5)
    for i in range(0, 5, step[1]):
        axes.plot([i, i], [0, 4], color="black", linewidth=2.5)
    _square(axes)


def _concatenation(axes: Axes, names: list[str], colours: list[str], channels: int) -> None:
    """The parts of a merged token before the linear layer, in order."""
    height = 4 / len(names)
    for i, (name, colour) in enumerate(zip(names, colours)):
        _cell(
            axes, 1, i * height, 2, height, colour, f"{name}: channels {i * channels:,} to {(i + 1) * channels - 1:,}"
        )
    _square(axes)


def _merged(axes: Axes, step: tuple[int, ...]) -> None:
    """The merged tokens in place."""
    for row in range(0, 4, step[0]):
        for column in range(0, 4, step[1]):
            _cell(axes, column, row, step[1], step[0], "#D9D9D9", f"{row // step[0]},{column // step[1]}")
    _square(axes)


def _cell(axes: Axes, x: float, y: float, width: float, height: float, colour: str, text: str) -> None:
    xs, ys = [x, x + width, x + width, x], [y, y, y + height, y + height]
    axes.fill(xs, ys, facecolor=colour, edgecolor="black", linewidth=0.8)
    axes.text(
        x + width / 2,
        y + height / 2,
        text,
        ha="center",
        va="center",
        fontsize=11,
        color=style.ON_COLOUR,
        in_layout=False,
    )


def _square(axes: Axes) -> None:
    axes.set_xlim(-0.05, 4.05)
    axes.set_ylim(4.05, -0.05)
    axes.set_aspect("equal")
    axes.set_axis_off()
