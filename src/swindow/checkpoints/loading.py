"""From a source of weights to the parts of a model, in four steps: read, match, infer, fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..card import ModelCard
from ..class_names import CLASSES_22K, imagenet_22k
from ..config import PerAxis
from ..errors import ConfigError
from ..variants import variant_config
from ..weights import Published
from .adaptation import adapted
from .evidence import Evidence
from .fill import fill
from .header import card_in, described
from .infer import infer
from .layouts import of_extra, of_sidecars
from .match import Match, match
from .parts import Parts, Request
from .read import Source, read
from .settle import rebuilt


def load_parts(source: str | Path | Mapping[str, Any], request: Request | None = None) -> Parts:
    """Returns the parts of the model that some weights are of. Arguments and errors are those of ``swindow.load``."""
    request = request or Request()
    found = read(source, request.part, request.verify)
    parts = parts_of(found, known_of(found), request)
    return parts if found.published is None else _named(parts, found.published)


def parts_of(found: Source, said: Sequence[Evidence], request: Request, layout: str | None = None) -> Parts:
    """Returns the parts of the model that some tensors are of.

    Args:
        found: the tensors.
        said: what is known of them beside themselves, the most important first.
        request: what the caller says and wants.
        layout: of the tensors; None: as the request says, else recognised.
    """
    changes = dict(request.changes)
    matched = match(found.name, found.tensors, layout or request.layout, any_head="num_classes" in changes)
    caller = Evidence("config", request.known, input_size=_pixels(request.input_size, matched))
    inferred = infer(found.name, matched, caller, said)
    parts = fill(found, matched, inferred, request.dtype, copy=not request.mmap)
    if caller.input_size is not None:
        window = rebuilt(matched.layout, parts.config, changes.get("window_size"), caller.input_size)
        changes |= {} if window is None else {"window_size": window}
    return adapted(parts, changes, request.table_resize)


def known_of(found: Source) -> list[Evidence]:
    """Returns what is known of weights beside their tensors: by their header; by their name; by other files."""
    header = described(found.name, found.header)
    if header is not None:
        return [header]
    said = []
    card = card_in(found.name, found.header)
    if card is not None:
        said.append(Evidence("its model card", card=card))
    if found.published is not None:
        said.append(_by_name(found.published))
    sidecar = of_sidecars(found.sidecars)
    if sidecar is not None:
        said.append(dataclasses.replace(sidecar, certain=found.certain))
    extra = of_extra(found.extra)
    if extra is not None:
        said.append(extra)
    return said


def _by_name(row: Published) -> Evidence:
    """What the name of published weights says that no tensor tells, or some files beside them tell wrongly."""
    fields, meant, names = {}, variant_config(row.variant), None
    if meant.position_bias == "continuous":
        fields = {"window_size": meant.window_size, "pretrained_window_size": meant.pretrained_window_size}
    if row.classes == CLASSES_22K:
        names = tuple(name for _, name in imagenet_22k())
    return Evidence("its name", fields, card=ModelCard(class_names=names, data=row.data, licence=row.licence))


def _pixels(size: int | tuple[int, ...] | None, matched: Match) -> PerAxis | None:
    """``input_size``, per axis."""
    if size is None:
        return None
    axes = matched.tensors["patch_embed.proj.weight"].ndim - 2
    pixels = tuple(size) if isinstance(size, (tuple, list)) else (size,) * axes
    if len(pixels) != axes or not all(isinstance(p, int) and not isinstance(p, bool) and p > 0 for p in pixels):
        raise ConfigError(f"input_size: got {size!r}, expected pixels above 0: an int, or one for each of {axes} axes")
    return pixels


def _named(parts: Parts, row: Published) -> Parts:
    """Parts of published weights, for which nothing of the card is a guess."""
    card = parts.card
    if row.resize and card.preprocess is not None:
        how = dataclasses.replace(card.preprocess, crop_fraction=row.pixels / row.resize)
        card = card.replace(preprocess=how)
    assumed = {key: why for key, why in parts.report.assumed.items() if key not in ("class_names", "preprocess")}
    return dataclasses.replace(parts, card=card, report=dataclasses.replace(parts.report, assumed=assumed))
