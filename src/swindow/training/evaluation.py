"""How good a model is on labelled images it was not trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..card import Preprocess, preprocessing
from ..checkpoints import load
from ..data import Source, Split, open_source
from ..errors import DataError, InputError
from ..models import SwinTransformer
from .batches import Images, loader
from .distributed import World, pick_device


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        accuracy: share of images whose likeliest class is right (fraction).
        loss: mean cross-entropy (nats), without label smoothing.
        images: how many images it was measured on.
        confusion: (classes, classes) counts, true class by predicted class.
        classes: the names of the classes.
    """

    accuracy: float
    loss: float
    images: int
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]


def evaluate(
    model: SwinTransformer | str | Path,
    data: Source | str | Path,
    batch_size: int = 64,
    device: str = "auto",
    held_out: float = 0.2,
    seed: int = 0,
    workers: int = 0,
) -> Evaluation:
    """Returns how good a model is on the held-out split of some data.

    Args:
        model: a model, or the path of a checkpoint. A model is moved to ``device`` and left in evaluation mode.
        data: a Source, or what ``data.open_source`` takes: ``digits`` or a folder of class folders.
        batch_size: images per forward pass.
        device: as in TrainConfig.
        held_out, seed: the split, where the data has none of its own; give those of the training run.
        workers: processes that read images.

    Raises:
        CheckpointError, DataError: as ``load`` and ``open_source``; DataError too where the classes differ.
        ConfigError: there is no such device.
        InputError: the model has no head.
    """
    if not isinstance(model, SwinTransformer):
        model = load(model)
    if not model.config.num_classes:
        raise InputError("evaluate: the model has no head (num_classes is 0); load one that was trained to classify")
    source = data if isinstance(data, Source) else open_source(data, held_out, seed)
    split = relabelled(source, model)
    how = preprocessing(model.card, channels=model.config.in_chans)
    alone = World(0, 1, pick_device(device))
    counts = count(model.to(alone.device), split, how, alone, batch_size, workers)
    names = model.card.class_names if model.card else None
    return summary(counts, names or source.classes)


def relabelled(source: Source, model: SwinTransformer) -> Split:
    """The held-out images with the numbers that the model gives their classes; DataError where it lacks one."""
    names = model.card.class_names if model.card else None
    if names is None:
        if len(source.classes) != model.config.num_classes:
            raise DataError(
                f"got {len(source.classes)} classes in {source.name}, the model has {model.config.num_classes}"
            )
        return source.held_out
    unknown = [name for name in source.classes if name not in names]
    if unknown:
        raise DataError(
            f"{source.name} has class {unknown[0]!r}, which the model does not know; it knows {list(names)}"
        )
    labels = tuple(names.index(source.classes[label]) for label in source.held_out.labels)
    return dataclasses.replace(source.held_out, labels=labels)


@torch.no_grad()
def count(
    model: SwinTransformer, split: Split, how: Preprocess, world: World, batch_size: int, workers: int = 0
) -> Tensor:
    """Returns the confusion counts of a split and, in one more row, the summed loss: (classes + 1, classes) float64.

    The images are dealt out to the processes, each to one, and the counts summed over them. Leaves the model in
    evaluation mode.
    """
    model.eval()
    classes = model.config.num_classes
    total = torch.zeros(classes + 1, classes, dtype=torch.float64)
    mine = range(world.rank, len(split), world.size)
    batches = [list(mine[i : i + batch_size]) for i in range(0, len(mine), batch_size)]
    for x, labels in loader(Images(split, how), batches, workers, pin=world.device.type == "cuda"):
        logits = model(x.to(world.device)).float().cpu()  # (B, classes)
        total[-1, 0] += F.cross_entropy(logits, labels, reduction="sum")
        total.view(-1).index_add_(0, labels * classes + logits.argmax(-1), torch.ones(len(labels), dtype=torch.float64))
    return world.sum(total).cpu()


def summary(counts: Tensor, classes: tuple[str, ...]) -> Evaluation:
    """Returns the evaluation that ``count``'s numbers stand for."""
    confusion, loss = counts[:-1], counts[-1, 0]
    images = confusion.sum()
    return Evaluation(
        accuracy=float(confusion.trace() / images),
        loss=float(loss / images),
        images=int(images),
        confusion=tuple(tuple(map(int, row)) for row in confusion.tolist()),
        classes=classes,
    )
