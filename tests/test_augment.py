"""Random changes to training images: the same for every depth of the file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from swindow import media
from swindow.card import Preprocess
from swindow.data.augment import AUGMENTS

VALUES = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
VALUES[:, ::2] //= 3
HOW = Preprocess((40, 32), mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("deep", "value_range"),
    [
        (Image.fromarray(VALUES.astype(np.uint16) * 257), None),
        (Image.fromarray(VALUES.astype(np.float32) / 255), None),
        (Image.fromarray(VALUES.astype(np.float32)), (0, 255)),
        (Image.fromarray(VALUES.astype(np.int32) - 1000), (-1000, -745)),
    ],
    ids=["16 bits", "float", "float with a range", "signed with a range"],
)
def test_deep_images_are_changed_as_8_bit_images_are(augment, channels, deep, value_range):
    how = dataclasses.replace(HOW, mean=(0.0,) * channels, std=(1.0,) * channels, value_range=value_range)
    shallow = Image.fromarray(VALUES)
    for seed in range(8):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        ours, theirs = (
            media.to_tensor(AUGMENTS[augment](image, how, rng), how) for image, rng in zip((deep, shallow), rngs)
        )
        assert ours.shape == (channels, 40, 32)
        assert rngs[0].random() == rngs[1].random(), "as many numbers drawn"
        assert torch.allclose(
            ours, theirs, rtol=0, atol=(2.05 if augment == "affine" else 1.05) / 255
        )  # 8 bits: rounded
        assert ours.std() > 0.05


def test_a_long_deep_image_is_scaled_once():
    """No part of it suits ``photo``, which then takes the whole."""
    values = np.linspace(0, 100, 2000, dtype=np.float32)[None]
    how = dataclasses.replace(HOW, value_range=(0, 100), fit="squash")
    x = media.to_tensor(AUGMENTS["photo"](Image.fromarray(values), how, np.random.default_rng(0)), how)
    assert x.max() > 0.95


@pytest.mark.filterwarnings("ignore:float images have values")
def test_affine_changes_keep_what_is_below_black():
    image = Image.fromarray(np.full((48, 64), -1, np.float32))
    x = media.to_tensor(AUGMENTS["affine"](image, HOW, np.random.default_rng(0)), HOW)
    assert x[0, 20, 16] == -1
