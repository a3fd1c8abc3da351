"""Splits as data: a share, a seed and whether classes keep their proportions say which samples are held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..card import HeldOut
from .sample import Dataset, Splits, Subset


def digest(*parts: Any) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def hold_out(dataset: Dataset, how: HeldOut) -> Splits:
    """Returns a data set in two: what to train on and what is held out. The same ``how`` gives the same split."""
    labels = dataset.labels() if how.stratified else None
    of = [0] * len(dataset) if labels is None else labels.tolist()
    train, held_out = stratified_split(of, how.share, how.seed)
    return Splits(Subset(dataset, tuple(train)), Subset(dataset, tuple(held_out)))


def stratified_split(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Returns the indices of a training and a held-out split that hold every class in the same proportions.

    Args:
        labels: the class of every sample.
        fraction: the held-out share of each class, rounded; a class of one sample stays in training.
        seed: decides which samples; the same seed gives the same split.

    Example:
        >>> stratified_split([0] * 10 + [1] * 5, 0.2, seed=0)[1]
        [4, 6, 11]
    """
    of = np.asarray(labels)
    held_out: list[int] = []
    for c in np.unique(of):
        members = np.flatnonzero(of == c)
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        held_out += np.random.default_rng((seed, int(c))).permutation(members)[:count].tolist()
    chosen = set(held_out)
    return [i for i in range(len(labels)) if i not in chosen], sorted(chosen)
