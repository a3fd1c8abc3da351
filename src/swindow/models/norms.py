"""Where a LayerNorm stands: before a function, as in Swin, or after it, as in SwinV2.

``f`` takes and returns tokens (B, *grid, C); patch merging's takes (..., 4C) and returns (..., 2C).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .. import kernels
from ..kernels import AUTO, Kernel


def pre_norm(norm: nn.Module, f: Callable[[Tensor], Tensor], x: Tensor, kernel: Kernel = AUTO) -> Tensor:
    """Returns f(LN x): v1, Swin section 3.2."""
    return f(kernels.norm(norm, x, kernel))


def post_norm(norm: nn.Module, f: Callable[[Tensor], Tensor], x: Tensor, kernel: Kernel = AUTO) -> Tensor:
    """Returns LN(f x): SwinV2 section 3.2, which keeps the residual stream from growing with depth."""
    return norm(f(x))


NORMS = {"pre": pre_norm, "post": post_norm}
