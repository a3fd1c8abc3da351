"""What runs faster in inference gives what the plain model gives: blocks of tokens, few rows, the deployed twin."""

import copy
import pickle
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.definition import difference, randomise
from helpers.kernels import using
from swindow import ConfigError, SwindowError, create, save
from swindow.kernels import cpu, cpu_mlp
from swindow.models import SwinBlock, WindowAttention
from swindow.models.deployed import DeployedTransformer

SMALL = {"embed_dim": 24, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "num_classes": 7}
KINDS = {
    "v1": ("swin_nano", {}),
    "padding attended to": ("swin_nano", {"mask_padding": False, "shift_single": True}),
    "shrunk to the smallest axis": ("swin_nano", {"shrink": "min"}),
    "no bias": ("swin_nano", {"qkv_bias": False}),
    "v2": ("swinv2_tiny_w8", SMALL | {"window_size": 8, "pretrained_window_size": None}),
    "cosine, all biases": ("swin_nano", {"similarity": "cosine"}),
    "extra norms": ("swin_nano", {"norm_placement": "post", "extra_norm_period": 2}),
    "video": ("swin3d_tiny", SMALL | {"window_size": (4, 3, 3)}),
    "heads of other widths": ("swin_nano", {"num_heads": (3, 2, 5), "head_dim": (5, 40, 7)}),
    "heads of other widths, v2": (
        "swinv2_tiny_w8",
        SMALL | {"window_size": 8, "pretrained_window_size": None, "num_heads": (5, 2, 3), "head_dim": 10},
    ),
    "heads of other widths, video": ("swin3d_tiny", SMALL | {"window_size": (4, 3, 3), "head_dim": (10, 40, 7)}),
    "own norms": ("swin_nano", {"out_norms": True, "num_classes": 0}),
}


def build(kind, dtype=torch.float64):
    variant, fields = KINDS[kind]
    return randomise(create(variant, **fields)).to(dtype).eval()


def images(model, size, batch=3):
    frames = (5,) if model.config.ndim == 3 else ()
    return torch.randn(batch, 3, *frames, *size, dtype=model.patch_embed.proj.weight.dtype)


@pytest.mark.parametrize("size", [(61, 75), (64, 64), (1, 9)])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_twin_gives_what_the_model_gives(kind, size):
    model = build(kind)
    twin, x = model.deploy(), images(model, size)
    before = x.clone()
    with using(model, "reference"):
        expected = model(x), *model.pyramid(x)
    for _ in range(2):  # the first call fills what is kept
        for a, b in zip((twin(x), *twin.pyramid(x)), expected, strict=True):
            assert difference(a, b) <= 1e-9
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["v1", "v2"])
@settings(max_examples=15, deadline=None)
@given(group=st.integers(1, 5_000), block=st.integers(1, 5_000), batch=st.integers(1, 4), side=st.integers(17, 70))
@torch.no_grad()
def test_blocks_of_any_size_change_nothing(kind, group, block, batch, side):
    model = build(kind)
    x = images(model, (side, side + 9), batch)
    with using(model, "reference"):
        expected = model(x)
    with mock.patch.object(cpu, "GROUP", group), mock.patch.object(cpu_mlp, "BLOCK", block):
        assert difference(model(x), expected) <= 1e-9
        assert difference(model.deploy()(x), expected) <= 1e-9


@pytest.mark.parametrize("frozen", [(), ("logit_scale", "fc1", "table")])
@pytest.mark.parametrize(
    "kind", ["v1", "padding attended to", "v2", "video", "heads of other widths", "heads of other widths, v2"]
)
@settings(max_examples=8, deadline=None)
@given(group=st.integers(1, 5_000), block=st.integers(1, 5_000), batch=st.integers(1, 3), side=st.integers(17, 50))
def test_blocks_of_any_size_change_no_gradient(kind, frozen, group, block, batch, side):
    model = build(kind)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    x = images(model, (side, side + 9), batch).requires_grad_()
    leaves = [x, *(p for p in model.parameters() if p.requires_grad)]
    with using(model, "reference"):
        out = model(x)
    cotangent = torch.randn_like(out)
    expected = torch.autograd.grad(out, leaves, cotangent)
    with mock.patch.object(cpu, "TRAINING_GROUP", group), mock.patch.object(cpu_mlp, "TRAINING_BLOCK", block):
        found = torch.autograd.grad(model(x), leaves, cotangent)
    for a, b in zip(found, expected, strict=True):
        assert difference(a, b) <= 1e-8


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_second_derivatives(kind):
    model, found = build(kind), []
    x = images(model, (20, 20), 1).requires_grad_()
    leaves = [x, *model.parameters()]
    for kernel in ("reference", "cpu"):
        with using(model, kernel):
            (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), leaves, allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or difference(b, a) <= 1e-8


