"""What every source of labelled images gives: two splits, class names, and how its images are best prepared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ..images import Preprocess
from .augment import Augment


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        names: what to call each image: its path, for files.
        labels: its class, an index into the source's ``classes``.
        read: decodes image i.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images, split in two.

    Attributes:
        name: what to call it.
        classes: names of the classes.
        train, held_out: the two splits.
        variant, image_size, lr: the model, the side of the images in pixels (None: what suits the variant) and the
            highest learning rate that suit it when none is asked for.
        augment: the random changes that suit its images.
        preprocess: how its images are prepared, for a side in pixels.
        skipped: the files that could not be used, each with the reason.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    held_out: Split
    variant: str
    image_size: int | None
    lr: float
    augment: Augment
    preprocess: Callable[[int], Preprocess]
    skipped: tuple[str, ...] = ()


def stratified_split(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Returns the indices of a training and a held-out split that hold every class in the same proportions.

    Args:
        labels: the class of every image.
        fraction: the held-out share of each class, rounded; a class of one image stays in training.
        seed: decides which images; the same seed gives the same split.

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
