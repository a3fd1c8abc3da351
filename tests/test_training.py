"""The training loop: it learns, it resumes exactly, it is the same in two processes, and bad input loses nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import swindow
from helpers.folders import make_folder
from swindow import data
from swindow.card import HeldOut, Preprocess
from swindow.data import Splits, Subset
from swindow.errors import CheckpointError, ConfigError, DataError, TrainingError
from swindow.inference import evaluate
from swindow.kernels import products
from swindow.models.meta import meta_model
from swindow.tasks import Classify, ClassifySettings
from swindow.training import Progress, TrainConfig, folder, loop, train
from swindow.training import state as states
from swindow.training.feed import Batches, Plan, Work, split, start_method, stream
from swindow.training.measure import measure
from swindow.training.optimizer import optimizer_of, parameter_groups
from swindow.training.schedule import learning_rate
from swindow.training.state import best_epoch
from swindow.variants import variant_config

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def some_digits(count=96):
    """The first digits only, so that an epoch takes a moment."""
    return Splits(*(Subset(part.dataset, part.indices[:count]) for part in data.digits()))


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
        self.saves = []

    def note(self, text):
        self.notes.append(text)

    def step(self, done, figures, images_per_s):
        self.steps += 1
        if self.steps == self.stop_at_step:
            raise KeyboardInterrupt

    def saved(self, done):
        self.saves.append(done)

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
    assert model.card.class_names == tuple("0123456789")
    again = evaluate(model, source)
    assert (again.accuracy, again.images) == (result.accuracy, 300)
    assert again.loss == pytest.approx(result.loss, rel=1e-6)
    assert np.sum(again.confusion) == 300
    assert evaluate(result.out / "best.safetensors", source).accuracy == max(m["accuracy"] for m in result.history)
    assert again.measured_on == "the images that the data itself holds out"
    samples = [source.held_out[i] for i in range(300)]
    found = swindow.predict(model, [sample.media.decode() for sample in samples], top=1)
    right = [int(p.classes[0]) == sample.target for p, sample in zip(found, samples, strict=True)]
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


@pytest.mark.parametrize(("minutes", "saves"), [(0, [1, 2, 3, 4, 5, 6]), (60, [3, 6])])
def test_it_is_told_which_step_was_saved(tmp_path, minutes, saves):
    progress = Recorder()
    train(some_digits(), small(tmp_path, save_minutes=minutes), progress=progress)
    assert progress.saves == saves


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are found in /proc")
def test_no_worker_outlives_a_killed_run(tmp_path):
    def alive():
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it ended, or is somebody else's
                if str(tmp_path).encode() in environment.read_bytes() and (environment.parent / "cmdline").read_bytes():
                    found.append(environment.parent.name)
        return found

    photos = make_folder(tmp_path / "photos", each=40)
    options = ["--variant", "swin_nano", "--image-size", "32", "--workers", "2", "--epochs", "500", "--batch-size", "8"]
    command = [sys.executable, "-m", "swindow", "train", str(photos), *options, "--out", str(tmp_path / "run")]
    environment = {**ENVIRONMENT, "SWINDOW_TEST": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(alive()) >= 4  # the run, the server that starts workers, and two of them
        process.kill()
    deadline = time.monotonic() + 30
    while alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive() == []


STRONG = ["--ema", "0.9", "--mixup", "0.8", "--cutmix", "1", "--auto-augment", "randaugment", "--erase", "0.25"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], STRONG], ids=["plain", "everything"])
def test_sigkill_at_any_moment(more, tmp_path):
    """A real process, killed hard several times, with the command line that a user would give again."""

    def command(out):
        options = ["--limit", "768", "--epochs", "3", "--image-size", "8", "--batch-size", "64", "--save-minutes", "0"]
        options += ["--device", "cpu"]
        return [sys.executable, "-m", "swindow", "train", "digits", *options, *more, "--out", str(out)]

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
    if more:
        first, second = (load_file(tmp_path / name / "ema.safetensors") for name in ("run", "whole"))
        assert all(torch.equal(first[name], second[name]) for name in first)
    lines = [[json.loads(x) for x in (tmp_path / name / "metrics.jsonl").open()] for name in ("run", "whole")]
    assert without_time(lines[0]) == without_time(lines[1])
    assert {p.name for p in (tmp_path / "run").glob(".*")} == set()  # nothing half-written is left


SHARED = [
    "--ema",
    "0.9",
    "--repeats",
    "2",
    "--balance",
    "sampling",
    "--patience",
    "5",
    "--plain-epochs",
    "1",
    "--erase",
    "1",
]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], SHARED], ids=["plain", "everything"])
def test_two_processes_learn_the_same_as_one(more, tmp_path):
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
            [*start, "-m", "swindow", "train", "digits", *options, *more, "--out", str(tmp_path / name)],
            check=True,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        results.append(json.loads(done.stdout))
        assert done.stderr.count("epoch   1/2") == 1  # one of the processes speaks
    one, two = results
    assert one["images"] == two["images"] == 359  # every held-out image counted once
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    for file in ("model.safetensors", *(["ema.safetensors"] if more else [])):
        a, b = load_file(tmp_path / "one" / file), load_file(tmp_path / "two" / file)
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
    settings = small(tmp_path, out=tmp_path / "tuned", epochs=1, lr=1e-9, weights=first.out / "model.safetensors")
    train(make_folder(tmp_path / "photos", each=6), dataclasses.replace(settings, workers=0))
    tuned = weights(tmp_path / "tuned")
    assert tuned["head.weight"].shape == (2, 128)
    assert torch.allclose(tuned["norm.weight"], start["norm.weight"], atol=1e-6)
    assert swindow.load(tmp_path / "tuned" / "model.safetensors").card.class_names == ("cat", "dog")


def test_fine_tuned_weights_keep_the_licence_and_name_the_data_before(tmp_path):
    published = swindow.create("swin_nano", num_classes=3, seed=0)
    published.card = swindow.ModelCard(data="ImageNet-22k, then ImageNet-1k", licence="BSD-3-Clause")
    swindow.save(published, tmp_path / "published.safetensors")
    settings = small(tmp_path, epochs=1, weights=tmp_path / "published.safetensors", workers=0)
    folder = make_folder(tmp_path / "photos", each=6)
    train(folder, settings)
    again = train(folder, dataclasses.replace(settings, epochs=1))  # goes on, and has nothing to do
    for name in ("model.safetensors", "best.safetensors"):
        card = swindow.load(again.out / name).card
        assert (card.data, card.licence) == ("ImageNet-22k, then ImageNet-1k, then photos", "BSD-3-Clause")
        assert card.class_names == ("cat", "dog")
    more = small(tmp_path, out=tmp_path / "more", epochs=1, weights=again.out / "model.safetensors", workers=0)
    card = swindow.load(train(folder, more).out / "model.safetensors").card
    assert (card.data, card.licence) == ("ImageNet-22k, then ImageNet-1k, then photos", "BSD-3-Clause")
    from_nothing = swindow.load(train(folder, small(tmp_path, out=tmp_path / "new", epochs=1, workers=0)).out)
    assert (from_nothing.card.data, from_nothing.card.licence) == ("photos", None)


def photos(root, size=16, **changes):
    task = Classify(ClassifySettings(variant="swin_nano", preprocess=Preprocess((size, size)), augment="photo"))
    splits = data.hold_out(data.folder(root, **changes).train, HeldOut(0.2, 0))
    return Batches(*splits, task, seed=1)


def test_worker_processes_change_nothing(tmp_path):
    source = photos(make_folder(tmp_path, each=6))
    plan = Plan(len(source.train), len(source.held_out), batch_size=4, accumulate=2, epochs=2, seed=1)
    feeds = [list(stream(source, plan.work(0, 1), workers)) for workers in (0, 2)]
    assert len(feeds[0]) == len(feeds[1]) == 2 * (3 * 2 + 1) - 2  # two epochs of three steps, without the first step
    for a, b in zip(*feeds, strict=True):
        assert torch.equal(a.inputs["x"], b.inputs["x"])
        assert torch.equal(a.targets, b.targets)
        assert a.metas == b.metas


def test_what_is_sent_to_workers_can_be_pickled(tmp_path):
    """They are started anew on macOS, on Windows and from Python 3.14 on, and here, where forked ones could hang."""
    for source in (photos(make_folder(tmp_path)), Batches(*data.digits(), Classify())):
        copy = pickle.loads(pickle.dumps(source))
        work = Work(False, [1, 0])
        assert torch.equal(copy.__getitems__(work).inputs["x"], source.__getitems__(work).inputs["x"])
    assert start_method().get_start_method() in ("forkserver", "spawn")


@pytest.mark.parametrize(
    "method", ["spawn", *(["forkserver"] if "forkserver" in multiprocessing.get_all_start_methods() else [])]
)
def test_a_worker_that_is_killed_is_one_line(method, tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: [method])
    source, before = photos(make_folder(tmp_path, each=6)), signal.getsignal(signal.SIGCHLD)
    feed = stream(source, [Work(True, [0])] * 200, workers=1)
    next(feed)
    assert signal.getsignal(signal.SIGCHLD) == before  # PyTorch's raises anywhere, and so hangs now and then
    (worker,) = [p for p in multiprocessing.active_children() if p.name.startswith("DataLoader") or p.daemon]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match="a worker process ended unexpectedly"):
        for _ in feed:
            time.sleep(0.1)


class Many:
    """A metric that keeps its targets, as one of boxes does."""

    best = (("count", "high"),)

    def __init__(self):
        self.kept = []

    def update(self, predictions, targets):
        self.kept.append(targets)

    def merge(self, others):
        raise AssertionError

    def compute(self):
        return {"count": len(self.kept)}


def test_a_metric_may_keep_its_targets(tmp_path, monkeypatch):
    """Each tensor of a worker is a file that is open: those that are kept must be copies."""
    source = photos(make_folder(tmp_path, each=6))
    metric = Many()
    monkeypatch.setattr(Classify, "metric", lambda self: metric)
    model = source.task.build(source.train.info)
    feed = stream(source, [Work(True, [0, 1])] * 20, workers=1)
    measure([model], source.task, feed, 20, torch.device("cpu"))
    assert len(metric.kept) == 20
    assert not any(targets.is_shared() for targets in metric.kept)


def test_a_broken_image_found_in_a_worker_is_one_line(tmp_path):
    source = photos(make_folder(tmp_path, each=6), verify=False)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    keys = [source.train[i].key for i in range(len(source.train))]
    with pytest.raises(DataError, match=r"^[^ ]*cat/0\.png: not an image") as error:
        list(stream(source, [Work(True, [keys.index("cat/0.png")])], workers=1))
    assert "\n" not in str(error.value)


SCRIPT = """
import torch
from swindow import TrainConfig, train
from swindow.card import Preprocess
from swindow.tasks import Classify, ClassifySettings

