"""Relative position bias: B in Softmax(QK^T/sqrt(d) + B) V (Swin section 3.2, equation 4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import windows
from ..caching import cached_by_shape
from ..config import PerAxis
from ..precision import full_precision, wide
from .init import linear
from .inputs import weight_of


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
        return _read(self.table, _index(window, self.window, self.table.device))  # (h, N, N)


class ContinuousPositionBias(nn.Module):
    """16 sigmoid(MLP(offset)), the offset on a logarithmic scale: a bias for any window (SwinV2 section 3.3).

    Computed in fp32 at least, whatever the autocast and the type of the weights: half precision cannot tell
    coordinates apart.

    Args:
        window: the window that it is trained with; its offsets run from -8 to 8 before the logarithm.
        num_heads: attention heads h.
    """

    HIDDEN = 512

    def __init__(self, window: PerAxis, num_heads: int) -> None:
        super().__init__()
        self.window = window
        self.mlp = nn.Sequential(
            linear(len(window), self.HIDDEN), nn.ReLU(), linear(self.HIDDEN, num_heads, bias=False)
        )

    def forward(self, window: PerAxis) -> Tensor:
        """Returns the bias (h, N, N) for any window, in fp32 at least."""
        weight = weight_of(self.mlp)
        like = torch.empty(0) if weight is None else weight  # quantised layers have none, and run on a CPU
        offsets = _offsets(window, self.window, like.device).to(wide(like).dtype)  # ((2M-1)(2M-1), axes)
        with full_precision(offsets):
            table = 16 * self._layers(offsets, like.dtype).sigmoid()  # ((2M-1)(2M-1), h)
        return _read(table, _index(window, window, like.device))  # (h, N, N)

    def _layers(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The MLP of offsets, in their type also where its weights are in half precision."""
        parameters = list(self.mlp.parameters())
        if x.dtype == dtype or len(parameters) != 3:
            return wide(self.mlp(x.to(dtype)))
        weight, bias, out = (wide(p) for p in parameters)
        return F.linear(F.linear(x, weight, bias).relu(), out)


def _read(table: Tensor, index: Tensor) -> Tensor:
    """The rows ((2M-1)(2M-1)..., h) of a table at ``index`` (N, N): (h, N, N), side by side in memory for each head."""
    rows = table.t().contiguous()  # (h, (2M-1)(2M-1)...)
    if torch.compiler.is_compiling():
        return rows[:, index]  # an exporter's symbols stay short
    return rows.index_select(1, index.flatten()).view(rows.shape[0], *index.shape)


@cached_by_shape
def _offsets(window: PerAxis, trained: PerAxis, device: torch.device) -> Tensor:
    return windows.log_spaced_offsets(window, trained, device)


@cached_by_shape
def _index(window: PerAxis, of: PerAxis, device: torch.device) -> Tensor:
    return windows.relative_position_index(window, of, device)
