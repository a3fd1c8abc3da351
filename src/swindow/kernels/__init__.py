"""The one seam between the models and what is fast where: they call it and never branch on what runs behind it.

Attention inside (shifted) windows has several implementations with the same arguments and results, forward and
backward:

    attend(y, qkv, bias, g, similarity, dropout) -> Tensor     before the output projection
    weights(y, qkv, bias, g, similarity) -> Tensor             the attention probabilities, for explanation

``reference`` is the paper, word by word. Of the fast ones ``blocked`` runs on a CPU in full precision, ``sdpa``
elsewhere; ``triton``, one fused kernel for GPUs, runs where it is asked for with ``using``. ``linear`` and ``mlp`` are
the layers that treat every token alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from ..errors import ConfigError, nearest
from ..windows import Geometry
from . import blocked, reference, sdpa, tokenwise
from .reference import Projection, Similarity, weights
from .tokenwise import in_blocks, linear

__all__ = ["KERNELS", "Projection", "Similarity", "attend", "linear", "mlp", "using", "weights"]

KERNELS = {"reference": reference.attend, "sdpa": sdpa.attend, "blocked": blocked.attend}
_chosen: str | None = None


def attend(
    y: Tensor, qkv: Projection, bias: Tensor, g: Geometry, similarity: Similarity, dropout: float = 0.0
) -> Tensor:
    """Softmax(similarity(Q, K) + B) V inside every window of the map (Swin section 3.2, equations 3 and 4).

    Args:
        y: (B, *grid, C) normalised tokens.
        qkv: the projection of (..., C) to (..., 3C): query, key, value, each split into heads. It is applied to padding
            too, so that a padded key is the key bias.
        bias: (h, N, N) relative position bias for the window of ``g``; its first size is the number of heads.
        g: the geometry of the map.
        similarity: scales queries and keys.
        dropout: fraction of attention probabilities dropped; 0 outside training.

    Returns:
        (B, *grid, C), before the output projection.
    """
    name = _chosen or ("blocked" if in_blocks(y) else "sdpa")
    return KERNELS[name](y, qkv, bias, g, similarity, dropout)


def mlp(y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Returns two linear layers with an exact (erf) GELU between them.

    Args:
        y: tokens (..., C).
        weight1, bias1: (hidden, C), (hidden,).
        weight2, bias2: (out, hidden), (out,).

    Returns:
        (..., out).
    """
    if _chosen in (None, "blocked") and in_blocks(y):
        return tokenwise.mlp(y, weight1, bias1, weight2, bias2)
    return tokenwise.plain_mlp(y, weight1, bias1, weight2, bias2)


@contextmanager
def using(name: str) -> Iterator[None]:
    """Runs everything inside the ``with`` block on one named implementation (for tests and comparisons).

    Raises:
        ConfigError: no implementation has that name, or it needs a package that is not installed.
    """
    global _chosen
    if name == "triton":
        KERNELS[name] = _triton()
    if name not in KERNELS:
        raise ConfigError(f"unknown kernel {name!r}{nearest(name, KERNELS)}; known: {', '.join(KERNELS)}")
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def _triton() -> Callable[..., Tensor]:
    try:
        from . import triton
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"kernel 'triton' needs {error.name}, which is not installed; try pip install triton"
        ) from None
    return triton.attend