class Mine(Classify):
    "Defined in the script: a worker needs the script to know it."

def run():
    torch.set_num_threads(2)
    torch.randn(500, 500) @ torch.randn(500, 500)  # forked workers could hang after this
    task = {task}(ClassifySettings(variant="swin_nano", preprocess=Preprocess((8, 8))))
    result = train({root!r}, TrainConfig(out={out!r}, epochs=1, device="cpu", workers=2), task=task)
    print("done", result.images)
"""
GUARD = "if __name__ == '__main__':\n    run()\n"


@pytest.mark.parametrize(
    ("how", "task", "call", "expected"),
    [
        ("script", "Classify", "run()", "done 4"),
        ("script", "Mine", "run()", "without `if __name__ == '__main__':`"),
        pytest.param("script", "Mine", GUARD, "done 4", marks=pytest.mark.slow),
        pytest.param("-c", "Mine", "run()", "done 4", marks=pytest.mark.slow),
        pytest.param("-c", "Classify", "run()", "done 4", marks=pytest.mark.slow),
        pytest.param("stdin", "Classify", "run()", "done 4", marks=pytest.mark.slow),
        pytest.param("stdin", "Mine", "run()", "done 4", marks=pytest.mark.slow),
    ],
)
def test_workers_in_scripts_of_all_kinds(how, task, call, expected, tmp_path):
    """Also without a main guard, which is needed only where what is sent to workers is defined in the script."""
    root, out = make_folder(tmp_path / "photos"), tmp_path / "run"
    code = SCRIPT.format(task=task, root=str(root), out=str(out)) + call
    (tmp_path / "script.py").write_text(code)
    arguments = {"script": [tmp_path / "script.py"], "-c": ["-c", code], "stdin": ["-"]}[how]
    done = subprocess.run([sys.executable, *arguments], input=code, capture_output=True, text=True, timeout=120)
    said = (done.stdout + done.stderr).splitlines()
    assert expected in said[-1]
    tracebacks = sum("Traceback" in line for line in said)
    assert tracebacks == (0 if expected.startswith("done") else 1)  # of the error, and none of a worker


@pytest.mark.parametrize(("images", "batch_size", "processes"), [(10, 4, 1), (10, 4, 2), (103, 16, 4), (7, 8, 2)])
def test_every_image_once_and_by_one_process(images, batch_size, processes):
    plans = [Plan(images, 9, batch_size, 1, 5, 0, rank, processes) for rank in range(processes)]
    orders = [[part.indices for step in plan.training(3) for part in step] for plan in plans]
    used = [i for order in orders for step in order for i in step]
    assert len(used) == len(set(used)) == images - images % processes
    assert {len(order) for order in orders} == {plans[0].steps}
    for step in zip(*orders, strict=True):
        assert len({len(part) for part in step}) == 1  # every process has as much to do
        assert len(step[0]) > 0
    assert orders[0] != [part.indices for step in plans[0].training(4) for part in step]
    assert sorted(i for plan in plans for work in plan.evaluation() for i in work.indices) == list(range(9))


def test_a_run_that_goes_on_is_fed_as_if_it_had_never_stopped():
    plan = Plan(samples=10, held_out=3, batch_size=4, accumulate=2, epochs=3, seed=0)
    whole = list(plan.work(0, 0))
    assert len(whole) == 3 * (3 * 2 - 0 + 1)
    for epoch, step in ((0, 0), (0, 2), (1, 0), (2, 1)):
        assert list(plan.work(epoch, step)) == whole[epoch * 7 + step * 2 :]
    assert list(plan.work(3, 0)) == []


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


def test_layers_learn_at_the_published_rates():
    """SimMIM's groups, from the facts of its optimizer.py: scales of Swin-B and Swin-L, and which layer what is in."""
    for variant, decay, embedding, first, block in (
        ("swin_base", 0.9, 0.0718, 0.0798, 0.9),
        ("swin_base", 0.8, 0.00378, 0.00472, 0.8),
        ("swin_large", 0.7, 0.000134, 0.000192, 0.7),
    ):
        model = meta_model(variant_config(variant))
        scales = {id(p): group["lr_scale"] for group in parameter_groups(model, 0.05, decay) for p in group["params"]}
        named = {name: scales[id(p)] for name, p in model.named_parameters()}
        assert named["patch_embed.proj.weight"] == named["patch_embed.norm.bias"] == pytest.approx(embedding, rel=5e-3)
        assert named["stages.0.blocks.0.attn.position_bias.table"] == pytest.approx(first, rel=5e-3)
        assert named["stages.3.blocks.1.mlp.fc2.weight"] == pytest.approx(block)
        assert named["stages.1.merge.reduction.weight"] == named["stages.1.blocks.1.norm1.weight"]
        assert named["norm.weight"] == named["head.bias"] == 1
    simmim = meta_model(variant_config("swin_tiny", decoder_stride=32))
    groups = parameter_groups(simmim, 0.05, 0.5)
    lowest = [group for group in groups if group["lr_scale"] == 0.5**13]
    assert any(p is simmim.mask_token for group in lowest for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(simmim.parameters()))
    with pytest.raises(ConfigError, match=r"layer_decay: got 1\.5"):
        parameter_groups(simmim, 0.05, 1.5)


