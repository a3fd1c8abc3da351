"""What only a GPU can show.

    PYTHONPATH=src python -m pytest tests/gpu

Besides PyTorch with CUDA and Triton they need what ``swindow`` imports, and scikit-learn for the digits. Without a GPU
they skip; with TRITON_INTERPRET=1 most run on the CPU, at small sizes, which shows that they work.
"""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import swindow
from helpers.definition import difference
from swindow import windows
from swindow.kernels import gpu

INTERPRETED = gpu.is_interpreted()
pytestmark = pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="no GPU")
needs_gpu = pytest.mark.skipif(INTERPRETED, reason="the interpreter is no GPU")
DEVICE = "cpu" if INTERPRETED else "cuda"
BATCH = (2, 3, 32, 32) if INTERPRETED else (128, 3, 224, 224)  # where the kernel is the default on a GPU
HALF = {torch.float16: 4e-3, torch.bfloat16: 3e-2}  # how far models may be apart
SMALL = ("video, window 2 x 3 x 4", "signal")  # cases of benchmarks/gpu_proof.py
LARGE = ("padded, padding attended to", "window 12", "window 7, 64 channels")
OPERATOR = "swindow::window_attention"


@pytest.fixture(autouse=True, scope="module")
def exact_convolutions():
    """cuDNN's convolutions are in TF32 by default, which is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


@pytest.fixture(scope="module")
def proof():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import gpu_proof

    return gpu_proof


def model_of(variant="swin_tiny", **fields):
    """A model on the GPU in which no parameter is 0."""
    model = swindow.create(variant, drop_path_rate=0.0, num_classes=5, **fields)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.to(DEVICE)


def operators(run):
    """The names of the operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    return {event.name for event in seen.events()}


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("case", [*SMALL, *(() if INTERPRETED else LARGE)])
def test_the_kernel_is_right(case, similarity, dtype, proof):
    if INTERPRETED and dtype == "bf16":
        pytest.skip("the interpreter cuts digits off in bfloat16")
    found = proof.prove(case, dtype, similarity, DEVICE)
    assert proof.accepted(f"{case}, {dtype}, {similarity}", found), found


@pytest.mark.parametrize("variant", ["swin_tiny", "swinv2_tiny_w8"])
def test_it_is_the_default_where_it_is_faster_and_gives_the_same(variant):
    model, x = model_of(variant).bfloat16().eval(), torch.randn(BATCH).to(DEVICE, torch.bfloat16)
    with torch.no_grad():
        used = operators(lambda: model(x))
        found = model(x)
        model.set_kernel("sdpa")
        assert difference(found.float(), model(x).float()) <= HALF[torch.bfloat16]
    assert (OPERATOR in used) == (not INTERPRETED and torch.cuda.get_device_capability() == (9, 0))


@pytest.mark.parametrize("variant", ["swin_tiny", "swinv2_tiny_w8"])
def test_compiled_it_gives_the_same_forward_and_backward(variant):
    model = model_of(variant, depths=(2, 2), num_heads=(3, 6))
    model.set_kernel("triton")
    x = torch.randn((1, 3, 33, 30) if INTERPRETED else (4, 3, 100, 90), device=DEVICE)
    parameters = list(model.parameters())
    expected = model(x)
    gradients = torch.autograd.grad(expected.square().mean(), parameters)
    backend = "aot_eager" if INTERPRETED else "inductor"
    compiled = torch.compile(model, backend=backend, dynamic=False, fullgraph=True)(x)
    assert difference(compiled, expected) <= 1e-4
    for a, b in zip(torch.autograd.grad(compiled.square().mean(), parameters), gradients, strict=True):
        assert difference(a, b) <= 1e-3


def test_an_exported_model_holds_no_operator_of_ours():
    model = model_of(depths=(2, 2), num_heads=(3, 6)).bfloat16().eval()
    x = torch.randn(BATCH).to(DEVICE, torch.bfloat16)
    exported = torch.export.export(model, (x,))
    assert "swindow" not in str(exported.graph)
    with torch.no_grad():
        assert difference(exported.module()(x).float(), model(x).float()) <= HALF[torch.bfloat16]


