"""The Swin Transformer block: window attention and an MLP, each in a residual branch (Swin section 3.2, figure 3b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import windows
from ..config import PerAxis
from ..windows import SizeRule
from .attention import WindowAttention


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, y: Tensor) -> Tensor:
        """Returns (..., C) for tokens (..., C)."""
        y = self.drop1(self.act(self.fc1(y)))  # (..., hidden)
        y = self.drop2(self.fc2(y))  # (..., C)
        return y


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch for whole samples and scales up the others'."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, y: Tensor) -> Tensor:
        """Returns ``y`` (B, ...) with each sample zeroed with probability ``rate``, else divided by ``1 - rate``."""
        if not self.training or self.rate == 0:
            return y
        keep = torch.rand(y.shape[0], device=y.device) >= self.rate
        keep = keep.view(-1, *(1,) * (y.ndim - 1))
        return y * keep.to(y.dtype) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Shows the rate when the model is printed."""
        return f"rate={self.rate:.3f}"


class SwinBlock(nn.Module):
    """x + (S)W-MSA(LN x), then x + MLP(LN x).

    Args:
        dim: channels C.
        window: tokens per axis of the window.
        shift: tokens per axis of the cyclic shift: 0 for W-MSA, window // 2 for SW-MSA.
        num_heads: attention heads h.
        rule: what to do where the window does not fit the map.
        mlp_ratio, qkv_bias, drop, attn_drop, drop_path, norm_eps: as in SwinConfig.
    """

    def __init__(
        self,
        dim: int,
        window: PerAxis,
        shift: PerAxis,
        num_heads: int,
        rule: SizeRule | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.rule = SizeRule() if rule is None else rule
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = WindowAttention(dim, window, num_heads, qkv_bias, drop, attn_drop)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens (B, *grid, C) for tokens of that shape; any grid."""
        g = windows.resolve(x.shape[1:-1], self.window, self.shift, self.rule)
        x = x + self.drop_path(self.attn(self.norm1(x), g))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x

    def extra_repr(self) -> str:
        """Shows window and shift when the model is printed."""
        return f"window={self.window}, shift={self.shift}"
