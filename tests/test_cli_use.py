"""``swindow predict`` and ``swindow evaluate`` as a user meets them: what they take, write and say."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image

import swindow
from helpers.folders import make_folder
from swindow.card import ModelCard, Preprocess
from swindow.errors import ConfigError
from swindow.inference.answers import writer

NAMES = ("ant", "bee, wild", '猫 "cat"')


def save(path, seed=0, names=NAMES, variant="swin_nano"):
    torch.manual_seed(seed)
    model = swindow.create(variant, num_classes=len(names))
    torch.nn.init.normal_(model.head.weight, std=0.5)
    model.card = ModelCard(class_names=names, preprocess=Preprocess((32, 32)))
    swindow.save(model, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def photos(tmp_path):
    """A folder with four images in it and below, and files that are none."""
    root = tmp_path / "new photos"
    (root / "below" / "further").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.JPG", "below/c.png", "below/further/ü.png", ".hidden.png"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


def images_of(output):
    return [entry["image"] for entry in json.loads(output)]


# --- what is predicted ------------------------------------------------------------------------------------------------


def test_files_folders_patterns_and_a_list(run, checkpoint, photos, monkeypatch):
    every = [str(photos / name) for name in ("a.JPG", "b.png", "below/c.png", "below/further/ü.png")]
    status, output, _ = run("predict", checkpoint, photos, "--json")
    assert (status, images_of(output)) == (0, every)
    status, output, _ = run("predict", checkpoint, photos / "b.png", f"{photos}/**/*.*", "--json")
    assert (status, sorted(images_of(output)[1:])) == (0, sorted(every))
    listed = f"{photos}/b.png\n\n{photos}/a.JPG\n".encode()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(listed)))
    status, output, _ = run("predict", checkpoint, "-", "--json")
    assert (status, images_of(output)) == (0, [every[1], every[0]])
    odd = photos / "[x].png"
    (photos / "b.png").rename(odd)
    assert images_of(run("predict", checkpoint, odd, "--json")[1]) == [str(odd)]


def test_nothing_to_predict(run, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"\n")))
    for arguments, status, message in (
        ([], 2, "got no image"),
        (["-"], 1, "no paths on standard input"),
        ([tmp_path / "empty"], 1, "holds no images"),
        ([f"{tmp_path}/*.png"], 1, "no image matches this pattern"),
    ):
        found = run("predict", checkpoint, *arguments)
        assert (found[0], found[1], found[2].count("\n")) == (status, "", 1)
        assert message in found[2]


def test_broken_images_are_in_the_document(run, checkpoint, photos):
    (photos / "b.png").write_bytes(b"no image")
    status, output, error = run("predict", checkpoint, photos, "absent.png", "--json", "--top", 1, "--batch-size", 2)
    found = json.loads(output)
    assert status == 1
    assert error.count("\n") == 2
    assert [sorted(entry)[0] for entry in found] == ["image", "error", "image", "image", "error"]
    assert found[-1] == {"image": "absent.png", "error": "absent.png: there is no such file"}
    assert len(found[0]["predictions"]) == 1
    status, output, error = run("predict", checkpoint, photos, "--top", 2)
    assert (status, output.count("\n"), error.count("\n")) == (1, 3, 1)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("all_classes", [False, True])
def test_answers_in_a_file(run, checkpoint, photos, tmp_path, suffix, all_classes):
    (photos / "b.png").write_bytes(b"no image")
    out = tmp_path / "made" / f"answers{suffix}"
    options = ["--out", out, "--top", 2, *(["--all-classes"] if all_classes else [])]
    status, output, _ = run("predict", checkpoint, photos, *options)
    assert status == 1
    assert output == f"wrote {out}: 3 answers; 1 of 4 images could not be read\n"
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    expected = swindow.predict(checkpoint, [str(photos / name) for name in ("a.JPG", "below/c.png")], top=3)
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [len(row.get("predictions", ())) for row in rows] == [3, 0, 3, 3] if all_classes else [2, 0, 2, 2]
        assert [p["class"] for p in rows[2]["predictions"]] == list(expected[1].classes[: 3 if all_classes else 2])
        assert rows[1]["error"].endswith("not an image of a known format")
        return
    if suffix == ".csv":
        rows = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
        missing = ""
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
        missing = None
    columns = ["image", "class", "probability", "class_2", "probability_2"]
    assert list(rows[0]) == [*columns, *([f"p_{name}" for name in NAMES] if all_classes else []), "error"]
    assert [row["image"] for row in rows] == [
        str(photos / n) for n in ("a.JPG", "b.png", "below/c.png", "below/further/ü.png")
    ]
    for row, answer in ((rows[0], expected[0]), (rows[2], expected[1])):
        assert (row["class"], row["class_2"]) == answer.classes[:2]
        assert [float(row["probability"]), float(row["probability_2"])] == pytest.approx(
            answer.probabilities[:2], rel=1e-5
        )
        assert row["error"] == missing
        if all_classes:
            p = dict(zip(answer.classes, answer.probabilities, strict=True))
            assert [float(row[f"p_{name}"]) for name in NAMES] == pytest.approx([p[name] for name in NAMES], rel=1e-5)
    assert rows[1]["class"] == missing
    assert rows[1]["error"].endswith("not an image of a known format")


def test_a_file_of_answers_is_not_replaced_unless_asked(run, checkpoint, photos, tmp_path):
    out = tmp_path / "answers.csv"
    out.write_text("mine")
    status, _, error = run("predict", checkpoint, photos, "--out", out)
    assert (status, error.count("\n")) == (2, 1)
    assert "--overwrite" in error
    assert out.read_text() == "mine"
    assert run("predict", checkpoint, photos, "--out", out, "--overwrite")[0] == 0
    assert out.read_text().startswith("image,class,")
    status, _, error = run("predict", checkpoint, photos, "--out", tmp_path / "answers.xlsx")
    assert (status, error.count("\n")) == (2, 1)
    assert ".csv, .jsonl, .parquet" in error
    status, _, error = run("predict", checkpoint, photos, "--out", out / "below.csv")
    assert (status, error.count("\n")) == (1, 1)


def test_what_a_stopped_command_has_left_is_not_replaced_unless_asked(run, checkpoint, photos, tmp_path):
    partial = tmp_path / "answers.csv.partial"
    partial.write_text("mine")
    for options in ([], ["--top", 0, "--overwrite"]):
        status, _, error = run("predict", checkpoint, photos, "--out", tmp_path / "answers.csv", *options)
        assert (status, error.count("\n")) == (2, 1)
        assert partial.read_text() == "mine"


def test_errors_of_the_system_are_one_line(run, checkpoint, photos, monkeypatch):
    for arguments in (["--out", "x" * 300 + ".csv"], ["--out", "/proc/nothing/answers.csv"]):
        status, _, error = run("predict", checkpoint, photos, *arguments)
        assert (status, error.count("\n")) == (1, 1)
    monkeypatch.setattr(sys, "stdin", None)
    assert run("predict", checkpoint, "-")[2] == "swindow: error: no paths on standard input\n"


def test_answers_so_far_are_kept_where_a_command_is_stopped(checkpoint, photos, tmp_path):
    """The list of images never ends; the answers so far lie beside the name that the whole would have."""
    out = tmp_path / "answers.csv"
    images = [str(photos / "b.png")] * 20_000
    command = [sys.executable, "-m", "swindow", "predict", str(checkpoint), "-", "--out", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdin.write("\n".join(images))
        process.stdin.close()
        partial, deadline = tmp_path / "answers.csv.partial", time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size > 5000) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        error = process.stderr.read()
    assert process.returncode == 143
    assert error == f"swindow: stopped; the answers so far are in {partial}\n"
    assert not out.exists()
    rows = list(csv.DictReader(partial.open(encoding="utf-8", newline="")))
    assert 0 < len(rows) < 20_000
    assert {row["image"] for row in rows} == {images[0]}


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"), writer(tmp_path / "a.parquet", NAMES, 1):
        raise AssertionError
    assert not list(tmp_path.iterdir())


def test_file_names_that_are_no_text(checkpoint, tmp_path):
    """Names on Linux are bytes; what is no UTF-8 comes back as it was."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            Image.new("RGB", (40, 40)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    for suffix in ("csv", "jsonl", "parquet"):
        command = [sys.executable, "-m", "swindow", "predict", checkpoint, tmp_path, "--out", tmp_path / f"a.{suffix}"]
        done = subprocess.run(command, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"caf" in (tmp_path / f"a.{suffix}").read_bytes()
    assert b"/caf\xe9.png," in (tmp_path / "a.csv").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "swindow", "predict", checkpoint, tmp_path, "--json"], capture_output=True
    )
    assert done.returncode == 0
    assert os.fsencode(json.loads(done.stdout)[0]["image"]) == name


