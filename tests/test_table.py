"""Tables of images and classes: every kind of file, the columns that are guessed, and what is wrong with a table."""

from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import swindow
from swindow import data
from swindow.data import Columns
from swindow.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data" / "cifar10"


def picture(seed, size=(12, 10)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def encoded(seed):
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def write_text(path, rows):
    """Rows of texts as .csv, .tsv or .jsonl."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path, images, labels, features=None, column="image"):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({column: images, "label": labels})
    if features is not None:
        described = json.dumps({"info": {"features": {"label": {"names": features, "_type": "ClassLabel"}}}})
        table = table.replace_schema_metadata({"huggingface": described})
    pq.write_table(table, path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Six photos in a folder, two of each of three classes."""
    (tmp_path / "bilder").mkdir()
    rows = []
    for i in range(6):
        picture(i).save(tmp_path / "bilder" / f"ä {i}.png")
        rows.append({"file": f"bilder/ä {i}.png", "class": ("Vögel", "cat", "dog")[i % 3]})
    return rows


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".CSV"])
def test_tables_of_paths(suffix, photos, tmp_path):
    path = write_text(tmp_path / f"table{suffix}", photos)
    assert data.is_table(path)
    found = data.open(path).train
    assert found.info.class_names == ("Vögel", "cat", "dog")
    assert found.labels().tolist() == [0, 1, 2] * 2
    assert found.info.name == "table"
    assert found.info.notes == (f"table{suffix}: images from column 'file', classes from column 'class'",)
    for i in range(6):
        assert np.array_equal(np.asarray(found[i].media.decode()), np.asarray(picture(i)))
    again = pickle.loads(pickle.dumps(found))
    assert again[5].key == f"table{suffix}:5"
    assert again.fingerprint() == found.fingerprint()


@pytest.mark.parametrize("kind", ["struct", "binary", "path"])
def test_parquet(kind, photos, tmp_path):
    images = {
        "struct": [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(6)],
        "binary": [encoded(i) for i in range(6)],
        "path": [row["file"] for row in photos],
    }[kind]
    path = write_parquet(tmp_path / "t.parquet", images, [0, 1, 2] * 2, ["a", "b", "c"])
    found = data.open(path).train
    assert found.info.class_names == ("a", "b", "c")
    assert found.labels().tolist() == [0, 1, 2] * 2
    for i in range(6):
        assert np.array_equal(np.asarray(found[i].media.decode()), np.asarray(picture(i)))
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(found))[4].media.decode()), np.asarray(picture(4)))


def test_names_of_numbers(photos, tmp_path):
    rows = [{"image": row["file"], "label": i % 3} for i, row in enumerate(photos)]
    path = write_text(tmp_path / "t.csv", rows)
    assert data.open(path).train.info.class_names == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("null\neins\nzwei\n", encoding="utf-8")
    assert data.open(path).train.info.class_names == ("null", "eins", "zwei")
    (tmp_path / "classes.txt").write_text("null\neins\n", encoding="utf-8")
    with pytest.raises(DataError, match="has class 2, but there are 2 names of classes"):
        data.open(path)


def test_folders_of_tables(tmp_path):
    images = [{"bytes": encoded(i), "path": None} for i in range(6)]
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test"):
        write_parquet(tmp_path / f"{name}.parquet", images, [0, 1] * 3)
    found = data.open(tmp_path)
    assert (len(found.train), len(found.held_out)) == (12, 6)
    assert found.train[7].key == "train-00001-of-00002.parquet:1"
    assert np.array_equal(np.asarray(found.train[7].media.decode()), np.asarray(picture(1)))
    (tmp_path / "data").mkdir()
    for file in tmp_path.glob("*.parquet"):
        file.rename(tmp_path / "data" / file.name)
    assert len(data.open(tmp_path).train) == 12
    assert not data.is_table(tmp_path / "nothing")


def test_class_folders_are_read_also_where_a_table_lies_beside_them(photos, tmp_path):
    root = tmp_path / "root"
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        picture(0).save(root / "train" / name / "a.png")
    write_text(root / "train.csv", photos)
    assert not data.is_table(root)
    assert data.open(root).train.info.class_names == ("cat", "dog")


