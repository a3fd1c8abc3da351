"""Blocks in the form that ONNX Runtime and OpenVINO compute fastest (benchmarks/results/speed-tried.md)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import windows
from ..kernels.plan import plan
from ..models.attention import ScaledCosine, WindowAttention
from ..models.block import SwinBlock
from ..models.deployed import is_built_here
from ..precision import wide
from ..windows import Geometry


class ExportedBlock(nn.Module):
    """A SwinBlock whose tokens stand on one axis, (B, H*W, C), so that runtimes fuse what follows a LayerNorm.

    It runs inside torch.export only.

    Args:
        block: the block it does the work of.
    """

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.window, self.shift, self.rule = block.window, block.shift, block.rule
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.attn, self.mlp, self.normed = ExportedAttention(block.attn), block.mlp, block.normed

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens (B, *grid, C) for tokens of that shape."""
        grid = x.shape[1:-1]
        g = windows.resolve(tuple(grid), self.window, self.shift, self.rule)
        x = x.flatten(1, -2)
        x = x + self.normed(self.norm1, lambda y: self.attn(y, g), x)
        x = x + self.normed(self.norm2, self.mlp, x)
        return self.norm3(x.unflatten(1, grid))


class ExportedAttention(nn.Module):
    """Window attention as plain products, with a linear layer each for queries, keys and values.

    The result of one layer for the three would have to be split, which is a copy. Products of four axes are fused with
    the softmax between them. It runs inside torch.export only.

    Args:
        attn: the attention it does the work of.
    """

    def __init__(self, attn: WindowAttention) -> None:
        super().__init__()
        self.heads, self.position_bias, self.similarity = attn.num_heads, attn.position_bias, attn.similarity
        biases: list[Tensor | None] = [None] * 3 if attn.qkv.bias is None else list(attn.qkv.bias.chunk(3))
        if attn.q_bias is not None:
            biases = [attn.q_bias, None, attn.v_bias]
        self.q, self.k, self.v = (_linear(*layer) for layer in zip(attn.qkv.weight.chunk(3), biases))
        self.proj = attn.proj

    def forward(self, y: Tensor, g: Geometry) -> Tensor:
        """Returns tokens (B, H*W, C) for tokens of that shape and their geometry."""
        order, bias = plan(g, y.device), self.position_bias(g.window)  # (h, N, N)
        n = bias.shape[-1]
        x = F.pad(y, [0, 0, 0, 1]) if order.pads else y  # one zero token, which every place of padding reads
        x = x.index_select(1, order.gather)  # (B, nW*N, C)
        layers = (self.q, self.k, self.v)
        q, k, v = (f(x).reshape(-1, n, self.heads, f.out_features // self.heads).transpose(1, 2) for f in layers)
        q, k = self._similarity(q, k)  # (B*nW, h, N, d)
        (group,) = order.groups  # one for all windows, while a graph is captured
        bias = (bias if group.mask is None else bias + group.mask[:, None]).to(q.dtype)  # (h, N, N), (nW, h, N, N)
        if group.mask is not None:
            bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1, 1)  # with a fifth axis products would not be fused
        x = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v  # (B*nW, h, N, d)
        x = x.transpose(1, 2).reshape(y.shape[0], -1, self.v.out_features)  # (B, nW*N, hd)
        return self.proj(x.index_select(1, order.scatter))

    def _similarity(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What ``similarity`` gives; vectors are divided by a norm, for which runtimes have an operation."""
        if not isinstance(self.similarity, ScaledCosine):
            return self.similarity(q, k)
        return (_unit(wide(q)) * self.similarity.scale()).to(q.dtype), _unit(wide(k)).to(k.dtype)


def rewrite(model: nn.Module) -> None:
    """Puts an ``ExportedBlock`` in the place of every block of a model in evaluation mode.

    Blocks that somebody changed (adapted layers, hooks, a kernel of their own) stay.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SwinBlock) and is_built_here(child) and child.kernel.attention is None:
                setattr(parent, name, ExportedBlock(child))


def _unit(x: Tensor) -> Tensor:
    """Vectors of length 1."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp(min=ScaledCosine.SMALLEST**0.5)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of the weight (out, in) and the bias (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, "meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