def test_the_loop_scales_learning_rates_their_end_too(tmp_path):
    rates = []

    class Listening(Progress):
        def step(self, done, figures, images_per_s):
            rates.append([group["lr"] for group in optimizers[-1].param_groups])

    optimizers = []
    settings = swindow.TrainConfig(
        out=tmp_path / "run", variant="swin_nano", image_size=8, epochs=1, batch_size=512, layer_decay=0.5, min_lr=1e-3,
        warmup_epochs=0, workers=0, device="cpu",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "swindow.training.learner.optimizer_of",
            lambda *args: optimizers.append(optimizer_of(*args)) or optimizers[-1],
        )
        swindow.train("digits", settings, progress=Listening())
    scales = [group["lr_scale"] for group in optimizers[0].param_groups]
    assert min(scales) == 0.5**7
    assert rates
    for step in rates:
        assert step == pytest.approx([max(step) * scale for scale in scales])
    assert min(rates[-1]) < 1e-3  # the end of the schedule is scaled, too


def test_parts_of_a_batch():
    assert split(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert split([1], 4) == [[1]]


def test_a_run_with_other_settings_or_data_is_not_touched(tmp_path):
    settings = small(tmp_path, epochs=1)
    train(some_digits(), settings)
    before = weights(settings.out)
    with pytest.raises(ConfigError, match=r"lr 0\.003 is now 0\.5"):
        train(some_digits(), dataclasses.replace(settings, lr=0.5))
    with pytest.raises(ConfigError, match="data"):
        train(some_digits(90), settings)
    assert all(torch.equal(before[k], v) for k, v in weights(settings.out).items())
    train(some_digits(), dataclasses.replace(settings, seed=7), overwrite=True)
    assert not all(torch.equal(before[k], v) for k, v in weights(settings.out).items())


# --- the processor ----------------------------------------------------------------------------------------------------

ZEN5 = products.Processor("AuthenticAMD", 26, "AVX512", bf16=True)
UNKNOWN = products.Processor("", 0, "DEFAULT")


def on(monkeypatch, processor):
    """Runs what follows on a processor that says this of itself; returns what a state records of it."""
    monkeypatch.delenv(products.VARIABLE, raising=False)
    monkeypatch.setattr(products, "processor", lambda: processor)
    monkeypatch.setattr(
        products, "_choice", getattr(products._choice, "__wrapped__", products._choice)
    )  # its results are kept for one processor
    return products.description()


@pytest.mark.parametrize(
    ("processor", "product", "expected"),
    [
        (
            ZEN5,
            None,
            "AuthenticAMD family 26, AVX512, bf16; fp32 products by oneDNN (from 5 million multiplications), "
            "GELU inside",
        ),
        (ZEN5, "onednn", "AuthenticAMD family 26, AVX512, bf16; fp32 products by oneDNN"),
        (ZEN5, "torch", "AuthenticAMD family 26, AVX512, bf16; fp32 products by PyTorch"),
        (UNKNOWN, None, "unknown processor, DEFAULT; fp32 products by PyTorch"),
        (
            products.Processor("AuthenticAMD", 25, "AVX512"),
            None,
            "AuthenticAMD family 25, AVX512; fp32 products by oneDNN: inference (from 25 million multiplications), "
            "prepacked weights (from 5 million multiplications), training (from 25 million multiplications); "
            "by PyTorch: gradients of weights; bf16 in blocks",
        ),
        (
            products.Processor("AuthenticAMD", 23, "AVX2"),
            None,
            "AuthenticAMD family 23, AVX2; fp32 products by oneDNN: inference (up to 128 rows, from 1,048,576 "
            "weights), prepacked weights (up to 512 rows, from 131,072 weights); "
            "by PyTorch: training, gradients of weights",
        ),
    ],
)
def test_a_processor_and_its_products_in_words(processor, product, expected, monkeypatch):
    monkeypatch.setattr(products.private, "has_onednn_linear", lambda: True)
    on(monkeypatch, processor)
    assert products.description(product) == expected


def test_a_run_that_moves_to_another_processor_says_so_and_records_it(tmp_path, monkeypatch):
    settings = small(tmp_path, epochs=4, save_minutes=0)
    first = on(monkeypatch, ZEN5)
    begun = Recorder(stop_at_step=3)  # the last step of the first epoch
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=begun)
    assert resume(settings.out)[0].processors == [first]
    again = Recorder(stop_at_step=4)  # the second step of the second epoch, on the same processor
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=again)
    assert not [line for line in (*begun.notes, *again.notes) if line.startswith("processor")]

    second = on(monkeypatch, UNKNOWN)
    moved = Recorder(stop_at_step=3)
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=moved)
    assert [line for line in moved.notes if line.startswith("processor")] == [
        f"processor: got {second}, the saved state is from {first}; the resumed run will not be bit-equal to one that "
        "stays on one processor; try --product torch (or onednn) for a new run that moves between machines"
    ]
    settled = Recorder()
    result = train(some_digits(), settings, progress=settled)
    assert not [line for line in settled.notes if line.startswith("processor")]
    assert [line["processor"] for line in result.history] == [first, f"{first} then {second}", second, second]
    assert result.history == [json.loads(x) for x in (settings.out / "metrics.jsonl").open()]
    on(monkeypatch, ZEN5)
    complete = Recorder()
    assert train(some_digits(), settings, progress=complete) == result
    assert not [line for line in complete.notes if line.startswith("processor")]