def test_columns_are_given(photos, tmp_path):
    rows = [{"what": row["class"], "where": row["file"], "number": i} for i, row in enumerate(photos)]
    path = write_text(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=r"no column is known to hold images; it has 'what', 'where', 'number'; say"):
        data.open(path)
    found = data.open(path, columns=Columns("where", "what")).train
    assert found.info.class_names == ("Vögel", "cat", "dog")
    with pytest.raises(DataError, match=r"has no column 'wher' \(did you mean 'where'"):
        data.open(path, columns=Columns("wher", "what"))


def test_broken_images_are_skipped_and_named(photos, tmp_path):
    rows = [{"file": row["file"], "label": i % 2} for i, row in enumerate(photos * 4)]
    rows += [{"file": "bilder/none.png", "label": 0}]
    path = write_text(tmp_path / "t.csv", rows)
    found = data.open(path).train
    assert len(found) == 24
    assert len(found.info.skipped) == 1
    assert "none.png: there is no such file" in found.info.skipped[0]
    assert len(data.open(path, verify=False).train) == 25
    steps = []
    data.open(path, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(25, 25)]
    with pytest.raises(DataError, match=r"5 of 29 images are unusable, more than 10%; the first: .*none"):
        data.open(write_text(tmp_path / "t.csv", rows + rows[-1:] * 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows; expected a header"),
        ("file,label\n", "has no rows"),
        ("file,label\na.png,\n", r"row 0 has class '', expected a name, or a number from 0"),
        ("file,label\na.png,-1\n", r"row 0 has class '-1', expected"),
        ("file,label\na.png,x\n", "got 1 class, expected at least two"),
        ("file\na.png\n", "no column is known to hold classes"),
    ],
)
def test_tables_that_are_none(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        data.open(tmp_path / "t.csv", verify=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"nothing", "not a whole Parquet file"),
        ("t.jsonl", b"{", "cannot be read as a table"),
        ("t.jsonl", b"[1]\n", "expected one JSON object per line"),
        ("t.csv", b"\xff\xfe\x00file", "cannot be read as a table"),
    ],
)
def test_files_that_are_no_tables(name, content, message, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        data.open(tmp_path / name)


def test_a_table_that_is_absent(tmp_path):
    with pytest.raises(DataError, match=r"labels.csv: there is no such file"):
        data.open(tmp_path / "labels.csv")


def test_an_image_that_is_neither_a_path_nor_bytes(tmp_path):
    path = write_text(tmp_path / "t.jsonl", [{"image": 5, "label": 0}, {"image": None, "label": 1}])
    with pytest.raises(DataError, match=r"t.jsonl:0 holds no image, got '5'; expected a path or the bytes"):
        data.open(path)


def test_training_on_a_table_and_evaluating_the_same(tmp_path):
    images = [{"bytes": encoded(i), "path": None} for i in range(40)]
    path = write_parquet(tmp_path / "t.parquet", images, [0, 1] * 20)
    settings = swindow.TrainConfig(
        out=tmp_path / "run", variant="swin_nano", image_size=8, epochs=1, batch_size=16, workers=1, device="cpu"
    )
    result = swindow.train(path, settings)
    assert result.images == 8
    found = swindow.evaluate(result.out / "model.safetensors", path)
    assert found.images == 8  # those that were held out
    assert found.accuracy == pytest.approx(result.accuracy)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is absent")
def test_cifar_10_as_it_is_served():
    pytest.importorskip("pyarrow")
    found = data.open(SHARED, verify=False)
    assert (len(found.train), len(found.held_out)) == (50_000, 10_000)
    assert found.train.info.class_names[3] == "cat"
    assert np.bincount(found.train.labels()).tolist() == [5000] * 10
    assert found.train[49_999].media.decode().size == (32, 32)
    assert len(data.open(SHARED / "train.parquet", verify=False).train) == 50_000


def test_columns_on_the_command_line(photos, tmp_path, run):
    rows = [{"what": row["class"], "where": row["file"]} for row in photos * 4]
    path = write_text(tmp_path / "t.csv", rows)
    columns = ["--image-column", "where", "--label-column", "what"]
    options = ["--variant", "swin_nano", "--image-size", "8", "--epochs", "1", "--device", "cpu", "--workers", "0"]
    status, out, _ = run("train", path, *columns, *options, "--out", tmp_path / "run")
    assert status == 0
    assert "t.csv: images from column 'where', classes from column 'what'" in out
    status, out, _ = run("evaluate", tmp_path / "run" / "model.safetensors", path, *columns)
    assert status == 0
    assert out.startswith("accuracy ")
    assert run("train", path, *options, "--out", tmp_path / "other")[0] == 1
