"""AdamW as the official recipe sets it up, and which parameters decay."""

from __future__ import annotations

import torch
from torch import nn

# Position tables and embeddings (the official relative_position_bias_table, absolute_pos_embed; v2's cpb_mlp) and v2's
# logit_scale do not decay.
NO_DECAY = ("position_bias.", "position_embed.", "similarity.")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Returns two groups: what decays, and what does not (vectors, biases, position tables; official optimizer.py)."""
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (no_decay if parameter.ndim <= 1 or any(key in name for key in NO_DECAY) else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Returns AdamW with betas 0.9 and 0.999 and eps 1e-8, as published; its learning rate is set at every step."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=0.0, betas=(0.9, 0.999), eps=1e-8)
