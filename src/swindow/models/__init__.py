"""The figure of the paper in files: patches, position_bias, attention, block, stage, swin; simmim around it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ..variants import variant_config
from .attention import WindowAttention
from .block import DropPath, Mlp, SwinBlock
from .init import SeededInit
from .patches import PatchEmbed, PatchMerging
from .position_bias import RelativePositionBias
from .simmim import SimMIM, SwinModel, build, require_swin
from .stage import SwinStage
from .swin import SwinTransformer

__all__ = [
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "RelativePositionBias",
    "SimMIM",
    "SwinBlock",
    "SwinModel",
    "SwinStage",
    "SwinTransformer",
    "WindowAttention",
    "build",
    "create",
    "require_swin",
]


def create(variant: str, *, seed: int | None = None, **fields: Any) -> SwinTransformer | Any:
    """Returns an untrained model of a named variant, initialised as published, in training mode.

    It is a SwinTransformer; a SimMIM where ``decoder_stride`` is above 0.

    Args:
        variant: a name from ``swindow.list_variants()``.
        seed: of the random weights, from 0 to 2**63 - 1. They are drawn from a generator of their own: PyTorch's global
            one keeps its state, and the same seed gives the same weights, also in several threads at once. None: from
            the global generator.
        **fields: any field of SwinConfig, for instance ``num_classes=10``, ``in_chans=1`` or ``window_size=8``.

    Raises:
        ConfigError: no variant or field has that name (the nearest are named), or a value is out of range.

    Example:
        >>> sum(p.numel() for p in create("swin_tiny").parameters())
        28288354
    """
    config = variant_config(variant, **fields)
    with nullcontext() if seed is None else SeededInit(seed):
        return build(config)
