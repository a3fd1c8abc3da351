"""What is known of GPUs: where the fused kernel may run, where it is faster than PyTorch's, and its tile sizes.

Nothing here needs Triton. The tables are looked up, never found by a timing, so that the same model computes the same
way in every run; ``triton_tuning`` times tiles where it is asked to.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import private
from ..caching import is_static
from ..precision import computed
from . import fast_path


class Tile(NamedTuple):
    """The tile size of a kernel.

    Attributes:
        block: tokens of a window that are worked on together.
        warps: groups of 32 threads per program.
        stages: loads under way at a time; each takes its share of the shared memory.
    """

    block: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """The tiles of forward and of backward."""

    forward: Tile
    backward: Tile


class Card(NamedTuple):
    """The tile sizes on GPUs of some compute capabilities.

    Attributes:
        shared: bytes of shared memory that one program may have.
        window: for windows of 33 to 64 tokens, which fit one block.
        blocks: for larger windows.
    """

    shared: int
    window: Tiles
    blocks: Tiles


# HOPPER was measured on an H100 (benchmarks/results/gpu/tiles.json). The others: the stages that fit, and of those the
# tiles that spill the fewest registers in Triton 3.7's compiler; they were compiled for these cards and not run on one.
HOPPER = Card(227 << 10, Tiles(Tile(64, 4, 3), Tile(64, 4, 3)), Tiles(Tile(64, 4, 2), Tile(64, 4, 2)))
BLACKWELL = Card(227 << 10, Tiles(Tile(64, 8, 2), Tile(64, 8, 2)), Tiles(Tile(64, 8, 2), Tile(64, 8, 2)))
AMPERE = Card(163 << 10, Tiles(Tile(64, 4, 3), Tile(64, 4, 2)), Tiles(Tile(64, 4, 2), Tile(64, 4, 2)))
CONSUMER = Card(99 << 10, Tiles(Tile(64, 4, 2), Tile(64, 4, 1)), Tiles(Tile(64, 4, 2), Tile(64, 4, 1)))
CARDS = {
    (8, 0): AMPERE,  # A100
    (8, 6): CONSUMER,  # RTX 30, A10
    (8, 7): AMPERE,  # Orin
    (8, 9): CONSUMER,  # RTX 40, L4, L40
    (9, 0): HOPPER,  # H100, H200
    (10, 0): BLACKWELL,  # B200
    (10, 3): BLACKWELL,  # B300
    (12, 0): CONSUMER,  # RTX 50
}
# Small windows need little shared memory on all of them: by tokens, up to so many.
SMALL = {16: Tiles(Tile(16, 1, 2), Tile(16, 1, 2)), 32: Tiles(Tile(32, 2, 2), Tile(32, 2, 2))}
WIDE = Tile(32, 4, 1)  # at most, in fp32 and for more than 64 channels per head: larger blocks spill
LEAST = (8, 0)  # the compute capability that Triton needs


class Faster(NamedTuple):
    """Where a committed result shows the fused kernel faster than ``sdpa``, in forward and in backward.

    Attributes:
        capability: of the GPU.
        dtype: in which linear layers compute.
        windows: numbers of tokens of a window.
        axes: of the map: 2 for images.
        head_dim: channels per head.
        elements: B * H * W * C of the smallest map among those measured.
    """

    capability: tuple[int, int]
    dtype: torch.dtype
    windows: tuple[int, ...]
    axes: int
    head_dim: int
    elements: int


# Swin-T and SwinV2-T at batch 128 on an H100 (benchmarks/results/gpu/speed.md); the smallest map is that of stage 4.
# One image of 768 x 1024 pixels, whose maps are smaller, is not faster but as a CUDA graph (more.md).
FASTER = (Faster((9, 0), torch.bfloat16, (49, 64), 2, 32, 128 * 7 * 7 * 768),)


def tile(n: int, d: int, dtype: torch.dtype, backward: bool, capability: tuple[int, int] | None) -> Tile:
    """Returns the tile for windows of n tokens and d channels per head.

    Of a GPU that is not in the table, the one that needs least shared memory.
    """
    card = CONSUMER if capability is None else CARDS.get(capability, CONSUMER)
    tiles = next((small for most, small in SMALL.items() if n <= most), card.window if n <= 64 else card.blocks)
    found = tiles.backward if backward else tiles.forward
    return WIDE if (dtype == torch.float32 or d > 64) and found.block > WIDE.block else found


def suits(y: Tensor, n: int, similarity: Any) -> bool:
    """Returns whether the fused kernel runs where no kernel is asked for, by ``FASTER``.

    Not where a fast path may not (see ``fast_path``), except while compiling; nor where deterministic results are
    asked for: in backward its programs add to the same numbers, in any order.

    Args:
        y: (B, *grid, C) tokens.
        n: tokens of a window.
        similarity: what scales queries and keys.
    """
    if y.device.type != "cuda" or not is_static(y.shape) or torch.are_deterministic_algorithms_enabled():
        return False
    if not (_compiles() if torch.compiler.is_compiling() else fast_path.may_run(y, similarity)):
        return False
    place, dtype = capability(y.device.index), computed(y)
    learned = hasattr(similarity, "scale") and hasattr(similarity, "cosine")
    fits = any(
        row.capability == place
        and row.dtype == dtype
        and row.elements <= y.numel()
        and (n in row.windows and y.ndim - 2 == row.axes)
        and getattr(similarity, "head_dim", None) == row.head_dim
        for row in FASTER
    )
    return learned and fits and may_run(y.device)


def may_run(device: torch.device) -> bool:
    """Returns whether the fused kernel can run on a device; where it cannot, one warning says why."""
    return _can_run(device.type, device.index)


def is_interpreted() -> bool:
    """Returns whether Triton's interpreter runs kernels, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@private.constant_while_compiling  # torch.compile calls it, once
def _can_run(kind: str, index: int | None) -> bool:
    reason = _obstacle(kind, index)
    if reason is not None:
        _warn_once(reason)
    return reason is None


@private.constant_while_compiling
def capability(index: int | None) -> tuple[int, int] | None:
    """Returns the compute capability of an NVIDIA GPU; None where there is none (fake tensors have no GPU)."""
    return _capability(index)


@functools.cache
def _capability(index: int | None) -> tuple[int, int] | None:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability(index)


def _obstacle(kind: str, index: int | None) -> str | None:
    """Why the fused kernel cannot run on a device; None where it can."""
    if torch.version.hip is not None:
        return "it was made for NVIDIA GPUs"
    if not is_installed():
        return "the package triton is not installed; try pip install triton"
    if is_interpreted() or kind == "meta":
        return None
    if kind != "cuda":
        return f"the tokens lie on {kind!r}, and it runs on NVIDIA GPUs"
    found = capability(index)
    if found is not None and found < LEAST:
        return f"it needs compute capability {LEAST[0]}.{LEAST[1]}, and this GPU has {found[0]}.{found[1]}"
    return None


@functools.cache
def is_installed() -> bool:
    """Returns whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"kernel 'triton' cannot run here: {reason}. 'sdpa' runs in its place", stacklevel=4)


@private.constant_while_compiling  # some versions would answer yes
def _compiles() -> bool:
    """Whether what is compiled is not exported: a file would need the kernel."""
    exporting = getattr(torch.compiler, "is_exporting", None)  # not in PyTorch 2.6
    return exporting is not None and not exporting()
