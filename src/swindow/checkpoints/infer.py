"""The third step of loading: the config and the card of a model, from all that is known of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..card import ModelCard, Preprocess
from ..class_names import CLASSES_22K, imagenet_1k, imagenet_22k
from ..config import PerAxis, SwinConfig
from ..errors import CheckpointError, ConfigError
from ..sizes import image_size
from ..variants import variant_of
from .buffers import BUFFERS, Block, evidence_of, maps, mismatch
from .evidence import HEADER, Evidence, merge, of_tensors
from .layouts import OWN, Layout
from .match import Match
from .settle import settle

LARGE = 384  # pixels


class Inferred(NamedTuple):
    """A model as far as it is known.

    Attributes:
        config: its config.
        card: what travels with its weights.
        size: pixels per axis that the weights are for; None: not known.
        assumed: what was taken for granted, and what it was taken to be.
    """

    config: SwinConfig
    card: ModelCard
    size: PerAxis | None
    assumed: dict[str, str]


def infer(source: str, matched: Match, caller: Evidence, said: Sequence[Evidence] = ()) -> Inferred:
    """Returns the config and the card of a model.

    What counts more stands first: what the caller says, what the file's own header says, its tensors, what lies beside
    it, its buffers, its library's rule for sizes.

    Args:
        source: for messages.
        matched: its tensors.
        caller: what the caller says.
        said: what the header of a file in our layout says, alone; else what is known of weights beside themselves.

    Raises:
        ConfigError: the caller contradicts the tensors.
        CheckpointError: the tensors are not those of a Swin Transformer, or leave something open; the message names
            the argument that settles it.
    """
    layout, tensors = matched.layout, of_tensors(source, matched.tensors)
    buffers = evidence_of(matched.buffers, tensors.fields["patch_size"])
    headers = [one for one in said if one.source == HEADER]
    others = [one for one in said if one.source != HEADER]
    rule = Evidence("its library", layout.rule)
    fields, kept, unused = merge(source, [caller, *headers, tensors, *others, buffers, rule])
    settled = settle(source, layout, matched.tensors, fields, kept)
    try:
        config = SwinConfig.from_dict(settled.fields)
    except ConfigError as error:
        if str(error).partition(":")[0] in caller.fields:
            raise
        raise CheckpointError(f"{source}: its tensors describe no model: {error}") from error
    _check_buffers(source, matched, config, buffers.input_size or settled.size)
    assumed = {**layout.assumed, **unused, **settled.assumed}
    card, more = _card(layout, config, kept, settled.size)
    return Inferred(config, card, settled.size, {**assumed, **more})


def _check_buffers(source: str, matched: Match, config: SwinConfig, size: PerAxis | None) -> None:
    """Raises CheckpointError where a file's buffers are not those of the model that it describes."""
    grids: list[Any] = [None] * config.num_stages if size is None else maps(config, size)
    expected: dict[tuple[str, int, bool], Tensor | None] = {}  # blocks of a stage differ in whether they are shifted
    for kind, stage, number, key, tensor in matched.buffers:
        if kind == "mask" and size is None:
            continue
        which = (kind, stage, number % 2 == 1)
        if which not in expected:
            expected[which] = BUFFERS[kind](Block(config, stage, number, grids[stage]))
        if mismatch(tensor, expected[which]):
            window = "x".join(map(str, config.window_size[stage]))
            raise CheckpointError(
                f"{source}: {key} is not that of a window of {window}; the file is broken, or config= or input_size= "
                "do not fit it"
            )


def _card(
    layout: Layout, config: SwinConfig, evidence: Sequence[Evidence], size: PerAxis | None
) -> tuple[ModelCard, dict[str, str]]:
    """What travels with weights: as something says, else as their library does it; and what was assumed."""
    known: dict[str, Any] = {}
    for said in reversed(evidence):
        known |= said.card.to_dict()
    card = ModelCard.from_dict(known)
    if size is not None:
        card = card.replace(input_size=size)
    if any(said.source == HEADER for said in evidence):
        return card, {}
    if card.input_size is None and config.ndim == 2 and variant_of(config) is not None:
        card = card.replace(input_size=image_size(config))
    if len(card.class_names or ()) != config.num_classes:
        card = card.replace(class_names=None)
    assumed: dict[str, str] = {}
    if layout.name == OWN.name or config.ndim != 2:
        return card, assumed
    if card.class_names is None:
        for data, count, classes in (("ImageNet-1k", 1000, imagenet_1k), ("ImageNet-22k", CLASSES_22K, imagenet_22k)):
            if config.num_classes == count:
                card = card.replace(class_names=tuple(name for _, name in classes()))
                assumed["class_names"] = (
                    f"those of {data}, as the file has {config.num_classes} classes and no names; --names FILE gives "
                    "others"
                )
    if card.preprocess is None:
        for said in evidence:
            assumed |= said.assumed
    if card.preprocess is None and config.in_chans == 3:
        how = _preprocess(layout, image_size(config, card))
        card, why = card.replace(preprocess=how), assumed.get("preprocess")
        assumed["preprocess"] = _said(how) + (f" ({why})" if why else "")
    return card, assumed


def _preprocess(layout: Layout, size: PerAxis) -> Preprocess:
    """A library's documented way to prepare images of a size."""
    how: Mapping[str, Any] = layout.preprocess
    if min(size) >= LARGE:
        how = {**how, **layout.preprocess_large}
    return Preprocess((size[0], size[1]), **how)


def _said(how: Preprocess) -> str:
    """How images are prepared, in words."""
    way = "the whole image" if how.fit == "squash" else f"the centre {how.crop_fraction:.3f} of the short side"
    return f"{way}, to {how.size[0]} pixels, bicubic; ImageNet's mean and deviation"
