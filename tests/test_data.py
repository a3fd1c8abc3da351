"""Data sets: folders of images as users have them, the digits, splits."""

from __future__ import annotations

import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from helpers.folders import make_folder
from swindow import data
from swindow.card import HeldOut, Preprocess
from swindow.data.augment.geometric import affine, none, photo
from swindow.errors import DataError


def keys(dataset):
    return [dataset[i].key for i in range(len(dataset))]


class Unlabelled:
    """A data set whose samples have no classes."""

    info = data.DataInfo("unlabelled")

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return data.Sample(None, None, str(i))

    def labels(self):
        return None

    def fingerprint(self):
        return "20"


# The digits


def test_digits_are_split_once_and_for_all():
    train, held_out = data.open("digits")
    assert (len(train), len(held_out)) == (1438, 359)
    assert not set(keys(train)) & set(keys(held_out))
    counts = np.bincount(held_out.labels())
    assert counts.min() >= 34  # a fifth of every digit
    assert counts.max() <= 37
    # The weights of `make demo` depend on these, order included.
    assert [data.digest(part.indices) for part in (train, held_out)] == ["4bd4768152455a5b", "72b54743ee142890"]
    sample = train[0]
    assert (sample.key, sample.target, sample.media.decode().size) == ("digits/0000", 0, (8, 8))
    assert (train.info.channels, train.info.recipe, len(train.info.class_names)) == (1, "digits", 10)
    assert held_out.fingerprint() == data.digits().held_out.fingerprint() != train.fingerprint()


# Folders


def test_folder_without_splits_is_all_for_training(tmp_path):
    train, held_out = data.open(make_folder(tmp_path / "photos"))
    assert held_out is None
    assert (train.info.name, train.info.class_names) == ("photos", ("cat", "dog"))
    assert (train.info.channels, train.info.recipe) == (3, None)
    assert train.labels().tolist() == [0] * 10 + [1] * 10
    assert train[12].key == "dog/2.png"
    assert train[12].media.decode().size == (24, 20)
    assert data.open(data.Splits(train)) == (train, None)


def test_folder_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(make_folder(tmp_path / "photos"))
    assert data.folder(".").train.info.name == "photos"


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "val"),
        ("Train", "Val"),
        ("training", "validation"),
        ("TRAIN", "TEST"),
        ("Training", "valid"),
        ("trn", "dev"),
        ("train", "eval"),
        ("train", "evaluation"),
        ("train", "testing"),
    ],
)
def test_split_folders_by_any_usual_name(tmp_path, train, held_out):
    make_folder(tmp_path / train, each=4)
    make_folder(tmp_path / held_out, each=2)
    found = data.folder(tmp_path)
    assert found.train.info.class_names == ("cat", "dog")
    assert keys(found.train)[:2] == [f"{train}/cat/0.png", f"{train}/cat/1.png"]
    assert keys(found.held_out)[:2] == [f"{held_out}/cat/0.png", f"{held_out}/cat/1.png"]
    assert (len(found.train), len(found.held_out)) == (8, 4)


def test_test_folder_is_left_alone_where_there_is_validation(tmp_path):
    for name, each in (("train", 4), ("val", 2), ("test", 3)):
        make_folder(tmp_path / name, each=each)
    found = data.folder(tmp_path)
    assert keys(found.held_out)[0] == "val/cat/0.png"
    assert "test is not used" in data.warnings(found)[0]


def test_training_folder_alone_leaves_nothing_held_out(tmp_path):
    make_folder(tmp_path / "Train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.json").write_text("{}")
    found = data.folder(tmp_path)
    assert (len(found.train), found.held_out) == (20, None)


def test_class_named_like_a_split(tmp_path):
    """Trains among vehicles, and a test group beside its control group, are classes; a remark says so."""
    for classes in (("bus", "train"), ("control", "test")):
        found = data.folder(make_folder(tmp_path / classes[0], classes))
        assert found.train.info.class_names == classes
        assert f"{classes[1]} is taken for a class" in data.warnings(found)[0]


