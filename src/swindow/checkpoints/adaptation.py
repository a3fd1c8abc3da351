"""Weights for a model that is a little different: another head, other windows or channels, with norms or without."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..card import ModelCard
from ..class_names import CLASSES_22K, imagenet_1k
from ..config import SwinConfig
from ..errors import ConfigError
from ..models.assemble import initial
from .fill import shapes_of
from .parts import Parts
from .resize import Resize, adapt_channels, resize_table

ROWS_OF_1K = Path(__file__).with_name("imagenet_22k_to_1k.txt")
# Why tensors have no place in the new model, by the beginning of their names.
REASONS = {
    "head.": "num_classes was given",
    "mask_token": "only pre-training needs it",
    "decoder.": "only pre-training needs it",
    "out_norms.": "the model that was asked for has no norm there",
    "norm.": "the norm of the last stage takes its place",
    "stages.": "the model that was asked for does not merge there",
}


def adapted(parts: Parts, changes: Mapping[str, Any], table_resize: Resize = "bicubic") -> Parts:
    """Returns the parts of a model that differs in some fields of its config.

    Tensors of the same shape stay as they are; tables of position biases are resized, the patch embedding is adapted,
    the sum over channels kept, and what is missing is newly initialised. The final norm of a backbone that has a norm
    for every map is that of its last stage. For ImageNet-1k's classes of ImageNet-22k's 21,841, the head keeps the rows
    of those, as in the official code. The card keeps what still holds.

    Args:
        parts: what there is; it is not changed.
        changes: SwinConfig fields.
        table_resize: how tables are resized, see ``resize_table``.

    Raises:
        ConfigError: a value is wrong, or the weights cannot be those of such a model.
    """
    old, new = parts.config, _config(parts.config, changes)
    if new == old:
        return parts
    last = f"out_norms.{old.num_stages - 1}."
    normed = new.out_norms and old.num_stages - 1 in new.out_stages
    final = last if normed else "norm."  # without a norm of its own, that of the last map is the final one
    have = {name.replace(last, final): tensor for name, tensor in parts.tensors.items()}
    origin = {name.replace(last, final): keys for name, keys in parts.origin.items()}
    tensors, resized = _carried(have, old, new, table_resize)
    wanted = shapes_of(new)
    for name, tensor in tensors.items():
        if name in wanted and tensor.shape != wanted[name]:
            raise ConfigError(
                f"{parts.report.source}: cannot be changed to {dict(changes)}, as {name} of shape "
                f"{tuple(tensor.shape)} would have to be {tuple(wanted[name])}"
            )
    fresh = initial(new, [name for name in wanted if name not in tensors], next(iter(tensors.values())))
    full = {**{name: tensor for name, tensor in tensors.items() if name in wanted}, **fresh}
    report = parts.report
    gone = {name: _reason(name, changes) for name in have if name not in full or name in fresh}
    made = tuple(name for name in wanted if name in {*report.initialised, *fresh})
    resized = {name: how for name, how in {**report.resized, **resized}.items() if name in full}
    card, assumed = _card(parts, new)
    report = dataclasses.replace(
        report,
        matched=len(full) - len({*made, *resized}),
        dropped={**report.dropped, **{key: why for name, why in gone.items() for key in origin.get(name, (name,))}},
        resized=resized,
        initialised=made,
        assumed=assumed,
    )
    return Parts(new, full, card, report, {name: keys for name, keys in origin.items() if name in full})


def _config(old: SwinConfig, changes: Mapping[str, Any]) -> SwinConfig:
    """The config of the new model."""
    changes = dict(changes)
    if changes.get("num_classes") and changes.get("decoder_stride"):
        raise ConfigError(
            f"got num_classes={changes['num_classes']} and decoder_stride={changes['decoder_stride']}, expected one of "
            "them: a model for pre-training has no head"
        )
    if old.decoder_stride and changes.get("num_classes"):
        changes["decoder_stride"] = 0
    if "decoder_stride" in changes:
        changes.setdefault("mask_token", changes["decoder_stride"] > 0)
        if changes["decoder_stride"]:
            changes.setdefault("num_classes", 0)
    new = old.replace(**changes)
    if old.decoder_stride and new.decoder_stride and new.in_chans != old.in_chans:
        raise ConfigError(
            f"in_chans: got {new.in_chans} for a SimMIM, whose decoder draws {old.in_chans} channels, expected that "
            "many; try num_classes= too, which leaves the decoder out"
        )
    if new.position_bias == "continuous" and new.window_size != old.window_size and new.pretrained_window_size is None:
        return new.replace(pretrained_window_size=old.window_size)
    return new


def _carried(
    have: Mapping[str, Tensor], old: SwinConfig, new: SwinConfig, how: Resize
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors for the new windows, channels and classes, without a head that is replaced; and what was done."""
    tensors, done = dict(have), {}
    if new.in_chans != old.in_chans:
        key = "patch_embed.proj.weight"
        tensors[key] = adapt_channels(tensors[key], new.in_chans)
        done[key] = f"from {old.in_chans} to {new.in_chans} channels, sum kept"
    for name in [name for name in tensors if name.endswith("position_bias.table")]:
        stage = int(name.split(".")[1])
        before, after = old.window_size[stage], new.window_size[stage]
        if before != after:
            tensors[name] = resize_table(tensors[name], before, after, how)
            done[name] = f"from window {before} to {after}, {how}"
    if new.decoder_stride != old.decoder_stride:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}
    if new.num_classes != old.num_classes:
        head = [name for name in tensors if name.startswith("head.")]
        if _from_22k(old, new):
            rows = torch.tensor([int(row) for row in ROWS_OF_1K.read_text().split()])
            tensors |= {name: tensors[name][rows] for name in head}
            done |= dict.fromkeys(head, "the rows of ImageNet-1k's classes")
        else:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
    return tensors, done


def _from_22k(old: SwinConfig, new: SwinConfig) -> bool:
    """Whether a head for ImageNet-22k becomes one for ImageNet-1k."""
    return (old.num_classes, new.num_classes) == (CLASSES_22K, len(imagenet_1k()))


def _reason(name: str, changes: Mapping[str, Any]) -> str:
    """Why a tensor has no place."""
    if "decoder_stride" in changes and name.startswith(("head.", "decoder.")):
        return "decoder_stride was given"
    return next((why for start, why in REASONS.items() if name.startswith(start)), "the new model has no such tensor")


def _card(parts: Parts, new: SwinConfig) -> tuple[ModelCard, dict[str, str]]:
    """What of the card still holds, and of what was assumed."""
    old, assumed = parts.config, dict(parts.report.assumed)
    card = parts.card if new == old else parts.card.replace(description=None)  # it is of the weights as they were
    if new.in_chans != old.in_chans:
        card = card.replace(preprocess=None)
        assumed.pop("preprocess", None)
    if new.num_classes != old.num_classes:  # what is left is of the weights, their split too
        known = _from_22k(old, new)
        names = tuple(name for _, name in imagenet_1k()) if known else None
        card = card.replace(class_names=names, task=None, settings={})
        assumed.pop("class_names", None)
    return card, assumed
