"""Figures for a page: every panel of a figure as SVG that wraps on narrow screens and follows light and dark."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .style import INK, Pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PHOTO = 20_000  # bytes; larger pictures are made smaller, and become JPEGs where they have no transparency
_SIDE = 800  # pixels, at most
_DENSE = 2  # pixels of a picture per pixel on the page, at most: what sharp screens show
_QUALITY = 85
_SCALE = 1.2  # pixels on the page per point of the figure, so that panels fit side by side as they do there
_SMALL = 200  # pixels on the page; of panels below that, a phone shows two side by side
_WIDE = 450  # pixels on the page; panels above that shrink on a phone, and their words grow


def svg_panels(figure: Figure, name: str) -> list[str]:
    """Returns the panels of a figure as SVG elements for a page, without the figure's title and caption.

    Axes of one ``gid`` are one panel. Words stay text; the ink's colour becomes the page's ``--ink``; photos become
    JPEGs. The figure is used up.

    Args:
        figure: one of ours.
        name: put before every id, since a page must have no two alike.
    """
    import matplotlib

    figure.dpi = 72  # an SVG's: all lengths below are points
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    figure.patch.set_visible(False)
    for words in figure.texts:  # title and caption
        words.set_visible(False)
    found = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        for i, panel in enumerate(_panels(figure)):
            for ax in figure.axes:
                ax.set_visible(ax in panel)
            found.append(_svg(figure, panel, f"{name}-{i}-"))
    return found


def jpeg(picture: Pixels) -> str:
    """Returns an image (H, W, 3) as a data address, JPEG, its sides at most 800 pixels."""
    return _smaller(Image.fromarray(picture), _SIDE)


def _panels(figure: Figure) -> list[list[Axes]]:
    """The axes of every panel on which something is drawn."""
    found: dict[str, list[Axes]] = {}
    for i, ax in enumerate(figure.axes):
        if ax.axison or any((ax.images, ax.texts, ax.patches, ax.lines, ax.collections)):
            _ink(ax)
            found.setdefault(ax.get_gid() or f"axes {i}", []).append(ax)
            ax.set_gid(None)  # or two parts of the page would have one id
    return list(found.values())


def _ink(axes: Axes) -> None:
    """Gives words and lines around a panel the colour of the ink, and no ground: the page has its own."""
    from matplotlib.colors import to_hex

    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        if to_hex(spine.get_edgecolor()) == "#000000":
            spine.set_edgecolor(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    legend = axes.get_legend()
    for words in (axes.xaxis.label, axes.yaxis.label, axes.title, *(legend.get_texts() if legend else ())):
        words.set_color(INK)
    for picture in axes.images:
        picture.set_interpolation("none")  # as they are, not at the screen's resolution


def _svg(figure: Figure, panel: list[Axes], prefix: str) -> str:
    """One panel of a laid-out figure, the only one visible, as an element of a page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.transforms import Bbox

    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})  # type: ignore[no-untyped-call]
    box = Bbox.union([box for box in (ax.get_tightbbox() for ax in panel) if box is not None]).padded(3)
    seen = f"{box.x0:.2f} {figure.bbox.height - box.y1:.2f} {box.width:.2f} {box.height:.2f}"
    svg = re.sub(r"<metadata>.*?</metadata>", "", written.getvalue(), flags=re.S)
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r' id="', f' id="{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    width = round(_SCALE * box.width)
    side = min(_SIDE, _DENSE * width)
    svg = re.sub(r'href="data:image/png;base64,\s*([^"]+)"', lambda m: f'href="{_lighter(m[1], side)}"', svg)
    size = ' class="small"' if width < _SMALL else ' class="wide"' if width > _WIDE else ""
    return f'<svg{size} aria-hidden="true" viewBox="{seen}" style="width:{width}px">' + svg.replace(INK, "var(--ink)")


def _lighter(png: str, side: int) -> str:
    """A picture's data address, smaller where it is large; ``side`` is the longest that is of use."""
    data = base64.b64decode(png)
    return _smaller(Image.open(io.BytesIO(data)), side) if len(data) >= _PHOTO else _address("png", data)


def _smaller(picture: Image.Image, side: int) -> str:
    """A picture's data address, its sides at most ``side`` pixels."""
    picture = picture.convert("RGBA")  # from a palette, too
    if max(picture.size) > side:
        picture.thumbnail((side, side))
    written = io.BytesIO()
    if int(np.asarray(picture)[..., 3].min()) < 255:
        picture.save(written, "PNG", optimize=True)
        return _address("png", written.getvalue())
    picture.convert("RGB").save(written, "JPEG", quality=_QUALITY, subsampling=0)
    return _address("jpeg", written.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
