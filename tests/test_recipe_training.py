"""What recipes can ask for, in whole runs: optimizers, averages, frozen parts, fp16, balance, repeats, changes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

import swindow
from helpers.folders import make_folder
from helpers.peers import peer
from helpers.pictures import Pictures
from swindow import data
from swindow.card import Preprocess
from swindow.data import DataInfo, ImageArray, Sample, Splits, Subset
from swindow.data.augment import called
from swindow.errors import ConfigError, DataError
from swindow.tasks import Batch, Classify, ClassifySettings
from swindow.training import Progress, TrainConfig, plots, train
from swindow.training.choice import choose
from swindow.training.feed import Batches, Plan
from swindow.training.learner import Learner
from swindow.training.optimizer import parameter_groups
from swindow.training.parallel import World
from swindow.training.preview import show_batch

SMALL = {"epochs": 2, "batch_size": 32, "image_size": 8, "device": "cpu"}


def some_digits(count=96):
    return Splits(*(Subset(part.dataset, part.indices[:count]) for part in data.digits()))


def config(tmp_path, **changes):
    return TrainConfig(**{"out": tmp_path / "run", **SMALL, **changes})


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same(a, b, name="model.safetensors"):
    first, second = load_file(a / name), load_file(b / name)
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


class Stop(Progress):
    """Stops after some steps; keeps what it is told."""

    def __init__(self, after=None):
        self.after, self.steps, self.notes, self.epochs = after, 0, [], []

    def note(self, text):
        self.notes.append(text)

    def step(self, done, figures, images_per_s):
        self.steps += 1
        if self.steps == self.after:
            raise KeyboardInterrupt

    def epoch(self, figures):
        self.epochs.append(figures)


EVERYTHING = {
    "ema": 0.9,
    "auto_augment": "randaugment",
    "erase": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
    "color_jitter": 0.4,
    "repeats": 2,
    "plain_epochs": 1,
    "balance": "sampling",
    "warmup_epochs": 0.5,
    "save_minutes": 0.0,
}


@pytest.mark.parametrize("stopped_after", [1, 3, 5])
def test_a_stopped_run_with_everything_on_ends_as_if_it_never_was(stopped_after, tmp_path):
    whole = train(some_digits(), config(tmp_path, out=tmp_path / "whole", **EVERYTHING))
    settings = config(tmp_path, **EVERYTHING)
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=Stop(stopped_after))
    train(some_digits(), settings)
    assert same(whole.out, settings.out)
    assert same(whole.out, settings.out, "ema.safetensors")
    assert not torch.equal(*(load_file(whole.out / f"{n}.safetensors")["head.weight"] for n in ("model", "ema")))
    timing = {"seconds", "images_per_s"}
    assert [{k: v for k, v in line.items() if k not in timing} for line in lines(whole.out)] == [
        {k: v for k, v in line.items() if k not in timing} for line in lines(settings.out)
    ]


def test_the_average_is_that_of_all_steps_after_the_warm_up(tmp_path):
    # by hand: during the warm-up the weights themselves, then 0.9 of the average and 0.1 of the weights
    torch.manual_seed(0)
    settings = choose(TrainConfig(ema=0.9, lr=0.1), some_digits().train, None).settings
    model, here = torch.nn.Linear(3, 2), World(0, 1, torch.device("cpu"))
    learner = Learner(model, settings, 10, 4, here)
    learner.begin({})
    expected = None
    for step in range(10):
        learner.start_step(step)
        learner.backward(model(torch.randn(5, 3)).square().sum())
        learner.end_step(step)
        now = model.weight.detach().clone()
        expected = now if step < 4 or expected is None else 0.9 * expected + 0.1 * now
    assert torch.allclose(learner.average.model.weight, expected, atol=1e-6)


def test_the_average_is_evaluated_beside_the_weights(tmp_path):
    result = train(some_digits(), config(tmp_path, ema=0.99, epochs=3, warmup_epochs=0))
    found = swindow.evaluate(result.out / "ema.safetensors", some_digits(), device="cpu")
    assert found.accuracy == pytest.approx(result.metrics["ema_accuracy"])
    assert found.loss == pytest.approx(result.metrics["ema_loss"], rel=1e-5)
    assert result.metrics["ema_loss"] != result.metrics["loss"]
    assert "ema.safetensors" not in [
        p.name for p in train(some_digits(), config(tmp_path, out=tmp_path / "n")).out.iterdir()
    ]


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        (torch.optim.Adagrad, None, torch.optim.Adagrad),
        ("sgd", None, torch.optim.SGD),
        ("adamw", {"betas": (0.8, 0.9)}, torch.optim.AdamW),
        ("RMSprop", None, torch.optim.RMSprop),
    ],
)
def test_optimizers_of_torch(name, options, kind, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(kind, "step", lambda self, *a, _step=kind.step: (made.append(self), _step(self, *a))[1])
    train(some_digits(40), config(tmp_path, epochs=1, optimizer=name, optimizer_options=options, lr=0.01))
    assert type(made[0]) is kind
    if name == "sgd":
        assert made[0].defaults["momentum"] == 0.9
        assert made[0].defaults["nesterov"]
    if options:
        assert made[0].defaults["betas"] == (0.8, 0.9)
    with pytest.raises(ConfigError, match=r"optimizer: SGD does not take these arguments: .*beta"):
        train(some_digits(40), config(tmp_path, out=tmp_path / "b", optimizer="sgd", optimizer_options={"beta": 1}))


def test_learning_rates_for_a_batch_size_and_for_the_head(tmp_path):
    settings = choose(
        TrainConfig(recipe="imagenet", batch_size=1024, head_lr=5e-3, layer_decay=0.5), some_digits().train, None
    ).settings
    model = swindow.create("swin_nano", num_classes=3)
    learner = Learner(model, settings, 300, 20, World(0, 1, torch.device("cpu")))
    assert (learner.lr, learner.min_lr, learner.warmup_lr) == (1e-3, 1e-5, 1e-6)  # Microsoft's at a batch of 1024
    learner.start_step(19)
    rates = {id(p): group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    assert rates[id(model.head.weight)] == pytest.approx(1e-2)
    assert rates[id(model.norm.weight)] == pytest.approx(1e-3)
    assert rates[id(model.patch_embed.proj.weight)] == pytest.approx(1e-3 * 0.5**7)
    learner.start_step(299)  # the end scales with its group, else the first layers would speed up
    assert learner.rate < 1.1e-5
    assert min(g["lr"] for g in learner.optimizer.param_groups) == pytest.approx(learner.rate * 0.5**7)


def test_a_head_of_its_own_rate():
    groups = parameter_groups(swindow.create("swin_nano", num_classes=3), 0.1, head_lr_scale=10)
    assert sorted({(g["lr_scale"], len(g["params"])) for g in groups if g["lr_scale"] == 10}) == [(10, 1)]
    own = parameter_groups(swindow.create("swin_nano", num_classes=3), 0.1, head_lr_scale=1.0)
    assert sum(len(g["params"]) for g in own) == sum(len(g["params"]) for g in groups)
    assert len(own) == len(groups) == 4  # groups of its own also at the same rate, so that a state fits
    with pytest.raises(ConfigError, match="head_lr_scale: got 0, expected a number above 0"):
        parameter_groups(swindow.create("swin_nano"), 0.1, head_lr_scale=0)


@pytest.mark.parametrize(
    ("changes", "learns"), [({"frozen_stages": 1}, "stages.1."), ({"linear_probe": True}, "head.")]
)
def test_frozen_parts_stay_as_they_are(changes, learns, tmp_path):
    first = train(some_digits(), config(tmp_path, out=tmp_path / "first", epochs=1)).out / "model.safetensors"
    result = train(some_digits(), config(tmp_path, weights=first, **changes))
    before, after = load_file(first), load_file(result.out / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = ("patch_embed.", "stages.0.") if "frozen_stages" in changes else ("patch_embed.", "stages.", "norm.")
    assert changed
    assert any(name.startswith(learns) for name in changed)
    assert not any(name.startswith(frozen) for name in changed)
    # what was frozen is not frozen in the file, nor in a later run that does not ask for it
    assert all(p.requires_grad for p in swindow.load(result.out / "model.safetensors").parameters())
    again = train(
        some_digits(), config(tmp_path, out=tmp_path / "again", weights=result.out / "model.safetensors", epochs=1)
    )
    later = load_file(again.out / "model.safetensors")
    assert not torch.equal(later["patch_embed.proj.weight"], after["patch_embed.proj.weight"])


def test_fp16_learns_and_leaves_steps_out_that_are_not_finite(tmp_path):
    result = train(some_digits(), config(tmp_path, precision="fp16", epochs=2))
    state = torch.load(result.out / "state.pt", weights_only=True)
    assert 1 < state["scaler"]["scale"] <= 65536  # what it begins with
    assert result.history[1]["train_loss"] < result.history[0]["train_loss"]
    learner = Learner(
        torch.nn.Linear(3, 2), choose(TrainConfig(precision="fp16"), some_digits().train, None).settings, 4, 0,
        World(0, 1, torch.device("cpu")),
    )  # fmt: skip
    learner.begin({})
    before, scale = learner.model.weight.detach().clone(), learner.scaler.get_scale()
    learner.start_step(0)
    learner.backward(learner.model(torch.full((1, 3), 1e38)).sum() * 1e38)
    assert not torch.isfinite(learner.end_step(0))
    assert torch.equal(learner.model.weight, before)
    assert learner.scaler.get_scale() < scale


def test_repeats_and_balanced_sampling():
    plan = Plan(12, 0, 6, 1, 2, seed=0, repeats=3)
    work = [part for step in plan.training(0) for part in step]
    assert [w.repeats for w in work] == [[0, 1, 2, 0, 1, 2]] * 2
    assert len({i for w in work for i in w.indices}) == 4  # an epoch is as long, with fewer different images
    assert {i for w in work for i in w.indices} != {i for step in plan.training(1) for w in step for i in w.indices}
    labels = np.array([0] * 900 + [1] * 100)
    shares = np.where(labels == 0, 0.5 / 900, 0.5 / 100)
    plan = Plan(1000, 0, 50, 1, 1, seed=0, shares=shares)
    drawn = [(i, k) for step in plan.training(0) for w in step for i, k in zip(w.indices, w.repeats, strict=True)]
    assert 420 < sum(labels[i] for i, _ in drawn) < 580  # 500, standard deviation 16
    assert len(set(drawn)) == len(drawn)  # an image that is drawn again is changed in another way


def test_a_repeated_image_is_changed_in_another_way():
    digits = some_digits()
    task = Classify(ClassifySettings(preprocess=Preprocess((8, 8), mean=(0.5,), std=(0.5,)), augment="affine"))
    plan = Plan(len(digits.train), 0, 4, 1, 1, seed=0, repeats=4)
    batch = Batches(digits.train, None, task).__getitems__(plan.training(0)[0][0])
    assert len({x.numpy().tobytes() for x in batch.inputs["x"]}) == 4
    assert len(set(batch.targets.tolist())) == 1


def test_the_last_epochs_are_plain():
    digits = some_digits(32)
    how = Preprocess((8, 8), mean=(0.5,), std=(0.5,))
    strong = Classify(ClassifySettings(preprocess=how, auto_augment="randaugment", erase=1.0, mixup=1.0, cutmix=1.0))
    batches = Batches(digits.train, None, strong, plain=(strong.plain(), 1))
    plan = Plan(32, 0, 32, 1, 2, seed=0)
    first, last = (batches.__getitems__(plan.training(epoch)[0][0]) for epoch in (0, 1))
    assert isinstance(last.targets, torch.Tensor)
    assert not isinstance(first.targets, torch.Tensor)
    plain = Batches(digits.train, None, Classify(ClassifySettings(preprocess=how))).__getitems__(plan.training(1)[0][0])
    assert torch.equal(plain.inputs["x"], last.inputs["x"])


def test_class_weights_in_the_loss():
    # PyTorch's own weighted mean divides by the weights of the batch; ours by the images
    torch.manual_seed(0)
    logits, targets, weights = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0]), (0.5, 1.0, 3.0)
    task = Classify(ClassifySettings(class_weights=weights))
    loss = task.loss(logits, Batch({}, targets, [{}] * 6))["loss"][0]
    expected = torch.nn.functional.cross_entropy(logits, targets, weight=torch.tensor(weights), reduction="sum")
    assert torch.allclose(loss, expected)


def test_early_stopping(tmp_path):
    recorder = Stop()
    result = train(
        some_digits(), config(tmp_path, epochs=50, lr=1e-12, min_lr=0, warmup_epochs=0, patience=2), progress=recorder
    )
    assert len(result.history) < 50
    assert result.history[-1]["epoch"] - result.best["epoch"] == 2
    assert f"stopped: no epoch of the last 2 was better than epoch {result.best['epoch']}" in recorder.notes
    assert (
        train(some_digits(), config(tmp_path, epochs=50, lr=1e-12, min_lr=0, warmup_epochs=0, patience=2)).history
        == result.history
    )


def test_a_run_goes_on_with_other_settings_when_asked(tmp_path):
    first = train(some_digits(), config(tmp_path))
    more = config(tmp_path, epochs=4, lr=1e-3, mixup=0.5)
    with pytest.raises(ConfigError, match=r"epochs 2 is now 4.*or --allow-changes to go on with the new settings"):
        train(some_digits(), more)
    recorder = Stop()
    result = train(some_digits(), more, allow_changes=True, progress=recorder)
    assert result.history[:2] == first.history
    assert len(result.history) == 4
    changed = result.history[2]["changed"]
    for expected in ("epochs 2 is now 4", "lr 0.003 is now 0.001", "mixup 0.0 is now 0.5"):
        assert expected in changed
        assert any(expected in note for note in recorder.notes)
    assert "changed" not in result.history[3]
    assert result.history[2]["train_loss"] < first.history[0]["train_loss"]  # it did not begin anew
    for changes, why in (({"seed": 3}, "seed 0 is now 3"), ({"ema": 0.9}, "ema 0.0 is now 0.9")):
        with pytest.raises(ConfigError, match=rf"{why}(?!.*allow-changes)"):
            train(some_digits(), dataclasses.replace(more, **changes), allow_changes=True)
    with pytest.raises(ConfigError, match=r"epochs: got 3, the run in .* has done 4"):
        train(some_digits(), dataclasses.replace(more, epochs=3), allow_changes=True)


def test_a_run_stopped_within_an_epoch_goes_on_with_another_rate(tmp_path):
    settings = config(tmp_path, save_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=Stop(2))
    result = train(some_digits(), dataclasses.replace(settings, weight_decay=0.5), allow_changes=True)
    assert result.history[0]["changed"] == "weight_decay 0.05 is now 0.5"
    state = torch.load(settings.out / "state.pt", weights_only=True)
    assert {group["weight_decay"] for group in state["optimizer"]["param_groups"]} == {0.0, 0.5}


def test_the_rate_of_the_head_stays_as_asked_for(tmp_path):
    settings = config(tmp_path, epochs=1, lr=1e-3, head_lr=1e-2)
    train(some_digits(), settings)
    for epochs, lr in ((2, 1e-4), (3, 1e-2)):  # at the second the head learns as all else
        changed = dataclasses.replace(settings, epochs=epochs, lr=lr, min_lr=lr, warmup_epochs=0)
        train(some_digits(), changed, allow_changes=True)
        groups = torch.load(settings.out / "state.pt", weights_only=True)["optimizer"]["param_groups"]
        assert sorted({round(group["lr"], 9) for group in groups}) == sorted({lr, 1e-2})


def test_a_task_of_ones_own_may_start_from_weights(tmp_path):
    first = train(some_digits(), config(tmp_path, out=tmp_path / "first", epochs=1)).out / "model.safetensors"
    task = Classify(ClassifySettings(preprocess=swindow.load(first).card.preprocess))
    own = TrainConfig(out=tmp_path / "own", epochs=1, batch_size=32, weights=first, device="cpu")
    recorder = Stop()
    train(some_digits(), own, task=task, progress=recorder)
    assert recorder.notes[0].endswith("as given: the task classify")
    with pytest.raises(ConfigError, match="got a task and balance"):
        train(some_digits(), dataclasses.replace(own, balance="loss"), task=task)


def test_wrong_settings(tmp_path):
    for changes, expected in (
        ({"lr": 1e-6, "min_lr": 1e-5}, "min_lr: got 1e-05, expected at most lr 1e-06"),
        ({"optimizer": "adamm"}, "optimizer: got 'adamm'"),
        ({"optimizer_options": {"lr": 1}}, "optimizer_options: got 'lr', expected it as a setting of its own"),
        ({"label_column": "x"}, r"got columns of a table \(x\), but the data is no table"),
        ({"frozen_stages": 9}, "frozen_stages"),
    ):
        with pytest.raises(ConfigError, match=expected):
            train("digits", config(tmp_path, **changes))
    with pytest.raises(ConfigError, match="got both init and weights"):
        TrainConfig(weights="a.pth", init="fan_in")
    with pytest.raises(ConfigError, match="precision: got <built-in function print>"):
        TrainConfig(precision=print)


def test_what_has_little_effect_is_said(tmp_path):
    recorder = Stop()
    train(some_digits(40), config(tmp_path, epochs=1, warmup_epochs=3, plain_epochs=4), progress=recorder)
    told = "\n".join(recorder.notes)
    assert "warning: 3 epochs of warm-up, so the learning rate does not reach 0.003" in told
    assert "warning: 4 plain epochs, so no epoch has strong augmentation" in told
    assert "32 images, AdamW, learning rate up to 0.003; to" in told


def test_callbacks_are_told_the_same(tmp_path):
    one, two = Stop(), Stop()
    result = train(some_digits(), config(tmp_path), progress=one, callbacks=[two])
    assert one.notes == two.notes != []
    assert two.epochs == result.history
    assert one.steps == two.steps == 6


def test_limit_and_fraction(tmp_path):
    digits = data.digits()
    few = data.limited(digits, 100, None, 0)
    assert (len(few.train), len(few.held_out)) == (100, 100)
    assert np.bincount(few.train.labels()).tolist() == [10] * 10
    part = data.limited(digits, None, 0.1, 0)
    assert len(part.train) == pytest.approx(0.1 * len(digits.train), abs=5)
    assert part.held_out is digits.held_out
    assert data.limited(digits, 10**6, None, 0) == digits
    lonely = Pictures(images=40, share=1 / 40)  # one image of the first class
    few = data.limited(Splits(lonely, lonely), 4, None, 0)
    assert np.bincount(few.train.labels()).tolist() == [1, 4]
    result = train("digits", config(tmp_path, epochs=1, limit=50))
    assert result.images == 50


def shifted(image):
    """An augmentation that draws from every global generator."""
    shift = random.randrange(3) + np.random.randint(3) + int(torch.randint(3, ()))  # noqa: NPY002
    return Image.fromarray(np.roll(np.asarray(image), shift, 1))


def as_tensor(image):
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None, None]


def too_small(image):
    return torch.zeros(1, 4, 4)


def nothing(image):
    return None


def test_a_function_as_augmentation(tmp_path):
    whole = train(some_digits(), config(tmp_path, out=tmp_path / "whole", augment=shifted))
    settings = config(tmp_path, augment=shifted, save_minutes=0.0, workers=2)
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=Stop(4))
    train(some_digits(), settings)
    assert same(whole.out, settings.out)
    card = swindow.load(whole.out / "model.safetensors").card
    assert card.settings["augment"].startswith("test_recipe_training.shifted ")
    with pytest.raises(ConfigError, match=r"augment .*shifted .* is now 'affine'"):
        train(some_digits(), dataclasses.replace(settings, augment="affine"))


def test_what_a_function_may_return():
    image, rng = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), np.random.default_rng(0)
    how = Preprocess((8, 8), crop_fraction=1.0, mean=(0.5,), std=(0.25,))
    expected = (torch.arange(64.0).reshape(1, 8, 8) / 255 - 0.5) / 0.25
    for function in (
        as_tensor,
        lambda i: i,
        np.asarray,
        lambda i: np.asarray(i)[..., None],
        lambda i: i.convert("RGB"),
    ):
        assert torch.allclose(called(function, image, how, rng), expected, atol=1e-6)
    assert torch.allclose(called(lambda i: torch.tensor(np.asarray(i))[None], image, how, rng), expected, atol=1e-6)
    assert called(lambda i: i.resize((20, 10)), image, how, rng).shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"returned a tensor of shape \(1, 4, 4\), expected \(1, 8, 8\); try to resize"):
        called(too_small, image, how, rng)
    for bad in (lambda i: torch.full((1, 8, 8), 200), lambda i: torch.full((1, 8, 8), -2.0)):
        with pytest.raises(DataError, match=r"expected uint8, or floats from 0 to 1; try it without Normalize"):
            called(bad, image, how, rng)
    deep = Image.fromarray(np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8))
    ranged = Preprocess((8, 8), crop_fraction=1.0, mean=(0.5,), std=(0.25,), value_range=(0, 4095))
    assert called(lambda i: i, deep, ranged, rng).aminmax() == pytest.approx((-2.0, 2.0), abs=1e-3)
    with pytest.raises(DataError, match=r"returned an array \(1, 8, 8\), expected \(H, W, C\)"):
        called(lambda i: np.asarray(i)[None], image, how, rng)
    with pytest.raises(DataError, match=r"returned NoneType, expected a PIL image"):
        called(nothing, image, how, rng)
    with pytest.raises(ConfigError, match="got a function for augment, and color_jitter or auto_augment"):
        ClassifySettings(augment=shifted, color_jitter=0.4)
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        TrainConfig(augment=lambda i: i).identity()


def test_a_batch_can_be_looked_at(tmp_path, run):
    folder = make_folder(tmp_path / "photos", each=20)
    why = show_batch(folder, TrainConfig(mixup=0.8, limit=30, batch_size=12), tmp_path / "batch.png")
    assert why.startswith("recipe scratch-small")
    with Image.open(tmp_path / "batch.png") as sheet:
        assert sheet.height > 300
        assert np.asarray(sheet.convert("L")).std() > 20
    _, out, _ = run("train", folder, "--show-batch", tmp_path / "b.png", "--out", tmp_path / "run")
    assert "the first batch of training images" in out
    assert (tmp_path / "b.png").exists()
    assert not (tmp_path / "run").exists()


def test_pictures_show_what_the_model_gets():
    how = Preprocess((8, 8), crop_fraction=1.0, mean=(0.3,), std=(0.4,))
    task, info = Classify(ClassifySettings(preprocess=how, mixup=1.0)), DataInfo("d", class_names=("a", "b"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    examples = [
        example
        for i in range(2)
        for example in Classify(ClassifySettings(preprocess=how)).transform(
            Sample(ImageArray(pixels[i]), i, str(i)), np.random.default_rng(0), True
        )
    ]
    plain = task.plain().collate(examples, None, True)
    for (image, text), name, expected in zip(task.pictures(plain, info.class_names), "ab", pixels, strict=True):
        assert np.array_equal(np.asarray(image)[..., 0], expected)
        assert text == (name,)
    mixed = task.pictures(task.collate(examples, np.random.default_rng(0), True), info.class_names)
    assert mixed[0][1][0].startswith("a ")
    assert "%, b " in mixed[0][1][0]


@pytest.mark.parametrize("library", ["torchvision", "kornia", "albumentations"])
def test_augmentation_of_other_libraries(library, monkeypatch):
    peer(library)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    function = getattr(importlib.import_module("augmentations"), library)
    image, how = Image.effect_noise((90, 70), 80), Preprocess((64, 64), mean=(0.5,) * 3, std=(0.2,) * 3)
    first, again, other = (called(function, image, how, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 64, 64)
    assert torch.equal(first, again), "the same chance, the same image"
    assert not torch.equal(first, other)
    assert first.min() >= -2.5001
    assert first.max() <= 2.5001


def test_weights_drawn_by_their_inputs():
    info = DataInfo("pets", class_names=("cat", "dog"))
    torch.manual_seed(0)
    model = Classify(ClassifySettings(variant="swin_micro", init="fan_in")).build(info)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and layer.weight.numel() > 2000:
            assert layer.weight.detach().std() == pytest.approx(layer.in_features**-0.5, rel=0.1), name
            assert layer.bias is None or not layer.bias.any()
    with pytest.raises(ConfigError, match="init: got 'xavier', expected 'published' or 'fan_in'"):
        ClassifySettings(init="xavier")


def test_cifar_10_trains_by_its_recipe(shared, tmp_path, run):
    code, out, err = run(
        "train", shared("data", "cifar10"), "--limit", 200, "--epochs", 1, "--no-verify", "--workers", 0, "--out",
        tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert "recipe scratch-small: images of 32 pixels, no weights to start from; as asked for: epochs 1" in out
    assert "200 images to train on, 200 held out (its own split)" in out
    assert "567,046 parameters, images of 32 x 32 pixels" in out


def test_pictures_of_long_names_and_many_classes(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, _save=Figure.savefig, **k: (figures.append(self), _save(self, *a, **k))
    )
    names = [f"a rather long name of a class, the one with the number {i}" for i in range(60)]
    counts = np.eye(60, dtype=int) * 9
    counts[3, 7] = counts[20, 50] = 5  # the mistakes
    plots.confusion(counts.tolist(), names, tmp_path / "confusion.png")
    labels = [text.get_text() for text in figures[0].axes[0].get_yticklabels()]
    assert len(labels) == 40
    assert max(map(len, labels)) <= 24
    assert {label.rsplit(" ")[-1] for label in labels} >= {"3", "7", "20", "50"}
    figures[0].draw_without_rendering()
    edges = [text.get_window_extent() for text in figures[0].axes[0].get_yticklabels()]
    assert min(edge.x0 for edge in edges) >= 0, "no name is cut off by the border"
    history = [
        {"epoch": e, "train_loss": 2 / e, "loss": 2.5 / e, "ema_loss": 2.2 / e, "accuracy": 0.1 * e} for e in (1, 2)
    ]
    plots.curves(history, tmp_path / "curves.png")
    loss, accuracy = figures[1].axes
    assert [line.get_label() for line in loss.lines] == [
        "training data (augmented)", "held-out data", "held-out data, averaged weights"
    ]  # fmt: skip
    assert [line.get_label() for line in accuracy.lines] == ["held-out data"]
