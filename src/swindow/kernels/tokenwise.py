"""The layers that treat every token alike, faster in inference on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 5_000_000  # bytes of an MLP's hidden layer at a time (benchmarks/results/speed.md)
ROWS, WEIGHTS = 128, 2**20  # up to so many rows, from so many weights on, oneDNN's product is the faster one

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def in_blocks(x: Tensor) -> bool:
    """Whether tokens are worked on without a graph on a CPU in full precision: there, blocks of them pay."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x W^T + b, (..., out) for tokens (..., in): oneDNN's product where the rows are few."""
    few = x.numel() <= ROWS * x.shape[-1] and weight.numel() >= WEIGHTS
    if few and in_blocks(x) and x.dtype == torch.float32 and ONEDNN and type(weight) in (Tensor, nn.Parameter):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def mlp(y: Tensor, layers: Callable[[Tensor], Tensor], hidden: int) -> Tensor:
    """Returns ``layers(y)`` for tokens (..., C), block by block so that ``hidden`` numbers per token stay in the cache.

    Done whole, the hidden layer of a large batch is written to memory that the system has to clear first, and read
    back twice.
    """
    rows = max(1, BLOCK // (hidden * y.element_size()))
    if y.numel() <= rows * y.shape[-1] or not in_blocks(y):
        return layers(y)
    return torch.cat([layers(block) for block in y.flatten(0, -2).split(rows)]).view(*y.shape[:-1], -1)
