"""The optimizer, which parameters decay, and which learn how fast."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, nearest
from .muon import Muon, matrices_apart

# Position tables and embeddings (the official relative_position_bias_table, absolute_pos_embed; v2's cpb_mlp) and v2's
# logit_scale do not decay.
NO_DECAY = ("position_bias.", "position_embed.", "similarity.")
HEAD = re.compile(r"(?:^|\.)head\.")
PART = re.compile(r"(?:^|\.)(?:stages\.(\d+)\.(?:blocks\.(\d+)|(merge))|(patch_embed|mask_token))")


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, head_lr_scale: float | None = None
) -> list[dict[str, Any]]:
    """Returns groups of parameters for an optimizer of PyTorch: what decays and what does not, in every layer.

    Biases, norms, position tables and SwinV2's logit scale do not decay (the official optimizer.py). With
    ``layer_decay``, layers learn the slower the farther they are from the head, as in SimMIM's fine-tuning: the patch
    embedding is layer 0, then come the blocks of all stages, a patch merging with the last block of its stage; the
    final norm, the head and all else are the last layer, at the full learning rate.

    Every group has ``"lr_scale"``, 1 for the last layer: multiply the learning rate by it at every step, at its end
    too, as timm's schedulers do by themselves. Parameters that need no gradient are left out.

    Args:
        model: ours, or a larger one with one of ours in it.
        weight_decay: of what decays.
        layer_decay: the learning rate of a layer over that of the next (above 0, at most 1).
        head_lr_scale: the learning rate of the head over that of the last layer (above 0); the head then has groups of
            its own. None: it learns as the last layer.

    Raises:
        ConfigError: ``layer_decay`` or ``head_lr_scale`` is out of range.

    Example:
        >>> from swindow.models import create
        >>> groups = parameter_groups(create("swin_nano"), 0.05, layer_decay=0.8)
        >>> sorted({round(group["lr_scale"], 3) for group in groups})
        [0.21, 0.262, 0.328, 0.41, 0.512, 0.64, 0.8, 1.0]
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay: got {layer_decay!r}, expected a factor above 0, at most 1")
    if head_lr_scale is not None and not head_lr_scale > 0:
        raise ConfigError(f"head_lr_scale: got {head_lr_scale!r}, expected a number above 0")
    layers, last = ({}, 0) if layer_decay == 1 else _layers(model)
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {(False, 1.0, True): [], (False, 1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not any(key in name for key in NO_DECAY)
            if head_lr_scale is not None and HEAD.search(name):
                key = (True, head_lr_scale, decays)
            else:
                key = (False, layer_decay ** (last - layers.get(name, last)), decays)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        for (_, scale, decays), parameters in groups.items()
    ]


def _layers(model: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of every parameter that is not of the last one, and the number of that."""
    found = {name: match for name, _ in model.named_parameters() if (match := PART.search(name))}
    depths: dict[int, int] = {}
    for match in found.values():
        if match[2] is not None:
            depths[int(match[1])] = max(depths.get(int(match[1]), 0), int(match[2]) + 1)
    before = {stage: sum(count for other, count in depths.items() if other < stage) for stage in depths}
    layers = {}
    for name, match in found.items():
        stage, block, merge, _ = match.groups()
        layers[name] = 0 if stage is None else before[int(stage)] + (depths[int(stage)] if merge else int(block) + 1)
    return layers, sum(depths.values()) + 1


# The published settings, and those that are usual for images.
USUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("AdamW", {"betas": (0.9, 0.999), "eps": 1e-8}),
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True}),
}
MUON = "muon"


def optimizer_class(name: str | type) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Returns the class of an optimizer and its usual arguments.

    Args:
        name: "adamw" (betas 0.9 and 0.999, eps 1e-8, as published), "sgd" (momentum 0.9, Nesterov's), "muon"
            (``training.muon``), or a class of ``torch.optim`` or its name, with PyTorch's arguments.

    Raises:
        ConfigError: there is no such optimizer.
    """
    if isinstance(name, type) and issubclass(name, torch.optim.Optimizer):
        return name, {}
    if name == MUON:
        return Muon, {}
    known = {cls.__name__: cls for cls in vars(torch.optim).values() if isinstance(cls, type)}
    kind, usual = USUAL.get(str(name), (str(name), {}))
    if kind not in known:
        raise ConfigError(
            f"optimizer: got {name!r}{nearest(kind, [*USUAL, MUON, *known])}, expected adamw, sgd, muon or a class of "
            "torch.optim"
        )
    return known[kind], usual


def optimizer_of(
    name: str | type, model: nn.Module, groups: list[dict[str, Any]], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Returns an optimizer; its learning rate is set at every step.

    Args:
        name: as of ``optimizer_class``.
        model: whose parameters they are.
        groups: of ``parameter_groups``.
        options: its other arguments.

    Raises:
        ConfigError: there is no such optimizer, or it does not take these arguments.
    """
    kind, usual = optimizer_class(name)
    for setting in ("lr", "weight_decay"):
        if setting in options:
            raise ConfigError(f"optimizer_options: got {setting!r}, expected it as a setting of its own: {setting}=...")
    if kind is Muon:
        groups = matrices_apart(model, groups)
    try:
        return kind(groups, **{"lr": 1e-3, **usual, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {kind.__name__} does not take these arguments: {error}") from error