def test_views_ensembles_and_names(run, checkpoint, photos, tmp_path):
    other = save(tmp_path / "other.safetensors", 1, NAMES[::-1])
    status, output, _ = run("predict", checkpoint, photos, "--flip", "--sizes", 32, 40, "--ensemble", other, "--json")
    expected = swindow.Predictor.open(checkpoint, other, flip=True, sizes=(32, 40))(photos / "a.JPG")
    found = json.loads(output)[0]["predictions"]
    assert status == 0
    assert [p["class"] for p in found] == list(next(expected).classes)
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    status, output, _ = run("predict", checkpoint, photos, "--names", tmp_path / "names.txt", "--json")
    assert {p["class"] for p in json.loads(output)[0]["predictions"]} == {"one", "two", "three"}
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    status, _, error = run("predict", checkpoint, photos, "--names", tmp_path / "names.txt")
    assert (status, error.count("\n")) == (2, 1)
    assert "got 2 class names, expected 3" in error
    status, _, error = run(
        "predict", checkpoint, photos, "--ensemble", save(tmp_path / "x.safetensors", 2, ("a", "b", "c"))
    )
    assert (status, error.count("\n")) == (1, 1)
    assert "different classes" in error


def test_a_model_of_clips_is_refused_before_any_image_is_read(run, tmp_path):
    fields = {"embed_dim": 8, "num_heads": (1, 2, 4, 8), "depths": (1, 1, 1, 1), "num_classes": 2}
    swindow.save(swindow.create("swin3d_tiny", **fields), tmp_path / "clips.safetensors")
    photos = make_folder(tmp_path / "photos")
    (photos / "cat" / "0.png").write_bytes(b"no image")
    for command in (
        ["predict", tmp_path / "clips.safetensors", photos],
        ["evaluate", tmp_path / "clips.safetensors", photos],
        ["explain", tmp_path / "clips.safetensors", photos / "cat" / "1.png"],
        ["train", photos, "--variant", "swin3d_tiny", "--out", tmp_path / "run"],
        ["train", photos, "--weights", tmp_path / "clips.safetensors", "--out", tmp_path / "run"],
    ):
        status, output, error = run(*command)
        assert (status, output, error.count("\n")) == (1, "", 1), error
        assert "takes clips or volumes (3 axes), images have 2" in error


