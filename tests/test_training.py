"""The training loop: it learns, it resumes exactly, it is the same in two processes, and bad input loses nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import swindow
from helpers.folders import make_folder
from swindow import data
from swindow.errors import CheckpointError, ConfigError, DataError, TrainingError
from swindow.training import Progress, TrainConfig, evaluate, train
from swindow.training.batches import Images, epoch_order, epoch_steps, loader
from swindow.training.loop import split
from swindow.training.optimizer import learning_rate, parameter_groups

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def some_digits(count=96):
    """The first digits only, so that an epoch takes a moment."""
    source = data.digits()
    cut = {
        name: dataclasses.replace(part, names=part.names[:count], labels=part.labels[:count])
        for name, part in (("train", source.train), ("held_out", source.held_out))
    }
    return dataclasses.replace(source, **cut)


def small(tmp_path, **changes):
    settings = {"out": tmp_path / "run", "epochs": 2, "batch_size": 32, "image_size": 8, "device": "cpu"}
    return TrainConfig(**{**settings, **changes})


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(a, b):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Recorder(Progress):
    def __init__(self, stop_at_step=None):
        self.notes, self.epochs, self.steps, self.stop_at_step = [], [], 0, stop_at_step

    def note(self, text):
        self.notes.append(text)

    def step(self, loss, accuracy, images_per_s):
        self.steps += 1
        if self.steps == self.stop_at_step:
            raise KeyboardInterrupt

    def epoch(self, metrics):
        self.epochs.append(metrics)


def test_it_learns_and_leaves_what_it_promises(tmp_path):
    source, recorder = some_digits(300), Recorder()
    result = train(source, small(tmp_path, epochs=12, image_size=16, lr=4e-3), progress=recorder)
    assert result.accuracy > 0.5  # five times better than chance
    assert result.history == recorder.epochs == [json.loads(x) for x in (result.out / "metrics.jsonl").open()]
    names = {"model.safetensors", "best.safetensors", "metrics.jsonl", "curves.png", "confusion.png", "state.pt"}
    assert {p.name for p in result.out.iterdir()} == names
    model = swindow.load(result.out / "model.safetensors")
    assert model.metadata["class_names"] == list("0123456789")
    again = evaluate(model, source)
    assert (again.accuracy, again.images) == (result.accuracy, 300)
    assert again.loss == pytest.approx(result.loss, rel=1e-6)
    assert np.sum(again.confusion) == 300
    assert evaluate(result.out / "best.safetensors", source).accuracy == max(m["accuracy"] for m in result.history)
    found = swindow.predict(model, [source.held_out.read(i) for i in range(300)], top=1)
    right = [p.classes[0] == source.classes[c] for p, c in zip(found, source.held_out.labels, strict=True)]
    assert np.mean(right) == pytest.approx(result.accuracy)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    source = some_digits()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(source, small(tmp_path, out=tmp_path / name, epochs=1, seed=seed))
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")


def test_gradient_checkpointing_changes_no_weight(tmp_path):
    settings = small(tmp_path, epochs=1, drop_path_rate=0.3)
    for name, forget in (("a", False), ("b", True)):
        train(some_digits(), dataclasses.replace(settings, out=tmp_path / name, grad_checkpointing=forget))
    assert_same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5])
def test_a_stopped_run_ends_as_if_it_never_was(tmp_path, stop_at):
    source = some_digits()
    settings = small(tmp_path, save_minutes=0, drop_path_rate=0.3)
    train(source, dataclasses.replace(settings, out=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(source, settings, progress=Recorder(stop_at_step=stop_at))
    np.random.seed(1)  # noqa: NPY002  what ran before must not matter
    torch.manual_seed(99)
    resumed = Recorder()
    train(source, settings, progress=resumed)
    assert resumed.steps == 7 - stop_at  # of 6; the one that was stopped had not been saved
    assert_same_weights(settings.out, tmp_path / "whole")


def test_sigkill_at_any_moment(tmp_path):
    """A real process, killed hard several times, with the command line that a user would give again."""

    def command(out):
        options = [
            "--epochs",
            "3",
            "--image-size",
            "8",
            "--batch-size",
            "128",
            "--save-minutes",
            "0",
            "--device",
            "cpu",
        ]
        return [sys.executable, "-m", "swindow", "train", "digits", *options, "--out", str(out)]

    subprocess.run(command(tmp_path / "whole"), check=True, env=ENVIRONMENT, capture_output=True)
    kills = 0
    for fewest_writes in (1, 9, 17):
        with subprocess.Popen(command(tmp_path / "run"), env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
            writes, last = 0, None
            while writes < fewest_writes and process.poll() is None:
                state = tmp_path / "run" / "state.pt"
                now = state.stat().st_mtime_ns if state.exists() else None
                writes, last = writes + (now != last), now
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
    subprocess.run(command(tmp_path / "run"), check=True, env=ENVIRONMENT, capture_output=True)
    assert kills >= 2
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    strip = [
        [{k: v for k, v in json.loads(x).items() if k not in ("seconds", "images_per_s")} for x in f.open()]
        for f in (tmp_path / "run" / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    ]
    assert strip[0] == strip[1]
    assert not list((tmp_path / "run").glob(".*"))  # nothing half-written is left


def test_two_processes_learn_the_same_as_one(tmp_path):
    options = [
        "--epochs",
        "2",
        "--image-size",
        "8",
        "--batch-size",
        "128",
        "--drop-path-rate",
        "0",
        "--device",
        "cpu",
        "--json",
    ]
    results = []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, start in (("one", [sys.executable]), ("two", torchrun)):
        done = subprocess.run(
            [*start, "-m", "swindow", "train", "digits", *options, "--out", str(tmp_path / name)],
            check=True,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
        assert done.stdout.count("epoch   1/2") == 1  # one of the processes speaks
    one, two = results
    assert one["images"] == two["images"] == 359  # every held-out image counted once
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 5e-3


def test_accumulation_changes_memory_not_the_result(tmp_path):
    source = some_digits()
    for name, parts in (("one", 1), ("three", 3)):
        train(source, small(tmp_path, out=tmp_path / name, epochs=1, accumulate=parts, drop_path_rate=0.0))
    a, b = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4


def test_bf16_autocast_trains(tmp_path):
    result = train(some_digits(), small(tmp_path, epochs=1, precision="bf16"))
    assert math.isfinite(result.loss)
    assert {t.dtype for t in weights(result.out).values()} == {torch.float32}


def test_fine_tuning_starts_from_a_checkpoint(tmp_path):
    first = train(some_digits(), small(tmp_path, epochs=1))
    start = weights(first.out)
    source = data.folder(make_folder(tmp_path / "photos", each=6))
    settings = small(tmp_path, out=tmp_path / "tuned", epochs=1, lr=1e-9, weights=first.out / "model.safetensors")
    train(source, dataclasses.replace(settings, workers=0))
    tuned = weights(tmp_path / "tuned")
    assert tuned["head.weight"].shape == (2, 128)
    assert torch.allclose(tuned["norm.weight"], start["norm.weight"], atol=1e-6)
    assert swindow.load(tmp_path / "tuned" / "model.safetensors").metadata["class_names"] == ["cat", "dog"]


def test_worker_processes_change_nothing(tmp_path):
    source = data.folder(make_folder(tmp_path, each=6))
    how = source.preprocess(16)
    feeds = [
        list(loader(Images(source.train, how, source.augment, 1, 2), [[0, 3], [5, 1]], workers, pin=False))
        for workers in (0, 2)
    ]
    for (x, labels), (y, same) in zip(*feeds, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(labels, same)


def test_a_broken_image_found_in_a_worker_is_one_line(tmp_path):
    source = data.folder(make_folder(tmp_path, each=6), verify=False)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    i = source.train.names.index(str(tmp_path / "cat" / "0.png"))
    with pytest.raises(DataError, match=r"0\.png") as error:
        list(loader(Images(source.train, source.preprocess(16)), [[i]], 1, pin=False))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("images", "batch_size", "processes"), [(10, 4, 1), (10, 4, 2), (103, 16, 4), (7, 8, 2)])
def test_every_image_once_and_by_one_process(images, batch_size, processes):
    orders = [epoch_order(images, batch_size, 0, 3, rank, processes) for rank in range(processes)]
    used = [i for order in orders for step in order for i in step]
    assert len(used) == len(set(used)) == images - images % processes
    assert {len(order) for order in orders} == {epoch_steps(images, batch_size, processes)}
    for step in zip(*orders, strict=True):
        assert len({len(part) for part in step}) == 1  # every process has as much to do
        assert len(step[0]) > 0
    assert orders[0] != epoch_order(images, batch_size, 0, 4, 0, processes)


def test_learning_rate_is_linear_then_a_cosine():
    rates = [learning_rate(s, 100, 10, 1.0, 0.1) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[55] == pytest.approx(0.55)  # halfway down
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("version", [{}, {"similarity": "cosine", "position_bias": "continuous", "qkv_bias": "qv"}])
def test_what_does_not_decay(version):
    model = swindow.create("swin_nano", absolute_position_size=(16, 16), **version)
    decay, no_decay = parameter_groups(model, 0.05)
    kept = {id(p) for p in no_decay["params"]}
    for name, p in model.named_parameters():
        published = p.ndim == 1 or name.endswith((".bias", "position_bias.table", "embedding", "logit_scale"))
        published = published or ".position_bias.mlp." in name
        assert (id(p) in kept) == published, name
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)


def test_parts_of_a_batch():
    assert split(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert split([1], 4) == [[1]]


def test_a_run_with_other_settings_or_data_is_not_touched(tmp_path):
    settings = small(tmp_path, epochs=1)
    train(some_digits(), settings)
    before = weights(settings.out)
    with pytest.raises(ConfigError, match=r"lr None is now 0\.5"):
        train(some_digits(), dataclasses.replace(settings, lr=0.5))
    with pytest.raises(ConfigError, match="data"):
        train(some_digits(90), settings)
    assert all(torch.equal(before[k], v) for k, v in weights(settings.out).items())
    train(some_digits(), dataclasses.replace(settings, seed=7), overwrite=True)
    assert not all(torch.equal(before[k], v) for k, v in weights(settings.out).items())


def test_a_complete_run_is_left_as_it_is(tmp_path):
    settings = small(tmp_path, epochs=1)
    first = train(some_digits(), settings)
    recorder = Recorder()
    assert train(some_digits(), settings, progress=recorder) == first
    assert recorder.steps == 0


def test_a_folder_with_a_foreign_model_or_a_broken_state_is_not_touched(tmp_path):
    settings = small(tmp_path, epochs=1)
    settings.out.mkdir()
    (settings.out / "model.safetensors").write_text("precious")
    with pytest.raises(ConfigError, match="no state"):
        train(some_digits(), settings)
    assert (settings.out / "model.safetensors").read_text() == "precious"
    (settings.out / "state.pt").write_text("broken")
    with pytest.raises(CheckpointError, match="no state of a training run"):
        train(some_digits(), settings)
    (settings.out / "notes.txt").write_text("mine")
    train(some_digits(), settings, overwrite=True)  # what the errors say to try; it removes the files of runs only
    assert swindow.load(settings.out / "model.safetensors").config.num_classes == 10
    assert (settings.out / "notes.txt").read_text() == "mine"


def test_divergence_is_an_error_that_says_what_to_try(tmp_path):
    with pytest.raises(TrainingError, match="lower lr"):
        train(some_digits(), small(tmp_path, lr=1e30, clip=1e30, warmup_epochs=0.0))


def test_skipped_files_are_told(tmp_path):
    (make_folder(tmp_path / "photos", each=10) / "cat" / "notes.txt").write_text("")
    recorder = Recorder()
    settings = small(tmp_path, epochs=1, workers=0, variant="swin_nano")
    result = train(tmp_path / "photos", settings, progress=recorder)
    assert any("notes.txt" in note for note in recorder.notes)
    assert "notes.txt" in result.skipped[0]


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"held_out": 1.0},
        {"augment": "flip"},
        {"precision": "fp8"},
        {"variant": "swin_nano", "weights": "a.safetensors"},
    ],
)
def test_settings_refuse(bad):
    with pytest.raises(ConfigError):
        TrainConfig(**bad)


def test_an_unknown_device_or_variant(tmp_path):
    with pytest.raises(ConfigError, match="device 'nonsense'"):
        train(some_digits(), small(tmp_path, device="nonsense"))
    with pytest.raises(ConfigError, match="swin_tiny"):
        train(some_digits(), small(tmp_path, variant="swin_tinny"))


def test_evaluation_needs_the_same_classes(tmp_path):
    result = train(some_digits(), small(tmp_path, epochs=1))
    with pytest.raises(DataError, match="cat"):
        evaluate(result.out / "model.safetensors", make_folder(tmp_path / "photos"))
