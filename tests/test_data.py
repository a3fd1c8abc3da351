"""Sources of labelled images."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.folders import make_folder
from swindow import data
from swindow.card import Preprocess
from swindow.data.augment import affine, none, photo
from swindow.errors import DataError


def test_digits_are_split_once_and_for_all():
    source = data.open_source("digits")
    assert (len(source.train), len(source.held_out)) == (1438, 359)
    assert not set(source.train.names) & set(source.held_out.names)
    counts = np.bincount(source.held_out.labels)
    assert counts.min() >= 34  # a fifth of every digit
    assert counts.max() <= 37
    assert source.train.read(0).size == (8, 8)
    assert source.held_out.names == data.digits().held_out.names


def test_stratified_split_is_a_partition_and_keeps_lone_images_in_training():
    labels = [0] * 10 + [1] * 3 + [2]
    train, held_out = data.stratified_split(labels, 0.2, seed=1)
    assert sorted(train + held_out) == list(range(14))
    assert [labels[i] for i in held_out] == [0, 0, 1]
    assert held_out != data.stratified_split(labels, 0.2, seed=2)[1]


def test_folder_is_split_by_the_seed(tmp_path):
    source = data.folder(make_folder(tmp_path), held_out=0.3, seed=5)
    assert source.classes == ("cat", "dog")
    assert (len(source.train), len(source.held_out)) == (14, 6)
    assert source.held_out.labels == (0, 0, 0, 1, 1, 1)
    assert source.held_out.names == data.folder(tmp_path, held_out=0.3, seed=5).held_out.names
    assert source.train.read(0).size == (24, 20)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_folder_with_its_own_split(tmp_path, name):
    make_folder(tmp_path / "train", each=4)
    make_folder(tmp_path / name, each=2)
    source = data.folder(tmp_path)
    assert (len(source.train), len(source.held_out)) == (8, 4)
    assert all(f"/{name}/" in n for n in source.held_out.names)


def test_folder_with_train_alone_is_split(tmp_path):
    make_folder(tmp_path / "train")
    assert len(data.folder(tmp_path).held_out) == 4


def test_bad_files_are_named_skipped_and_counted(tmp_path):
    make_folder(tmp_path, each=20)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (tmp_path / "dog" / "notes.txt").write_text("hello")
    (tmp_path / "dog" / ".DS_Store").write_text("hidden")
    seen = []
    source = data.folder(tmp_path, on_progress=lambda done, files: seen.append((done, files)))
    assert len(source.train) + len(source.held_out) == 40
    assert len(source.skipped) == 2
    assert "broken.jpg" in source.skipped[0]
    assert "notes.txt" in source.skipped[1]
    assert seen[-1] == (42, 42)


def test_without_verification_a_broken_file_is_met_later(tmp_path):
    make_folder(tmp_path, each=20)
    whole = (tmp_path / "cat" / "3.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[:300])
    source = data.folder(tmp_path, verify=False)
    split, i = next(
        (s, s.names.index(n)) for s in (source.train, source.held_out) for n in s.names if n.endswith("cat/3.png")
    )
    with pytest.raises(DataError, match=r"3\.png"):
        split.read(i)


def test_unusable_folders_say_why(tmp_path):
    make_folder(tmp_path / "one", classes=("cat",))
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_files" / "a").mkdir(parents=True)
    (tmp_path / "no_files" / "b").mkdir()
    make_folder(tmp_path / "mostly_bad", each=3)
    (tmp_path / "mostly_bad" / "cat" / "x.txt").write_text("")
    make_folder(tmp_path / "empty_class", each=20)
    (tmp_path / "empty_class" / "emu").mkdir()
    make_folder(tmp_path / "more" / "train")
    make_folder(tmp_path / "more" / "val", classes=("cat", "emu"))
    (tmp_path / "file").write_text("")
    for name, expected in {
        "absent": "no such folder",
        "file": "is a file",
        "empty": "is empty",
        "one": "one class",
        "no_files": "hold no files",
        "mostly_bad": "1 of 7 files are unusable",
        "empty_class": "no usable images in class emu",
        "more": "emu: a class that the training folder does not have",
    }.items():
        with pytest.raises(DataError, match=expected) as error:
            data.folder(tmp_path / name)
        assert "\n" not in str(error.value)


def test_real_photos(shared, tmp_path):
    """Ants and bees, with a truncated file put among them."""
    root = shared("data/hymenoptera")
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            (tmp_path / split / name).mkdir(parents=True)
            for path in sorted((root / split / name).iterdir())[:12]:
                shutil.copy(path, tmp_path / split / name)
    victim = sorted((tmp_path / "train" / "bees").iterdir())[3]
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:5000])
    source = data.folder(tmp_path)
    assert (len(source.train), len(source.held_out)) == (23, 24)
    assert victim.name in source.skipped[0]


@pytest.mark.parametrize("augment", [photo, affine, none])
def test_augmentation_is_a_function_of_the_generator(augment):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    how = Preprocess((32, 24))
    results = [np.asarray(augment(image, how, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    assert results[0].shape == (32, 24, 3)
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all() == (augment is none)


def test_affine_moves_little_and_never_flips():
    image = data.digits().train.read(0)
    how = data.digits().preprocess(32)
    plain = np.asarray(none(image, how, np.random.default_rng(0)), float)
    mirrored = plain[:, ::-1]
    for seed in range(20):
        moved = np.asarray(affine(image, how, np.random.default_rng(seed)), float)
        closeness = [np.corrcoef(moved.ravel(), other.ravel())[0, 1] for other in (plain, mirrored)]
        assert closeness[0] > 0.3
        assert abs(moved.mean() - plain.mean()) < 0.35 * plain.mean()


def test_photo_flips_half_of_the_time_and_takes_long_images():
    image = Image.new("L", (64, 64))
    image.paste(255, (32, 0, 64, 64))
    how = Preprocess((16, 16), mean=(0.5,), std=(0.5,))
    bright_right = 0
    for seed in range(200):
        x = np.asarray(photo(image, how, np.random.default_rng(seed)), float)
        bright_right += x[:, 8:].mean() >= x[:, :8].mean()
    assert 60 < bright_right < 160
    assert photo(Image.new("RGB", (1, 500)), Preprocess((16, 16)), np.random.default_rng(0)).size == (16, 16)
