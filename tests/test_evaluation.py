"""Which images a model is measured on: those it was not trained on, as far as that is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

import swindow
from helpers.folders import make_folder
from swindow import data
from swindow.card import HeldOut, ModelCard
from swindow.errors import ConfigError, DataError
from swindow.inference import evaluate
from swindow.inference.evaluation import chosen
from swindow.training import TrainConfig, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of photos, and the result of a run on it that held out 30 % of them with seed 3."""
    root = make_folder(tmp_path_factory.mktemp("data") / "photos")
    settings = TrainConfig(
        variant="swin_nano",
        image_size=8,
        epochs=2,
        held_out=0.3,
        seed=3,
        workers=0,
        device="cpu",
        out=tmp_path_factory.mktemp("run"),
    )
    return root, train(root, settings)


def keys(parts):
    return sorted(part[i].key for part in parts for i in range(len(part)))


def test_it_measures_exactly_what_training_held_out(trained):
    root, result = trained
    found = evaluate(result.out / "model.safetensors", root)
    assert (found.accuracy, found.images) == (result.accuracy, 6)
    assert found.loss == pytest.approx(result.loss, rel=1e-6)
    assert found.measured_on == "the images held out from training: 30%, seed 3"
    split = data.hold_out(data.folder(root).train, HeldOut(0.3, 3))
    card = swindow.load(result.out / "model.safetensors").card
    parts, _ = chosen(data.open(root), card.split, None, None, False)
    assert keys(parts) == keys([split.held_out])
    assert not set(keys(parts)) & set(keys([split.train]))


def test_a_copy_of_the_data_is_the_same_data_and_a_changed_one_is_not(trained, tmp_path):
    _, result = trained
    copy = make_folder(tmp_path / "elsewhere")
    assert evaluate(result.out / "model.safetensors", copy).loss == pytest.approx(result.loss, rel=1e-6)
    Image.new("RGB", (30, 30)).save(copy / "cat" / "new.png")
    with pytest.raises(ConfigError, match="or has changed since"):
        evaluate(result.out / "model.safetensors", copy)


def test_other_data_needs_to_be_told_which_images(trained, tmp_path):
    model = trained[1].out / "model.safetensors"
    other = make_folder(tmp_path / "other", each=8)
    with pytest.raises(ConfigError, match=r"--all .*--held-out SHARE with --seed"):
        evaluate(model, other)
    every = evaluate(model, other, all=True)
    assert (every.images, every.measured_on) == (16, "all images, as asked for")
    assert evaluate(model, other, held_out=0.5, seed=1).images == 8
    for wrong in ({"held_out": 0.5}, {"seed": 1}, {"all": True, "held_out": 0.5, "seed": 1}):
        with pytest.raises(ConfigError, match="together"):
            evaluate(model, other, **wrong)


def test_another_split_of_the_same_data_is_said_to_hold_training_images(trained):
    root, result = trained
    found = evaluate(result.out / "model.safetensors", root, held_out=0.3, seed=0)
    assert found.measured_on.startswith("30% of the images, seed 0; the model was trained on some of them")
    same = evaluate(result.out / "model.safetensors", root, held_out=0.3, seed=3)
    assert same.measured_on == "30% of the images, seed 3"


def test_the_datas_own_split_comes_first(trained, tmp_path):
    model = trained[1].out / "model.safetensors"
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val", each=3)
    found = evaluate(model, tmp_path)
    assert (found.images, found.measured_on) == (6, "the images that the data itself holds out")
    assert evaluate(model, tmp_path, all=True).images == 26
    with pytest.raises(ConfigError, match="has a split of its own"):
        evaluate(model, tmp_path, held_out=0.5, seed=1)


def test_a_checkpoint_that_tells_of_no_split_is_measured_on_every_image(trained):
    model = swindow.load(trained[1].out / "model.safetensors")
    for card in (None, dataclasses.replace(model.card, split=None)):
        model.card = card
        found = evaluate(model, trained[0])
        assert found.images == 20
        assert (
            found.measured_on
            == "all images: the checkpoint does not say which it was trained on; some may be among them"
        )


def test_classes_are_matched_by_their_names(trained, tmp_path):
    model = swindow.load(trained[1].out / "model.safetensors")
    plain = evaluate(model, trained[0])
    model.card = model.card.replace(class_names=("dog", "cat"))
    swapped = evaluate(model, trained[0])
    assert (np.array(swapped.confusion) == np.array(plain.confusion)[::-1]).all()
    assert swapped.names == ("dog", "cat")
    with pytest.raises(DataError, match="class 'emu'"):
        evaluate(model, make_folder(tmp_path, classes=("cat", "emu")))
    model.card = ModelCard()
    with pytest.raises(DataError, match="got 3 classes"):
        evaluate(model, make_folder(tmp_path / "three", classes=("cat", "dog", "emu")))


def test_workers_change_nothing(trained):
    root, result = trained
    assert evaluate(result.out, root, workers=1) == evaluate(result.out, root)
