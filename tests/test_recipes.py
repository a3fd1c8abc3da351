"""What a run uses when little is asked for, and where each value comes from."""

from __future__ import annotations

import pytest

from swindow.card import IMAGENET_MEAN, Preprocess
from swindow.config import SwinConfig
from swindow.data import AUGMENTS, DataInfo
from swindow.errors import ConfigError
from swindow.training import TrainConfig
from swindow.training.recipes import RECIPES, choose
from swindow.variants import variant_config

DIGITS = DataInfo("digits", class_names=tuple("0123456789"), channels=1, recipe="digits")
PHOTOS = DataInfo("pets", class_names=("cat", "dog"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_what_there_is(name):
    recipe = RECIPES[name]
    assert isinstance(variant_config(recipe.variant), SwinConfig)
    assert recipe.augment in AUGMENTS
    assert recipe.lr > 0


def test_data_decides_what_is_not_asked_for():
    found = choose(TrainConfig(), DIGITS, None)
    assert found.lr == 3e-3
    assert found.task == {
        "variant": "swin_nano",
        "drop_path_rate": None,
        "preprocess": Preprocess((16, 16), "squash", mean=(0.305,), std=(0.376,)),
        "augment": "affine",
        **dict.fromkeys(("erase", "mixup", "cutmix"), 0.0),
        "auto_augment": "none",
        "label_smoothing": 0.1,
    }
    assert found.why == (
        "from the recipe for digits: variant swin_nano, image size 16, learning rate 0.003, augmentation affine"
    )
    assert choose(TrainConfig(), PHOTOS, None).task["preprocess"] == Preprocess((224, 224))


def test_what_is_asked_for_wins():
    asked = TrainConfig(variant="swinv2_tiny_w8", lr=1e-4, augment="none", value_range=(-1, 1))
    found = choose(asked, PHOTOS, None)
    assert found.task["preprocess"] == Preprocess((256, 256), value_range=(-1, 1))  # the size is the variant's
    assert found.why == (
        "as asked for: variant swinv2_tiny_w8, learning rate 0.0001, augmentation none; "
        "from the recipe for photos: image size 256"
    )


def test_weights_bring_their_architecture_and_preprocessing():
    start = Preprocess((48, 64), mean=(0.4,), std=(0.3,))
    found = choose(TrainConfig(weights="a.pth"), PHOTOS, start)
    assert (found.task["variant"], found.task["preprocess"]) == (None, start)
    assert found.why == (
        "from the weights: architecture, image size 48x64; "
        "from the recipe for photos: learning rate 0.0005, augmentation photo"
    )
    larger = choose(TrainConfig(weights="a.pth", image_size=96), PHOTOS, start).task["preprocess"]
    assert (larger.size, larger.mean) == ((96, 96), start.mean)


def test_channels_of_the_data_are_those_of_the_model():
    colour = DataInfo("coloured digits", class_names=("1", "2"), channels=3, recipe="digits")
    how = choose(TrainConfig(), colour, None).task["preprocess"]
    assert (how.size, how.fit, how.mean) == ((16, 16), "squash", IMAGENET_MEAN)


def test_an_unknown_recipe():
    with pytest.raises(ConfigError, match=r"unknown recipe 'photo' .*'photos'"):
        choose(TrainConfig(), DataInfo("pets", recipe="photo"), None)
