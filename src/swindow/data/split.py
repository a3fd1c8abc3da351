"""Splits as data: a share, a seed and whether classes keep their proportions say which samples are held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..card import HeldOut
from ..errors import ConfigError, DataError
from .sample import Dataset, Splits, Subset

UNEQUAL = 10  # times as many training images in the largest class as in the smallest: accuracy hides the small ones
FEW = 5  # held-out images of a class: with fewer, one image more or less right is over 20 points of its accuracy


def digest(*parts: Any) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def hold_out(dataset: Dataset, how: HeldOut) -> Splits:
    """Returns a data set in two: what to train on and what is held out. The same ``how`` gives the same split.

    Samples without classes, and all where ``how.stratified`` is False, are drawn at random from the whole.

    Raises:
        DataError: there are too few samples to hold any out.
    """
    labels = dataset.labels() if how.stratified else None
    of = [0] * len(dataset) if labels is None else labels.tolist()
    train, held_out = stratified_split(of, how.share, how.seed)
    if not held_out:
        raise DataError(
            f"{dataset.info.name}: too few images to hold any out for evaluation ({len(dataset)} in {len(set(of))} "
            "classes, one of each has to stay in training); add some"
        )
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


def limited(data: Splits, limit: int | None, fraction: float | None, seed: int) -> Splits:
    """Returns fewer samples of data, evenly from all classes, at least one of each.

    Args:
        data: what to train on and what is held out.
        limit: about so many samples of each of the two; None: all.
        fraction: so much of the training samples; None: all.
        seed: decides which samples.
    """

    def some(dataset: Dataset, share: float) -> Dataset:
        if share >= 1:
            return dataset
        labels = dataset.labels()
        of = np.zeros(len(dataset), np.int64) if labels is None else labels
        chosen: list[int] = []
        for c in np.unique(of):
            members = np.random.default_rng((seed, int(c))).permutation(np.flatnonzero(of == c))
            chosen += members[: max(1, round(len(members) * share))].tolist()
        return Subset(dataset, tuple(sorted(chosen)))

    def share(dataset: Dataset) -> float:
        return 1.0 if limit is None else limit / len(dataset)

    held_out = None if data.held_out is None else some(data.held_out, share(data.held_out))
    return Splits(some(data.train, min(share(data.train), fraction or 1.0)), held_out)


def class_counts(dataset: Dataset) -> list[int]:
    """Returns how many samples are of every class. Nothing is decoded."""
    classes, labels = len(dataset.info.class_names), dataset.labels()
    if labels is not None:
        return np.bincount(labels, minlength=classes).tolist()
    counts = np.zeros(classes, np.int64)
    for i in range(len(dataset)):
        target = _target(dataset, i)
        if isinstance(target, np.ndarray) and target.shape == counts.shape:  # several labels: 0 and 1 for every class
            counts += target
    return counts.tolist()


def _target(dataset: Dataset, i: int) -> Any:
    """The target of a sample, without its media where the data can tell."""
    if isinstance(dataset, Subset):
        return _target(dataset.dataset, dataset.indices[i])
    return dataset.target(i) if hasattr(dataset, "target") else dataset[i].target


def balanced(dataset: Dataset) -> np.ndarray:
    """Returns a probability for every sample (samples,), with which all classes are drawn equally often.

    Raises:
        ConfigError: the samples have no classes.
    """
    labels = dataset.labels()
    if labels is None:
        raise ConfigError(f"balance: got data without classes ({dataset.info.name}), expected images with classes")
    counts = np.bincount(labels)
    return 1 / (counts[labels] * (counts > 0).sum())


def warnings(data: Splits) -> list[str]:
    """Returns what a user should know before training, one sentence each.

    These are the notes of the data; classes with no training or held-out images, or with fewer than ``FEW`` held-out
    ones; and a largest class with at least ``UNEQUAL`` times the training images of the smallest.
    """
    info = data.train.info
    found = list(info.notes)
    train, held_out = (
        None if labels is None else np.bincount(labels, minlength=len(info.class_names))
        for labels in (data.train.labels(), None if data.held_out is None else data.held_out.labels())
    )

    def some(chosen: np.ndarray, counts: np.ndarray) -> str:
        """The classes with the lowest counts first, at most five."""
        order = sorted(np.flatnonzero(chosen).tolist(), key=lambda c: int(counts[c]))
        more = f" and {len(order) - 5} more" if len(order) > 5 else ""
        return ", ".join(f"{info.class_names[c]} ({counts[c]})" for c in order[:5]) + more

    if train is not None and not train.all():
        found.append(f"no images to train on in class {some(train == 0, train)}")
    if held_out is not None:
        if train is not None and not held_out.all():
            found.append(
                f"no images are held out of class {some(held_out == 0, train)}: how well it is learned is not measured"
            )
        few = (held_out > 0) & (held_out < FEW)
        if few.any():
            found.append(
                f"fewer than {FEW} images are held out of class {some(few, held_out)}: their accuracy is unreliable"
            )
    if train is not None and train.any() and train.max() >= UNEQUAL * train[train > 0].min():
        largest, smallest = int(train.argmax()), int(np.where(train > 0, train, train.max()).argmin())
        found.append(
            f"classes are unequal: {train[largest]} training images of {info.class_names[largest]}, "
            f"{train[smallest]} of {info.class_names[smallest]}; accuracy mostly reflects the large classes"
        )
    return found
