"""The model card: what is written is what is read, and anything else is a clear error."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys

import pytest

from swindow import ConfigError
from swindow.card import FORMAT, HeldOut, ModelCard, Preprocess, preprocessing

FULL = ModelCard(
    task="classify",
    settings={"smoothing": 0.1, "levels": [1, 2], "names": {"a": None}},
    class_names=("cat", "dog"),
    preprocess=Preprocess((32, 48), "squash", 0.9, "bilinear", (0.1,), (0.2,), (0, 4095)),
    input_size=(32, 48),
    split=HeldOut(0.2, 3, False, "0123456789abcdef"),
    data="photos",
    licence="CC-BY-4.0",
    description="Not for medicine.",
)


def test_it_imports_no_torch():
    code = "import sys, swindow.card; assert swindow.ModelCard; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("card", [ModelCard(), FULL, FULL.replace(split=HeldOut(0.5, 0), preprocess=None)])
def test_round_trip(card):
    text = json.dumps(card.to_dict(), allow_nan=False)
    assert ModelCard.from_dict(json.loads(text)) == card
    assert pickle.loads(pickle.dumps(card)) == copy.deepcopy(card) == card


def test_only_what_is_known_is_written():
    assert ModelCard().to_dict() == {"format": FORMAT}
    assert ModelCard(data="photos", split=HeldOut(0.2, 0)).to_dict() == {
        "split": {"share": 0.2, "seed": 0, "stratified": True},
        "data": "photos",
        "format": FORMAT,
    }


def test_a_card_does_not_change_with_what_it_was_made_of():
    settings, names = {"levels": (1, 2)}, ["cat", "dog"]
    card = ModelCard(settings=settings, class_names=names)
    settings["levels"] = names[0] = "other"
    assert card == ModelCard(settings={"levels": [1, 2]}, class_names=("cat", "dog"))
    card.to_dict()["settings"]["levels"].append(3)
    assert card.settings == {"levels": [1, 2]}


def deep(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


WRONG = {
    "task": [3, ["classify"], True],
    "settings": ["none", [], {1: 2}, {"a": object()}, {"a": math.nan}, deep(40), deep(100_000)],
    "class_names": ["ab", {"a": 0}, 3, [1, 2], ["a", None], deep(100_000)],
    "preprocess": ["crop", 5, [], [["size", [1, 1]]], {"sizes": [3, 3]}],
    "input_size": [5, "ab", [0, 3], [-1, 3], [True, 3], [2.0, 3], [10**400, 3], [[1], 2], {"a": 1}],
    "split": [0.2, [], {}, {"share": 0.2}, {"share": 0.2, "seed": 0, "folds": 5}],
    "data": [3, ["photos"]],
    "licence": [{"name": "MIT"}],
    "description": [["not for medicine"]],
    "format": ["1", 0, -1, True, 1.0, [1]],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_wrong_types(field, value):
    with pytest.raises(ConfigError, match=r"^model card: .*expected") as error:
        ModelCard.from_dict({field: value})
    assert len(str(error.value)) < 300
    if value != [] or field not in ("class_names", "input_size"):
        with pytest.raises(ConfigError, match="expected"):
            ModelCard(**{field: value})


@pytest.mark.parametrize("value", [None, [], "card", 3, [["data", "photos"]]])
def test_a_card_is_an_object(value):
    with pytest.raises(ConfigError, match=r"^model card: got .*expected an object"):
        ModelCard.from_dict(value)


def test_a_later_format_is_refused_before_anything_else():
    with pytest.raises(ConfigError, match=f"format is {FORMAT + 1}, expected a number up to {FORMAT}"):
        ModelCard.from_dict({"format": FORMAT + 1, "class_names": {"in": "another shape"}, "preprocess": 3})


def test_a_field_that_a_later_version_added_is_passed_over():
    assert ModelCard.from_dict({**FULL.to_dict(), "authors": ["me"], "licence": None}) == FULL.replace(licence=None)


@pytest.mark.parametrize(
    "bad",
    [
        {"mean": (0.5, 0.5)},
        {"mean": ()},
        {"mean": (), "std": ()},
        {"mean": 0.5},
        {"mean": (math.nan, 0.5, 0.5)},
        {"mean": (True, 0.5, 0.5)},
        {"mean": ("0.5", 0.5, 0.5)},
        {"mean": (10**400, 0.5, 0.5)},
        {"std": (0.0, 1.0, 1.0)},
        {"std": (math.inf, 1.0, 1.0)},
        {"std": (1.0,)},
        {"size": (0, 4)},
        {"size": 224},
        {"size": (4, 4, 4)},
        {"size": (4.0, 4)},
        {"size": (True, 4)},
        {"size": "ab"},
        {"crop_fraction": 0},
        {"crop_fraction": 1.5},
        {"crop_fraction": "0.9"},
        {"crop_fraction": math.nan},
        {"interpolation": "cubic"},
        {"interpolation": ["bicubic"]},
        {"fit": "pad"},
        {"value_range": (1, 0)},
        {"value_range": (0, math.inf)},
        {"value_range": 255},
        {"value_range": (0, 1, 2)},
    ],
)
def test_preprocess_refuses(bad):
    with pytest.raises(ConfigError, match=r"^preprocess: .*expected"):
        Preprocess(**bad)
    with pytest.raises(ConfigError, match=r"^preprocess: .*expected"):
        ModelCard.from_dict({"preprocess": bad})


@pytest.mark.parametrize(
    "bad",
    [
        {"share": 0},
        {"share": 1.0},
        {"share": math.nan},
        {"share": "0.2"},
        {"share": True},
        {"seed": -1},
        {"seed": 0.5},
        {"seed": True},
        {"stratified": "yes"},
        {"fingerprint": 3},
    ],
)
def test_held_out_refuses(bad):
    with pytest.raises(ConfigError, match=r"^split: .*expected"):
        HeldOut(**{"share": 0.2, "seed": 0, **bad})


def test_preprocessing_of_a_card_or_the_default():
    assert preprocessing(FULL) == FULL.preprocess
    for card in (None, ModelCard(data="photos")):
        assert preprocessing(card) == Preprocess()
        assert preprocessing(card, 96, 1) == Preprocess((96, 96), mean=(0.449,), std=(0.226,))
        with pytest.raises(ConfigError, match="2 channels"):
            preprocessing(card, channels=2)


@pytest.mark.parametrize(
    ("before", "then", "both"),
    [
        ("ImageNet-22k, then ImageNet-1k", "photos", "ImageNet-22k, then ImageNet-1k, then photos"),
        ("photos", "photos", "photos"),
        ("ImageNet-1k, then photos", "photos", "ImageNet-1k, then photos"),
        ("holiday photos", "photos", "holiday photos, then photos"),
        ("ImageNet-1k", None, "ImageNet-1k"),
        (None, "photos", "photos"),
        (None, None, None),
    ],
)
def test_data_of_weights_that_were_trained_further(before, then, both):
    assert ModelCard(data=then).after(ModelCard(data=before)).data == both


def test_licence_of_weights_that_were_trained_further():
    mine = FULL.replace(licence=None)
    assert mine.after(None) is mine
    assert mine.after(ModelCard(data=mine.data, licence="MIT")) == mine.replace(licence="MIT")  # and nothing else
    assert FULL.after(ModelCard(data=FULL.data, licence="another")) == FULL
    assert mine.after(ModelCard()) == mine


def test_pixels():
    how = Preprocess((32, 48))
    assert ModelCard().pixels(2) is None
    assert ModelCard(preprocess=how).pixels(2) == (32, 48)
    assert ModelCard(preprocess=how).pixels(3) is None  # of a clip the frames are not known
    assert ModelCard(preprocess=how, input_size=(64, 64)).pixels(2) == (64, 64)
    assert ModelCard(preprocess=how, input_size=(8, 64, 64)).pixels(3) == (8, 64, 64)
