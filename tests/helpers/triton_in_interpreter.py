"""The fused kernel in Triton's interpreter, which test_triton.py runs in a process of its own."""

import json
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swindow import create, kernels, windows
from swindow.errors import ConfigError, InputError
from swindow.models.attention import ScaledCosine, ScaledDotProduct
from swindow.windows import SizeRule

from .definition import difference, randomise
from .kernels import using

OutOfResources = pytest.importorskip("triton.runtime.errors").OutOfResources
triton = pytest.importorskip("swindow.kernels.triton")
tuning = triton.triton_tuning

FORKS, ATTENDED = SizeRule(shift_single=True, mask_padding=False), SizeRule(mask_padding=False)
CASES = {
    "7, padded": ((10, 9), 7, 3, SizeRule()),
    "7, padding attended to": ((10, 9), 7, 3, ATTENDED),
    "7, not shifted": ((14, 7), 7, 0, SizeRule()),
    "8, one window, shifted": ((6, 11), 8, 4, FORKS),
    "12": ((12, 13), 12, 6, SizeRule()),
    "16": ((17, 16), 16, 8, ATTENDED),
    "24": ((24, 25), 24, 12, SizeRule()),
    "signal": ((13,), (4,), (2,), ATTENDED),
    "video": ((3, 3, 6), (2, 3, 4), (1, 1, 2), SizeRule()),
    "video, padding attended to": ((3, 5, 6), (2, 3, 4), (1, 1, 2), FORKS),
}
SLOW = {
    *((case, similarity) for case in ("16", "24") for similarity in ("dot", "cosine")),
    *((case, "cosine") for case in ("7, padded", "7, not shifted", "12")),
    *((case, "dot") for case in ("7, padding attended to", "8, one window, shifted")),
}


def run(case, similarity, dtype=torch.float32, heads=2, d=8, batch=2, qkv_bias=True, exactly=False, dim=None):
    """What the kernel and the reference give, the last in fp32 too if asked, with the gradients of all that has one."""
    grid, window, shift, rule = CASES[case]
    window, shift = ((v,) * len(grid) if isinstance(v, int) else v for v in (window, shift))
    g = windows.resolve(grid, window, shift, rule)
    n = math.prod(g.window)
    dim = dim or heads * d
    y = torch.randn(batch, *grid, dim, dtype=dtype, requires_grad=True)
    qkv = randomise(nn.Linear(dim, 3 * heads * d, bias=qkv_bias)).to(dtype)
    bias = torch.randn(heads, n, n, requires_grad=True)
    similar = (ScaledCosine if similarity == "cosine" else ScaledDotProduct)(heads, d)
    cotangent = torch.randn(batch, *grid, heads * d).to(dtype)
    for name in ("triton", "reference", "reference")[: 2 + exactly]:
        leaves = [y, bias, *qkv.parameters(), *similar.parameters()]
        out = kernels.attend(y, qkv, bias, g, similar, kernel=name)
        yield out.float(), *(t.float() for t in torch.autograd.grad(out, leaves, cotangent))
        if name == "reference":
            y, qkv, cotangent = y.detach().float().requires_grad_(), qkv.float(), cotangent.float()