def test_classes_that_look_like_splits_of_other_names_give_a_warning(tmp_path):
    make_folder(tmp_path, ("train_set/cat", "train_set/dog", "val_set/cat", "val_set/dog"), each=5)
    assert "train_set and val_set are taken for classes" in data.warnings(data.folder(tmp_path))[0]
    make_folder(tmp_path, ("third/cow",), each=5)
    assert data.warnings(data.folder(tmp_path)) == []


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("val/cat", "val/dog"), "got val, .* no folder to train on"),
        (("Val/cat", "Val/dog", "TEST/cat", "TEST/dog"), "got Val and TEST"),
        (("train",), "train has no class folders"),
        (("train", "val"), "train: holds no sub-folders"),
        (("train/cat", "train/dog", "test"), "test: holds no sub-folders"),
        (("train/cat", "train/dog", "training/cat"), "train and training are names of the same split"),
        (("train/cat", "train/dog", "val/cat", "valid/cat"), "val and valid are names of the same split"),
        (("train/cat", "train/dog", "bus", "car"), "train is named like a split .* bus, car beside it"),
        (("cat", "dog", "test/cat", "test/dog"), "test is named like a split .* cat, dog beside it"),
    ],
)
def test_folders_that_may_be_classes_or_splits_are_refused(tmp_path, folders, expected):
    make_folder(tmp_path, folders, each=2)
    with pytest.raises(DataError, match=expected):
        data.folder(tmp_path)


def test_files_that_are_no_images_by_name_are_passed_over_and_counted(tmp_path):
    make_folder(tmp_path, each=4)
    for i in range(4):
        (tmp_path / "cat" / f"{i}.xml").write_text("<x/>")
    for name in ("Thumbs.db", "desktop.ini", "notes.TXT", "film.mpg", "paper.pdf", "README", "table.h5"):
        (tmp_path / "dog" / name).write_text("hello")
    (tmp_path / "dog" / ".DS_Store").write_text("hidden")
    (tmp_path / "dog" / ".thumbs").mkdir()
    (tmp_path / "dog" / ".thumbs" / "0.png").write_text("hidden")
    (tmp_path / "__MACOSX").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "loose.png")
    seen = []
    train = data.folder(tmp_path, on_progress=lambda done, images: seen.append((done, images))).train
    assert (len(train), train.info.skipped, train.info.ignored) == (8, (), 11)
    assert train.info.notes == (
        f"{tmp_path}: 1 images beside the class folders are not used: loose.png, ...",
        f"{tmp_path}: ignored 11 files (4 .xml, 1 without suffix, 1 .db, 1 .ini, 1 .mpg, 3 others) "
        "without the suffix of an image",
    )
    assert seen == [(i, 8) for i in range(1, 9)]


def test_suffixes_of_images_are_those_that_pillow_can_decode(tmp_path):
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".mpo", ".jp2", ".ppm"} <= (
        data.image_suffixes()
    )
    assert not {".pdf", ".mpg", ".mpeg", ".h5", ".grib", ".bufr", ".palm", ".txt", ""} & data.image_suffixes()
    Image.init()
    unreadable = {kind for suffix, kind in Image.registered_extensions().items() if suffix in data.image_suffixes()}
    assert unreadable - set(Image.OPEN) <= {"MPO"}  # which is opened as JPEG


def test_broken_images_are_named_and_skipped(tmp_path):
    make_folder(tmp_path, each=20)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for verify, skipped in ((True, ["dog/gone.jpg", "cat/broken.jpg"]), (False, ["dog/gone.jpg"])):
        info = data.folder(tmp_path, verify).train.info
        assert len(info.skipped) == len(skipped)
        assert all(f"{key}: " in text for key, text in zip(skipped, info.skipped))


