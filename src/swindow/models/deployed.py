"""The frozen twin of a model: what follows from its weights is worked out once, and blocks write over their input.

It computes what the model computes, in plain eager PyTorch. On a CPU in fp32 or float64

- the scale of the similarity is in the projection's weights, and heads come out side by side: nothing is reordered;
- position biases are kept for the windows met so far;
- large layers are prepacked for oneDNN, which is faster where tokens are few;
- branches are added to the residual stream where it stands, a block of tokens at a time that stays in the cache.

Elsewhere it is a frozen copy of the model.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import windows
from ..config import PerAxis
from ..errors import ConfigError
from ..kernels import blocked, tokenwise
from ..precision import full_precision
from .attention import QueryValueBias, ScaledCosine, WindowAttention
from .block import SwinBlock
from .norms import post_norm
from .stage import SwinStage
from .swin import SwinTransformer


class DeployedTransformer(SwinTransformer):
    """See ``SwinTransformer.deploy``."""

    def __init__(self, model: SwinTransformer) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(copy.deepcopy(model).__dict__)
        super().train(False).requires_grad_(False)
        weight = self.patch_embed.proj.weight
        if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
            for stage in cast("list[SwinStage]", self.stages):
                blocks = cast("list[SwinBlock]", stage.blocks)
                stage.blocks = nn.Sequential(*(DeployedBlock(block, i > 0) for i, block in enumerate(blocks)))
                if not isinstance(stage.merge, nn.Identity):
                    stage.merge.reduction = Product(stage.merge.reduction)  # type: ignore[assignment]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """As of the model."""
        with full_precision(x):
            return super().forward(x)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """As of the model."""
        with full_precision(x):
            return super().features(x)

    @torch.no_grad()
    def encode(self, tokens: Tensor) -> Tensor:
        """As of the model."""
        with full_precision(tokens):
            return super().encode(tokens)

    @torch.no_grad()
    def pyramid(self, x: Tensor) -> list[Tensor]:
        """As of the model."""
        with full_precision(x):
            return super().pyramid(x)

    def deploy(self) -> SwinTransformer:
        """Returns itself."""
        return self

    def train(self, mode: bool = True) -> DeployedTransformer:
        """Refuses training."""
        if mode:
            self._refuse("train")
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: its weights are prepared for one machine."""
        self._refuse("save")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses, as ``state_dict`` does."""
        self._refuse("fill")

    def _apply(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("move or convert")

    def _refuse(self, verb: str) -> NoReturn:
        raise ConfigError(f"cannot {verb} a deployed model, it is frozen; {verb} the model it was made from")


class Product(nn.Module):
    """x W^T + b, with W prepacked for oneDNN where that pays."""

    ROWS, WEIGHTS = 512, 2**17  # up to so many rows, from so many weights on (benchmarks/results/speed-tried.md)

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        pays = tokenwise.ONEDNN and layer.weight.dtype == torch.float32 and layer.weight.numel() >= self.WEIGHTS
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight) if pays else None

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., out) for tokens (..., in)."""
        if self.packed is not None and x.numel() <= self.ROWS * x.shape[-1]:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def add_to(self, x: Tensor, y: Tensor) -> None:
        """Adds y W^T + b to ``x``; both have tokens as rows."""
        if self.packed is not None and len(y) <= self.ROWS:
            x += self(y)
        else:
            x.add_(self.bias).addmm_(y, self.weight.t())


class DeployedBlock(nn.Module):
    """A SwinBlock that writes over its input (but for the first of a stage) and returns it.

    Args:
        block: the block it does the work of.
        in_place: whether it may write over its input.
    """

    def __init__(self, block: SwinBlock, in_place: bool) -> None:
        super().__init__()
        self.window, self.shift, self.rule = block.window, block.shift, block.rule
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.project = HeadProjection(block.attn)
        self.position_bias = block.attn.position_bias
        self.biases: dict[PerAxis, Tensor] = {}
        self.proj, self.fc1, self.fc2 = Product(block.attn.proj), Product(block.mlp.fc1), Product(block.mlp.fc2)
        self.post = block.normed is post_norm
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens (B, *grid, C) for tokens of that shape."""
        g = windows.resolve(tuple(x.shape[1:-1]), self.window, self.shift, self.rule)
        x = x if self.in_place and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)
        y = x if self.post else self.norm1(x)
        y = blocked.attend_by_head(y, self.project, self._bias(g.window), g)  # (B, *grid, C)
        rows = x.view(-1, x.shape[-1])  # (B*H*W, C)
        self._add(rows, self.proj, y.view(rows.shape), self.norm1)
        for block in rows.split(max(1, tokenwise.BLOCK // (self.fc1.weight.shape[0] * x.element_size()))):
            y = self.fc1(block if self.post else self.norm2(block))  # (rows, hidden)
            self._add(block, self.fc2, torch.ops.aten.gelu_(y), self.norm2)
        return self.norm3(x)

    def _add(self, x: Tensor, layer: Product, y: Tensor, norm: nn.Module) -> None:
        """Ends a residual branch: adds the layer's result to ``x``, normalised in SwinV2."""
        if self.post:
            x += norm(layer(y))
        else:
            layer.add_to(x, y)

    def _bias(self, window: PerAxis) -> Tensor:
        """The relative position bias (h, N, N)."""
        if window not in self.biases:
            self.biases[window] = self.position_bias(window)
        return self.biases[window]


class HeadProjection(nn.Module):
    """Tokens to queries, keys and values, one matrix product per head, so that each head's lie side by side.

    Args:
        attn: the attention it projects for.
    """

    def __init__(self, attn: WindowAttention) -> None:
        super().__init__()
        similarity, heads, chans = attn.similarity, attn.num_heads, attn.qkv.in_features
        weight = attn.qkv.weight.view(3, heads, -1, chans).clone()  # (3, h, d, C)
        bias: Tensor | None = attn.qkv.full_bias() if isinstance(attn.qkv, QueryValueBias) else attn.qkv.bias
        bias = (weight.new_zeros(3 * chans) if bias is None else bias).view(3, heads, 1, -1).clone()  # (3, h, 1, d)
        self.scale: Tensor | None = None
        if isinstance(similarity, ScaledCosine):
            self.scale = similarity.scale()[..., None]  # (h, 1, 1, 1)
        else:
            for t in (weight[0], bias[0]):
                t *= similarity.scale(weight.shape[2])
        self.weight: Tensor = weight.transpose(0, 1).reshape(heads, -1, chans).transpose(1, 2)  # (h, C, 3d)
        self.bias: Tensor = bias.permute(1, 2, 0, 3).reshape(heads, 1, -1)  # (h, 1, 3d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values (h, b*w, N, d) of the tokens of windows (b*w, N, C)."""
        heads, chans = len(self.weight), x.shape[-1]
        t = torch.baddbmm(self.bias, x.view(1, -1, chans).expand(heads, -1, -1), self.weight)  # (h, b*w*N, 3d)
        t = t.view(heads, *x.shape[:-1], 3, -1)  # (h, b*w, N, 3, d)
        if self.scale is not None:
            both = t[..., :2, :]
            shrink = both.square().sum(-1, keepdim=True).clamp_min_(ScaledCosine.SMALLEST).rsqrt_()  # (h, b*w, N, 2, 1)
            shrink[..., 0, :] *= self.scale
            both *= shrink
        q, k, v = t.unbind(-2)
        return q, k, v
