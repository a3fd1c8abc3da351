"""Which images a model is measured on: those it was not trained on, as far as that is known."""

from __future__ import annotations

import csv
import dataclasses
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import swindow
from helpers.folders import make_folder
from swindow import data
from swindow.card import HeldOut, ModelCard, Preprocess
from swindow.class_names import imagenet_1k
from swindow.errors import ConfigError, DataError, OutputError
from swindow.inference import Predictor, evaluate
from swindow.inference.class_evaluation import _figures, _macro
from swindow.inference.evaluation import chosen
from swindow.media import prepare
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


def test_a_model_that_is_given_is_not_touched(trained):
    model = swindow.load(trained[1].out)
    model.train()
    assert evaluate(model, trained[0]).loss == pytest.approx(evaluate(trained[1].out, trained[0]).loss, rel=1e-5)
    assert all(module.training for module in model.modules())


def test_the_figures_of_classes_are_those_of_scikit_learn(tmp_path):
    """Twelve classes, so that the top five say something; some never right, one never predicted, one without images."""
    metrics = pytest.importorskip("sklearn.metrics")
    names = tuple(f"class {i:02}" for i in range(13))
    make_folder(tmp_path / "photos", classes=names[:12], each=4)
    torch.manual_seed(1)
    model = swindow.create("swin_nano", num_classes=13).eval()
    torch.nn.init.normal_(model.head.weight, std=3)
    with torch.no_grad():
        model.head.bias[5] = -1e3
    model.card = ModelCard(class_names=names, preprocess=Preprocess((16, 16)))
    found = evaluate(model, tmp_path / "photos", all=True, batch_size=5)
    images = data.folder(tmp_path / "photos").train
    truth = images.labels()
    with torch.no_grad():
        x = torch.stack([prepare(images[i].media.path, model.card.preprocess) for i in range(48)])
        logits = model(x)
    p = logits.softmax(-1)
    predicted = p.argmax(-1).numpy()
    assert 0 < (predicted == truth).sum() < 48
    expected = metrics.classification_report(truth, predicted, labels=range(12), output_dict=True, zero_division=0)
    for k, row in enumerate(found.classes):
        theirs = expected[str(k)]
        assert (row.name, row.images, row.right) == (names[k], 4, int(((predicted == truth) & (truth == k)).sum()))
        assert (row.recall, row.precision) == pytest.approx((theirs["recall"], theirs["precision"]))
        assert row.f1 == pytest.approx(theirs["f1-score"])
    macro = expected["macro avg"]
    assert found.macro == pytest.approx(
        {"recall": macro["recall"], "precision": macro["precision"], "f1": macro["f1-score"]}
    )
    assert found.top5 == pytest.approx(metrics.top_k_accuracy_score(truth, p.numpy(), k=5, labels=range(13)))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert 0 < found.calibration_error < 1
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, torch.tensor(truth))), rel=1e-4)
    assert np.array_equal(found.confusion, metrics.confusion_matrix(truth, predicted, labels=range(13)))
    wrong = {images[i].key: float(p[i].max()) for i in range(48) if predicted[i] != truth[i]}
    assert {mistake.image: mistake.probability for mistake in found.mistakes} == pytest.approx(wrong)
    order = [mistake.probability for mistake in found.mistakes]
    assert order == sorted(order, reverse=True)
    worst = found.mistakes[0]
    assert worst.image.startswith(f"{worst.truth}/")
    assert worst.truth != worst.predicted


def test_a_class_without_images_or_predictions_counts_in_no_mean():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 0]])  # true class by predicted class
    sums = zip(counts.sum(1).tolist(), counts.sum(0).tolist(), counts.diagonal().tolist(), strict=True)
    rows = [_figures(str(k), *row) for k, row in enumerate(sums)]
    assert (rows[1].recall, rows[1].precision, rows[1].f1) == (None, 0.0, None)
    assert (rows[2].recall, rows[2].precision, rows[2].f1) == (0.0, 0.0, 0.0)
    assert _macro(rows) == {"recall": 0.375, "precision": 0.5, "f1": pytest.approx(6 / 14)}


def test_broken_images_are_counted_and_the_others_measured(trained, tmp_path):
    root, result = make_folder(tmp_path / "photos"), trained[1]
    (root / "cat" / "3.png").write_bytes(b"no image")
    found = evaluate(result.out, root, all=True)
    assert found.images == 19
    assert [skipped.split(": ")[0] for skipped in found.skipped] == [str(root / "cat" / "3.png")]
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 20 images could be read"):
        evaluate(swindow.create("swin_nano", num_classes=2), root, all=True)


