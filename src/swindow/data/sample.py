"""What every kind of data gives: samples by number, and what is known of them without decoding anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Sample(NamedTuple):
    """One example of a data set, not decoded yet.

    Attributes:
        media: a lazy handle, for instance ``media.ImageFile``: small, picklable; ``decode()`` reads it.
        target: what is to be learned: the number of a class, a handle of a mask, boxes, or None.
        key: what to call the sample, the same wherever the data lies: a path below the folder of the data.
        meta: what the task needs to know besides, for instance the size of the original.
    """

    media: Any
    target: Any
    key: str
    meta: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What is known of a data set before anything is decoded.

    Attributes:
        name: what to call it.
        task: the name of the task that it suits.
        class_names: names of the classes, in the order of their numbers.
        channels: channels of its images, 1 (grey) or 3 (RGB).
        recipe: the entry of ``training.recipes`` that suits it; None: it follows from size and number of the images.
        in_memory: whether samples cost next to nothing to decode; worker processes would only slow reading down.
        skipped: the files that cannot be used, each with the reason.
        ignored: number of files without the suffix of an image, which are left out.
        notes: what a user should know of how the data was read, one sentence each.
    """

    name: str
    task: str = "classify"
    class_names: tuple[str, ...] = ()
    channels: int = 3
    recipe: str | None = None
    in_memory: bool = False
    skipped: tuple[str, ...] = ()
    ignored: int = 0
    notes: tuple[str, ...] = ()


class Dataset(Protocol):
    """Samples by number. It is picklable: worker processes get a copy."""

    @property
    def info(self) -> DataInfo:
        """What is known of the data."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...

    def labels(self) -> np.ndarray | None:
        """Returns the class of every sample (len,) int64, without decoding any; None where samples have no class."""
        ...

    def fingerprint(self) -> str:
        """Returns a short text that changes when keys, labels or sizes of the samples do; wherever the data lies."""
        ...


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some samples of a data set, in a given order.

    Attributes:
        dataset: the whole.
        indices: which of its samples.
    """

    dataset: Dataset
    indices: Sequence[int]

    @property
    def info(self) -> DataInfo:
        """As of the whole."""
        return self.dataset.info

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Sample:
        return self.dataset[self.indices[i]]

    def labels(self) -> np.ndarray | None:
        """As of the whole, for these samples."""
        labels = self.dataset.labels()
        return None if labels is None else labels[np.asarray(self.indices, np.int64)]

    def fingerprint(self) -> str:
        """Changes when the whole or the choice of samples does."""
        from .split import digest

        return digest(self.dataset.fingerprint(), list(map(int, self.indices)))


class Splits(NamedTuple):
    """Data as it is opened: what to train on, and what the data itself keeps for evaluation.

    Attributes:
        train: the training images; all of them where the data has no split of its own.
        held_out: the data's own evaluation images (``val`` or ``test`` folder, the fixed split of digits), or None.
    """

    train: Dataset
    held_out: Dataset | None = None
