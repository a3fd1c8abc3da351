"""What is measured. Each function builds one case and returns ``(run, expected)``; see measure.py for the two.

The blocks are those of Swin-T's first stage (96 channels, 3 heads, patch 4: an image of P x P pixels is a map of
P/4 x P/4 tokens); batch 1, fp32, inference but for ``training_step``, random weights and input.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import swindow
from swindow import kernels
from swindow.models.attention import WindowAttention
from swindow.models.block import SwinBlock
from swindow.models.stage import SwinStage
from swindow.windows import Geometry

PATCH = 4


class Built(NamedTuple):
    """What a case returns: the function that is timed, and the one that gives the same result in another way."""

    run: Callable[[], Tensor]
    expected: Callable[[], Tensor] | None


def windowed(side: int) -> Built:
    """W-MSA and SW-MSA in windows of 7 x 7."""
    return _against_reference(_pair(7), _tokens(side))


def global_bias(side: int) -> Built:
    """The same two blocks with a window that covers the map: every token attends to all, with the position bias."""
    return _against_reference(_pair(side // PATCH), _tokens(side))


def global_plain(side: int) -> Built:
    """The same two blocks with global attention without a position bias, which needs no N x N matrix in memory."""
    x, pair = _tokens(side), _pair(side // PATCH)
    for block in pair:
        nn.init.zeros_(block.attn.position_bias.table)  # type: ignore[union-attr, arg-type]
    plain = copy.deepcopy(pair)
    for block in plain:
        block.attn = PlainGlobalAttention(block.attn)  # type: ignore[arg-type]
    return Built(lambda: _infer(plain, x), lambda: _infer(pair, x, "reference"))


def swin_tiny(side: int) -> Built:
    """The whole Swin-T, from pixels to logits."""
    return _against_reference(swindow.create("swin_tiny").eval(), torch.randn(1, 3, side, side))


def training_step(variant: str, side: int, batch: int, stages: list[int]) -> Built:
    """Forward and backward of a whole model, with gradient checkpointing in some stages; gives a gradient."""
    model, x = swindow.create(variant).train(), torch.randn(batch, 3, side, side)
    labels = torch.randint(0, model.config.num_classes, (batch,))

    def step(chosen: list[int]) -> Tensor:
        model.set_grad_checkpointing(chosen)
        model.zero_grad(set_to_none=False)  # gradients stand in memory before and after
        torch.manual_seed(0)  # stochastic depth
        F.cross_entropy(model(x), labels).backward()
        return next(model.parameters()).grad

    return Built(lambda: step(stages), lambda: step([]))


def known(mebibytes: int, seconds: float) -> Built:
    """No model: takes known memory and a known time, so that the measuring can be tested."""

    def run() -> Tensor:
        x = torch.ones(mebibytes * 2**18)
        time.sleep(seconds)
        return x[:1]

    return Built(run, lambda: torch.ones(1))


class PlainGlobalAttention(nn.Module):
    """Softmax(QK^T/sqrt(d)) V over the whole map, in place of (and with the weights of) a WindowAttention."""

    def __init__(self, attn: WindowAttention) -> None:
        super().__init__()
        self.heads = attn.position_bias.table.shape[1]
        self.qkv, self.proj = attn.qkv, attn.proj

    def forward(self, y: Tensor, g: Geometry) -> Tensor:
        qkv = self.qkv(y.flatten(1, -2)).unflatten(-1, (3, self.heads, -1))  # (B, H*W, 3, h, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, h, H*W, d) each
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(y.shape)  # (B, H, W, C)
        return self.proj(x)


def _tokens(side: int) -> Tensor:
    return torch.randn(1, side // PATCH, side // PATCH, 96)


def _pair(window: int) -> nn.Sequential:
    """The two blocks of Swin-T's first stage, with windows of ``window`` x ``window`` tokens."""
    config = swindow.SwinConfig(embed_dim=96, depths=(2,), num_heads=(3,), window_size=window, patch_size=PATCH)
    return SwinStage(config, 0, drop_path=(0.0, 0.0)).blocks.eval()


def _against_reference(model: nn.Module, x: Tensor) -> Built:
    """Runs the model as a user does; expects what the literal implementation of the paper gives."""
    return Built(lambda: _infer(model, x), lambda: _infer(model, x, "reference"))


@torch.inference_mode()
def _infer(model: nn.Module, x: Tensor, kernel: str | None = None) -> Tensor:
    if kernel is None:
        return model(x)
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, SwinBlock | WindowAttention):
            module.kernel = kernels.kernel(kernel)
    return model(x)
