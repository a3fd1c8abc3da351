"""What a run uses: what is asked for, else what the weights bring, else what the recipe says. Imports no torch."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from ..card import Preprocess, name_of
from ..config import SwinConfig
from ..errors import ConfigError, DataError
from ..variants import image_size, variant_config
from .config import RunSettings, TrainConfig
from .recipes import SETTINGS, Recipe, recipe_of

if TYPE_CHECKING:
    from ..data import Dataset

SMALL = 64  # pixels: images whose shorter side is at most this are small
FEW, MANY = 20_000, 100_000  # training images: fewer are few for fine-tuning, more are enough for ImageNet's recipe
ONE_DEVICE = 128  # images per batch where the data chose the recipe; those published are for many GPUs


class Choice(NamedTuple):
    """What a run uses.

    Attributes:
        settings: complete: what was asked for, else what the recipe says.
        task: the settings of the task.
        why: the recipe, why it was chosen, and what differs from it, in one line.
    """

    settings: RunSettings
    task: dict[str, Any]
    why: str


def suited(dataset: Dataset, pretrained: bool, limit: int | None = None) -> tuple[str, str]:
    """Returns the name of the recipe that suits some data, and why.

    Args:
        dataset: what to train on.
        pretrained: whether training begins with weights that have learned something.
        limit: the number of its images that are used; None: all.
    """
    info, images = dataset.info, min(len(dataset), limit or len(dataset))
    if info.recipe is not None:
        return info.recipe, f"the recipe of {info.name}"
    if pretrained:
        return ("finetune-small" if images < FEW else "finetune"), f"weights to start from, {images:,} training images"
    side = typical_side(dataset)
    if side is not None and side <= SMALL:
        return "scratch-small", f"images of {side} pixels, no weights to start from"
    if images >= MANY:
        return "imagenet", f"{images:,} training images, no weights to start from"
    return "scratch", "no weights to start from; pretrained ones give better results: try --weights swin_tiny.ms_in1k"


def typical_side(dataset: Dataset, looked_at: int = 25) -> int | None:
    """Returns the median of the shorter sides of a few images, in pixels; None where the data does not say.

    Args:
        dataset: the images; only headers are read.
        looked_at: how many, spread over the data set.
    """
    sides = []
    for i in range(0, len(dataset), max(1, len(dataset) // looked_at)):
        try:
            sides.append(min(dataset[i].media.size))
        except (AttributeError, DataError):  # a handle of another kind; a broken file, which is reported later
            continue
    return int(statistics.median(sides)) if sides else None


def choose(
    asked: TrainConfig,
    dataset: Dataset,
    start: tuple[SwinConfig, Preprocess] | None,
) -> Choice:
    """Returns what a run uses: what is asked for, else what the weights bring, else what the recipe says.

    Args:
        asked: the settings.
        dataset: what to train on.
        start: the architecture of the weights to start from, and how images are prepared for it; None: the weights
            are random.

    Raises:
        ConfigError: there is no such recipe or variant.
    """
    used = round(len(dataset) * (asked.fraction or 1.0))
    limit = min(used, asked.limit or used)
    name, reason = (asked.recipe, "as asked for") if asked.recipe else suited(dataset, start is not None, limit)
    recipe = recipe_of(name)
    if not asked.recipe and recipe.batch_size > ONE_DEVICE:
        recipe = dataclasses.replace(recipe, batch_size=ONE_DEVICE)
        reason += f", batches of {ONE_DEVICE} to fit one device"
    variant = None if start else asked.variant or recipe.variant
    config = start[0] if start else variant_config(variant or "")
    if asked.frozen_stages is not None:
        dataclasses.replace(config, frozen_stages=asked.frozen_stages)  # is there such a number of stages?
    settings = {
        key: value if getattr(asked, key) is None else getattr(asked, key)
        for key, value in recipe.settings(config).items()
    }
    if asked.min_lr is None:
        settings["min_lr"] = min(settings["min_lr"], settings["lr"])
    elif settings["min_lr"] > settings["lr"]:
        raise ConfigError(f"min_lr: got {settings['min_lr']:g}, expected at most lr {settings['lr']:g}")
    how = start[1] if start else _preprocess(recipe, variant or "", dataset)
    if asked.image_size is not None:
        how = dataclasses.replace(how, size=(asked.image_size, asked.image_size))
    if asked.value_range is not None:
        how = dataclasses.replace(how, value_range=asked.value_range)
    if callable(asked.augment):  # it stands for all changes of one image
        settings |= {"color_jitter": asked.color_jitter or 0.0, "auto_augment": asked.auto_augment or "none"}
    fixed = {"recipe": name, "variant": variant, "image_size": None, **settings}
    complete = RunSettings(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)} | fixed)
    task = {key: getattr(complete, key) for key in OF_THE_TASK} | {"variant": variant, "preprocess": how}
    if asked.balance == "loss":
        task["class_weights"] = class_weights(dataset)
    own = {key: getattr(asked, key) for key in OWN if getattr(asked, key) != getattr(TrainConfig, key)}
    parts = [f"recipe {name}: {reason}"]
    if start:
        parts.append("from the weights: architecture" + ("" if asked.image_size else f", images of {_shown(how)}"))
    if own:
        parts.append(f"as asked for: {', '.join(f'{key} {_value(value)}' for key, value in own.items())}")
    return Choice(complete, task, "; ".join(parts))


# Settings that the first line names where they are asked for.
OWN = ("variant", "image_size", *SETTINGS, "head_lr", "frozen_stages", "linear_probe", "balance", "patience")
# Settings of a run that are settings of its task.
OF_THE_TASK = (
    "variant", "init", "frozen_stages", "linear_probe", "label_smoothing", "drop_path_rate", "augment", "color_jitter",
    "auto_augment", "erase", "mixup", "cutmix",
)  # fmt: skip


def class_weights(dataset: Dataset) -> tuple[float, ...]:
    """Returns the inverse of each class's share of the samples, 1 on average over the samples; 0 for empty classes.

    Raises:
        ConfigError: the samples have no classes.
    """
    labels = dataset.labels()
    if labels is None:
        raise ConfigError(f"balance: got data without classes ({dataset.info.name}), expected images with classes")
    counts = collections.Counter(labels.tolist())
    return tuple(
        len(labels) / (len(counts) * counts[c]) if counts[c] else 0.0 for c in range(len(dataset.info.class_names))
    )


def _preprocess(recipe: Recipe, variant: str, dataset: Dataset) -> Preprocess:
    """How images are prepared for random weights."""
    info, size = dataset.info, recipe.image_size or image_size(variant)
    if isinstance(size, str):
        size = min(max(typical_side(dataset) or 0, image_size(variant)), SMALL)
    how = dataclasses.replace(recipe.preprocess, size=(size, size))
    if how.channels != info.channels:
        plain = Preprocess.default(size, info.channels)
        how = dataclasses.replace(how, mean=plain.mean, std=plain.std)
    return how


def _shown(how: Preprocess) -> str:
    return f"{'x'.join(map(str, dict.fromkeys(how.size)))} pixels"


def _value(value: Any) -> str:
    """A setting in words."""
    return f"{value:g}" if isinstance(value, float) else name_of(value) if callable(value) else str(value)
