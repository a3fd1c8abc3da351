"""How the pictures look: colours, sizes, and the few things drawn on all of them. Imports matplotlib when it draws.

Figures are made without pyplot, so drawing them touches nothing global. (Making panels for a page does.)
"""

from __future__ import annotations

import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import PerAxis
from ..errors import ConfigError, InputError
from .geometry import PADDING, Bools, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Pixels = npt.NDArray[np.uint8]

WIDTH = 14.0  # inches, 100 dots each
INK = "#222222"
ON_COLOUR = "#111111"  # words on coloured ground, which stay dark on a dark page
# One colour per label of windows.labels: 0 stays pale, 1 to 8 are Okabe and Ito's, which colour-blind eyes tell apart
# (black there is a dark grey here, for the lines on it), 9 is padding.
REGIONS = (
    "#EDEDED",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#F0E442",
    "#5A5A5A",
    "#FFFFFF",
)
MASK = ("#E3EEF6", "#0B3C5D")  # may attend, must not
_FARTHEST = 12.0  # maps more oblong than this are stretched, or nothing could be seen


def new_figure(height: float, title: str, source: str, caption: str, alt: str) -> Figure:
    """Returns an empty Figure of ``height`` inches with title and caption; its label is the alt text.

    Args:
        height: inches; the width is ``WIDTH``.
        title: what is shown, with its sizes, in plain English.
        source: the names in our code that compute it; a part of the title.
        caption: how to read the figure; below it.
        alt: what is where, for those who can't see it; the title goes before it.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("explain needs matplotlib; try pip install 'swindow[explain]'") from error
    figure = Figure(figsize=(WIDTH, height), dpi=100, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.03)  # type: ignore[union-attr, call-arg]
    lines = wrap(title, 0.92 * WIDTH, 15)
    between = " " if len(lines.split("\n")[-1]) + len(source) < 108 else "\n"  # letters that fit a line
    figure.suptitle(f"{lines}{between}({source})", fontsize=15, fontweight="bold", color=INK, parse_math=False)
    figure.supxlabel(wrap(caption, WIDTH, 11.5), fontsize=11.5, color=INK, parse_math=False)
    figure.set_label(f"{title} ({source}). {alt}")
    return figure


def wrap(text: str, width: float, size: float) -> str:
    """Breaks a text of font size ``size`` (points) into lines that fit ``width`` inches."""
    letters = max(12, int(width * 72 / (0.56 * size)))
    return "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))


def sizes(size: PerAxis) -> str:
    """Returns ``"7x7"`` for (7, 7): height by width, as everywhere in these pictures."""
    return "x".join(map(str, size))


def plural(count: int, noun: str, ending: str = "s") -> str:
    """Returns ``"1 window"`` or ``"64 windows"``."""
    return f"{count:,} {noun}" + ("" if count == 1 else ending)


class Layout:
    """Places for several panels that each show one map of ``size`` pixels (height, width).

    Attributes:
        rows, columns: oblong maps lie below each other, others side by side.
        room: inches of width for one panel.
        scale: dots per pixel of the map as drawn, the fewer of both directions.
        height: inches of all rows together, titles included.
        stretch: how many times taller than wide a pixel is drawn; 1 unless the map is very oblong.
    """

    def __init__(self, size: PerAxis, panels: int, width: float = WIDTH) -> None:
        ratio = size[1] / size[0]
        shown = min(max(ratio, 1 / _FARTHEST), _FARTHEST)
        self.stretch = ratio / shown
        self.rows, self.columns = (panels, 1) if shown >= 2 else (1, panels)
        tallest = 7.0 if self.rows == 1 else 4.4
        self.room = width / self.columns - 0.7
        drawn = min(self.room, tallest * shown)
        self.scale = 100 * drawn / size[1] * min(1.0, self.stretch)
        self.height = self.rows * (max(drawn / shown, 1.0) + 1.05)

    @property
    def note(self) -> str:
        """A sentence for the caption where the map is stretched, else nothing."""
        if self.stretch == 1:
            return ""
        times = f"{max(self.stretch, 1 / self.stretch):.1f}".removesuffix(".0")
        way = "taller" if self.stretch > 1 else "wider"
        return f" The map is drawn {times} times {way} than it is, to be seen."


def check_display(display: Pixels) -> None:
    """Raises InputError unless ``display`` is an RGB picture: uint8, (H, W, 3)."""
    if display.dtype != np.uint8 or display.ndim != 3 or display.shape[2] != 3 or 0 in display.shape:
        raise InputError(
            f"explain: got a display of shape {display.shape} and type {display.dtype}, "
            "expected (height, width, 3) of uint8"
        )


def show_image(axes: Axes, display: Pixels, size: PerAxis, stretch: float = 1.0) -> None:
    """Draws an image to the scale of pixels at the top left of an area of ``size`` pixels (height, width)."""
    height, width = display.shape[:2]
    axes.imshow(display, extent=(0, width, height, 0), interpolation="nearest")
    frame(axes, size, stretch)


def show_labels(
    axes: Axes, labels: Ints, token: PerAxis, alpha: float = 1.0, image_below: bool = False, stretch: float = 1.0
) -> AxesImage:
    """Draws a map of labels, each token ``token`` pixels; with an image below, label 0 and padding are left clear."""
    from matplotlib.colors import ListedColormap

    height, width = (n * t for n, t in zip(labels.shape, token))
    clear = (labels == 0) | (labels == PADDING)
    shown: Any = np.ma.masked_where(clear, labels) if image_below else labels
    picture = axes.imshow(
        shown,
        extent=(0, width, height, 0),
        cmap=ListedColormap(REGIONS),
        vmin=-0.5,
        vmax=len(REGIONS) - 0.5,
        alpha=alpha,
        interpolation="nearest",
    )
    frame(axes, (height, width), stretch)
    return picture


def frame(axes: Axes, size: PerAxis, stretch: float = 1.0) -> None:
    """Fixes the visible area of a panel to ``size`` pixels (height, width), row 0 at the top."""
    axes.set_xlim(0, size[1])
    axes.set_ylim(size[0], 0)
    axes.set_aspect(stretch)
    ticks(axes, size[1] / (size[0] * stretch))
    axes.spines[:].set(visible=False)


def ticks(axes: Axes, ratio: float = 1.0, most: int = 8) -> None:
    """Sets small ticks at whole numbers, fewer of them along the short side of a panel of ``ratio`` width to height."""
    axes.tick_params(labelsize=9, colors=INK, length=3)
    for axis, share in (("x", ratio), ("y", 1 / ratio)):
        bins = most if share > 0.5 else 3 if share > 0.25 else 1
        axes.locator_params(axis, nbins=bins, integer=True, min_n_ticks=1)  # type: ignore[arg-type]


def outline(axes: Axes, areas: Ints, token: PerAxis, scale: float, colour: str = "white") -> bool:
    """Draws the borders between the areas of a map, and around it, to the scale of pixels.

    Args:
        axes: where to draw.
        areas: (H, W) a number per token; a border runs where it changes.
        token: pixels per token, per axis.
        scale: dots per pixel; borders that would lie closer than 3 dots are not drawn.
        colour: of the line, which has a contrasting edge.

    Returns:
        Whether the borders were drawn.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    segments = borders(areas, token)
    apart = scale * min(_gap(segments, 0), _gap(segments, 1))
    if apart < 3:
        return False
    width = min(1.6, apart / 12)
    edge = [withStroke(linewidth=1.9 * width, foreground="black" if colour == "white" else "white")]
    axes.add_collection(LineCollection(segments, colors=colour, linewidths=width, path_effects=edge, clip_on=False))
    return True


