"""What a run uses when little is asked for, and where each value comes from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from torch import nn

from helpers.pictures import Pictures
from swindow.card import IMAGENET_MEAN, Preprocess
from swindow.config import SwinConfig
from swindow.data import AUGMENTS, DataInfo, Sample
from swindow.data.augment import POLICIES
from swindow.errors import ConfigError
from swindow.training import TrainConfig
from swindow.training.choice import choose, typical_side
from swindow.training.config import RunSettings
from swindow.training.optimizer import optimizer_of
from swindow.training.recipes import RECIPES, SETTINGS, recipe_of
from swindow.variants import variant_config

DIGITS = Pictures(DataInfo("digits", class_names=tuple("0123456789"), channels=1, recipe="digits"))
PHOTOS = Pictures()
WEIGHTS = (variant_config("swin_tiny"), Preprocess((48, 64), mean=(0.4,), std=(0.3,)))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_what_there_is(name):
    recipe = RECIPES[name]
    assert isinstance(variant_config(recipe.variant), SwinConfig)
    assert recipe.augment in AUGMENTS
    assert recipe.auto_augment in POLICIES
    TrainConfig(**recipe.settings(variant_config(recipe.variant)))  # every value is in its range
    assert set(recipe.for_tiny) | set(recipe.for_v2) <= set(SETTINGS)


def test_a_run_has_all_that_recipes_say():
    decided = {field.name for field in dataclasses.fields(RunSettings) if getattr(TrainConfig, field.name) is None}
    assert set(SETTINGS) <= decided
    settings = choose(TrainConfig(), PHOTOS, None).settings
    assert all(getattr(settings, name) is not None for name in SETTINGS if name != "drop_path_rate")


def test_the_published_recipes():
    # Microsoft's config.py and configs/swin, configs/swinv2: the same learning rates, given per 512 images
    one = choose(TrainConfig(recipe="imagenet"), PHOTOS, None).settings
    assert (one.epochs, one.batch_size, one.warmup_epochs, one.weight_decay, one.clip) == (300, 1024, 20, 0.05, 5.0)
    assert (one.lr, one.min_lr, one.warmup_lr, one.lr_base_size) == (5e-4, 5e-6, 5e-7, 512)
    assert (one.auto_augment, one.erase, one.mixup, one.cutmix, one.color_jitter) == ("randaugment", 0.25, 0.8, 1.0, 0)
    assert (one.ema, one.repeats, one.label_smoothing, one.drop_path_rate) == (0, 1, 0.1, None)  # None: the variant's
    v2 = choose(TrainConfig(recipe="imagenet", variant="swinv2_tiny_w16"), PHOTOS, None)
    assert v2.settings == dataclasses.replace(one, variant="swinv2_tiny_w16")
    assert v2.task["preprocess"].size == (256, 256)
    for variant, decay, rate in (("swin_tiny", 0.05, 0.1), ("swin_base", 0.05, 0.2), ("swinv2_base_w12_192", 0.1, 0.2)):
        large = choose(TrainConfig(recipe="imagenet22k", variant=variant), PHOTOS, None)
        assert (large.settings.weight_decay, large.settings.drop_path_rate) == (decay, rate)
        assert large.task["drop_path_rate"] == rate


def test_data_decides_what_is_not_asked_for():
    found = choose(TrainConfig(), DIGITS, None)
    assert found.settings.lr == 3e-3
    assert found.task == {
        "variant": "swin_nano",
        "drop_path_rate": None,
        "init": "published",
        "frozen_stages": None,
        "linear_probe": False,
        "preprocess": Preprocess((16, 16), "squash", mean=(0.305,), std=(0.376,)),
        "augment": "affine",
        **dict.fromkeys(("erase", "mixup", "cutmix", "color_jitter"), 0.0),
        "auto_augment": "none",
        "label_smoothing": 0.1,
    }
    assert found.why == "recipe digits: the recipe of digits"
    assert choose(TrainConfig(), PHOTOS, None).task["preprocess"] == Preprocess((224, 224))


@pytest.mark.parametrize(
    ("dataset", "start", "expected"),
    [
        (PHOTOS, None, "recipe scratch: no weights to start from; pretrained ones give better results: try --weights"),
        (Pictures(side=32), None, "recipe scratch-small: images of 32 pixels, no weights to start from"),
        (Pictures(side=65), None, "recipe scratch: "),
        (
            Pictures(images=100_000),
            None,
            "recipe imagenet: 100,000 training images, no weights to start from, batches ",
        ),
        (PHOTOS, WEIGHTS, "recipe finetune-small: weights to start from, 90 training images; from the weights: arch"),
        (Pictures(images=20_000), WEIGHTS, "recipe finetune: weights to start from, 20,000 training images"),
        (Pictures(side=32), WEIGHTS, "recipe finetune-small: "),
    ],
)
def test_the_first_line_says_which_recipe_and_why(dataset, start, expected):
    assert choose(TrainConfig(), dataset, start).why.startswith(expected)


def test_the_data_gets_batches_that_fit_one_device():
    many = Pictures(images=100_000)
    assert choose(TrainConfig(), many, None).settings.batch_size == 128
    assert choose(TrainConfig(recipe="imagenet"), many, None).settings.batch_size == 1024
    assert choose(TrainConfig(batch_size=512), many, None).settings.batch_size == 512
    assert choose(TrainConfig(limit=100), many, None).settings.recipe == "scratch"
    assert choose(TrainConfig(fraction=0.5), many, None).settings.recipe == "scratch"


def test_small_images_keep_their_size():
    for side, size in ((20, 32), (32, 32), (48, 48), (64, 64)):
        assert choose(TrainConfig(), Pictures(side=side), None).task["preprocess"].size == (size, size)


def test_data_that_does_not_say_its_size():
    class Unknown(Pictures):
        def __getitem__(self, i):
            return Sample(object(), 0, str(i))

    assert typical_side(Unknown()) is None
    assert typical_side(Pictures(side=40, images=7)) == 40


def test_what_is_asked_for_wins():
    asked = TrainConfig(variant="swinv2_tiny_w8", lr=1e-4, augment="none", value_range=(-1, 1), epochs=2)
    found = choose(asked, PHOTOS, None)
    assert found.task["preprocess"] == Preprocess((256, 256), value_range=(-1, 1))  # the size is the variant's
    assert found.why.endswith("as asked for: variant swinv2_tiny_w8, epochs 2, lr 0.0001, augment none")
    assert choose(TrainConfig(recipe="scratch-small"), PHOTOS, None).why == "recipe scratch-small: as asked for"
    every = {name: getattr(RECIPES["imagenet"], name) for name in SETTINGS if name != "drop_path_rate"}
    assert choose(TrainConfig(**every, drop_path_rate=0.4), DIGITS, None).settings == dataclasses.replace(
        RunSettings(**every, drop_path_rate=0.4), recipe="digits", variant="swin_nano"
    )


def test_weights_bring_their_architecture_and_preprocessing():
    found = choose(TrainConfig(weights="a.pth"), PHOTOS, WEIGHTS)
    assert (found.task["variant"], found.task["preprocess"]) == (None, WEIGHTS[1])
    assert "from the weights: architecture, images of 48x64 pixels" in found.why
    larger = choose(TrainConfig(weights="a.pth", image_size=96), PHOTOS, WEIGHTS)
    assert (larger.task["preprocess"].size, larger.task["preprocess"].mean) == ((96, 96), WEIGHTS[1].mean)
    assert larger.why.endswith("from the weights: architecture; as asked for: image_size 96")


def test_channels_of_the_data_are_those_of_the_model():
    colour = Pictures(DataInfo("coloured digits", class_names=("1", "2"), channels=3, recipe="digits"))
    how = choose(TrainConfig(), colour, None).task["preprocess"]
    assert (how.size, how.fit, how.mean) == ((16, 16), "squash", IMAGENET_MEAN)


def test_class_weights():
    found = choose(TrainConfig(balance="loss"), Pictures(share=0.9), None).task["class_weights"]
    assert np.allclose(found, (0.5 / 0.9, 0.5 / 0.1))
    assert np.isclose((0.9 * found[0] + 0.1 * found[1]), 1)
    assert "class_weights" not in choose(TrainConfig(balance="sampling"), Pictures(share=0.9), None).task


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"unknown recipe 'finetunes'.*finetune.*; 'swindow recipes' lists all"):
        recipe_of("finetunes")
    with pytest.raises(
        ConfigError, match=r"optimizer: got 'adamv'.*adamw.*expected adamw, sgd, muon or a class of torch"
    ):
        optimizer_of("adamv", nn.Linear(1, 1), [], {})


def test_a_number_of_frozen_stages_is_checked_before_images_are_read():
    with pytest.raises(ConfigError, match="frozen_stages: got 4, expected at most 3"):
        choose(TrainConfig(variant="swin_nano", frozen_stages=4), PHOTOS, None)
