"""The one seam between the models and what is fast where: they call it and never branch on what runs behind it.

Attention inside (shifted) windows has several implementations with the same arguments and results, forward and
backward:

    attend(y, qkv, bias, g, similarity, dropout) -> Tensor     before the output projection
    weights(y, qkv, bias, g, similarity) -> Tensor             the attention probabilities, for explanation

``reference`` is the paper, word by word. Of the fast ones ``cpu`` runs on a CPU, in bfloat16 where that pays;
``triton``, one fused kernel for GPUs, where it was measured to be faster (``gpu``); ``sdpa`` elsewhere.
``linear``, ``norm`` and ``mlp`` compute a linear layer, a LayerNorm and a block's MLP; where somebody looks on they
call them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import private
from ..caching import is_static
from ..errors import ConfigError, nearest
from ..precision import computed
from ..windows import Geometry
from . import cpu, cpu_mlp, fast_path, gpu, products, recompute, reference, sdpa
from .reference import Projection, Similarity, weights

__all__ = [
    "AUTO",
    "KERNELS",
    "Kernel",
    "Projection",
    "Similarity",
    "attend",
    "kernel",
    "linear",
    "mlp",
    "norm",
    "weights",
]

KERNELS = ("reference", "sdpa", "cpu", "triton")


class Kernel(NamedTuple):
    """What a module computes with; None: what suits device, type and processor.

    Attributes:
        attention: a name of ``KERNELS``. With "reference", "sdpa" and "triton", linear layers are called as they are.
        product: a name of ``products.PRODUCTS``.
    """

    attention: str | None = None
    product: str | None = None


AUTO = Kernel()


def kernel(attention: str | None, product: str | None = None) -> Kernel:
    """Returns a checked Kernel.

    Raises:
        ConfigError: there is no such kernel or product.
    """
    if attention is not None and attention not in KERNELS:
        raise ConfigError(
            f"unknown kernel {attention!r}{nearest(str(attention), KERNELS)}; known: {', '.join(KERNELS)}"
        )
    if attention == "triton" and gpu.is_installed():
        _implementation(attention)  # declares its operators, so that FLOP counters know them
    products.choice(product)
    return Kernel(attention, product)


def attend(
    y: Tensor,
    qkv: Projection,
    bias: Tensor,
    g: Geometry,
    similarity: Similarity,
    dropout: float = 0.0,
    kernel: str | None = None,
    product: str | None = None,
) -> Tensor:
    """Softmax(similarity(Q, K) + B) V inside every window of the map (Swin section 3.2, equations 3 and 4).

    Args:
        y: (B, *grid, C) normalised tokens.
        qkv: the projection of (..., C) to (..., 3hd): query, key, value, each split into heads. It is applied to
            padding too, so that a padded key is the key bias.
        bias: (h, N, N) relative position bias for the window of ``g``; its first size is the number of heads.
        g: the geometry of the map.
        similarity: scales queries and keys.
        dropout: fraction of attention probabilities dropped; 0 outside training.
        kernel: a name of ``KERNELS``; None: what suits device and type.
        product: a name of ``products.PRODUCTS``; it decides with ``kernel`` None.

    Returns:
        (B, *grid, hd), before the output projection.
    """
    if is_static(y.shape[:1]) and len(y) == 0:
        kernel = "reference"  # which takes no images too, and gives every parameter a gradient of zeros
    name = kernel or _suitable(y, bias.shape[-1], similarity, dropout, product)
    if name == "triton" and not gpu.may_run(y.device):
        name = "sdpa"
    return _implementation(name)(y, qkv, bias, g, similarity, dropout)


def linear(layer: nn.Linear, x: Tensor, bias: Tensor | None = None, kernel: Kernel = AUTO) -> Tensor:
    """Returns a linear layer's result (..., out) for tokens (..., in), by the product that suits the processor.

    Args:
        layer: the layer; it is called where somebody looks on (see ``fast_path``).
        x: tokens (..., in).
        bias: (out,) added by a layer that has no bias of its own.
        kernel: what to compute with.
    """
    fast = kernel.attention in (None, "cpu") and x.device.type == "cpu"
    if fast and type(layer) is nn.Linear and fast_path.may_run(x, layer):
        bias = layer.bias if bias is None else bias
        if computed(x) == torch.float32:
            return products.linear(x, layer.weight, bias, kernel.product)
        return F.linear(x, layer.weight, bias)
    y: Tensor = layer(x)
    return y if bias is None else y + bias.to(y.dtype)  # under autocast it is wider


def norm(layer: nn.Module, x: Tensor, kernel: Kernel = AUTO) -> Tensor:
    """Returns a LayerNorm's result for tokens (..., C), which a linear layer that follows need not save for backward.

    Args:
        layer: the LayerNorm; it is called where somebody looks on (see ``fast_path``) and where gradients are disabled.
        x: tokens (..., C).
        kernel: what to compute with.
    """
    part: Any = layer
    fast = kernel.attention in (None, "cpu") and x.device.type == "cpu" and cpu_mlp.recomputes(x)
    plain = type(layer) is nn.LayerNorm and len(layer.normalized_shape) == 1 and layer.bias is not None
    if fast and plain and fast_path.may_run(x, layer):
        return recompute.norm(x, part.weight, part.bias, part.eps)
    result: Tensor = layer(x)
    return result


def mlp(layers: nn.Module, y: Tensor, kernel: Kernel = AUTO) -> Tensor:
    """Returns an Mlp's result (..., C) for tokens (..., C): on a CPU, a block of tokens at a time.

    Args:
        layers: the Mlp; it is called where it drops something or somebody looks on (see ``fast_path``).
        y: tokens (..., C).
        kernel: what to compute with.
    """
    part: Any = layers
    fast = kernel.attention in (None, "cpu") and cpu.suits(y, kernel.product) and fast_path.is_plain_mlp(layers)
    if fast and (cpu_mlp.recomputes(y) or not torch.is_grad_enabled()) and fast_path.may_run(y, layers):
        fc1, fc2 = part.fc1, part.fc2
        return cpu_mlp.mlp(y, fc1.weight, fc1.bias, fc2.weight, fc2.bias, kernel.product)
    result: Tensor = layers(y)
    return result


def _suitable(y: Tensor, n: int, similarity: Similarity, dropout: float, product: str | None) -> str:
    """The kernel for tokens of a type and device, in windows of n."""
    modules = (similarity,) if isinstance(similarity, nn.Module) else ()
    if cpu.suits(y, product) and fast_path.may_run(y, *modules):
        return "cpu" if torch.is_grad_enabled() or n < cpu.LARGE_WINDOW else "sdpa"
    if not dropout and gpu.suits(y, n, similarity):
        return "triton"
    # PyTorch's attention has no forward-mode derivative, and on a CPU FLOP counters do not know its operator.
    counted = y.device.type == "cpu" and not torch.compiler.is_compiling() and private.has_dispatch_modes()
    return "reference" if private.forward_mode() or counted else "sdpa"


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "triton":
        from . import triton

        return triton.attend
    return {"reference": reference.attend, "sdpa": sdpa.attend, "cpu": cpu.attend}[name]
