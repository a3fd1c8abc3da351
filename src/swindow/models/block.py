"""The Swin Transformer block: window attention and an MLP, each in a residual branch (Swin section 3.2, figure 3b)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels, private, windows
from ..caching import cached_by_shape
from ..config import SwinConfig
from ..kernels import fast_path
from ..windows import SizeRule
from .attention import WindowAttention
from .init import linear
from .norms import NORMS, post_norm
from .recording import is_recording, record, recorded

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
        kept = self.draw(y).view(-1, *(1,) * (y.ndim - 1))
        return y * kept.to(y.dtype) / (1 - self.rate)  # in this order: half precision would round 1 / (1 - rate)

    def draw(self, y: Tensor) -> Tensor:
        """Returns which samples of ``y`` (B, ...) keep the branch this time, (B,)."""
        return torch.rand(y.shape[0], device=y.device) >= self.rate

    def add(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns in training what ``x + self(branch(x))`` does; dropped samples do not go through the branch.

        Args:
            x: (B, ...).
            branch: returns (b, ...) for any b samples (b, ...), 0 included, each whatever the others are.
        """
        kept = self.draw(x).nonzero().flatten()  # (b,)
        y = branch(x if len(kept) == len(x) else x.index_select(0, kept))
        dtype = torch.promote_types(x.dtype, y.dtype)
        added: Tensor = _AddSamples.apply(x.to(dtype), y.to(dtype), kept, 1 - self.rate)  # type: ignore[no-untyped-call]
        return added

    def extra_repr(self) -> str:
        """Shows the rate when the model is printed."""
        return f"rate={self.rate:.3f}"


class _AddSamples(torch.autograd.Function):
    """x with y / keep added to some samples. PyTorch's own ``index_add`` would keep y until backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, kept: Tensor, keep: float) -> Tensor:
        ctx.keep = keep
        ctx.save_for_backward(kept)
        return x.index_add(0, kept, y / keep)  # not alpha=1 / keep: half precision would round it

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        return gradient, gradient.index_select(0, kept) / ctx.keep, None, None


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

    def forward(self, x: Tensor, leave_out: bool | None = None) -> Tensor:
        """Returns tokens (B, *grid, C) for tokens of that shape; any grid.

        Args:
            x: tokens (B, *grid, C).
            leave_out: whether to compute branches only for the samples that keep them (stochastic depth); None: see
                ``may_leave_out``.
        """
        g = _resolve(tuple(x.shape[1:-1]), self.window, self.shift, self.rule)
        leave_out = self.may_leave_out(x) if leave_out is None else leave_out
        add = self.drop_path.add if leave_out else self._add
        x = add(x, lambda x: self.normed(self.norm1, lambda y: recorded(self.attn, y, g), x, self.kernel))
        x = add(x, lambda x: self.normed(self.norm2, self._mlp, x, self.kernel))
        return self.norm3(x)

    def may_leave_out(self, x: Tensor) -> bool:
        """Returns whether dropped branches need not be computed: in training on a CPU, while nobody looks on.

        Not on a GPU, which would have to wait until the CPU knows how many samples are left. Nor with dropout, whose
        random numbers would be others, nor inside a checkpoint, which has to compute the same again in backward.
        """
        drops = type(self.drop_path) is DropPath and self.drop_path.training and self.drop_path.rate > 0
        fast = drops and x.device.type == "cpu" and self.kernel.attention in (None, "cpu") and fast_path.may_run(x)
        if not fast or is_recording() or private.has_saved_tensor_hooks():
            return False
        return fast_path.is_per_sample(self) and not self.attn.attn_drop

    def _add(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        return x + self.drop_path(branch(x))

    def _mlp(self, y: Tensor) -> Tensor:
        return record(self.mlp, (y,), kernels.mlp(self.mlp, y, self.kernel))

    def extra_repr(self) -> str:
        """Shows window and shift when the model is printed."""
        return f"window={self.window}, shift={self.shift}"
