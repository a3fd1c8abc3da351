"""Tasks behind the loop: classification, and two that are not swindow's, trained through it unchanged."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import swindow
from helpers import trial_tasks
from helpers.folders import make_folder
from swindow import data
from swindow.card import Preprocess
from swindow.checkpoints import load_parts
from swindow.config import SwinConfig
from swindow.errors import ConfigError, DataError, InputError
from swindow.models import SimMIM, SwinTransformer, build
from swindow.tasks import TASKS, Batch, Classify, ClassifySettings
from swindow.tasks.classify import Confusion
from swindow.training.feed import Batches, batches, stream
from swindow.training.measure import measure

TESTS = Path(__file__).parent
SCORES = {"pixels": ("mean_iou", 0.7), "boxes": ("precision", 0.3)}  # after 3 epochs; without training 0.46 and 0


def command(*arguments, processes=1):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    return [sys.executable, *start, "-m", "helpers.trial_tasks", *map(str, arguments)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def same(a, b):
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", trial_tasks.TASKS)
def test_a_trial_task_learns_and_is_scored(name, tmp_path):
    result = trial_tasks.run(name, tmp_path, epochs=3)
    figure, enough = SCORES[name]
    assert result.metrics[figure] > enough
    assert result.best[figure] == max(line[figure] for line in result.history)
    assert getattr(result, figure) == result.metrics[figure]
    assert (tmp_path / "curves.png").exists()
    assert not (tmp_path / "confusion.png").exists()
    task, splits = trial_tasks.TASKS[name](), trial_tasks.scenes()
    model = task.build(splits.train.info)
    model.load_state_dict(load_file(tmp_path / "best.safetensors"))
    work = batches(range(len(splits.held_out)), 5)
    feed = stream(Batches(None, splits.held_out, task), work)
    found = measure([model], task, feed, len(work), torch.device("cpu"))[0].compute()
    assert found[figure] == pytest.approx(result.best[figure], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "workers"), [("boxes", 0), ("pixels", 0), ("boxes", 2)])
def test_a_killed_trial_run_ends_as_if_it_never_was(name, workers, tmp_path):
    trial_tasks.run(name, tmp_path / "whole")
    for step in (5, 17):  # in the first epoch of 13 steps, and in the second
        again = command(name, tmp_path / "run", "--workers", workers)
        with subprocess.Popen(again, env=ENVIRONMENT, cwd=TESTS, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if int(line) >= step:
                    process.kill()
                    break
    assert not (tmp_path / "run" / "curves.png").exists()
    subprocess.run(again, env=ENVIRONMENT, cwd=TESTS, check=True)
    assert same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_learn_boxes_as_one_does(tmp_path):
    """Units that differ between processes, images without boxes, and predictions of different lengths gathered."""
    one = trial_tasks.run("boxes", tmp_path / "one")
    subprocess.run(command("boxes", tmp_path / "two", processes=2), env=ENVIRONMENT, cwd=TESTS, check=True)
    two = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").open()]
    assert [line["images"] for line in two] == [24, 24]
    for mine, theirs in zip(one.history, two, strict=True):
        for figure in ("train_loss", "train_class", "train_sides"):
            assert theirs[figure] == pytest.approx(mine[figure], rel=2e-3)
        assert theirs["precision"] == pytest.approx(mine["precision"], abs=0.1)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 5e-3


def test_parts_of_a_step_add_up_whatever_is_in_them(tmp_path):
    """Parts with other numbers of boxes, some with none: a mean of the parts' means would be another gradient."""
    runs = [trial_tasks.run("boxes", tmp_path / str(parts), epochs=1, accumulate=parts) for parts in (1, 5)]
    assert runs[1].train_sides == pytest.approx(runs[0].train_sides, rel=1e-3)
    a, b = (load_file(run.out / "model.safetensors") for run in runs)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-3


def test_a_task_that_is_given_has_its_settings_itself(tmp_path):
    with pytest.raises(ConfigError, match="got a task and label_smoothing"):
        trial_tasks.run("boxes", tmp_path, label_smoothing=0.3)


def test_plain_epochs_of_a_recipe_are_not_for_a_task_that_is_given(tmp_path):
    result = trial_tasks.run("boxes", tmp_path / "run", epochs=1, recipe="scratch-small", batch_size=40)
    assert len(result.history) == 1
    with pytest.raises(ConfigError, match=r"plain_epochs: .* has no method plain"):
        trial_tasks.run("boxes", tmp_path / "asked", plain_epochs=1)