@needs_gpu
@torch.no_grad()
def test_it_is_recorded_in_a_cuda_graph():
    model, x = model_of().bfloat16().eval(), torch.randn(1, 3, 224, 224).cuda().bfloat16()
    model.set_kernel("triton")
    expected = model(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = model(x)
    found.zero_()
    graph.replay()
    assert difference(found.float(), expected.float()) <= 1e-3


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiles_that_are_timed_give_the_same(dtype, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = model_of(depths=(2,), num_heads=(3,)).to(dtype)
    x = torch.randn(8, 3, 112, 112, device="cuda", dtype=dtype)
    found = []
    for value in ("", "tune", "tune"):
        monkeypatch.setenv("SWINDOW_TILES", value)
        model.set_kernel("triton")
        y = model(x)
        found.append([y.detach(), *torch.autograd.grad(y.float().square().mean(), list(model.parameters()))])
    for others in found[1:]:
        for a, b in zip(others, found[0], strict=True):
            assert difference(a.float(), b.float()) <= HALF[dtype]
    kept = (tmp_path / "swindow" / "tiles.json").read_text()
    assert torch.cuda.get_device_name() in kept
    assert "backward" in kept


@needs_gpu
def test_every_card_of_the_table_has_the_shared_memory_that_it_says():
    capability = torch.cuda.get_device_capability()
    if capability in gpu.CARDS:
        most = torch.cuda.get_device_properties(0).shared_memory_per_block_optin
        assert gpu.CARDS[capability].shared == most


@needs_gpu
@pytest.mark.parametrize("variant", ["swin_tiny", "swinv2_tiny_w8"])
def test_under_autocast_it_is_the_default_but_for_deterministic_results(variant):
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("it is not the default on this GPU")
    model, x = model_of(variant, depths=(2,), num_heads=(3,)), torch.randn(BATCH, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        assert OPERATOR in operators(lambda: model(x))
        assert model.stages[0].blocks[0].attn.project(x.movedim(1, -1) @ torch.randn(3, 96, device="cuda")).dtype == (
            torch.bfloat16
        )
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            assert OPERATOR not in operators(lambda: model(x))
        finally:
            torch.use_deterministic_algorithms(False)


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@torch.no_grad()
def test_it_runs_on_the_gpu_where_its_tokens_are():
    model = model_of(depths=(2,), num_heads=(3,))
    x = torch.randn(2, 3, 50, 60)
    model.set_kernel("triton")
    here = model(x.cuda(0))
    assert difference(model.cuda(1)(x.cuda(1)).cpu(), here.cpu()) <= 1e-5


@needs_gpu
def test_windows_made_on_the_device_are_those_made_on_the_cpu():
    g = windows.resolve((50, 33), (7, 7), (3, 3))
    for here, there in zip(windows.order(g, torch.device("cuda")), windows.order(g, torch.device("cpu")), strict=True):
        assert torch.equal(here.cpu(), there)


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_a_run_is_trained_continued_evaluated_and_asked(tmp_path):
    settings = {
        "variant": "swin_nano",
        "batch_size": 64,
        "lr": 1e-3,
        "warmup_epochs": 1,
        "workers": 0,
        "device": DEVICE,
    }
    result = swindow.train("digits", swindow.TrainConfig(out=tmp_path, epochs=4, **settings))
    assert result.accuracy > 0.5
    again = swindow.train("digits", swindow.TrainConfig(out=tmp_path, epochs=4, **settings))  # it is finished
    assert again.accuracy == result.accuracy
    path = tmp_path / "model.safetensors"
    here, there = (swindow.evaluate(path, "digits", device=device) for device in (DEVICE, "cpu"))
    assert abs(here.accuracy - there.accuracy) <= 0.01
    model = swindow.load(path)
    x = torch.randn(3, model.config.in_chans, 32, 32)
    with torch.no_grad():
        assert difference(copy.deepcopy(model).to(DEVICE)(x.to(DEVICE)).cpu(), model(x)) <= 1e-3
