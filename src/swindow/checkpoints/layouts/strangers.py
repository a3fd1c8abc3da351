"""Files of models that are no Swin Transformer, or not as a whole, told by parts of their keys."""

from __future__ import annotations

from collections.abc import Iterable

STRANGERS = {
    "meta_mlp": "timm's swinv2_cr, another architecture than SwinV2, which swindow does not have",
    "residual_group.": "SwinIR, an image restoration model, which swindow does not have",
    "patch_embed.proj.0.": "CTransPath, whose patch embedding is of several convolutions, which swindow does not have",
    "layers_0.": "timm's features_only models; try the weights of the model without features_only",
    "layers_up": "Swin-Unet; try its encoder's keys alone",
    "spatial_mlp": "Swin-MLP, which swindow does not have",
    "._moe_layer": "Swin-MoE, which swindow does not have",
    "hidden_states_norms.": "a transformers model whose maps are normed in another way than those of SwinBackbone",
}


def stranger(keys: Iterable[str]) -> str | None:
    """Returns what keys are of that are none of ours; None: not known."""
    every = list(keys)
    return next((what for mark, what in STRANGERS.items() if any(mark in key for key in every)), None)
