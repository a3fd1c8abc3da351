"""Models without data: for weights that are about to come, and for counting."""

from __future__ import annotations

from typing import Any

import torch

from ..config import SwinConfig
from .init import SkipInit
from .simmim import build
from .swin import SwinTransformer


def meta_model(config: SwinConfig) -> SwinTransformer | Any:
    """Returns a model (see ``build``) on the meta device: its tensors have sizes, but no values, and take no memory."""
    with torch.device("meta"), SkipInit():
        return build(config)
