"""Multi-head self-attention inside (shifted) windows: W-MSA and SW-MSA (Swin section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from .. import kernels
from ..config import PerAxis
from ..windows import Geometry
from .position_bias import RelativePositionBias


class ScaledDotProduct(nn.Module):
    """The similarity of equation 4: QK^T / sqrt(d)."""

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Returns queries divided by sqrt(d), and the keys; both (..., N, d)."""
        return q * q.shape[-1] ** -0.5, k


class WindowAttention(nn.Module):
    """Softmax(QK^T/sqrt(d) + B) V in every window, between two linear layers (Swin equation 4).

    Whether it is W-MSA or SW-MSA is in the geometry that ``forward`` is given.
    """

    def __init__(
        self, dim: int, window: PerAxis, num_heads: int, qkv_bias: bool, drop: float = 0.0, attn_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.similarity = ScaledDotProduct()
        self.position_bias = RelativePositionBias(window, num_heads)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, y: Tensor, g: Geometry) -> Tensor:
        """Returns (B, *grid, C) for normalised tokens ``y`` of that shape and their geometry."""
        bias = self.position_bias(g.window)  # (h, N, N)
        dropout = self.attn_drop if self.training else 0.0
        y = kernels.attend(y, self.qkv, bias, g, self.similarity, dropout)
        y = self.drop(self.proj(y))
        return y
