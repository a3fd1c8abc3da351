"""The fused kernel in Triton's interpreter, which test_triton.py runs in a process of its own."""

import math

import pytest
import torch
from torch import nn

from swindow import create, kernels, windows
from swindow.errors import InputError
from swindow.models.attention import ScaledCosine, ScaledDotProduct
from swindow.windows import SizeRule

from .definition import difference, randomise
from .kernels import using

triton = pytest.importorskip("swindow.kernels.triton")

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


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case == "24")) for case in CASES])
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


@pytest.mark.parametrize(("case", "similarity"), [("7, padded", "dot"), ("video", "cosine")])
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
