"""Which images make up which step, and how each is changed: all of it a function of seed, epoch and image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..card import Preprocess
from ..data import Augment, Split
from ..errors import DataError
from ..media import prepare, to_tensor

# Streams of random numbers, each seeded by (seed, stream, ...): order of images, changes to an image, the model's own.
ORDER, CHANGE, MODEL = range(3)


class Images(Dataset[tuple[Tensor, int]]):
    """The images of a split as the model takes them; with ``augment`` as one epoch of training changes them."""

    def __init__(
        self, split: Split, how: Preprocess, augment: Augment | None = None, seed: int = 0, epoch: int = 0
    ) -> None:
        self.split, self.how, self.augment, self.seed, self.epoch = split, how, augment, seed, epoch

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Image i: (C, H, W) and its label."""
        image, label = self.split.read(i), self.split.labels[i]
        if self.augment is None:
            return prepare(image, self.how), label
        rng = np.random.default_rng((self.seed, CHANGE, self.epoch, i))
        return to_tensor(self.augment(image, self.how, rng), self.how), label


def epoch_steps(images: int, batch_size: int, world_size: int = 1) -> int:
    """Returns the steps of an epoch; the last may be smaller, down to one image per process."""
    return len(range(0, images - images % world_size, batch_size))


def epoch_order(
    images: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Returns the images of every step of an epoch, for one of ``world_size`` processes.

    Every image is used once by one process; where their number is no multiple of the processes, the few that are left
    over (others each epoch) are not used.

    Example:
        >>> epoch_order(5, batch_size=2, seed=0, epoch=0)
        [[2, 4], [3, 0], [1]]
    """
    order = np.random.default_rng((seed, ORDER, epoch)).permutation(images)[: images - images % world_size]
    return [order[i : i + batch_size][rank::world_size].tolist() for i in range(0, len(order), batch_size)]


def loader(dataset: Images, batches: list[list[int]], workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images (B, C, H, W) and labels (B,) for lists of indices. Raises DataError where an image is broken."""
    try:
        yield from DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=pin)
    except DataError as error:  # from another process it comes with that process's traceback in front
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("swindow.errors.DataError: ")) from error


def seed_model(seed: int, step: int, part: int, rank: int) -> None:
    """Seeds torch for one part of one step, so that dropout and drop path do not depend on what ran before."""
    state = np.random.SeedSequence((seed, MODEL, step, part, rank)).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))