def borders(areas: Ints, token: PerAxis) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Returns the borders of the areas of a map (H, W), the outer ones too, as lines ((x, y), (x, y)) in pixels."""
    lines = []
    for axis in (0, 1):
        across = areas if axis == 0 else areas.T
        changes = np.ones((len(across) + 1, across.shape[1]), dtype=bool)
        changes[1:-1] = across[1:] != across[:-1]
        for at, row in enumerate(changes):
            for start, stop in runs(row):
                a, b = (start * token[1 - axis], at * token[axis]), (stop * token[1 - axis], at * token[axis])
                lines.append((a, b) if axis == 0 else (a[::-1], b[::-1]))
    return lines


def runs(flags: Bools) -> list[tuple[int, int]]:
    """Returns where a row of flags is True, as ranges (start, stop)."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _gap(segments: list[tuple[tuple[int, int], tuple[int, int]]], axis: int) -> float:
    """The median distance between parallel lines: vertical ones for axis 0, horizontal ones for axis 1."""
    places = sorted({a[axis] for a, b in segments if a[axis] == b[axis]})
    return float(np.median([b - a for a, b in pairwise(places)]))


def hatch(
    axes: Axes, where: Bools, token: PerAxis, pattern: str = "////", face: str = "#F4F4F4", zorder: float = 1
) -> None:
    """Draws hatching where a map (H, W) of flags is True, to the scale of pixels."""
    start = 0
    for row in range(1, len(where) + 1):
        if row < len(where) and (where[row] == where[start]).all():
            continue
        for a, b in runs(where[start]):
            corners = [(a, start), (b, start), (b, row), (a, row)]
            xs, ys = ([c[i] * token[1 - i] for c in corners] for i in (0, 1))
            axes.fill(xs, ys, facecolor=face, edgecolor="#8A8A8A", hatch=pattern, linewidth=0, zorder=zorder)
        start = row


def dots(axes: Axes, where: Bools) -> None:
    """Dots the pixels of a map (H, W) that lie outside the image but inside its tokens; below everything else."""
    hatch(axes, where, (1, 1), pattern="...", face="#FFFFFF", zorder=-1)


def beyond(display: Pixels, area: PerAxis) -> Bools:
    """Returns which pixels of an area (height, width), with the image at its top left, lie outside the image."""
    outside = np.ones(area, dtype=bool)
    outside[: display.shape[0], : display.shape[1]] = False
    return outside


def heading(axes: Axes, text: str, inches: float, size: float = 11.5) -> None:
    """Puts a heading over a panel of a width in inches."""
    axes.set_title(wrap(text, inches, size), fontsize=size, color=INK)


def tag(axes: Axes, x: float, y: float, text: str, size: float) -> None:
    """Writes a few letters of a size in points on a picture, on a pale ground."""
    ground = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color=ON_COLOUR, bbox=ground, in_layout=False)


def sentence(axes: Axes, text: str, inches: float) -> None:
    """Fills a panel with a sentence instead of a picture."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, wrap(text, 0.85 * inches, 14), ha="center", va="center", fontsize=14, color=INK)


def panels(figure: Figure, layout: Layout) -> list[Axes]:
    """Returns the axes of a layout in reading order."""
    return list(figure.subplots(layout.rows, layout.columns, squeeze=False).flatten())
