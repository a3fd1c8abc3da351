"""The fused GPU kernel: in Triton's interpreter, in a process of its own; where it runs; and how it is cut for GPUs."""

import importlib.util
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.definition import difference
from swindow import create, kernels, windows
from swindow.kernels import fast_path, gpu
from swindow.models.attention import ScaledCosine, ScaledDotProduct

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
installed = importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not installed, reason="triton is not installed")
@pytest.mark.parametrize("tier", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernel_in_the_interpreter(tier):
    run_in_the_interpreter("helpers/triton_in_interpreter.py", tier)


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="triton is not installed")
def test_what_is_tested_on_a_gpu_works():
    run_in_the_interpreter("gpu/test_on_gpu.py", "not slow")


def run_in_the_interpreter(script, tier):
    script = Path(__file__).parent / script
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", tier, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("patches", "reason"),
    [
        ({"is_installed": lambda: True}, "the tokens lie on 'cpu', and it runs on NVIDIA GPUs"),
        ({"is_installed": lambda: False}, "the package triton is not installed; try pip install triton"),
    ],
)
@torch.no_grad()
def test_where_it_cannot_run_sdpa_does_with_one_warning(patches, reason, monkeypatch):
    for name, value in patches.items():
        monkeypatch.setattr(gpu, name, value)
    gpu._warn_once.cache_clear()
    model, x = create("swin_nano").eval(), torch.randn(1, 3, 40, 48)
    model.set_kernel("triton")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = model(x)
        torch.compile(model, backend="eager")(x)
    assert [str(w.message) for w in seen if "triton" in str(w.message)] == [
        f"kernel 'triton' cannot run here: {reason}. 'sdpa' runs in its place"
    ]
    model.set_kernel("sdpa")
    assert difference(found, model(x)) == 0


def test_a_gpu_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(gpu, "is_installed", lambda: True)
    monkeypatch.setattr(gpu, "capability", lambda index: (7, 5))
    assert gpu._obstacle("cuda", 0) == "it needs compute capability 8.0, and this GPU has 7.5"
    monkeypatch.setattr(gpu, "capability", lambda index: (8, 0))
    assert gpu._obstacle("cuda", 0) is None
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert gpu._obstacle("cuda", 0) == "it was made for NVIDIA GPUs"


# --- where it is the default ------------------------------------------------------------------------------------------


def map_of(*shape, dtype=torch.bfloat16):
    """What the rule asks of a map (B, H, W, C) on a GPU, which need not be there."""
    shape = torch.Size(shape)
    return types.SimpleNamespace(
        device=torch.device("cuda", 0), dtype=dtype, shape=shape, ndim=len(shape), numel=shape.numel
    )


STAGE_4 = 128, 7, 7, 768
DOT, COSINE = ScaledDotProduct(24, 32), ScaledCosine(24, 32)


@pytest.fixture
def h100(monkeypatch):
    monkeypatch.setattr(gpu, "is_installed", lambda: True)
    monkeypatch.setattr(fast_path, "_is_plain", lambda x: isinstance(x, nn.Parameter | types.SimpleNamespace))
    monkeypatch.setattr(gpu, "capability", torch.compiler.assume_constant_result(lambda index: (9, 0)))


@pytest.mark.parametrize("similarity", [DOT, COSINE])
@pytest.mark.parametrize("n", [49, 64])
def test_it_is_the_default_where_it_was_measured(n, similarity, h100, monkeypatch):
    assert gpu.suits(map_of(*STAGE_4), n, similarity)
    assert not gpu.suits(map_of(*STAGE_4, dtype=torch.float16), n, similarity)
    assert not gpu.suits(map_of(*STAGE_4, dtype=torch.float32), n, similarity)
    with monkeypatch.context() as patch:  # PyTorch has no autocast for a GPU that is not there
        patch.setattr(torch, "is_autocast_enabled", lambda device: True)
        patch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
        assert gpu.suits(map_of(*STAGE_4, dtype=torch.float32), n, similarity)


def test_it_is_not_the_default_elsewhere(h100, monkeypatch):
    map_ = map_of(*STAGE_4)
    assert not gpu.suits(map_, 144, DOT)  # windows of 12
    assert not gpu.suits(map_, 49, ScaledDotProduct(12, 64))
    assert not gpu.suits(map_, 49, lambda q, k: (q, k))  # a similarity of one's own
    assert not gpu.suits(map_of(127, 7, 7, 768), 49, DOT)
    assert not gpu.suits(torch.empty(STAGE_4, dtype=torch.bfloat16, device="meta"), 49, DOT)
    assert not gpu.suits(map_of(128, 2, 7, 7, 768), 49, DOT)  # clips
    assert not gpu.suits(map_, 50, DOT)
    changed = ScaledDotProduct(24, 32)
    assert gpu.suits(map_, 49, changed)
    changed.register_forward_hook(lambda *_: None)  # somebody wants to see queries and keys
    assert not gpu.suits(map_, 49, changed)
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        assert not gpu.suits(map_, 49, DOT)
    torch.use_deterministic_algorithms(True)
    try:
        assert not gpu.suits(map_, 49, DOT)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.func.vmap(lambda x: x * (1 + gpu.suits(map_, 49, DOT)))(torch.ones(2)).tolist() == [1, 1]
    for capability in ((8, 0), (8, 9), (12, 0), None):
        monkeypatch.setattr(gpu, "capability", lambda index, found=capability: found)
        assert not gpu.suits(map_, 49, DOT)


