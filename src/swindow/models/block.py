"""The Swin Transformer block: window attention and an MLP, each in a residual branch (Swin section 3.2, figure 3b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels, windows
from ..caching import cached_by_shape
from ..config import SwinConfig
from ..windows import SizeRule
from .attention import WindowAttention
from .init import linear
from .norms import NORMS, post_norm
from .recording import record, recorded

_resolve = cached_by_shape(windows.resolve)


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = linear(hidden, dim)
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
        return y * keep.to(y.dtype) / (1 - self.rate)  # in this order: half precision would round 1 / (1 - rate)

    def extra_repr(self) -> str:
        """Shows the rate when the model is printed."""
        return f"rate={self.rate:.3f}"


class SwinBlock(nn.Module):
    """x + (S)W-MSA(LN x), then x + MLP(LN x); SwinV2 normalises after instead of before.

    Args:
        config: the model's config.
        stage: which stage, from 0.
        block: which block of the stage, from 0; every second one is shifted by half a window, SW-MSA.
        drop_path: stochastic depth (fraction).
    """

    def __init__(self, config: SwinConfig, stage: int, block: int, drop_path: float = 0.0) -> None:
        super().__init__()
        dim, period = config.width(stage), config.extra_norm_period
        self.window = config.window_size[stage]
        self.shift = tuple(w // 2 if block % 2 else 0 for w in self.window)
        self.rule = SizeRule(config.shrink, config.shift_single, config.mask_padding)
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = WindowAttention(config, stage)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.drop_rate)
        self.drop_path = DropPath(drop_path)
        self.kernel = kernels.AUTO
        self.normed = NORMS[config.norm_placement]
        extra = period and block % period == period - 1
        self.norm3 = nn.LayerNorm(dim, eps=config.norm_eps) if extra else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Norms that end a residual branch start at 0: every branch starts as nothing (SwinV2's official code)."""
        if self.normed is post_norm:
            for parameter in (*self.norm1.parameters(), *self.norm2.parameters()):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens (B, *grid, C) for tokens of that shape; any grid."""
        g = _resolve(tuple(x.shape[1:-1]), self.window, self.shift, self.rule)
        x = x + self.drop_path(self.normed(self.norm1, lambda y: recorded(self.attn, y, g), x))
        x = x + self.drop_path(self.normed(self.norm2, self._mlp, x))
        return self.norm3(x)

    def _mlp(self, y: Tensor) -> Tensor:
        return record(self.mlp, (y,), kernels.mlp(self.mlp, y, self.kernel))

    def extra_repr(self) -> str:
        """Shows window and shift when the model is printed."""
        return f"window={self.window}, shift={self.shift}"