def test_the_twin_stands_still():
    model = build("v1", torch.float32)
    twin, x = model.deploy(), images(model, (40, 40))
    expected = twin(x)
    assert not expected.requires_grad
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(x), expected)
    assert isinstance(twin, DeployedTransformer)
    assert twin.deploy() is twin
    assert twin.eval() is twin
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(twin(x), expected)


def test_the_twin_refuses_what_it_cannot_do(tmp_path):
    twin = build("v1", torch.float32).deploy()
    for act in (twin.train, twin.state_dict, twin.half, lambda: twin.to("meta"), lambda: twin.load_state_dict({})):
        with pytest.raises(ConfigError, match=r"deployed model, it is frozen; .* the model it was made from"):
            act()
    with pytest.raises(SwindowError):
        save(twin, tmp_path / "twin.safetensors")


def test_a_twin_in_half_precision_is_a_frozen_copy():
    model = build("v1", torch.bfloat16)
    x = images(model, (40, 40))
    with torch.no_grad():
        assert torch.equal(model.deploy()(x), model(x))


@torch.no_grad()
def test_hooks_see_every_layer_once():
    model, seen = build("v1", torch.float32), []
    model.stages[0].blocks[0].mlp.fc1.register_forward_hook(lambda *call: seen.append(call[-1].shape))
    with mock.patch.object(cpu_mlp, "BLOCK", 1):
        model(images(model, (32, 32), 2))
    assert [tuple(shape[:-1]) for shape in seen] == [(2, 16, 16)]


class Thrice(nn.Module):
    def forward(self, x):
        return 3 * x


class OtherAttention(WindowAttention):
    def forward(self, y, g):
        return 3 * super().forward(y, g)


class OtherBlock(SwinBlock):
    def forward(self, x):
        return 3 * super().forward(x)


def _hook(model):
    model.stages[0].blocks[0].drop_path.register_forward_hook(lambda module, args, y: 3 * y)


def _replace(name):
    return lambda model: model.stages[0].blocks[0].set_submodule(name, Thrice())


def _subclass(name, kind):
    return lambda model: setattr(model.stages[0].blocks[0].get_submodule(name), "__class__", kind)


CHANGES = {
    "hook": _hook,
    "dropout": _replace("attn.drop"),
    "stochastic depth": _replace("drop_path"),
    "attention": _subclass("attn", OtherAttention),
    "block": _subclass("", OtherBlock),
    "block left out": lambda model: model.stages[0].blocks.__setitem__(1, nn.Identity()),
    "other MLP": lambda model: setattr(model.stages[0].blocks[1], "mlp", nn.Sequential(nn.Linear(24, 24), nn.ReLU())),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_the_twin_keeps_what_somebody_changed(change):
    model = build("video")
    model.set_kernel("reference")
    CHANGES[change](model)
    x = images(model, (20, 24))
    if change == "other MLP":
        model.double()
    assert difference(model.deploy()(x), model(x)) <= 1e-9


@torch.no_grad()
def test_the_twin_does_not_write_over_what_a_hook_was_given():
    model, seen = build("v1"), []
    model.stages[0].blocks[0].register_forward_hook(lambda module, args, y: seen.append((y, y.clone())))
    model.deploy()(images(model, (40, 40)))
    assert torch.equal(*seen[0])


def test_the_twin_is_not_copied():
    twin = build("v1", torch.float32).deploy()
    for act in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(ConfigError, match="cannot copy"):
            act(twin)