@torch.no_grad()
@pytest.mark.skipif(not installed, reason="triton is not installed")
def test_compiled_it_is_the_default_too_and_exported_it_is_not(h100):
    from torch._subclasses.fake_tensor import FakeTensorMode

    operators = []

    def look(graph, inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes if "attention" in str(node.target))
        return graph.forward

    g = windows.resolve((7, 7), (7, 7), (3, 3))
    with FakeTensorMode():  # tensors on a GPU that hold nothing
        x = torch.empty(STAGE_4, dtype=torch.bfloat16, device="cuda")
        weight = torch.empty(3 * 768, 768, dtype=torch.bfloat16, device="cuda")
        bias = torch.empty(24, 49, 49, device="cuda")

        def attend(x):
            return kernels.attend(x, lambda t: nn.functional.linear(t, weight), bias, g, DOT)

        found = torch.compile(attend, backend=look, dynamic=False, fullgraph=True)(x)
    assert operators == ["swindow.window_attention.default"]
    assert (found.shape, found.dtype, found.device.type) == (torch.Size(STAGE_4), torch.bfloat16, "cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert gpu.suits(map_of(*STAGE_4), 49, DOT)
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        assert not gpu.suits(map_of(*STAGE_4), 49, DOT)


def test_a_committed_result_shows_it_faster_wherever_it_is_the_default(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_speed import groups

    found = json.loads((BENCHMARKS / "results" / "gpu" / "speed.json").read_text())
    assert found["about"]["device"] == "NVIDIA H100 80GB HBM3"
    assert [(row.capability, row.dtype, row.windows, row.axes, row.head_dim) for row in gpu.FASTER] == [
        ((9, 0), torch.bfloat16, (49, 64), 2, 32)  # windows of 7 and 8 of images
    ]
    for variant in ("swin_tiny", "swinv2_tiny_w8"):
        for what in ("inference", "training"):
            rows = groups(found["cases"])[f"{variant}, {what}"]
            assert max(rows["swindow triton eager"]["seconds"]) < min(rows["swindow sdpa eager"]["seconds"])


# --- tiles ------------------------------------------------------------------------------------------------------------


def test_tiles():
    assert gpu.tile(49, 32, torch.bfloat16, False, (9, 0)) == gpu.Tile(64, 4, 3)
    assert gpu.tile(49, 32, torch.float32, True, (9, 0)) == gpu.WIDE
    assert gpu.tile(49, 96, torch.bfloat16, True, (9, 0)) == gpu.WIDE
    assert gpu.tile(16, 32, torch.float16, True, (9, 0)) == gpu.Tile(16, 1, 2)
    assert gpu.tile(576, 32, torch.bfloat16, True, (8, 0)) == gpu.AMPERE.blocks.backward
    for unknown in ((99, 0), None):
        assert gpu.tile(64, 32, torch.bfloat16, True, unknown) == gpu.CONSUMER.window.backward


KERNELS = {
    "forward_whole": (7, 64),
    "backward_whole": (7, 64),
    "forward": (12, 64),
    "backward_queries": (12, 64),
    "backward_keys": (12, 64),
    "backward_bias": (12, 64),
}  # side of the window, channels per head
CARDS = [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]


@pytest.mark.skipif(not installed, reason="triton is not installed")
@pytest.mark.parametrize(
    ("capability", "name", "dtype"),
    [
        *(pytest.param((8, 6), name, "wide", marks=pytest.mark.slow) for name in KERNELS if "whole" not in name),
        *(
            pytest.param(
                card, name, dtype, marks=[] if (card, name) == ((8, 6), "backward_whole") else pytest.mark.slow
            )
            for card in CARDS
            for name in KERNELS
            for dtype in ("bf16", "fp32")
            if dtype == "bf16" or "whole" not in name
        ),  # in fp32 blocks are smaller than windows
    ],
)
def test_kernels_are_compiled_for_cards_that_are_not_here_and_fit(capability, name, dtype):
    side, d = KERNELS[name]
    d, dtype = (128, "bf16") if dtype == "wide" else (d, dtype)
    found = compiled_for(capability, name, dtype, side, d)
    assert found.metadata.shared <= gpu.CARDS[capability].shared
    assert found.metadata.target.arch == capability[0] * 10 + capability[1]
    assert len(found.asm["cubin"]) > 1000


def compiled_for(capability, name, dtype, side, d, cosine=True):
    """A kernel in machine code: with padding that is attended to and cosines, which need the most registers."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from swindow.kernels import triton as fused
    from swindow.kernels import triton_kernels

    kernel = getattr(triton_kernels, name)
    g = windows.resolve((50, 33), (side, side), (side // 2, side // 2), windows.SizeRule(mask_padding=False))
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    tile = gpu.tile(side * side, d, kind, "backward" in name, capability)
    fixed = fused._fixed(g, 4, d, cosine, tile) | {"CHUNK": 16}
    numbers = {"G0", "G1", "G2", "P0", "P1", "P2", "total"}
    pointers = dict.fromkeys(("t", "padding", "out", "d_out", "d_t"), dtype)
    pointers |= dict.fromkeys(("bias", "scale", "lse", "d_padding", "d_bias", "d_scale"), "fp32")
    names = kernel.arg_names
    signature = {n: "i32" if n in numbers else f"*{pointers[n]}" if n in pointers else "constexpr" for n in names}
    constants = {(i,): fixed[n] for i, n in enumerate(names) if signature[n] == "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n in pointers}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability[0] * 10 + capability[1], 32), options=options)
