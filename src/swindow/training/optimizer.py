"""AdamW as the official recipe sets it up, which parameters decay, and which learn how fast."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError

# Position tables and embeddings (the official relative_position_bias_table, absolute_pos_embed; v2's cpb_mlp) and v2's
# logit_scale do not decay.
NO_DECAY = ("position_bias.", "position_embed.", "similarity.")
PART = re.compile(r"(?:^|\.)(?:stages\.(\d+)\.(?:blocks\.(\d+)|(merge))|(patch_embed|mask_token))")


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Returns groups of parameters for an optimizer of PyTorch: what decays and what does not, in every layer.

    Biases, norms, position tables and SwinV2's logit scale do not decay (the official optimizer.py). With
    ``layer_decay``, layers learn the slower the farther they are from the head, as in SimMIM's fine-tuning: the patch
    embedding is layer 0, then come the blocks of all stages, a patch merging with the last block of its stage; the
    final norm, the head and all else are the last layer, at the full learning rate.

    Every group has ``"lr_scale"``, 1 for the last layer: multiply the learning rate by it at every step, at its end
    too, as timm's schedulers do by themselves.

    Args:
        model: ours, or a larger one with one of ours in it.
        weight_decay: of what decays.
        layer_decay: the learning rate of a layer over that of the next (above 0, at most 1).

    Raises:
        ConfigError: ``layer_decay`` is out of range.

    Example:
        >>> from swindow.models import create
        >>> groups = parameter_groups(create("swin_nano"), 0.05, layer_decay=0.8)
        >>> sorted({round(group["lr_scale"], 3) for group in groups})
        [0.21, 0.262, 0.328, 0.41, 0.512, 0.64, 0.8, 1.0]
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay: got {layer_decay!r}, expected a factor above 0, at most 1")
    layers, last = ({}, 0) if layer_decay == 1 else _layers(model)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {(last, True): [], (last, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not any(key in name for key in NO_DECAY)
            groups.setdefault((layers.get(name, last), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (last - layer),
        }
        for (layer, decays), parameters in groups.items()
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


def adamw(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """Returns AdamW with betas 0.9 and 0.999 and eps 1e-8, as published; its learning rate is set at every step."""
    groups = parameter_groups(model, weight_decay, layer_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
