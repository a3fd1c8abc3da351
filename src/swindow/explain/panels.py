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

_PHOTO = 20_000  # bytes; larger pictures without transparency become JPEGs
_SIDE = 800  # pixels; and are made smaller than this
_QUALITY = 85
_SCALE = 1.2  # pixels on the page per point of the figure, so that three panels fit side by side


def svg_panels(figure: Figure, name: str) -> list[str]:
    """Returns the panels of a figure as SVG elements for a page, without the figure's title and caption.

    Words stay text; the ink's colour becomes the page's ``--ink``; photos become JPEGs. The figure is used up.

    Args:
        figure: one of ours.
        name: put before every id, since a page must have no two alike.
    """
    import matplotlib

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for words in figure.texts:  # title and caption
        words.set_visible(False)
    found = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        for i, ax in enumerate(figure.axes):
            for other in figure.axes:
                other.set_visible(other is ax)
            _ink(ax)
            svg = _svg(figure, ax)
            if svg:
                found.append(_for_page(svg, f"{name}-{i}-"))
    return found


def jpeg(picture: Pixels) -> str:
    """Returns an image (H, W, 3) as a data address, JPEG, its sides at most 800 pixels."""
    return _address(Image.fromarray(picture))


def _ink(axes: Axes) -> None:
    """Gives words and lines around a panel the colour of the ink, which the page replaces."""
    from matplotlib.colors import to_hex

    for spine in axes.spines.values():
        if to_hex(spine.get_edgecolor()) == "#000000":
            spine.set_edgecolor(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    legend = axes.get_legend()
    for words in (axes.xaxis.label, axes.yaxis.label, axes.title, *(legend.get_texts() if legend else ())):
        words.set_color(INK)
    for picture in axes.images:
        picture.set_interpolation("none")  # as they are, not at the screen's resolution


def _svg(figure: Figure, axes: Axes) -> str:
    """One panel of a laid-out figure; empty where nothing is drawn."""
    box = axes.get_tightbbox()
    drawn = axes.axison or any((axes.images, axes.texts, axes.patches, axes.lines, axes.collections))
    if box is None or not drawn:
        return ""
    inches = box.transformed(figure.dpi_scale_trans.inverted()).padded(0.04)
    written = io.StringIO()
    figure.savefig(written, format="svg", bbox_inches=inches, transparent=True, metadata={"Date": None})
    return written.getvalue()


def _for_page(svg: str, prefix: str) -> str:
    """An SVG file as an element of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' id="', f' id="{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = re.sub(r'href="data:image/png;base64,\s*([^"]+)"', lambda m: f'href="{_lighter(m[1])}"', svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg aria-hidden="true" style="width:{_SCALE * float(width[1]):.0f}px"', 1)
    return svg.replace(INK, "var(--ink)")


def _lighter(png: str) -> str:
    """A picture's data address, smaller where it is a photo."""
    data = base64.b64decode(png)
    picture = Image.open(io.BytesIO(data))
    opaque = picture.mode == "RGB" or int(np.asarray(picture.convert("RGBA"))[..., 3].min()) == 255
    if len(data) < _PHOTO or not opaque:
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return _address(picture)


def _address(picture: Image.Image) -> str:
    picture = picture.convert("RGB")
    if max(picture.size) > _SIDE:
        picture.thumbnail((_SIDE, _SIDE))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
