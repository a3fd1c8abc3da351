"""Models without data: for weights that are about to come, and for counting."""

from __future__ import annotations

import torch

from ..config import SwinConfig
from .init import SkipInit
from .swin import SwinTransformer


def meta_model(config: SwinConfig) -> SwinTransformer:
    """Returns a model on the meta device: its sizes are real, its tensors hold nothing and take no memory."""
    with torch.device("meta"), SkipInit():
        return SwinTransformer(config)
