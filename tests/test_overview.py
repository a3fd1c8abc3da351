"""``swindow data``: what a data set holds, and what is there twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from helpers.folders import make_folder
from swindow import data
from swindow.data.overview import overview


def picture(seed, size=(64, 48)):
    """Smooth random shapes, different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """Twelve different pictures in two classes and two splits."""
    root = tmp_path / "photos"
    for i in range(12):
        folder = root / ("train" if i < 8 else "val") / ("bird", "fish")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / f"{i}.png")
    return root


def pairs(root, verify=False):
    found = overview(data.open(root, verify=verify))
    return {(found.key(d.one), found.key(d.other), d.exact) for d in found.duplicates}, found


def test_different_pictures_are_no_duplicates(photos):
    assert pairs(photos)[0] == set()


@pytest.mark.parametrize(
    ("name", "change", "exact"),
    [
        ("copy.bmp", lambda image: image, True),
        ("worse.jpg", lambda image: image, False),
        ("smaller.png", lambda image: image.resize((40, 30)), False),
        ("larger.png", lambda image: image.resize((300, 220)), False),
        ("darker.png", lambda image: ImageEnhance.Brightness(image).enhance(0.6), False),
        ("grey.png", lambda image: image.convert("L"), False),
    ],
)
def test_copies_between_training_and_held_out_images_are_found(photos, name, change, exact):
    change(picture(2)).save(photos / "val" / "bird" / name)
    assert pairs(photos)[0] == {("train/bird/2.png", f"val/bird/{name}", exact)}


def test_a_copy_within_a_part_is_no_leak(photos):
    picture(2).save(photos / "train" / "bird" / "copy.png")
    assert pairs(photos)[0] == set()
    whole, found = pairs(photos / "train")  # but where nothing is held out yet, a split could tear them apart
    assert whole == {("bird/2.png", "bird/copy.png", True)}
    assert found.contradictions == ()


def test_the_same_picture_in_two_classes_is_a_contradiction(photos):
    picture(2).save(photos / "train" / "fish" / "copy.png")
    found = pairs(photos)[1]
    assert [(found.key(d.one), found.key(d.other)) for d in found.contradictions] == [
        ("train/bird/2.png", "train/fish/copy.png")
    ]


def test_flat_and_small_images_are_not_taken_for_each_other(photos):
    for i, folder in enumerate(("train", "val")):
        Image.new("RGB", (64, 48), (10 + i, 200, 30)).save(photos / folder / "bird" / f"flat{i}.png")
        picture(50 + i, (8, 8)).save(photos / folder / "bird" / f"small{i}.png")
        picture(60, (8 + i, 8)).save(photos / folder / "bird" / f"smallish{i}.png")
    assert pairs(photos)[0] == set()


def test_deep_images_are_compared_too(photos):
    values = np.asarray(picture(2).convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(photos / "val" / "bird" / "deep.png")
    assert pairs(photos)[0] == {("train/bird/2.png", "val/bird/deep.png", False)}


def test_the_command(photos, run, tmp_path):
    picture(2).save(photos / "val" / "fish" / "copy.png")
    picture(5).resize((30, 30)).save(photos / "val" / "fish" / "grün.png")
    (photos / "train" / "bird" / "broken.png").write_bytes(b"no image")
    picture(77, (40, 40)).convert("L").save(photos / "train" / "bird" / "grey.png")
    code, out, _ = run("data", photos, "--sheet", tmp_path / "sheet.png")
    assert code == 0
    for expected in (
        "photos: 10 images to train on, 6 held out (its own split); 2 classes",
        "sizes (height x width): 30 x 30 to 48 x 64, shorter side 48 (median); 3 different",
        "modes: RGB 14, L 1",
        "unreadable: 1",
        "broken.png: not an image of a known format",
        "duplicates between training and held-out images: 1 with the same pixels, 1 nearly the same",
        "train/bird/2.png = val/fish/copy.png (bird and fish)",
        "the same pixels in different classes: 1",
        "bird   6            2",
        "would use the recipe scratch-small: images of 48 pixels",
    ):
        assert expected in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.asarray(sheet.convert("L")).std() > 20
    _, out, _ = run("data", photos, "--json")
    found = json.loads(out)
    assert found["classes"] == {"bird": {"images": 6, "held_out": 2}, "fish": {"images": 4, "held_out": 4}}
    assert found["sizes"][0] == [48, 64, 13]
    assert {tuple(pair["images"]): pair["exact"] for pair in found["duplicates"]} == {
        ("train/bird/2.png", "val/fish/copy.png"): True,
        ("train/fish/5.png", "val/fish/grün.png"): False,
    }


def test_a_sheet_that_cannot_be_written(photos, run, tmp_path):
    code, _, err = run("data", photos, "--sheet", tmp_path / "absent" / "sheet.png")
    assert code == 1
    assert "the contact sheet cannot be written" in err


def test_digits_and_folders_without_a_split(run, tmp_path):
    _, out, _ = run("data", "digits")
    assert "all 8 x 8" in out
    assert "0 nearly the same" in out
    _, out, _ = run("data", make_folder(tmp_path / "pets", each=6))
    assert "no split of its own; 2 classes" in out
    assert "duplicates among all images" in out


def test_cifar_10_holds_images_twice(shared):
    # Barz and Denzler 2020, "Do we train on test data?": 3.3 % of the test images have a near duplicate; the pairs
    # that differ in size, quality and colour only are found here, of the first images
    splits = data.open(shared("data", "cifar10"), verify=False)
    train, held_out = (9162, 21868, 38350, *range(200)), (4257, 24, 7314, *range(25, 225))
    some = data.Splits(data.Subset(splits.train, train), data.Subset(splits.held_out, held_out))
    found = overview(some)
    assert [(d.one, d.other - 203) for d in found.duplicates] == [(0, 0), (1, 1), (2, 2)]
    assert found.sizes[0] == (32, 32)


def test_copies_of_copies_and_palettes(photos):
    picture(2).save(photos / "train" / "bird" / "copy.png")
    picture(2).save(photos / "val" / "bird" / "copy.png")
    expected = {(f"train/bird/{name}.png", "val/bird/copy.png", True) for name in ("2", "copy")}
    assert pairs(photos)[0] == expected
    shapes = picture(90).quantize(8)
    for name, folder in (("one", "train"), ("other", "val")):
        shapes.save(photos / folder / "fish" / f"{name}.png")
        shapes.putpalette(list(reversed(shapes.getpalette()))[: 3 * 8])
    assert pairs(photos)[0] == expected
