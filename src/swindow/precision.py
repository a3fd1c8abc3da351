"""Where half precision is not enough: in the forward pass, logits, softmax, exp and coordinates are fp32 at least."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Returns ``x`` in fp32, or as it is where it is wider."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Returns a context in which autocast is off on the device of ``x``."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # meta has no autocast
        return nullcontext()
    return torch.autocast(device, enabled=False)
