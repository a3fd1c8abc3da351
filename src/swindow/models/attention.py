"""Multi-head self-attention inside (shifted) windows: W-MSA and SW-MSA (Swin section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import kernels
from ..config import SwinConfig
from ..precision import full_precision, wide
from ..windows import Geometry
from .init import linear
from .position_bias import ContinuousPositionBias, RelativePositionBias


class ScaledDotProduct(nn.Module):
    """The similarity of equation 4: QK^T / sqrt(d).

    Args:
        num_heads: attention heads h.
        head_dim: channels per head d.
    """

    cosine = False

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Returns queries divided by sqrt(d), and the keys; both (..., h, N, d)."""
        return self.scaled(q, k)

    def scaled(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what ``forward`` returns, as a function of its parameters: there are none."""
        return q * self.scale(), k

    def scale(self) -> float:
        """Returns 1 / sqrt(d)."""
        return self.head_dim**-0.5


class ScaledCosine(nn.Module):
    """The similarity of SwinV2 section 3.2: the cosine of query and key times a learned scale per head, at most 100.

    Computed in fp32 whatever the autocast: exp and division lose too much in half precision.

    Args:
        num_heads: attention heads h.
        head_dim: channels per head d.

    Attributes:
        logit_scale: (h, 1, 1) natural logarithm of the scale, ln 10 at first.
    """

    LARGEST = math.log(100)
    SMALLEST = 1e-24  # a vector of a smaller square is not made longer than its length times 1e12
    cosine = True

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Returns queries of length ``scale`` and keys of length 1; both (..., h, N, d)."""
        return self.scaled(q, k, self.logit_scale)

    def scaled(self, q: Tensor, k: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what ``forward`` returns, as a function of its parameters."""
        with full_precision(q):  # vectors are the first factors: results lie in memory as they do
            long = wide(q) * (self._shrink(wide(q)) * self._length(logit_scale))
            unit = wide(k) * self._shrink(wide(k))
        return long.to(q.dtype), unit.to(k.dtype)

    def scale(self) -> Tensor:
        """Returns the length of queries, (h, 1, 1)."""
        return self._length(self.logit_scale)

    def _length(self, logit_scale: Tensor) -> Tensor:
        return wide(logit_scale).clamp(max=self.LARGEST).exp()

    def _shrink(self, x: Tensor) -> Tensor:
        """One over the length of each vector, (..., 1): F.normalize takes several times as long on a CPU."""
        return x.square().sum(-1, keepdim=True).clamp(min=self.SMALLEST).rsqrt()


class WindowAttention(nn.Module):
    """Softmax(QK^T/sqrt(d) + B) V in every window, between two linear layers (Swin equation 4).

    Whether it is W-MSA or SW-MSA is in the geometry that ``forward`` is given. Where v1 and SwinV2 (sections 3.2
    and 3.3) differ is decided here, once.

    Args:
        config: the model's config.
        stage: which stage, from 0.
    """

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        dim, heads, window = config.width(stage), config.num_heads[stage], config.window_size[stage]
        head_dim = config.head_dims[stage]
        self.num_heads = heads
        self.q_bias: nn.Parameter | None
        self.v_bias: nn.Parameter | None
        self.qkv = linear(dim, 3 * heads * head_dim, bias=config.qkv_bias is True)
        if config.qkv_bias == "qv":  # keys have no bias: cosines are taken of them
            self.q_bias = nn.Parameter(torch.zeros(heads * head_dim))
            self.v_bias = nn.Parameter(torch.zeros(heads * head_dim))
        else:
            self.q_bias = self.v_bias = None
        self.similarity: ScaledDotProduct | ScaledCosine
        self.similarity = (ScaledCosine if config.similarity == "cosine" else ScaledDotProduct)(heads, head_dim)
        self.position_bias: RelativePositionBias | ContinuousPositionBias
        if config.position_bias == "continuous":
            trained = config.pretrained_window_size or config.window_size
            self.position_bias = ContinuousPositionBias(trained[stage], heads)
        else:
            self.position_bias = RelativePositionBias(window, heads)
        self.attn_drop = config.attn_drop_rate
        self.proj = linear(heads * head_dim, dim)
        self.drop = nn.Dropout(config.drop_rate)
        self.kernel = kernels.AUTO

    def forward(self, y: Tensor, g: Geometry) -> Tensor:
        """Returns (B, *grid, C) for normalised tokens ``y`` of that shape and their geometry."""
        bias = self.position_bias(g.window)  # (h, N, N)
        dropout = self.attn_drop if self.training else 0.0
        y = kernels.attend(y, self.project, bias, g, self.similarity, dropout, *self.kernel)
        y = self.drop(kernels.linear(self.proj, y, kernel=self.kernel))
        return y

    def project(self, y: Tensor) -> Tensor:
        """Returns queries, keys and values (..., 3hd) of tokens (..., C)."""
        bias = None if self.q_bias is None else self.qkv_bias()
        return kernels.linear(self.qkv, y, bias, self.kernel)

    def qkv_bias(self) -> Tensor | None:
        """Returns the bias of queries, keys and values, (3hd,); None where there is none."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv.bias
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
