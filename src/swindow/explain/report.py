"""The illustrated page: one HTML file that needs nothing else, with figures and what moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from ..errors import ConfigError
from .bias import SMALL
from .cost import FAR, LOWEST
from .findings import Findings
from .geometry import kinds
from .hierarchy import merging_names, merging_order
from .live import live_data
from .measured import growth
from .panels import jpeg, svg_panels
from .style import plural, sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHAPTERS = (
    ("hierarchy", "Hierarchy"),
    ("patches", "Patches"),
    ("windows", "Windows"),
    ("exact", "Why it is exact"),
    ("position", "Position"),
    ("attention-chapter", "Attention"),
    ("cost", "Cost"),
)


_LARGEST = 9_000_000  # bytes of figures and attention together, so that a page stays below 10 MB


class Shown(NamedTuple):
    """A figure on the page: its panels as SVG, and its words."""

    panels: list[str]
    title: str
    caption: str
    alt: str


def page(found: Findings, name: str, image_name: str, on_figure: Callable[[str, Figure], None]) -> str:
    """Returns the page as HTML: offline, without any address but its own parts.

    Args:
        found: what is shown.
        name: of the model, for people.
        image_name: of the image, for people.
        on_figure: called with the name and the Figure of everything drawn, before it becomes a part of the page.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ConfigError("explain needs jinja2 for a page; try pip install 'swindow[explain]'") from error
    figures = {}
    for key, draw in found.figures().items():
        figure = draw()
        on_figure(key, figure)
        figures[key] = _shown(figure, key)
    template = Environment(autoescape=True, trim_blocks=True).from_string(_part("report.html"))
    used = sum(len(panel) for figure in figures.values() for panel in figure.panels)
    data = _data(found, budget=max(0, (_LARGEST - used) * 3 // 4))  # base64 makes four letters of three bytes
    parts = {"css": _part("report.css"), "js": _part("report.js"), "data": _json(data)}
    words = _words(found) | {"name": name, "image_name": image_name, "chapters": CHAPTERS}
    return template.render(figures=figures, **words, **parts)


def _shown(figure: Figure, key: str) -> Shown:
    title = " ".join(figure.get_suptitle().split())
    caption = " ".join(figure.get_supxlabel().split())
    alt = str(figure.get_label())
    return Shown(svg_panels(figure, key), title, caption, alt)


def _data(found: Findings, budget: int) -> dict[str, Any]:
    """What the page's script reads."""
    window = found.block.geometry.window
    small = [min(w, SMALL) for w in window]
    more = {"image": found.record.image, "pixel": found.pixel, "small": small}
    return live_data(found.seen, found.record, budget) | more


def _words(found: Findings) -> dict[str, Any]:
    """Numbers and sentences for the template."""
    record, levels, costs = found.record, found.levels, found.costs
    window = found.block.geometry.window
    says = ""
    if found.trained and found.model.config.num_classes > 1:
        says = f"{found.says[0]}, with a probability of {found.says[1]:.3f}"
    return {
        "version": metadata.version("swindow"),
        "photo": Markup(jpeg(found.display)),
        "size": sizes(record.image),
        "trained": found.trained,
        "says": says,
        "levels": levels,
        "blocks": plural(len(found.seen.blocks), "block"),
        "stages": plural(len(levels), "stage"),
        "merging": _merging(found),
        "parameters": f"{sum(p.numel() for p in found.model.parameters()):,}",
        "macs": f"{sum(level.macs for level in levels):,}",
        "patch": sizes(record.patch),
        "drops": found.model.config.patch_remainder == "drop",
        "tokens_shape": f"(1, {', '.join(map(str, record.tokens.shape))})",
        "window": sizes(window),
        "pairs": "x".join([str(window[0] * window[1])] * 2),
        "shifts": any(stage.shifted for stage in record.stages),
        "mask_words": _mask_words(found),
        "exact": {
            "stage": found.block.stage,
            "block": found.block.number,
            "error": f"{found.exactness.error:.1g}",
            "unmasked": f"{found.exactness.error_without_mask:.1g}",
        },
        "continuous": found.continuous,
        "closed": found.closed,
        "first_window": sizes(found.model.config.window_size[0]),
        "counts": costs.counts,
        "growth": [growth(costs, "windowed"), growth(costs, "whole")],
        "far": f"{100 * FAR:.0f}",
        "lowest": LOWEST,
    }


def _merging(found: Findings) -> dict[str, str]:
    """Patch merging in words: the neighbourhood, what halves, and the order of the tokens, right and wrong."""
    merge = found.merge
    if merge is None:
        return {}
    step, names = merging_names(merge)
    order = [names[place] for place in merging_order(merge)]
    halved = {(2, 2): "sides", (2, 1): "rows", (1, 2): "columns"}[step[0], step[1]]
    wrong = ", ".join(names) if order != names else ""
    return {"step": sizes(step), "halved": halved, "order": ", ".join(order), "wrong": wrong}


def _mask_words(found: Findings) -> str:
    """How many windows need a mask, in each stage that shifts."""
    said = []
    for stage in found.record.stages:
        if stage.sw_msa is not None and stage.shifted:
            all_kinds = kinds(stage.sw_msa)
            need = sum(len(kind.windows) for kind in all_kinds if kind.mask.any())
            count = sum(len(kind.windows) for kind in all_kinds)
            said.append(f"in stage {stage.number} {need} of {plural(count, 'window')}")
    if not said:
        return "No stage shifts here."
    where = "at the bottom and right" + (", or with padding," if any(s.w_msa.pads for s in found.record.stages) else "")
    return f"Only windows {where} need one: {', '.join(said)}."


def _json(values: Any) -> Markup:
    """JSON that may stand in a page."""
    return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"))


def _part(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")