def test_data_that_training_found_broken_images_in_is_known_again(tmp_path):
    root = make_folder(tmp_path / "photos", each=40)
    (root / "cat" / "3.png").write_bytes(b"no image")
    out = tmp_path / "run"
    result = train(root, TrainConfig(variant="swin_nano", image_size=8, epochs=1, workers=0, device="cpu", out=out))
    found = evaluate(out, root)
    assert (found.accuracy, found.images) == (result.accuracy, result.images)
    assert found.measured_on.startswith("the images held out from training")


def test_mistakes_are_drawn(trained, tmp_path):
    """The sheet holds the pictures, the worst first, and their captions."""
    model = swindow.load(trained[1].out)
    model.card = model.card.replace(class_names=("dog", "cat"))  # so that what is right is wrong
    found = evaluate(model, trained[0], all=True, save_mistakes=tmp_path / "new" / "folder")
    sheet = Image.open(tmp_path / "new" / "folder" / "mistakes.png")
    assert len(found.mistakes) > 6
    rows = -(-len(found.mistakes) // 6)
    assert sheet.width == 12 + 6 * 192
    assert sheet.height == 12 + rows * (180 + 4 + 3 * 16 + 12)
    first = Image.open(trained[0] / found.mistakes[0].image).convert("RGB")
    shown = sheet.crop((12, 27, 192, 177)).resize((8, 8), Image.Resampling.BOX)
    assert np.abs(np.asarray(shown, int) - np.asarray(first.resize((8, 8), Image.Resampling.BOX), int)).mean() < 12
    caption = np.asarray(sheet.crop((12, 196, 192, 244)).convert("L"))
    assert (caption < 128).sum() > 100
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        evaluate(model, trained[0], all=True, save_mistakes=tmp_path / "file")


def test_views_and_ensembles_can_be_measured(trained):
    root, result = trained
    predictor = Predictor.open(result.out, result.out / "best.safetensors", flip=True)
    found = evaluate(predictor, root)
    assert (found.images, found.measured_on) == (6, "the images held out from training: 30%, seed 3")


@torch.no_grad()
def test_folders_of_photos_named_by_synsets(shared, tmp_path):
    """Real photos, grey-scale ones among them, in folders as those of ImageNet; the model is untrained."""
    photos = shared("data", "photos")
    lines = csv.DictReader((photos / "labels.csv").read_text().splitlines())
    known = {
        line["wnid"]: (photos / line["file"], int(line["class_index_if_1000_sorted"]), line["name"]) for line in lines
    }
    known["n02123045"] = (shared("data", "coco_cats", "000000039769.png"), 281, "tabby")
    synsets = ["n02113023", "n02123045", "n03126707", "n04254777", "n07697537"]
    for count, synset in enumerate(synsets, 1):
        (tmp_path / "val" / synset).mkdir(parents=True)
        file = known[synset][0]
        for copy in range(count):  # so that every class has another number of images
            shutil.copyfile(file, tmp_path / "val" / synset / f"{copy}{file.suffix}")
    model = swindow.create("swin_nano", num_classes=1000, seed=0)
    model.card = ModelCard(class_names=tuple(name for _, name in imagenet_1k()), preprocess=Preprocess((32, 32)))
    found = evaluate(model, tmp_path / "val")
    assert [(row.name, row.images) for row in found.classes] == [
        ("Pembroke", 1), ("tabby", 2), ("crane", 3), ("sock", 4), ("hotdog", 5)
    ]  # fmt: skip
    assert [row.name for row in found.classes] == [known[synset][2] for synset in synsets]
    truth = {number: sum(row) for number, row in enumerate(found.confusion) if sum(row)}
    assert truth == {known[synset][1]: count for count, synset in enumerate(synsets, 1)}
    assert found.names[281] == "tabby"
    assert (found.images, found.skipped) == (15, ())
    logits = torch.stack(
        [model.eval()(prepare(Image.open(known[s][0]), model.card.preprocess)[None])[0] for s in synsets]
    )
    losses = F.cross_entropy(logits, torch.tensor([known[synset][1] for synset in synsets]), reduction="none")
    assert found.loss == pytest.approx(float((losses * torch.arange(1, 6)).sum() / 15), rel=1e-4)
