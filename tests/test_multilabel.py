"""Images with several labels: data, training, metrics, prediction, evaluation."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import swindow
from swindow import data
from swindow.card import Preprocess
from swindow.data import Columns
from swindow.errors import ConfigError, DataError
from swindow.explain.findings import Findings
from swindow.tasks import Batch, Labels, MultiLabel, MultiLabelSettings
from swindow.tasks.images import Mixed
from swindow.tasks.multilabel import average_precision
from swindow.training import Progress, TrainConfig, train

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blau": (20, 20, 200)}


@pytest.fixture
def table(tmp_path):
    """Sixty images of up to three coloured squares; labels are the colours, as lists."""
    rng, lines = np.random.default_rng(0), []
    for i in range(60):
        pixels = rng.integers(100, 130, (16, 16, 3), dtype=np.uint8)
        there = [name for name in COLOURS if rng.random() < 0.5]
        for name in there:
            y, x = rng.integers(0, 10, 2)
            pixels[y : y + 6, x : x + 6] = COLOURS[name]
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append({"file": f"{i}.png", "labels": there})
    path = tmp_path / "squares.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "squares.csv").write_text(
        "file,labels\n" + "\n".join(f"{line['file']},{' ; '.join(line['labels'])}" for line in lines)
    )
    return path


def settings(tmp_path, **changes):
    small = {"variant": "swin_nano", "image_size": 16, "epochs": 2, "workers": 0, "device": "cpu"}
    return TrainConfig(out=tmp_path / "run", **{**small, **changes})


def test_labels_of_a_table(table):
    splits = data.open(table)
    info, first = splits.train.info, json.loads(table.read_text().splitlines()[0])
    assert (info.task, info.class_names) == ("multilabel", ("blau", "green", "red"))
    assert splits.train[0].target.tolist() == [int(name in first["labels"]) for name in info.class_names]
    assert splits.train.labels() is None
    counts = data.class_counts(splits.train)
    assert counts == sum(splits.train[i].target.astype(int) for i in range(60)).tolist()
    assert min(counts) > 15
    text = data.open(table.with_suffix(".csv"), columns=Columns(separator=";"))
    assert text.train.info.class_names == info.class_names
    assert all((text.train[i].target == splits.train[i].target).all() for i in range(60))
    with pytest.raises(DataError, match="has class ''"):  # without a separator a text is one class
        data.open(table.with_suffix(".csv"))
    table.write_text(table.read_text() + '\n{"file": "0.png", "labels": "red"}')
    with pytest.raises(DataError, match="row 60 has class 'red', expected a list, as other rows have"):
        data.open(table)


def test_labels_of_parquet_and_numbers(table, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [(tmp_path / f"{i}.png").read_bytes() for i in range(4)]
    features = {"label": {"feature": {"names": ["a", "b", "c"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    found = pyarrow.table({"image": images, "label": [[0, 2], [], [1], [2]]})
    found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(found, tmp_path / "few.parquet")
    train = data.open(tmp_path / "few.parquet").train
    assert train.info.class_names == ("a", "b", "c")
    assert [train[i].target.tolist() for i in range(4)] == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_loss():
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3), (torch.rand(4, 3) > 0.5).float()
    task = MultiLabel(MultiLabelSettings(label_smoothing=0.2))
    loss, unit = task.loss(logits, Batch({}, targets, [{}] * 4))["loss"]
    expected = F.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    assert torch.allclose(loss / 4, expected)
    assert unit == "images"
    mixed = task.loss(logits, Batch({}, Mixed(targets, targets.flip(0), 0.3), [{}] * 4))["loss"][0]
    both = 0.3 * targets + 0.7 * targets.flip(0)
    assert torch.allclose(mixed / 4, F.binary_cross_entropy_with_logits(logits, both * 0.8 + 0.1))


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 8, 40) / 8 if seed % 2 else rng.random(40)  # with and without ties
    truth = rng.random(40) < 0.3
    truth[0] = True
    assert average_precision(scores, truth) == pytest.approx(metrics.average_precision_score(truth, scores))


def test_figures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, truth = rng.random((50, 4)).astype(np.float32), rng.random((50, 4)) < 0.4
    truth[:, 3] = False  # a class that no image has
    whole, parts = Labels(0.6), [Labels(0.6), Labels(0.6)]
    whole.update(list(torch.tensor(p)), torch.tensor(truth))
    for part, some in zip(parts, (slice(0, 20), slice(20, 50)), strict=True):
        part.update(list(torch.tensor(p[some])), torch.tensor(truth[some]).float())
    parts[0].merge(pickle.loads(pickle.dumps(parts[1:])))
    found = whole.compute()
    assert parts[0].compute() == found
    given = p >= 0.6
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, given, average="micro"))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(truth, given, average="macro", zero_division=0))
    expected = metrics.average_precision_score(truth[:, :3], p[:, :3], average="macro")
    assert found["mean_average_precision"] == pytest.approx(expected)
    assert found["loss"] == pytest.approx(metrics.log_loss(truth.ravel(), p.ravel()), rel=1e-5)
    assert found["labels"][3] == {
        "images": 0, "average_precision": None, "precision": 0.0, "recall": 0.0, "f1": 0.0
    }  # fmt: skip


class Stop(Progress):
    def step(self, done, figures, images_per_s):
        if done == 3:
            raise KeyboardInterrupt


def test_a_run_learns_resumes_exactly_and_answers(table, tmp_path, run):
    how = {"mixup": 0.4, "cutmix": 1.0, "ema": 0.9, "epochs": 3, "save_minutes": 0.0}
    whole = train(table, settings(tmp_path, **how))
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(table, dataclasses.replace(settings(tmp_path, **how), out=out), progress=Stop())
    train(table, dataclasses.replace(settings(tmp_path, **how), out=out))
    for name in ("model.safetensors", "ema.safetensors"):
        first, second = load_file(whole.out / name), load_file(out / name)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert {"mean_average_precision", "f1", "f1_macro", "ema_f1"} <= set(whole.metrics)
    checkpoint = whole.out / "model.safetensors"
    card = swindow.load(checkpoint).card
    assert (card.task, card.settings["activation"], card.settings["threshold"]) == ("multilabel", "sigmoid", 0.5)

    (answer,) = swindow.predict(checkpoint, tmp_path / "0.png")
    model, how = swindow.load(checkpoint), card.preprocess
    with torch.no_grad():
        p = model(swindow.media.prepare(tmp_path / "0.png", how)[None]).sigmoid()[0]
    assert dict(zip(answer.classes, answer.probabilities, strict=True)) == pytest.approx(
        dict(zip(card.class_names, p.tolist(), strict=True)), abs=1e-5
    )
    assert answer.labels == tuple(c for c, q in zip(answer.classes, answer.probabilities, strict=True) if q >= 0.5)

    found = swindow.evaluate(checkpoint, table)
    assert found.mean_average_precision == pytest.approx(whole.metrics["mean_average_precision"])
    assert found.f1 == pytest.approx(whole.metrics["f1"])
    assert [row.name for row in found.classes] == ["blau", "green", "red"]
    _, text, _ = run("evaluate", checkpoint, table)
    assert f"mean average precision {found.mean_average_precision:.4f}" in text
    _, text, _ = run("evaluate", checkpoint, table, "--json")
    assert json.loads(text)["classes"]["red"]["images"] == found.classes[2].images
    _, text, _ = run("predict", checkpoint, tmp_path / "0.png", "--json")
    assert json.loads(text)[0]["labels"] == list(answer.labels)
    with pytest.raises(ConfigError, match="save_mistakes: got a model that gives several labels"):
        swindow.evaluate(checkpoint, table, save_mistakes=tmp_path / "m")
    (tmp_path / "one.csv").write_text("file,label\n0.png,red\n1.png,green\n")
    with pytest.raises(DataError, match="is data for the task 'classify', the model has learned 'multilabel'"):
        swindow.evaluate(checkpoint, tmp_path / "one.csv", all=True)


def test_it_learns(table, tmp_path):
    result = train(table, settings(tmp_path, epochs=25, batch_size=12, augment="none", label_smoothing=0.0, lr=3e-3))
    assert result.history[-1]["train_loss"] < 0.7 * result.history[0]["train_loss"]


def test_the_command_line(table, run):
    text = table.with_suffix(".csv")
    common = ("--variant", "swin_nano", "--image-size", 16, "--epochs", 1, "--workers", 0)
    code, out, err = run("train", text, "--label-separator", ";", "--out", table.parent / "r", *common)
    assert code == 0, err
    assert "mean average precision " in out
    assert "classes: 3; the smallest: " in out
    code, out, err = run("evaluate", table.parent / "r" / "model.safetensors", text, "--label-separator", ";")
    assert code == 0, err
    _, out, _ = run("data", text, "--label-separator", ";")
    assert f"red    {sum('red' in line for line in text.read_text().splitlines())}" in out
    (table.parent / "none.png").write_bytes((table.parent / "0.png").read_bytes())
    _, out, _ = run("predict", table.parent / "r" / "model.safetensors", table.parent / "none.png")
    assert out.startswith(str(table.parent / "none.png"))


def test_what_no_label_reaches():
    task = MultiLabel(MultiLabelSettings(threshold=0.8), ("a", "b"))
    answer = task.answer(torch.tensor([0.3, 0.5]), "x.png", 5)
    assert (answer.classes, answer.labels) == (("b", "a"), ())
    many = task.answer(torch.tensor([0.9, 0.95]), "x.png", 1)
    assert many.labels == ("b", "a"), "top does not cut labels off"
    views = task.merge([torch.tensor([0.2, 0.9]), torch.tensor([0.4, 0.5])])
    assert torch.allclose(views, torch.tensor([0.3, 0.7]))


def test_bad_input(table, tmp_path):
    with pytest.raises(ConfigError, match="threshold: got 1, expected a fraction between 0 and 1"):
        MultiLabelSettings(threshold=1)
    for balance in ("loss", "sampling"):
        with pytest.raises(ConfigError, match="balance: got data without classes"):
            train(table, settings(tmp_path, balance=balance))


def test_pictures_name_all_labels():
    how = Preprocess((8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    task = MultiLabel(MultiLabelSettings(preprocess=how))
    batch = Batch({"x": torch.zeros(2, 3, 8, 8)}, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), [{}] * 2)
    assert [text for _, text in task.pictures(batch, ("a", "b"))] == [("a + b",), ("(none)",)]


def test_rows_that_cannot_be_read_are_skipped(table, tmp_path):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, json.dumps({"file": "", "labels": ["red"]})]))
    assert (
        sum(data.class_counts(data.open(table, verify=False).train))
        == sum(len(json.loads(line)["labels"]) for line in lines) + 1
    )
    result = train(table, settings(tmp_path, epochs=1))
    assert len(result.skipped) == 1


def test_explanations_give_the_probability_of_the_sigmoid(table, tmp_path):
    checkpoint = train(table, settings(tmp_path, epochs=1)).out / "model.safetensors"
    (answer,) = swindow.predict(checkpoint, tmp_path / "0.png")
    model = swindow.load(checkpoint)
    x = swindow.media.prepare(tmp_path / "0.png", model.card.preprocess)
    found = Findings(model, x, np.zeros((16, 16, 3), np.uint8), trained=True)
    assert found.says == (answer.classes[0], pytest.approx(answer.probabilities[0], abs=1e-4))


def test_a_result_without_labels(table, run):
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    text = "\n".join(json.dumps(row) for row in rows[:20])
    folder = table.parent / "split"
    folder.mkdir()
    (folder / "train.jsonl").write_text(text.replace('"file": "', '"file": "../'))
    (folder / "val.jsonl").write_text('{"file": "../0.png", "labels": []}')
    common = ("--variant", "swin_nano", "--image-size", 16, "--epochs", 1, "--workers", 0)
    code, out, err = run("train", folder, "--out", table.parent / "r", *common)
    assert code == 0, err
    assert "mean average precision - on 1 held-out images" in out
