"""Shifted-window attention from its definition; what the tests compare with.

Nothing here uses ``swindow.windows`` or a kernel: no cyclic shift, no partition, no mask. Two tokens p and q attend if
and only if floor((p - s) / w) is the same for both on every axis: they lie in the same window of the irregular,
unshifted grid whose borders stand at s, s + w, s + 2w, ...
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from swindow.windows import SizeRule

Place = tuple[int, ...]

# The fields in which SwinV2 differs from Swin.
V2 = {
    "qkv_bias": "qv",
    "similarity": "cosine",
    "position_bias": "continuous",
    "norm_placement": "post",
    "merge_norm": "post",
}


class Problem(NamedTuple):
    """A map, the window and the shift that a block was built with, and the size rule."""

    grid: Place
    window: Place
    shift: Place
    rule: SizeRule = SizeRule()


class Fit(NamedTuple):
    """What the size rule makes of a problem."""

    padded: Place
    window: Place
    shift: Place


def fit(problem: Problem) -> Fit:
    """The size rules, in the words of the design."""
    grid, window, shift, (shrink, shift_single, _) = problem
    if shrink == "axis":
        window = tuple(min(w, g) for w, g in zip(window, grid))
    if shrink == "min" and min(grid) <= window[0]:
        assert len(set(window)) == 1, "this rule was made for windows of equal sides"
        window, shift = (min(grid),) * len(grid), (0,) * len(grid)
    count = [math.ceil(g / w) for g, w in zip(grid, window)]
    if not shift_single:
        shift = tuple(0 if n == 1 else s for n, s in zip(count, shift))
    shift = tuple(min(s, w - 1) for s, w in zip(shift, window))
    return Fit(tuple(n * w for n, w in zip(count, window)), window, shift)


def places(grid: Place) -> list[Place]:
    """Every token of a grid, row-major."""
    return list(itertools.product(*map(range, grid)))


def region(place: Place, fitted: Fit) -> Place:
    """Which of the irregular, unshifted windows a token lies in."""
    return tuple((p - s) // w for p, s, w in zip(place, fitted.shift, fitted.window))


def keys_of(problem: Problem) -> list[Place]:
    """What takes part in the softmax: the tokens of the grid; those of the padded grid where padding is not masked."""
    return places(problem.grid if problem.rule.mask_padding else fit(problem).padded)


def attends(problem: Problem) -> Tensor:
    """Whether token p attends to key q, (T, P) bool."""
    fitted = fit(problem)
    keys = [region(q, fitted) for q in keys_of(problem)]
    return torch.tensor([[region(p, fitted) == q for q in keys] for p in places(problem.grid)])


def key_numbers(problem: Problem) -> Tensor:
    """For each token of the grid, its number among the keys, (T,)."""
    number = {place: i for i, place in enumerate(keys_of(problem))}
    return torch.tensor([number[place] for place in places(problem.grid)])


def table_row(p: Place, q: Place, window: Place) -> int:
    """The row of the bias table for query p and key q: mixed-radix digits p - q + w - 1, of base 2w - 1."""
    row = 0
    for a, b, w in zip(p, q, window):
        row = row * (2 * w - 1) + (a - b + w - 1)
    return row


def attention(
    y: Tensor, qkv: Callable[[Tensor], Tensor], table: Tensor, scale: float, problem: Problem
) -> tuple[Tensor, Tensor]:
    """Returns the attended tokens (B, *grid, hd) and the probabilities (B, h, T, P), for tokens (B, *grid, C)."""
    tokens, keys, seen = places(problem.grid), keys_of(problem), attends(problem)
    size = problem.grid if problem.rule.mask_padding else fit(problem).padded
    x = y.new_zeros(y.shape[0], *size, y.shape[-1])
    x[(slice(None), *map(slice, problem.grid))] = y  # padding is zero before the projection
    q, k, v = qkv(x.flatten(1, -2)).unflatten(-1, (3, table.shape[1], -1)).unbind(2)  # (B, P, h, d) each
    # Rows of keys that are not seen may be out of the table; any row will do.
    rows = [
        [table_row(t, keys[j], problem.window) if sees else 0 for j, sees in enumerate(row)]
        for t, row in zip(tokens, seen.tolist())
    ]
    bias = table[torch.tensor(rows)].permute(2, 0, 1)  # (h, T, P)
    logits = torch.einsum("bthd,bphd->bhtp", q[:, key_numbers(problem)], k) * scale + bias
    probabilities = logits.masked_fill(~seen, float("-inf")).softmax(-1)  # (B, h, T, P)
    return torch.einsum("bhtp,bphd->bthd", probabilities, v).flatten(2).unflatten(
        1, y.shape[1:-1]
    ), probabilities.detach()


RULES = [
    SizeRule(),
    SizeRule(shift_single=True),
    SizeRule(mask_padding=False),
    SizeRule(mask_padding=False, shift_single=True),
    SizeRule(shrink="axis"),
    SizeRule(shrink="axis", mask_padding=False),
    SizeRule(shrink="min"),
    SizeRule(shrink="min", mask_padding=False),
]
_LARGEST = {1: (20, 8), 2: (9, 5), 3: (4, 3)}  # the longest axis of grid and window, by number of axes


@st.composite
def problems(draw: st.DrawFn, rules: list[SizeRule] = RULES) -> Problem:
    """Grids of one to three axes, mostly no multiples of the window; windows even, odd, not square, 1; any shift."""
    rule = draw(st.sampled_from(rules))
    axes = draw(st.sampled_from([2, 3, 1]))
    longest, widest = _LARGEST[axes]
    grid = draw(st.tuples(*[st.integers(1, longest)] * axes))
    window = draw(st.tuples(*[st.integers(1, widest)] * axes))
    if rule.shrink == "min":
        window = window[:1] * axes
    shift = tuple(draw(st.integers(0, w - 1)) for w in window)
    return Problem(grid, window, shift, rule)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """max|a - b| / max|b|; gradients that are zero by mathematics (a window of one token) are compared with 1e-6."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert ours.isfinite().all()
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))


def randomise(module: nn.Module) -> nn.Module:
    """Fills every parameter, norms and biases too, so that no fault hides behind a zero; keeps activations near 1."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and not name.endswith(("table", "embedding")):
                parameter.normal_().div_(math.sqrt(parameter[0].numel()))
            elif name.endswith("weight"):  # of a norm
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.5)
    return module
