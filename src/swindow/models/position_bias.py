"""Relative position bias: B in Softmax(QK^T/sqrt(d) + B) V (Swin section 3.2, equation 4)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from .. import windows
from ..config import PerAxis


class RelativePositionBias(nn.Module):
    """A learned number per head for every offset between two tokens of a window.

    Attributes:
        table: ((2M-1)(2M-1)..., h) one row per offset, read through ``windows.relative_position_index``.
    """

    def __init__(self, window: PerAxis, num_heads: int) -> None:
        super().__init__()
        self.window = window
        self.table = nn.Parameter(torch.empty(math.prod(2 * w - 1 for w in window), num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of standard deviation 0.02, as published."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, window: PerAxis) -> Tensor:
        """Returns the bias (h, N, N) for a window up to the table's own; a smaller one reads the table's centre."""
        index = _index(window, self.window, self.table.device)
        return self.table[index].permute(2, 0, 1)  # (h, N, N)


def _index(window: PerAxis, table: PerAxis, device: torch.device) -> Tensor:
    """``windows.relative_position_index``, remembered outside of compilation."""
    if torch.compiler.is_compiling():
        return windows.relative_position_index(window, table).to(device)
    index = _cached_index(window, table, device)
    if type(index) is not Tensor:  # made under a mode such as FakeTensorMode: right now, wrong later
        _cached_index.cache_clear()
    return index


@functools.lru_cache(maxsize=64)
def _cached_index(window: PerAxis, table: PerAxis, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be saved for backward later
        return windows.relative_position_index(window, table).to(device)
