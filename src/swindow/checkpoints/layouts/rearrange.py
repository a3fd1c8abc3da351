"""Where two libraries hold the same numbers in another arrangement: named, invertible functions of tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Rearrangement(NamedTuple):
    """A way to arrange tensors, and back: ``write(*read(*theirs)) == theirs``.

    Attributes:
        read: their tensors to ours.
        write: ours to theirs.
    """

    read: Callable[..., Tensors]
    write: Callable[..., Tensors]


def _as_it_is(*tensors: Tensor) -> Tensors:
    return tensors


SAME = Rearrangement(_as_it_is, _as_it_is)

# transformers keeps query, key and value apart: (C, C) each; ours is (3C, C).
JOINED = Rearrangement(lambda q, k, v: (torch.cat((q, k, v)),), lambda x: x.chunk(3))

# torchvision's v2 has a bias (3C,) whose middle third, that of the keys, it sets to 0 whenever it runs.
WITHOUT_KEYS = Rearrangement(
    lambda x: (x.chunk(3)[0], x.chunk(3)[2]),
    lambda q, v: (torch.cat((q, torch.zeros_like(q), v)),),
)

# One vector per channel: (1, 1, C) in theirs.
VECTOR = Rearrangement(lambda x: (x.flatten(),), lambda x: (x.view(1, 1, -1),))


def _grid(x: Tensor) -> Tensors:
    """(1, C, H, W) to (H, W, C); (1, L, C) to (L, C), whose grid is settled by what else the file says."""
    return (x[0].movedim(0, -1) if x.ndim > 3 else x[0],)


FLAT_GRID = Rearrangement(_grid, lambda x: (x.flatten(0, -2)[None],))  # (1, L, C)
CHANNELS_FIRST = Rearrangement(_grid, lambda x: (x.movedim(-1, 0)[None],))


def _reordered(theirs: Sequence[tuple[int, ...]]) -> Rearrangement:
    """For patch merging, whose last axis is (neighbour, channel): their order of neighbours to ours and back.

    Ours has the first axis fastest. A neighbour is its (0 or 1) place on each axis.
    """
    ours = [tuple(reversed(place)) for place in itertools.product((0, 1), repeat=len(theirs[0]))]
    into, back = [list(theirs).index(place) for place in ours], [ours.index(place) for place in theirs]

    def ordered(x: Tensor, order: list[int]) -> Tensors:
        return (x.unflatten(-1, (len(order), -1))[..., order, :].flatten(-2),)

    return Rearrangement(lambda x: ordered(x, into), lambda x: ordered(x, back))


LEXICOGRAPHIC = _reordered([*itertools.product((0, 1), repeat=3)])  # MONAI's mergingv2
MONAI = _reordered(  # its merging
    [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)],
)

# OpenMMLab merges with nn.Unfold: (channel, 00 01 10 11); ours is (00 10 01 11, channel).
UNFOLDED = Rearrangement(
    lambda x: (x.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-2, -1).flatten(-2),),
    lambda x: (x.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-2, -1).flatten(-2),),
)
