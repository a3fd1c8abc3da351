"""benchmarks/gpu.py on a CPU: every part runs, stops and goes on, on a machine without the command line's packages."""

import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def part(monkeypatch):
    """Imports a part by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"gpu_{name}")


@pytest.fixture
def run_gpu(tmp_path):
    """Runs parts where tyro, rich and pyarrow are not installed."""
    without = tmp_path / "without"
    without.mkdir()
    for name in ("tyro", "rich", "pyarrow"):
        (without / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here', name={name!r})\n")

    def run(*arguments, interpreted=False):
        command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick", "--jobs", "2"]
        environment = os.environ | {"PYTHONPATH": str(without)} | ({"TRITON_INTERPRET": "1"} if interpreted else {})
        command += ["--out", str(tmp_path / "out"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_is_proven_and_the_part_goes_on_where_it_stopped(run_gpu, tmp_path):
    out = run_gpu("--part", "proof", interpreted=True)
    assert out.splitlines()[-1] == "10 cases, 0 of them wrong."
    file = tmp_path / "out" / "proof.json"
    kept = json.loads(file.read_text())
    removed = kept["cases"].pop("20 training steps, fp32")
    file.write_text(json.dumps(kept))
    assert "20 training steps, fp32" in run_gpu("--part", "proof", interpreted=True)
    again = json.loads(file.read_text())["cases"]
    assert again.pop("20 training steps, fp32")["ok"] == removed["ok"]
    assert again == kept["cases"]
    assert "| signal, fp32, dot |" in (tmp_path / "out" / "proof.md").read_text()


@pytest.mark.slow
def test_speed_and_profile(run_gpu, tmp_path):
    for _ in range(2):  # what a part's time limit leaves undone on a slow machine, the next call does
        lines = run_gpu("--part", "speed", "--part", "profile").splitlines()
        compared = sum("times timm compiled" in line for line in lines)
        if compared == 8:
            break
    assert compared == 8  # two libraries, two ways, twice
    page = (tmp_path / "out" / "speed.md").read_text()
    assert "| timm eager |" in page
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"speed.json", "speed.md", "profile.md"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_tiles(run_gpu, tmp_path):
    out = run_gpu("--part", "tiles", interpreted=True)
    assert "- window 7 stage 1: fastest forward 64, 4, 3, " in out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["tiles.json"]


@pytest.mark.slow
def test_more(run_gpu, tmp_path):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), random.integers(0, 3, 60)
    arrays = {"images": images[:40], "labels": labels[:40], "test_images": images[40:], "test_labels": labels[40:]}
    np.savez(tmp_path / "noise.npz", **arrays)
    assert "training on a data set: skipped no --data" in run_gpu("--part", "more")
    out = run_gpu("--part", "more", "--data", str(tmp_path / "noise.npz"))
    cases = json.loads((tmp_path / "out" / "more.json").read_text())["cases"]
    assert cases["one process, DDP and FSDP2"]["difference"] == {"DDP": 0, "FSDP2": 0}
    assert cases["training on noise.npz"]["images"] == 40
    assert cases["training on noise.npz"]["same answers as on the CPU"] == 1
    assert "| transformers compiled |" in out


@pytest.mark.slow
def test_pictures_become_arrays(tmp_path, shared):
    pytest.importorskip("pyarrow")
    command = [sys.executable, str(BENCHMARKS / "pictures.py"), str(shared("data", "cifar10")), str(tmp_path / "a.npz")]
    done = subprocess.run([*command, "--train", "20", "--test", "10"], capture_output=True, text=True, check=True)
    assert "20 and 10 images" in done.stdout
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["images"].shape == (20, 32, 32, 3)
        assert arrays["images"].std() > 30
        assert arrays["test_labels"].dtype.kind == "i"
        assert set(arrays["labels"]) <= set(range(10))


def test_a_wrong_gradient_is_seen(part):
    proof = part("proof")
    right = {"out": 1e-7, "d_tokens": 1e-6, "d_scale": 9e-6}
    case = {"triton": right, "reference": dict.fromkeys(right, 5e-7)}
    assert proof.accepted("window 7, fp32, cosine", case)
    for name, wrong in (("out", 3e-6), ("d_scale", 2e-5), ("d_tokens", float("inf"))):
        assert not proof.accepted("window 7, fp32, cosine", case | {"triton": right | {name: wrong}})
    assert list(proof.summary({"window 7, fp32, cosine": case | {"triton": right | {"out": 1.0}}})) == [
        "1 cases, 1 of them wrong: window 7, fp32, cosine."
    ]


def test_what_is_not_a_number_is_no_small_error(part):
    run = part("run")
    assert run.error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert run.error(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 1.0])) == float("inf")


def test_operations_and_bytes_of_a_model(part):
    speed = part("speed")
    found = speed.work("swin_tiny")
    assert found["flops"] == pytest.approx(2 * 4.5e9, rel=0.02)  # the paper's table counts multiplications
    numbers = 2 * 56**2 * 96 + 2 * 28**2 * 192 + 6 * 14**2 * 384 + 2 * 7**2 * 768
    assert found["at least"] == 2 * 11 * numbers
    limits = {"flops_per_second": 1e15, "bytes_per_second": 1e12}
    text = speed.floor(found, limits, 100, training=False)
    assert text.startswith("Operations: 0.90 T, 0.9 ms; bytes of the blocks, compiled, as it is: ")
    assert speed.floor(found, limits, 100, training=True) == "Operations: 2.69 T, 2.7 ms."


def test_committed_results_can_be_read(part):
    speed = part("speed")
    cases = json.loads((BENCHMARKS / "results" / "gpu" / "speed.json").read_text())["cases"]
    (line,) = (line for line in speed.summary(cases) if "swin_tiny, inference, swindow triton compiled" in line)
    assert re.search(r": +\d+\.\d\d ms  \d\.\d\d times timm compiled$", line)
    assert any("| timm compiled |" in line for line in speed.page(cases))


def test_cases_of_every_kind_have_a_place_on_the_page(part):
    more = part("more")
    row = {"seconds": [0.1, 0.2, 0.3]}
    cases = {
        "one image, swin_tiny, 224 x 224": {"triton": {"eager": 2e-3, "graph": 1e-3}},
        "one image, swin_base, 224 x 224": {"failure": "OutOfMemoryError: none left"},
        "one process, DDP and FSDP2": {"backend": "nccl", "ok": True},
        "training on a data set": {"skipped": "no --data"},
        "swin_tiny, inference, torchvision": {"eager": row, "compiled": row},
        "swin_tiny, training, timm, reduce-overhead": {"compiled": row},
    }
    page = "\n".join(more.page(cases))
    assert "| one image, swin_tiny, 224 x 224 | triton | 2.00 | 1.00 |" in page
    assert "- one image, swin_base, 224 x 224: failure OutOfMemoryError: none left" in page
    assert "- one process, DDP and FSDP2: backend nccl, ok True" in page
    assert "| timm, reduce-overhead compiled | 200.00 | 150.00 to 250.00 | 640 | 1.00 |" in page
    assert set(more.summary(cases)) < set(page.splitlines())
    assert more.attempt(lambda: torch.zeros(2) @ torch.zeros(3))["failure"].startswith("RuntimeError: ")
    with pytest.raises(ZeroDivisionError):  # a fault of the benchmark is no result
        more.attempt(lambda: 1 / 0)


def test_results_of_another_device_or_commit_are_not_continued(part, tmp_path):
    run = part("run")
    chosen = types.SimpleNamespace(device="cpu", quick=True, jobs=1, out=tmp_path, fresh=False, busy=None)
    first = run.Run("speed", 60, chosen, list)
    first.add("a", {"seconds": [1]})
    first.add("b", {"failure": "no time left"})
    assert "\na\nb\n" in (tmp_path / "speed.md").read_text()  # written as it goes
    assert run.Run("speed", 60, chosen, list).cases == {"a": {"seconds": [1]}}  # what failed is tried again
    for key in ("device", "commit", "versions"):
        first.about = first.about | {key: "another"}
        first.write()
        assert run.Run("speed", 60, chosen, list).cases == {}
        first.about[key] = run.about("speed", "cpu")[key]


def test_time_and_memory_by_a_stand_in_for_a_gpu(part, monkeypatch):
    """What a GPU alone would run is called here too, so that no name in it is wrong."""
    run, ticks = part("run"), iter(range(1000))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(ticks)

        def elapsed_time(self, other):
            return other.at - self.at

    class Graph:
        def replay(self):
            calls.append("replay")

    calls = []
    memory = iter((5, 12))

    for name, stand_in in {
        "Event": Event,
        "CUDAGraph": Graph,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: next(memory),
        "max_memory_allocated": lambda: next(memory),
        "Stream": lambda: None,
        "stream": lambda stream: torch.no_grad(),
        "graph": lambda graph: torch.no_grad(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    seconds = run.timed(lambda: calls.append("call"), "cuda", 0.001)
    assert set(seconds) == {1e-3}
    assert calls.count("call") == len(seconds) + 3
    assert run.peak(lambda: None) == 7
    run.graphed(lambda: calls.append("in a graph"))()
    assert calls[-1] == "replay"
    assert calls.count("in a graph") == 4