def test_too_many_broken_images_are_named_with_reasons(tmp_path):
    make_folder(tmp_path, each=4)
    (tmp_path / "cat" / "a.jpg").write_bytes(b"")
    (tmp_path / "cat" / "b.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"2 of 10 images .*10%; the first: .*a\.jpg: not an image.*b\.png: a broken"):
        data.folder(tmp_path)


def test_without_verification_a_broken_image_is_met_later(tmp_path):
    make_folder(tmp_path, each=20)
    whole = (tmp_path / "cat" / "3.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[:300])
    train = data.folder(tmp_path, verify=False).train
    with pytest.raises(DataError, match=r"3\.png"):
        train[keys(train).index("cat/3.png")].media.decode()


def test_unusable_folders_say_why(tmp_path):
    make_folder(tmp_path / "one", classes=("cat",))
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_files" / "a").mkdir(parents=True)
    (tmp_path / "no_files" / "b").mkdir()
    make_folder(tmp_path / "flat", classes=("",))
    make_folder(tmp_path / "empty_class", each=2)
    (tmp_path / "empty_class" / "emu").mkdir()
    (tmp_path / "empty_class" / "emu" / "1.heic").write_text("")
    make_folder(tmp_path / "more" / "train")
    make_folder(tmp_path / "more" / "val", classes=("cat", "emu"))
    make_folder(tmp_path / "unread" / "train")
    for name in ("cat", "dog"):
        (tmp_path / "unread" / "val" / name).mkdir(parents=True)
    make_folder(tmp_path / "circle")
    (tmp_path / "circle" / "emu").symlink_to("emu")
    (tmp_path / "file").write_text("")
    for name, expected in {
        "absent": "no such folder",
        "file": "is a file",
        "empty": "is empty",
        "flat": "holds no sub-folders",
        "one": "one class",
        "no_files": "hold no images",
        "empty_class": r"no usable images in class emu \(ignored 1 file \(1 .heic\)",
        "more": "emu: a class that the training folder does not have",
        "unread": "val: no usable images are held out",
        "circle": "emu: cannot be listed",
    }.items():
        with pytest.raises(DataError, match=expected) as error:
            data.folder(tmp_path / name)
        assert "\n" not in str(error.value)


def test_order_is_that_of_code_points_part_by_part(tmp_path):
    """So it depends on no locale and no file system, and a seed holds out the same images everywhere."""
    names = ("Zoo", "apple", "猫", "Äpfel", "été")
    make_folder(tmp_path, names, each=1)
    for name in ("b-1.png", "b.png", "b/1.png", "B.png", "10.png", "ü.PNG"):
        (tmp_path / "Zoo" / name).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "apple" / "0.png", tmp_path / "Zoo" / name)
    train = data.folder(tmp_path).train
    assert train.info.class_names == ("Zoo", "apple", "Äpfel", "été", "猫")
    expected = ["0.png", "10.png", "B.png", "b/1.png", "b-1.png", "b.png", "ü.PNG"]
    assert keys(train)[:7] == [f"Zoo/{name}" for name in expected]
    assert train[len(train) - 1].key == "猫/0.png"
    assert train[len(train) - 1].media.decode().size == (24, 20)


def test_links(tmp_path):
    """Links to class folders and to files are followed; links to folders further down are not, as they may circle."""
    elsewhere = make_folder(tmp_path / "elsewhere")
    root = make_folder(tmp_path / "photos", ("dog",), each=2)
    (root / "cat").symlink_to(elsewhere / "cat", target_is_directory=True)
    (root / "dog" / "link.png").symlink_to(elsewhere / "dog" / "7.png")
    (root / "dog" / "self").symlink_to(root / "dog", target_is_directory=True)
    train = data.folder(root).train
    assert keys(train) == [f"cat/{i}.png" for i in range(10)] + ["dog/0.png", "dog/1.png", "dog/link.png"]
    assert train.sizes[-1] == os.path.getsize(elsewhere / "dog" / "7.png")


def test_listing_a_large_folder_looks_at_each_file_once(tmp_path, monkeypatch):
    """Scandir tells folders from files without a system call; only the size of an image needs one."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(1000):
            (tmp_path / name / f"{i:04d}.jpg").touch()
    calls = []
    for name in ("stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, **how: calls.append(args) or real(*args, **how))
    train = data.folder(tmp_path, verify=False).train
    assert len(train) == 2000
    assert len(calls) < 20


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
    train, held_out = data.folder(tmp_path)
    assert (len(train), len(held_out)) == (23, 24)
    assert victim.name in train.info.skipped[0]


# What is the same wherever the data lies, and in another process


def test_fingerprint_is_of_names_labels_and_sizes_and_of_no_place(tmp_path):
    root = make_folder(tmp_path / "photos")
    first = data.folder(root).train.fingerprint()
    assert data.folder(shutil.copytree(root, tmp_path / "copy")).train.fingerprint() == first
    changes = {
        "size": lambda root: Image.new("RGB", (5, 5)).save(root / "cat" / "3.png"),
        "name": lambda root: (root / "cat" / "3.png").rename(root / "cat" / "three.png"),
        "label": lambda root: (root / "cat" / "3.png").rename(root / "dog" / "33.png"),
        "number": lambda root: (root / "cat" / "3.png").unlink(),
        "class": lambda root: (root / "cat").rename(root / "CAT"),
    }
    for name, change in changes.items():
        change(shutil.copytree(root, tmp_path / name))
        assert data.folder(tmp_path / name).train.fingerprint() != first, name


def test_fingerprint_of_a_subset_is_of_whole_and_choice():
    digits = data.digits().train.dataset
    some = [data.Subset(digits, indices).fingerprint() for indices in ((1, 2), (2, 1), (1, 2, 3))]
    assert len({*some, digits.fingerprint()}) == 4
    assert data.Subset(digits, np.array([1, 2])).fingerprint() == some[0]


def first_pixels(dataset):
    """What another process sees of a data set."""
    return dataset[0].key, np.asarray(dataset[0].media.decode()), dataset.labels(), dataset.fingerprint()


def test_data_sets_work_in_a_spawned_process(tmp_path):
    """The way of macOS, Windows and Python 3.14: everything that a worker needs is pickled."""
    sets = [*data.digits(), *data.hold_out(data.folder(make_folder(tmp_path)).train, HeldOut(0.2, 0))]
    sets += [part.dataset for part in sets[::2]]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for here, there in zip(map(first_pixels, sets), pool.map(first_pixels, sets)):
            assert (here[0], here[3]) == (there[0], there[3])
            assert (here[1] == there[1]).all()
            assert (here[2] == there[2]).all()


def test_pickled_files_are_handles_not_pixels(tmp_path):
    whole = data.folder(make_folder(tmp_path)).train
    assert len(pickle.dumps(whole[0])) < 500
    assert len(pickle.dumps(whole)) < 3000


# Splits


def test_stratified_split_is_a_partition_and_keeps_lone_images_in_training():
    labels = [0] * 10 + [1] * 3 + [2]
    train, held_out = data.stratified_split(labels, 0.2, seed=1)
    assert sorted(train + held_out) == list(range(14))
    assert [labels[i] for i in held_out] == [0, 0, 1]
    assert held_out != data.stratified_split(labels, 0.2, seed=2)[1]


def test_hold_out_takes_the_same_share_of_every_class(tmp_path):
    whole = data.folder(make_folder(tmp_path)).train
    train, held_out = data.hold_out(whole, HeldOut(0.3, seed=5))
    assert sorted(keys(train) + keys(held_out)) == sorted(keys(whole))
    assert held_out.labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert [held_out[i].target for i in range(6)] == held_out.labels().tolist()
    assert keys(held_out) == keys(data.hold_out(whole, HeldOut(0.3, seed=5)).held_out)
    assert keys(held_out) != keys(data.hold_out(whole, HeldOut(0.3, seed=6)).held_out)
    assert held_out.info == whole.info


def test_hold_out_at_random_takes_a_share_of_the_whole():
    whole = data.digits().train.dataset
    shares = set()
    for seed in range(3):
        train, held_out = data.hold_out(whole, HeldOut(0.1, seed, stratified=False))
        assert len(held_out) == 180
        assert sorted((*train.indices, *held_out.indices)) == list(range(1797))
        shares.add(tuple(np.bincount(held_out.labels()).tolist()))
    assert len(shares) == 3  # no fixed share of each class


@pytest.mark.parametrize("stratified", [True, False])
def test_hold_out_needs_no_classes(stratified):
    train, held_out = data.hold_out(Unlabelled(), HeldOut(0.25, 0, stratified))
    assert (len(train), len(held_out), train.labels()) == (15, 5, None)
    assert data.warnings(data.Splits(train, held_out)) == []


def test_hold_out_that_leaves_nothing_to_hold_out_is_an_error(tmp_path):
    whole = data.folder(make_folder(tmp_path / "photos", each=1)).train
    with pytest.raises(DataError, match="photos: too few images"):
        data.hold_out(whole, HeldOut(0.2, 0))


def test_small_and_unequal_classes_give_warnings(tmp_path):
    for name, each in (("a", 40), ("b", 30), ("c", 2), ("d", 1)):
        make_folder(tmp_path, (name,), each)
    whole = data.folder(tmp_path).train
    none_out, few, unequal = data.warnings(data.hold_out(whole, HeldOut(0.2, 0)))
    assert none_out.startswith("no images are held out of class d (1)")
    assert few.startswith("fewer than 5 images are held out of class c (1)")
    assert unequal.startswith("classes are unequal: 32 training images of a, 1 of c")
    assert data.warnings(data.Splits(data.Subset(whole, range(70)))) == ["no images to train on in class c (0), d (0)"]
    assert data.warnings(data.digits()) == []


def test_warnings_of_many_classes_name_a_few(tmp_path):
    whole = data.folder(make_folder(tmp_path, [f"c{i:02d}" for i in range(20)], each=3)).train
    (few,) = data.warnings(data.hold_out(whole, HeldOut(0.2, 0)))
    assert "c00 (1), c01 (1), c02 (1), c03 (1), c04 (1) and 15 more:" in few


# Augmentation


@pytest.mark.parametrize("augment", [photo, affine, none])
def test_augmentation_is_a_function_of_the_generator(augment):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    how = Preprocess((32, 24))
    results = [np.asarray(augment(image, how, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    assert results[0].shape == (32, 24, 3)
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all() == (augment is none)


def test_affine_moves_little_and_never_flips():
    image = data.digits().train[0].media.decode()
    how = Preprocess((32, 32), "squash", mean=(0.3,), std=(0.4,))
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
