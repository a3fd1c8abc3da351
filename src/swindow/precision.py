"""Where half precision is not enough: in the forward pass, logits, softmax, exp and coordinates are fp32 at least."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Returns ``x`` in fp32, or as it is where it is wider."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def computed(x: Tensor) -> torch.dtype:
    """Returns the type in which linear layers compute for a tensor: its own, or that of the autocast."""
    device = x.device.type
    if device == "meta" or x.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Returns a context in which autocast is off on the device of ``x``."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # meta has no autocast
        return nullcontext()
    return torch.autocast(device, enabled=False)