def some(labels):
    """A data set of that many grey images, in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    return data.Digits(pixels, np.array(labels))


def test_tasks_are_found_by_the_name_that_data_and_cards_give():
    for name, (kind, settings) in TASKS.items():
        assert kind(settings()).name == name
        assert pickle.loads(pickle.dumps(kind(settings()))) == kind(settings())


def test_classify_prepares_changes_and_collates():
    task = Classify(
        ClassifySettings(preprocess=Preprocess((16, 16), "squash", mean=(0.5,), std=(0.5,)), augment="affine")
    )
    dataset = some([3, 7])
    plain = [task.transform(dataset[i], None, train=False)[0] for i in range(2)]
    changed = [task.transform(dataset[0], np.random.default_rng(seed), train=True)[0] for seed in (1, 1, 2)]
    assert torch.equal(changed[0].inputs["x"], changed[1].inputs["x"])
    assert not torch.equal(changed[0].inputs["x"], changed[2].inputs["x"])
    batch = task.collate(plain, None, train=False)
    assert batch.inputs["x"].shape == (2, 1, 16, 16)
    assert batch.targets.tolist() == [3, 7]
    assert [meta["key"] for meta in batch.metas] == ["digits/0000", "digits/0001"]
    assert task.units(batch) == {"images": 2}


def test_the_loss_of_classification_is_the_smoothed_cross_entropy():
    task = Classify(ClassifySettings(label_smoothing=0.2))
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], requires_grad=True)
    batch = Batch({}, torch.tensor([0, 2]), [{}, {}])
    losses = task.loss(logits, batch)
    p = logits.softmax(-1).log()
    target = torch.tensor([[1, 0, 0], [0, 0, 1]]) * 0.8 + 0.2 / 3
    assert losses["loss"][0].item() == pytest.approx(-(p * target).sum().item(), rel=1e-6)
    assert losses["accuracy"][0].item() == 1
    assert not losses["accuracy"][0].requires_grad


def test_confusion_of_several_processes_is_that_of_one():
    p = torch.randn(20, 3).log_softmax(-1)
    truth = torch.randint(0, 3, (20,))
    whole, parts = Confusion(), [Confusion(), Confusion(), Confusion()]
    whole.update(list(p), truth)
    parts[1].update(list(p[:7]), truth[:7])  # the first has no image
    parts[2].update(list(p[7:]), truth[7:])
    parts[0].merge(pickle.loads(pickle.dumps(parts[1:])))
    expected = whole.compute()
    close = {name: pytest.approx(expected[name]) for name in ("loss", "calibration_error")}
    assert parts[0].compute() == {**expected, **close}
    found = whole.compute()
    assert found["images"] == 20
    assert found["accuracy"] == pytest.approx((p.argmax(-1) == truth).float().mean().item())
    assert np.sum(found["confusion"]) == 20


def test_calibration_error_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.3] * 4, 500)
    truth = np.array([rng.choice(4, p=row) for row in p**2 / (p**2).sum(1, keepdims=True)])
    metric = Confusion()
    for part in range(0, 500, 90):
        metric.update(list(torch.tensor(p[part : part + 90]).float().log()), torch.tensor(truth[part : part + 90]))
    top, right, expected = p.max(1), p.argmax(1) == truth, 0.0
    for k in range(15):  # Guo et al. 2017, equations 2 and 3
        inside = (top > k / 15) & (top <= (k + 1) / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(right[inside].mean() - top[inside].mean())
    found = metric.compute()
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert expected > 0.03
    assert "top5" not in found


def test_top_5_where_there_are_more_than_ten_classes():
    metric = Confusion()
    scores = torch.arange(11.0).repeat(4, 1)  # 10 is the likeliest, then 9, ...
    metric.update(list(scores.log_softmax(-1)), torch.tensor([10, 6, 5, 0]))
    assert metric.compute()["top5"] == 0.5


def test_many_classes_are_counted_without_a_table(monkeypatch):
    scores, truth = torch.randn(50, 12).log_softmax(-1), torch.randint(0, 12, (50,))
    whole, sums = Confusion(), Confusion()
    whole.update(list(scores), truth)
    monkeypatch.setattr("swindow.tasks.classify.MOST", 11)
    sums.update(list(scores), truth)
    expected = whole.compute()
    counts = torch.tensor(expected.pop("confusion"))
    assert sums.compute() == expected
    assert torch.equal(sums.sums, torch.stack([counts.sum(1), counts.sum(0), counts.diagonal()]))


def outputs(model, info):
    return Classify.of(Classify.card_of(model)).outputs_of(info)


def test_classes_are_numbered_as_the_model_does():
    info = data.DataInfo("pets", class_names=("dog", "cat"))
    model = swindow.create("swin_nano", num_classes=3)
    with pytest.raises(DataError, match="2 classes in pets, the model has 3"):
        outputs(model, info)
    model.card = swindow.ModelCard(class_names=("cat", "cow", "dog"))
    assert outputs(model, info) == (2, 0)
    with pytest.raises(DataError, match="'emu'"):
        outputs(model, data.DataInfo("pets", class_names=("cat", "emu")))
    model.card = swindow.ModelCard(class_names=("0", "1", "2"))  # names, though they are numbers
    three = data.DataInfo("pets", class_names=("dog", "cat", "cow"))
    with pytest.raises(DataError, match="'dog', 'cat', 'cow'"):
        outputs(model, three)
    model.card = None  # no names: the order decides
    assert outputs(model, three) == (0, 1, 2)
    with pytest.raises(InputError, match="no head"):
        Classify.card_of(swindow.create("swin_nano", num_classes=0))


def test_a_model_of_clips_is_given_no_images():
    """Neither in evaluation nor in training, new or from weights; nothing is decoded before."""
    model = swindow.create("swin3d_tiny", embed_dim=8, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1), num_classes=2)
    info = data.DataInfo("pets", class_names=("cat", "dog"))
    message = (
        r"^the model takes clips or volumes \(3 axes\), images have 2; "
        r"pass tensors \(batch, channels, frames, height, width\) to it in Python$"
    )
    for use in (
        lambda: Classify.card_of(model),
        lambda: Classify().build(info, model),
        lambda: ClassifySettings("swin3d_tiny"),
    ):
        with pytest.raises(InputError, match=message):
            use()
    line = SwinTransformer(SwinConfig(embed_dim=8, depths=(1,), num_heads=(1,), patch_size=(4,), num_classes=2))
    with pytest.raises(InputError, match=r"takes sequences \(1 axis\), .*\(batch, channels, length\)"):
        Classify.card_of(line)


SMALL = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "in_chans": 1}


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ({"out_norms": True, "num_classes": 0}, {"out_norms.0.weight", "out_norms.0.bias"}),
        ({"out_norms": True, "out_indices": (0,), "num_classes": 0}, {"out_norms.0.weight", "out_norms.0.bias"}),
        ({"final_merge": True, "num_classes": 4}, {"stages.1.merge.norm.weight", "stages.1.merge.reduction.weight"}),
        ({"mask_token": True, "decoder_stride": 16, "num_classes": 0}, {"mask_token", "decoder.proj.weight"}),
    ],
    ids=["norms of maps", "norm of the first map", "last merge", "pre-training"],
)
def test_a_classifier_holds_only_what_its_forward_uses(parts, left, tmp_path):
    source = build(SwinConfig(**SMALL, **parts))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    swindow.save(source, tmp_path / "source.safetensors")
    start = load_parts(tmp_path / "source.safetensors")
    classes = parts["num_classes"] or 5
    info = data.DataInfo("pets", class_names=tuple("abcdefgh"[:classes]))
    model = Classify().build(info, start)
    x = torch.randn(2, 1, 40, 32)
    model(x).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    body = source.backbone if isinstance(source, SimMIM) else source
    assert torch.equal(model.eval().features(x), body.eval().features(x))
    report = model.load_report
    assert left <= set(report.dropped)
    assert report.matched + len(report.initialised) == len(model.state_dict())
    assert set(report.initialised) == (set() if parts["num_classes"] else {"head.weight", "head.bias"})


@pytest.mark.parametrize(
    ("layout", "parts"),
    [("mmdetection", {"out_norms": True}), pytest.param("swindow", {"final_merge": True}, marks=pytest.mark.slow)],
)
def test_two_processes_fine_tune_from_weights_with_parts_they_do_not_use(layout, parts, tmp_path):
    config = SwinConfig(**{**SMALL, "in_chans": 3, "num_classes": 0, **parts})
    weights = tmp_path / "start.pth"
    swindow.save(SwinTransformer(config), weights, layout=layout)
    photos, out = make_folder(tmp_path / "photos"), tmp_path / "run"
    options = ["--weights", weights, "--image-size", 32, "--epochs", 1, "--batch-size", 8, "--workers", 0, "--out", out]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "swindow"]
    done = subprocess.run(
        [*start, "train", photos, *map(str, options)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "left out of the weights: " in done.stdout
    assert "accuracy" in done.stdout