def test_classes_of_imagenet_are_assumed_and_it_is_said(run, photos, tmp_path):
    swindow.save(swindow.create("swin_nano", num_classes=1000), tmp_path / "timm.safetensors", layout="timm")
    arguments = ["predict", tmp_path / "timm.safetensors", photos / "b.png", "--top", 1]
    status, output, error = run(*arguments, "--json")
    name = json.loads(output)[0]["predictions"][0]["class"]
    assert status == 0
    assert name in {name for _, name in swindow.class_names.imagenet_1k()}
    assert "class names: those of ImageNet-1k" in error
    assert "--names FILE" in error
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(1000)))
    _, output, error = run(*arguments, "--names", tmp_path / "names.txt", "--json")
    assert json.loads(output)[0]["predictions"][0]["class"].startswith("class ")
    assert error == ""


# --- what is measured -------------------------------------------------------------------------------------------------


def test_evaluate_prints_a_row_per_class_and_all_of_it_in_json(run, tmp_path):
    names = tuple(f"class {i:02}" for i in range(12))
    checkpoint = save(tmp_path / "m.safetensors", 3, names)
    root = make_folder(tmp_path / "photos", classes=names, each=3)
    (root / names[0] / "0.png").write_bytes(b"no image")
    arguments = ["evaluate", checkpoint, root, "--batch-size", 7]
    status, output, error = run(*arguments, "--json", "--save-mistakes", tmp_path / "wrong")
    found = json.loads(output)
    assert status == 1
    assert "0.png: not an image" in error
    assert set(found) == {
        "accuracy", "loss", "images", "top5", "calibration_error", "measured_on", "macro", "classes", "mistakes",
        "skipped",
    }  # fmt: skip
    assert found["images"] == 35
    assert list(found["classes"]) == list(names)
    assert set(found["classes"][names[0]]) == {"images", "right", "recall", "precision", "f1"}
    right = sum(row["right"] for row in found["classes"].values())
    assert found["accuracy"] == right / 35
    assert len(found["mistakes"]) == 35 - right
    assert set(found["mistakes"][0]) == {"image", "class", "predicted", "probability"}
    assert found["accuracy"] <= found["top5"] <= 1
    assert (tmp_path / "wrong" / "mistakes.png").exists()
    status, output, error = run(*arguments, "--quiet")
    lines = output.splitlines()
    assert lines[0].startswith(f"accuracy {found['accuracy']:.4f}, top-5 accuracy {found['top5']:.4f}, loss")
    assert lines[1].startswith(f"means over the classes: recall {found['macro']['recall']:.4f}, precision ")
    assert lines[2].split() == ["class", "images", "right", "recall", "precision", "f1", "taken", "for"]
    for line, (name, row) in zip(lines[3:15], found["classes"].items(), strict=True):
        assert line.startswith(name)
        assert line.removeprefix(name).split()[:3] == [str(row["images"]), str(row["right"]), f"{row['recall']:.4f}"]
    worst = found["mistakes"][0]
    assert lines[15] == "most certain mistakes:"
    assert lines[16].strip() == (
        f"{worst['image']}: {worst['class']}, taken for {worst['predicted']} ({worst['probability']:.2f})"
    )
    assert "--json lists all" in lines[-1]


def test_rows_are_whole_where_the_terminal_is_narrow(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    names = ("a class with a name of more than forty characters", "b")
    checkpoint = save(tmp_path / "m.safetensors", 3, names)
    root = make_folder(tmp_path / "photos", classes=names, each=3)
    _, output, _ = run("evaluate", checkpoint, root)
    assert any(line.startswith(names[0]) and line.split()[10] == "3" for line in output.splitlines())
