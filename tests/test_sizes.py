"""The size of images that a model is for, from the checkpoints that do not say it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import swindow
import swindow.variants
from swindow import ModelCard, Preprocess
from swindow.card import preprocessing
from swindow.sizes import image_size
from swindow.tasks import Classify
from swindow.variants import variant_config


def test_it_imports_no_torch():
    code = "import sys, swindow.sizes; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        ("swin_tiny", (224, 224)),
        ("swin_nano", (32, 32)),
        ("swin_large_w12_384", (384, 384)),
        ("swinv2_tiny_w8", (256, 256)),
        ("swinv2_base_w12_192", (192, 192)),
        ("swinv2_base_w12to24", (384, 384)),
        ("swin3d_base", (32, 224, 224)),
    ],
)
def test_of_a_variant(variant, size):
    assert image_size(variant_config(variant, num_classes=7, in_chans=1)) == size


def test_of_another_config_it_is_one_window_in_the_last_stage():
    assert image_size(variant_config("swin_tiny", depths=(2, 2, 2, 2), window_size=12)) == (384, 384)
    assert image_size(variant_config("swin_tiny", window_size=(8, 8, 8, (4, 6)))) == (128, 192)
    assert image_size(variant_config("swin_nano", window_size=8, patch_size=4)) == (128, 128)
    assert image_size(variant_config("swin3d_base", window_size=((16, 7, 7),) * 4)) == (32, 224, 224)
    volumes = variant_config("swin3d_tiny", patch_size=(2, 2, 2), window_size=7, merge_axes=(0, 1, 2))
    assert image_size(volumes) == (112, 112, 112)


def test_the_card_goes_before_the_config():
    images, clips = variant_config("swin_tiny"), variant_config("swin3d_tiny")
    how = Preprocess((64, 96))
    assert image_size(images, ModelCard(preprocess=how, input_size=(32, 32))) == (64, 96)
    assert image_size(images, ModelCard(input_size=(32, 48))) == (32, 48)
    assert image_size(images, ModelCard(data="photos")) == (224, 224)
    assert image_size(images, ModelCard(input_size=(8, 32, 32))) == (224, 224)
    assert image_size(clips, ModelCard(preprocess=how, input_size=(8, 64, 96))) == (8, 64, 96)
    assert image_size(clips, ModelCard(preprocess=how)) == (32, 224, 224)


def shallow(variant, **fields):
    """A small model with the windows of a variant; it is none itself."""
    fields = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "num_classes": 2, **fields}
    return swindow.SwinTransformer(variant_config(variant, **fields)).eval()


SILENT = [
    (layout, variant, side)
    for layout in ("microsoft", "timm", "torchvision", "swindow")
    for variant, side in (("swin_base_w12_384", 384), ("swinv2_tiny_w8", 256), ("swinv2_base_w12to24", 384))
    if (layout, variant) != ("torchvision", "swinv2_base_w12to24")  # it knows no pretrained windows
]


@pytest.mark.parametrize(("layout", "variant", "side"), SILENT)
def test_a_file_without_preprocessing_is_fed_what_it_was_made_for(tmp_path, layout, variant, side):
    """The weights of any small model with these windows; the official layout has masks, which tell the size too."""
    model = shallow(variant)
    path = tmp_path / ("m.safetensors" if layout == "swindow" else "m.pth")
    swindow.save(model, path, layout, input_size=side if layout == "microsoft" else None)
    known = {"window_size": model.config.window_size, "pretrained_window_size": model.config.pretrained_window_size}
    found = swindow.load(path, config=known)
    assert image_size(found.config, found.card) == (side, side)
    how = Classify.card_of(found).preprocess
    assert how.size == (side, side)
    assert how == preprocessing(found.card, image_size(found.config, found.card))
    if side == 384 and layout in ("timm", "microsoft"):  # published ones are not cropped
        assert how.crop_fraction == 1.0 or how.fit == "squash"


def test_a_published_model_was_trained_on_the_size_that_it_is_for(tmp_path, monkeypatch):
    model = shallow("swin_base_w12_384")
    swindow.save(model, tmp_path / "m.pth", "timm")
    found = swindow.load(tmp_path / "m.pth")
    assert found.card.input_size is None  # windows of 12 do not prove it
    assert found.card.preprocess.size == (384, 384)
    fields = ("embed_dim", "depths", "num_heads", "window_size")
    small = {field: getattr(model.config, field) for field in fields}
    monkeypatch.setitem(swindow.variants.VARIANTS, "swin_base_w12_384", small)  # as if that were the published one
    assert swindow.load(tmp_path / "m.pth").card.input_size == (384, 384)


def test_one_channel(tmp_path):
    swindow.save(shallow("swin_base_w12_384", in_chans=1), tmp_path / "m.pth", "timm")
    found = swindow.load(tmp_path / "m.pth")
    assert found.card is None
    assert Classify.card_of(found).preprocess == Preprocess.default((384, 384), 1)


def test_what_is_described_has_a_size():
    found = swindow.checkpoints.describe(swindow.create("swin3d_tiny"))
    assert found["input_size"] == [32, 224, 224]
    assert found["gmacs"] == pytest.approx(88, rel=0.02)  # as published (Video Swin table 1)
    assert swindow.checkpoints.describe(shallow("swin_base_w12_384"))["input_size"] == [384, 384]