def resume(out):
    whole = torch.load(out / "state.pt", weights_only=True)
    return states.resume(out, json.loads(whole["identity"]))


def test_another_product_on_the_same_processor_counts_too(tmp_path, monkeypatch):
    settings = small(tmp_path, epochs=2)
    before = on(monkeypatch, UNKNOWN)
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=Recorder(stop_at_step=4))
    monkeypatch.setenv(products.VARIABLE, "onednn")
    moved = Recorder()
    result = train(some_digits(), settings, progress=moved)
    assert any(f"the saved state is from {before}" in line for line in moved.notes)
    assert result.history[-1]["processor"] == products.description("onednn") != before


def test_the_product_is_a_setting_of_the_run(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(swindow.SwinTransformer, "set_kernel", lambda self, **product: chosen.append(product))
    settings = small(tmp_path, epochs=1, product="torch")
    result = train(some_digits(), settings)
    assert chosen == [{"product": "torch"}]
    assert result.history[0]["processor"] == products.description("torch")
    with pytest.raises(ConfigError, match=r"other settings: product 'torch' is now 'onednn'"):
        train(some_digits(), dataclasses.replace(settings, product="onednn"))
    train(some_digits(), small(tmp_path, epochs=1), overwrite=True)
    assert chosen == [{"product": "torch"}, {"product": "onednn"}]  # without a setting a model keeps what it has


def test_a_state_without_a_processor_goes_on_without_a_word(tmp_path):
    settings = small(tmp_path, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(some_digits(), settings, progress=Recorder(stop_at_step=4))
    whole = torch.load(settings.out / "state.pt", weights_only=True)
    state = json.loads(whole["state"])
    del state["processors"]
    torch.save({**whole, "state": json.dumps(state)}, settings.out / "state.pt")
    resumed = Recorder()
    assert len(train(some_digits(), settings, progress=resumed).history) == 2
    assert not [line for line in resumed.notes if line.startswith("processor")]


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


@pytest.mark.parametrize("batch_size", [32, 96], ids=["met in training", "met in evaluation"])
def test_divergence_is_an_error_that_says_what_to_try(batch_size, tmp_path):
    settings = small(tmp_path, lr=1e30, clip=1e30, warmup_epochs=0.0, batch_size=batch_size, save_minutes=0)
    with pytest.raises(TrainingError, match="lower lr"):
        train(some_digits(), settings)
    assert_finite(settings.out)


class Steep(Classify):
    """Its loss is finite at every step, and its gradient is not from the second step on."""

    name = "steep"
    steps = 0

    def loss(self, outputs, batch):
        losses = super().loss(outputs, batch)
        Steep.steps += 1
        cliff = (outputs.sum() * 0).abs().sqrt() if Steep.steps > 1 else 0
        return {**losses, "loss": (losses["loss"][0] + cliff, "images")}


def test_a_gradient_that_is_not_finite_is_never_saved(tmp_path):
    settings = TrainConfig(out=tmp_path / "run", epochs=1, lr=1e-3, device="cpu", save_minutes=0)
    how = Preprocess((8, 8), "squash", mean=(0.5,), std=(0.5,))
    with pytest.raises(TrainingError, match="norm nan at step 2 of epoch 1"):
        train(some_digits(), settings, task=Steep(ClassifySettings(variant="swin_nano", preprocess=how)))
    assert_finite(settings.out)


def assert_finite(out):
    """What a run left behind that diverged: at most a state from before, and no weights."""
    assert not list(out.glob("*.safetensors"))
    if (out / "state.pt").exists():
        whole = torch.load(out / "state.pt", weights_only=True)
        assert all(tensor.isfinite().all() for tensor in whole["model"].values())


def test_how_often_a_device_is_waited_for_changes_nothing(tmp_path, monkeypatch):
    source, settings = some_digits(), small(tmp_path, batch_size=8, save_minutes=0)
    runs = []
    for name, every in (("each", 1), ("fifth", 5)):
        monkeypatch.setitem(loop.READ_EVERY, "cpu", every)
        recorder = Recorder()
        runs.append(train(source, dataclasses.replace(settings, out=tmp_path / name), progress=recorder))
        assert recorder.steps == {1: 24, 5: 6}[every]  # of 12 steps an epoch
    assert_same_weights(tmp_path / "each", tmp_path / "fifth")
    assert without_time(runs[0].history) == without_time(runs[1].history)


class NoWaiting(TorchDispatchMode):
    """Forbids what makes the process wait for a GPU: reading a number from a tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_no_step_waits_for_the_device(tmp_path, monkeypatch):
    def step(self, *arguments, plain=loop.Loop.step):
        with NoWaiting() if self.state.step else contextlib.nullcontext():  # the first starts the stream of batches
            return plain(self, *arguments)

    monkeypatch.setattr(loop.Loop, "step", step)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)  # it reads its own count, which is on the CPU
    recorder = Recorder()
    train(some_digits(), small(tmp_path, epochs=1, accumulate=2, drop_path_rate=0.2), progress=recorder)
    assert recorder.steps == 3


def without_time(history):
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "images_per_s")} for line in history
    ]


def test_skipped_files_are_told(tmp_path):
    (make_folder(tmp_path / "photos", each=10) / "cat" / "broken.png").write_text("")
    recorder = Recorder()
    settings = small(tmp_path, epochs=1, workers=0, variant="swin_nano")
    result = train(tmp_path / "photos", settings, progress=recorder)
    assert any("broken.png" in note for note in recorder.notes)
    assert "broken.png" in result.skipped[0]


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"held_out": 1.0},
        {"held_out": 0.0},
        {"augment": "flip"},
        {"precision": "fp8"},
        {"product": "mkl"},
        {"variant": "swin_nano", "weights": "a.safetensors"},
    ],
)
def test_settings_refuse(bad):
    with pytest.raises(ConfigError):
        TrainConfig(**bad)


def test_the_result_knows_the_figures_of_the_last_epoch(tmp_path):
    result = train(some_digits(), small(tmp_path, epochs=1))
    assert (result.accuracy, result.loss, result.images) == tuple(
        result.metrics[k] for k in ("accuracy", "loss", "images")
    )
    with pytest.raises(AttributeError, match="did you mean 'accuracy'"):
        _ = result.acuracy
    assert pickle.loads(pickle.dumps(result)) == result


def test_the_best_epoch_is_the_first_of_equals_and_none_is_worst():
    history = [{"a": None, "b": 0.0}, {"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}]
    assert best_epoch(history, [("a", "high"), ("b", "low")]) is history[2]
    assert best_epoch(history, [("a", "high")]) is history[1]
    assert best_epoch(history, [("b", "low")]) is history[0]


def test_a_data_set_is_split_and_the_card_says_how(tmp_path):
    dataset = data.folder(make_folder(tmp_path / "photos")).train
    recorder = Recorder()
    settings = small(tmp_path, epochs=1, workers=0, variant="swin_nano", held_out=0.3, seed=5, value_range=(0, 4095))
    result = train(dataset, settings, progress=recorder)
    assert result.images == 6
    card = swindow.load(result.out / "model.safetensors").card
    assert card.split == HeldOut(0.3, 5, True, dataset.fingerprint())
    assert (card.task, card.data, card.class_names) == ("classify", "photos", ("cat", "dog"))
    assert card.settings == {
        "variant": "swin_nano",
        "init": "fan_in",
        "augment": "crop",
        "auto_augment": "trivialaugment",
        "label_smoothing": 0.1,
    }
    assert card.preprocess == Preprocess((8, 8), crop_fraction=1.0, value_range=(0, 4095))
    assert swindow.load(train(some_digits(), small(tmp_path, out=tmp_path / "own", epochs=1)).out).card.split is None


def test_a_run_says_first_what_it_found_and_what_it_will_do(tmp_path):
    make_folder(tmp_path / "photos", each=30)
    make_folder(tmp_path / "photos", classes=("emu",), each=2)
    (tmp_path / "photos" / "cat" / "notes.xml").write_text("")
    (tmp_path / "photos" / "cat" / "broken.png").write_text("")
    recorder = Recorder()
    settings = small(tmp_path, epochs=1, workers=0, variant="swin_nano", lr=1e-3)
    result = train(tmp_path / "photos", settings, progress=recorder)
    parameters = sum(tensor.numel() for tensor in weights(result.out).values())
    assert recorder.notes[0] == (
        "recipe scratch-small: images of 20 pixels, no weights to start from; as asked for: variant swin_nano, "
        "image_size 8, epochs 1, batch_size 32, lr 0.001"
    )
    told = "\n".join(recorder.notes)
    for expected in (
        "data: photos, 49 images to train on, 13 held out (20% of every class, seed 0)",
        "classes: 3; the smallest: emu (1 to train on), cat (24 to train on), dog (24 to train on)",
        "broken.png",
        "1 .xml",
        "warning: classes are unequal",
        "warning: fewer than 5 images are held out of class emu (1)",
        f"model: {parameters:,} parameters, images of 8 x 8 pixels, on cpu in fp32",
        f"training: 1 epochs of 2 steps of 32 images, Muon, learning rate up to 0.001; to {settings.out}",
    ):
        assert expected in told


def test_weights_that_have_seen_the_held_out_images_are_refused(tmp_path):
    root, settings = make_folder(tmp_path / "photos"), small(tmp_path, epochs=1, workers=0, variant="swin_nano", seed=3)
    weights = train(root, settings).out / "model.safetensors"
    again = dataclasses.replace(settings, variant=None, weights=weights, out=tmp_path / "again")
    with pytest.raises(ConfigError, match=r"another split of this data .*try --held-out 0\.2 --seed 3"):
        train(root, dataclasses.replace(again, seed=0))
    assert train(root, again).images == 4
    other = make_folder(tmp_path / "other", each=11)
    assert train(other, dataclasses.replace(again, seed=0, out=tmp_path / "other_run")).images == 4


def test_a_run_goes_on_with_the_same_preprocessing_only(tmp_path):
    settings = TrainConfig(out=tmp_path, epochs=1, device="cpu")
    tasks = [
        Classify(ClassifySettings("swin_nano", preprocess=Preprocess((8, 8), mean=(mean,), std=(0.5,))))
        for mean in (0.5, 0.1)
    ]
    train(some_digits(), settings, task=tasks[0])
    with pytest.raises(ConfigError, match="holds a run with other settings: task"):
        train(some_digits(), settings, task=tasks[1])


def test_losses_without_any_gradient_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Classify, "loss", lambda self, outputs, batch: {"loss": (outputs.detach().sum(), "images")})
    with pytest.raises(TrainingError, match="no loss has a gradient, got loss"):
        train(some_digits(), small(tmp_path))


def test_changed_images_of_the_same_names_are_other_data(tmp_path):
    root, settings = make_folder(tmp_path / "photos"), small(tmp_path, epochs=1, workers=0, variant="swin_nano")
    train(root, settings)
    Image.new("RGB", (50, 50), "red").save(root / "cat" / "3.png")
    with pytest.raises(ConfigError, match=r"other settings: data .*--overwrite"):
        train(root, settings)


def test_a_state_of_another_version_is_refused(tmp_path):
    settings = small(tmp_path)
    settings.out.mkdir()
    torch.save({"identity": "{}", "state": "{}", "model": {}, "optimizer": {}}, settings.out / "state.pt")
    with pytest.raises(ConfigError, match=r"another version of swindow \(format 1, .*--overwrite"):
        train(some_digits(), settings)


def test_one_run_at_a_time_in_a_folder_and_none_after_a_kill(tmp_path):
    command = [sys.executable, "-m", "swindow", "train", "digits", "--image-size", "8", "--save-minutes", "0"]
    command += ["--limit", "512", "--epochs", "2", "--device", "cpu", "--out", str(tmp_path)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as first:
        while not (tmp_path / "state.pt").exists() and first.poll() is None:
            time.sleep(0.01)
        done = subprocess.run([*command, "--overwrite"], env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 2
        assert f"another run is at work there (process {first.pid} on {socket.gethostname()})" in done.stderr
        assert done.stderr.count("\n") == 1
        assert first.poll() is None
        assert (tmp_path / "state.pt").exists()
        first.kill()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_all_processes_are_told_that_a_folder_is_taken(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["-m", "swindow", "train", "digits", "--device", "cpu", "--out", str(tmp_path)]
    with folder.held(tmp_path):
        done = subprocess.run([*torchrun, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("another run is at work there") == 2


def test_an_unknown_device_or_variant(tmp_path):
    with pytest.raises(ConfigError, match="device 'nonsense'"):
        train(some_digits(), small(tmp_path, device="nonsense"))
    with pytest.raises(ConfigError, match="swin_tiny"):
        train(some_digits(), small(tmp_path, variant="swin_tinny"))


def test_evaluation_needs_the_same_classes(tmp_path):
    result = train(some_digits(), small(tmp_path, epochs=1))
    with pytest.raises(DataError, match="cat"):
        evaluate(result.out / "model.safetensors", make_folder(tmp_path / "photos"))
