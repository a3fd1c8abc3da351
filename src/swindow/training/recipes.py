"""What suits which data when nothing else is asked for: a literal table. Imports no torch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from ..card import Preprocess
from ..errors import ConfigError, nearest
from ..variants import image_size
from .config import TrainConfig

if TYPE_CHECKING:
    from ..data import DataInfo


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What suits some kind of data.

    Attributes:
        variant: the model.
        image_size: side of the images in pixels; None: what suits the variant.
        lr: the highest learning rate, for batches of 32.
        augment: the augmentation of training images, one of ``data.AUGMENTS``.
        preprocess: how an image becomes the model's input, for the size to be filled in.
        auto_augment, erase, mixup, cutmix: as of TrainConfig.
    """

    variant: str
    image_size: int | None
    lr: float
    augment: str
    preprocess: Preprocess
    auto_augment: str = "none"
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


RECIPES = {
    # swindow train digits. Ours: accuracy 0.987 in 98 s on 2 CPU cores (benchmarks/results/digits.md). Size 16 is twice
    # the digits' own: with patches of 2 every pixel of theirs is a token. Mean and deviation are those of their values.
    "digits": Recipe(
        variant="swin_nano",
        image_size=16,
        lr=3e-3,
        augment="affine",
        preprocess=Preprocess(fit="squash", mean=(0.305,), std=(0.376,)),
    ),
    # swindow train FOLDER. The official preprocessing, and its random resized crop and flip; lr is the official 5e-4
    # per 512 images (Microsoft's config.py), kept for small batches, since small data sets see few steps.
    "photos": Recipe(variant="swin_tiny", image_size=None, lr=5e-4, augment="photo", preprocess=Preprocess()),
}


MORE = ("auto_augment", "erase", "mixup", "cutmix")  # augmentation, as of TrainConfig


class Choice(NamedTuple):
    """What a run uses: the settings of its task, the learning rate, and where they come from, in one line."""

    task: dict[str, Any]
    lr: float
    why: str


def recipe_for(info: DataInfo) -> Recipe:
    """Returns the recipe that data asks for. Raises ConfigError where there is none of that name."""
    if info.recipe not in RECIPES:
        raise ConfigError(f"{info.name}: unknown recipe {info.recipe!r}{nearest(info.recipe, RECIPES)}")
    return RECIPES[info.recipe]


def choose(settings: TrainConfig, info: DataInfo, start: Preprocess | None) -> Choice:
    """Returns what a run uses: what is asked for, else what the weights bring, else what suits the data.

    Args:
        settings: what is asked for.
        info: the data.
        start: how images are prepared for the weights to start from; None: the weights are random.

    Raises:
        ConfigError: there is no such recipe or variant.
    """
    recipe = recipe_for(info)
    variant = None if start else settings.variant or recipe.variant
    how = start
    if how is None:
        assert variant is not None
        size = recipe.image_size or image_size(variant)
        how = dataclasses.replace(recipe.preprocess, size=(size, size))
        if how.channels != info.channels:
            plain = Preprocess.default(size, info.channels)
            how = dataclasses.replace(how, mean=plain.mean, std=plain.std)
    if settings.image_size is not None:
        how = dataclasses.replace(how, size=(settings.image_size, settings.image_size))
    if settings.value_range is not None:
        how = dataclasses.replace(how, value_range=settings.value_range)
    augment = recipe.augment if settings.augment == "auto" else settings.augment
    lr = recipe.lr if settings.lr is None else settings.lr
    more = {name: getattr(recipe if getattr(settings, name) is None else settings, name) for name in MORE}
    changes = ", ".join([augment, *(f"{name} {value}" for name, value in more.items() if value not in ("none", 0))])
    own = [name for name in MORE if getattr(settings, name) is not None]
    recipe_ = f"the recipe for {info.recipe}"
    brought = "the weights" if start else recipe_
    origins = {
        f"variant {variant}" if variant else "architecture": (settings.variant, brought),
        f"image size {'x'.join(map(str, dict.fromkeys(how.size)))}": (settings.image_size, brought),
        f"learning rate {lr:g}": (settings.lr, recipe_),
        f"augmentation {changes}": (None if settings.augment == "auto" and not own else changes, recipe_),
    }
    lines: dict[str, list[str]] = {}
    for what, (asked, otherwise) in origins.items():
        lines.setdefault(f"from {otherwise}" if asked is None else "as asked for", []).append(what)
    task = {
        **more,
        "variant": variant,
        "drop_path_rate": settings.drop_path_rate,
        "preprocess": how,
        "augment": augment,
        "label_smoothing": settings.label_smoothing,
    }
    return Choice(task, lr, "; ".join(f"{where}: {', '.join(what)}" for where, what in lines.items()))
