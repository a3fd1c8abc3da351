"""What every source of labelled images gives: two splits, class names, and how its images are best prepared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from PIL import Image

from ..card import Preprocess
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