SIMILARITIES = ["dot", pytest.param("cosine", marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("case", "similarity"),
    [
        pytest.param(case, similarity, marks=[pytest.mark.slow] * ((case, similarity) in SLOW))
        for case in CASES
        for similarity in ("dot", "cosine")
    ],
)
def test_the_kernel_is_the_reference(case, similarity, monkeypatch):
    whole = math.prod(CASES[case][1]) if isinstance(CASES[case][1], tuple) else CASES[case][1] ** 2
    if whole > 64:  # fewer blocks are faster here, and two of them are more than one
        tile = triton.Tile(256 if whole > 256 else 128, 4, 1)
        monkeypatch.setattr(triton, "_tile", lambda *_, **__: tile)
    for found, expected in zip(*run(case, similarity, heads=1, batch=2 if case == "signal" else 1), strict=True):
        assert difference(found, expected) <= 2e-5


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_the_reference_in_it(similarity, dtype):
    found, reference, exact = run("7, padding attended to", similarity, dtype, heads=1, batch=1, exactly=True)
    cuts = dtype == torch.bfloat16  # the interpreter cuts digits off where hardware rounds
    for a, b, c in list(zip(found, reference, exact, strict=True))[
        : 5 if cuts else None
    ]:  # the scale's gradient cancels
        assert difference(a, c) <= (8 if cuts else 2) * difference(b, c) + 1e-3


@pytest.mark.parametrize(
    ("case", "similarity"), [pytest.param("7, padded", "dot", marks=pytest.mark.slow), ("video", "cosine")]
)
def test_heads_times_their_channels_need_not_be_the_width(case, similarity):
    for found, expected in zip(*run(case, similarity, heads=3, d=5, batch=1, dim=8), strict=True):
        assert difference(found, expected) <= 2e-5


def test_a_batch_of_0():
    results = list(run("7, padded", "dot", batch=0))
    assert results[0][0].shape == (0, 10, 9, 16)
    assert all(a.shape == b.shape and not a.any() for a, b in zip(*results, strict=True))


@pytest.mark.slow
def test_more_than_one_block_of_windows_and_heads_that_are_no_power_of_two(monkeypatch):
    monkeypatch.setattr(triton, "CHUNK", 2)
    monkeypatch.setattr(triton, "_tile", lambda *_, **__: triton.Tile(16, 1, 1))
    for found, expected in zip(*run("video", "dot", heads=3, d=5, batch=1, qkv_bias=False), strict=True):
        assert difference(found, expected) <= 2e-5


@torch.no_grad()
@pytest.mark.parametrize("variant", ["swin_nano", "swinv2_tiny_w8"])
def test_whole_models(variant):
    fields = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
    model = randomise(create(variant, **fields, pretrained_window_size=None)).eval()
    x = torch.randn(1, 3, 30, 25)
    with using(model, "triton"):
        found = model(x)
    assert difference(found, model(x)) <= 2e-5


def test_it_refuses_what_it_is_not_made_for():
    y, g = torch.randn(1, 4, 4, 8), windows.resolve((4, 4), (4, 4), (0, 0))
    arguments = nn.Linear(8, 24), torch.zeros(1, 16, 16), g, ScaledDotProduct(1, 8)
    with pytest.raises(InputError, match="got dropout"):
        kernels.attend(y, *arguments, 0.5, kernel="triton")
    with pytest.raises(InputError, match="float64, expected 0 and 16 or 32 bits"):
        kernels.attend(y.double(), *arguments, kernel="triton")
    out = kernels.attend(y.requires_grad_(), *arguments, kernel="triton")
    (d_y,) = torch.autograd.grad(out.sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(d_y.sum(), y)


@pytest.mark.parametrize(
    ("similarity", "grid"), [pytest.param("dot", (4, 8), marks=pytest.mark.slow), ("cosine", (4, 6))]
)
def test_it_is_a_sound_operator(similarity, grid):
    g, cosine = windows.resolve(grid, (4, 4), (2, 2), ATTENDED), similarity == "cosine"
    t = torch.randn(2, *grid, 24, requires_grad=True)
    padding = torch.randn(24, requires_grad=g.pads)
    bias, scale = torch.randn(2, 16, 16, requires_grad=True), torch.ones(2, requires_grad=cosine)
    sizes = [list(v) for v in (g.grid, g.padded, g.window, g.shift)]
    torch.library.opcheck(triton._attend, (t, padding, bias, scale, *sizes, g.mask_padding, cosine))


@pytest.mark.slow
def test_compilers_and_exporters_take_it():
    model = randomise(create("swin_nano", embed_dim=16, depths=(2,), num_heads=(1,), window_size=4, num_classes=3))
    model, x = model.eval(), torch.randn(1, 3, 12, 9)
    model.set_kernel("triton")
    found = model(x)
    expected = torch.autograd.grad(found.square().sum(), list(model.parameters()))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    assert difference(compiled, found) <= 1e-6
    for a, b in zip(torch.autograd.grad(compiled.square().sum(), list(model.parameters())), expected, strict=True):
        assert difference(a, b) <= 1e-5
    exported = torch.export.export(model, (x,))
    operators = [str(node.target) for node in exported.graph.nodes]
    assert operators.count("swindow.window_attention.default") == 2
    assert difference(exported.module()(x), found) <= 1e-6


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_flop_counters_know_it(similarity):
    counted = {}
    for name in ("triton", "reference"):
        variant = "swinv2_tiny_w8" if similarity == "cosine" else "swin_nano"
        fields = {"embed_dim": 16, "depths": (2,), "num_heads": (2,), "window_size": 4, "patch_size": 4}
        model = create(variant, **fields, pretrained_window_size=None)
        model.set_kernel(name)
        for backward in (False, True):
            with FlopCounterMode(display=False) as counter:
                y = model(torch.randn(1, 3, 32, 32))  # a grid of 8 x 8 tokens
                y.sum().backward() if backward else None
            counted[name, backward] = counter.get_total_flops()
    once = 2 * 2 * 8 * 8 * 16 * 16  # QK^T of 2 blocks, 8 x 8 tokens, windows of 16, width 16
    assert counted["triton", False] == counted["reference", False]
    assert counted["triton", True] == counted["reference", True] + once  # backward computes the logits again


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """Asks for tuning; tiles of more warps are faster, those of 3 stages need too much. Returns the tiles timed."""
    timed = []

    def bench(run, return_mode):
        run()
        timed.append(launched[-1])
        return 1 / launched[-1].warps

    launched = []
    for name in ("_forward", "_backward_pass"):
        plain = getattr(triton, name)

        def noted(tile, *arguments, plain=plain):
            if tile.stages == 3:
                raise OutOfResources(300_000, 232_448, "shared memory")
            launched.append(tile)
            plain(tile, *arguments)

        noted.__name__ = name
        monkeypatch.setattr(triton, name, noted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SWINDOW_TILES", "tune")
    monkeypatch.setattr(triton.gpu, "is_interpreted", lambda: False)
    monkeypatch.setattr(triton.gpu, "may_run", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(tuning.triton.testing, "do_bench", bench)
    tuning._found.clear()
    yield timed
    tuning._found.clear()


def small():
    """A run that takes little time."""
    return zip(*run("7, padded", "dot", torch.float16, heads=1, batch=1), strict=True)


@pytest.mark.slow
def test_tiles_are_timed_on_request_and_kept(tuned, monkeypatch, tmp_path):
    for _ in range(2):
        for found, expected in small():
            assert difference(found, expected) <= 1e-2  # timing backward adds nothing to its gradients
    assert tuned == [triton.Tile(64, warps, stages) for warps in (2, 4, 8) for stages in (1, 2)] * 2
    file = tmp_path / "swindow" / "tiles.json"
    kept = json.loads(file.read_text())
    assert kept == {
        f"a GPU, Triton {triton.triton.__version__}, {name}, window 7x7, 8 channels, float16, padded": [64, 8, 1]
        for name in ("forward", "backward_pass")
    }
    tuning._found.clear()  # as in a new process
    reads = []
    read = tuning._read
    monkeypatch.setattr(tuning, "_read", lambda path: reads.append(path) or read(path))
    list(small())
    assert (len(tuned), len(reads)) == (12, 1)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    key = next(iter(kept))
    assert tuning.fastest(key, None, [], None) == (64, 8, 1)
    assert tuning.fastest("another", triton.Tile(16, 1, 1), [], None) == (16, 1, 1)  # nothing is timed now
    monkeypatch.setenv("SWINDOW_TILES", "yes")
    with pytest.raises(ConfigError, match="SWINDOW_TILES: got 'yes', expected 'tune' or nothing"):
        tuning.wanted()


def test_a_tile_that_computes_something_else_is_not_taken(tuned, monkeypatch):
    values = {2: float("nan"), 4: 1.0, 8: 2.0}  # by warps
    seconds = iter(range(100))
    monkeypatch.setattr(tuning.triton.testing, "do_bench", lambda run, return_mode: next(seconds))
    run = lambda tile: (torch.full((4,), values[tile.warps]),)  # noqa: E731
    assert tuning.fastest("a kernel", triton.Tile(64, 4, 2), tuning.candidates([64]), run) == (64, 4, 1)
    assert next(seconds) == 3


@pytest.mark.slow
def test_a_file_that_cannot_be_used_stops_nothing(tuned, tmp_path, monkeypatch):
    (tmp_path / "swindow").mkdir()
    (tmp_path / "swindow" / "tiles.json").write_text("{")
    with pytest.warns(UserWarning, match=r"tiles\.json: not read, tiles are timed again"):
        list(small())
    tuning._found.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "swindow" / "tiles.json"))  # no folder
    with pytest.warns(UserWarning, match=r"tiles\.json: not (read|written)"):
        list(small())
