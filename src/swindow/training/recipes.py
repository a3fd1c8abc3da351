"""Recipes: the settings that suit a kind of data, as a literal table. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..card import Preprocess
from ..config import SwinConfig
from ..errors import ConfigError, nearest


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
    # swindow train cifar10/train.parquet. Ours: benchmarks/results/cifar10.md, cifar10-tried.md.
    "scratch-small": Recipe(
        about="small images (up to 64 pixels, like CIFAR) from scratch",
        source="ours",
        variant="swin_nano",
        image_size="data",
        init="fan_in",
        epochs=60,
        batch_size=128,
        optimizer="muon",
        lr=4e-3,
        augment="crop",
        auto_augment="trivialaugment",
        plain_epochs=6,
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


def recipe_of(name: str) -> Recipe:
    """Returns a recipe. Raises ConfigError where there is none of that name."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}{nearest(name, RECIPES)}; 'swindow recipes' lists all")
    return RECIPES[name]
