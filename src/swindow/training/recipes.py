"""Recipes: the settings that suit a kind of data, as a literal table. Imports no torch."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..card import Preprocess, name_of
from ..config import SwinConfig
from ..errors import ConfigError, DataError, nearest
from ..variants import image_size, variant_config
from .config import RunSettings, TrainConfig

if TYPE_CHECKING:
    from ..data import Dataset


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings that suit a kind of data.

    Attributes:
        about: what it is for, in one line.
        source: where its values come from.
        variant: the model, where no weights are given.
        image_size: side of the images in pixels; None: what suits the variant; "data": as the images are.
        preprocess: how an image becomes the model's input, for the size to be filled in.
        for_tiny: what differs for models of at most 12 blocks (Swin-T).
        for_v2: what differs for SwinV2.

    All other attributes are as of TrainConfig.
    """

    about: str
    source: str
    variant: str = "swin_tiny"
    image_size: int | str | None = None
    init: str = "published"
    epochs: int = 30
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 5e-4
    min_lr: float = 1e-5
    warmup_lr: float = 0.0
    warmup_epochs: float = 2.0
    lr_base_size: int = 0
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip: float = 5.0
    ema: float = 0.0
    label_smoothing: float = 0.1
    drop_path_rate: float | None = None
    augment: str = "photo"
    color_jitter: float = 0.0
    auto_augment: str = "none"
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    repeats: int = 1
    plain_epochs: int = 0
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  frozen
    for_tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    for_v2: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def settings(self, config: SwinConfig) -> dict[str, Any]:
        """Returns the values of TrainConfig's fields for an architecture."""
        found = {name: getattr(self, name) for name in SETTINGS}
        tiny, v2 = sum(config.depths) <= 12, config.similarity == "cosine"
        return found | (dict(self.for_tiny) if tiny else {}) | (dict(self.for_v2) if v2 else {})


# The fields of Recipe that are settings of a run.
SETTINGS = tuple(
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("about", "source", "variant", "image_size", "preprocess", "for_tiny", "for_v2")
)

_OFFICIAL: dict[str, Any] = {
    "lr_base_size": 512,
    "augment": "photo",
    "auto_augment": "randaugment",
    "erase": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
}

RECIPES = {
    # swindow train IMAGENET --recipe imagenet [--variant swinv2_tiny_w8]. Published: top-1 81.2 (Swin-T), 83.2 (S),
    # 83.5 (B), 81.8 (SwinV2-T, window 8), on 8 GPUs. The cosine begins after the warm-up (the official code since
    # October 2022). Colour jitter stands in the published configs, but does not run beside RandAugment.
    "imagenet": Recipe(
        about="ImageNet-1k from scratch, Swin and SwinV2",
        source="the official config.py",
        epochs=300,
        batch_size=1024,
        lr=5e-4,
        min_lr=5e-6,
        warmup_lr=5e-7,
        warmup_epochs=20,
        **_OFFICIAL,
    ),
    # swindow train IMAGENET22K --recipe imagenet22k --variant swin_base
    "imagenet22k": Recipe(
        about="ImageNet-22k from scratch, to be fine-tuned",
        source="the official configs/swin/*22k.yaml, configs/swinv2/*22k.yaml",
        variant="swin_base",
        epochs=90,
        batch_size=4096,
        lr=1.25e-4,
        min_lr=1.25e-6,
        warmup_lr=1.25e-7,
        warmup_epochs=5,
        drop_path_rate=0.2,
        for_tiny={"drop_path_rate": 0.1},
        for_v2={"weight_decay": 0.1},
        **_OFFICIAL,
    ),
    # swindow train IMAGENET --weights swin_base.ms_in22k. Published: top-1 85.2 (Swin-B, 224 pixels).
    "finetune": Recipe(
        about="tens of thousands of images and more, from pretrained weights",
        source="the official configs/swin/*22kto1k_finetune.yaml",
        epochs=30,
        batch_size=1024,
        lr=2e-5,
        min_lr=2e-7,
        warmup_lr=2e-8,
        warmup_epochs=5,
        weight_decay=1e-8,
        drop_path_rate=0.2,
        for_tiny={"drop_path_rate": 0.1},
        **_OFFICIAL,
    ),
    # swindow train photos/ --weights swin_tiny.ms_in1k. Ours.
    "finetune-small": Recipe(
        about="hundreds to thousands of images, from pretrained weights",
        source="ours",
        epochs=20,
        batch_size=32,
        lr=5e-4,
        min_lr=1e-6,
        warmup_epochs=2,
        layer_decay=0.8,
        drop_path_rate=0.1,
    ),
    # swindow train photos/. The official preprocessing, and its random resized crop and flip; lr is the official 5e-4
    # per 512 images (config.py), kept for small batches, since small data sets see few steps.
    "scratch": Recipe(
        about="photos from scratch; pretrained weights give better results with fewer images",
        source="ours, after the official config.py",
    ),
    # swindow train ../shared/data/cifar10.
    "scratch-small": Recipe(
        about="small images (up to 64 pixels, like CIFAR) from scratch",
        source="ours",
        variant="swin_nano",
        image_size="data",
        init="fan_in",
        epochs=60,
        batch_size=128,
        lr=2e-3,
        augment="crop",
        preprocess=Preprocess(crop_fraction=1.0),
    ),
    # swindow train digits. Ours: accuracy 0.987 in 98 s on 2 CPU cores (benchmarks/results/digits.md). Size 16 is twice
    # the digits' own: with patches of 2 every pixel of theirs is a token. Mean and deviation are those of their values.
    "digits": Recipe(
        about="the built-in handwritten digits",
        source="ours, see benchmarks/results/digits.md",
        variant="swin_nano",
        image_size=16,
        lr=3e-3,
        augment="affine",
        preprocess=Preprocess(fit="squash", mean=(0.305,), std=(0.376,)),
    ),
}

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


def recipe_of(name: str) -> Recipe:
    """Returns a recipe. Raises ConfigError where there is none of that name."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}{nearest(name, RECIPES)}; 'swindow recipes' lists all")
    return RECIPES[name]


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
