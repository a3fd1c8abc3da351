"""Blocks as they are exported to other runtimes: the model whatever its config, and what somebody changed in it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers.definition import V2, difference, randomise
from swindow import SwinConfig, SwinTransformer
from swindow.deployment.blocks import ExportedBlock, rewrite
from swindow.models.attention import WindowAttention

SMALL = SwinConfig(embed_dim=8, depths=(2,), num_heads=(2,), window_size=4, patch_size=2, num_classes=5)
KINDS = {
    "v1": {},
    "v2": V2 | {"window_size": 4},
    "video": {"patch_size": (2, 2, 2), "window_size": ((2, 4, 3),), "merge_axes": (1, 2)},
    "no bias": {"qkv_bias": False},
    "cosine, all biases": {"similarity": "cosine"},
    "extra norms": {"norm_placement": "post", "extra_norm_period": 2},
    "heads of other widths": {"num_heads": (3,), "head_dim": (5,)},
    "padding attended to": {"mask_padding": False, "shift_single": True},
    "windows narrowed": {"shrink": "min"},
}


def build(**fields):
    return randomise(SwinTransformer(SMALL.replace(**fields))).eval().requires_grad_(False)


def rewritten(model):
    twin = copy.deepcopy(model)
    rewrite(twin)
    return twin


def exported(model, x):
    return torch.export.export(model, (x,)).module()(x)


@pytest.mark.parametrize(
    ("kind", "size"),
    [*((kind, (21, 13)) for kind in KINDS), ("v1", (16, 24)), ("v1", (3, 5)), ("windows narrowed", (6, 30))],
)
def test_rewritten_blocks_give_what_the_model_gives(kind, size):
    model = build(**KINDS[kind]).double()
    x = torch.randn(2, 3, *((5,) if kind == "video" else ()), *size, dtype=torch.float64)
    twin = rewritten(model)
    assert all(type(block) is ExportedBlock for block in twin.stages[0].blocks)
    assert difference(exported(twin, x), model(x)) <= 1e-9


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_in_half_precision(kind):
    model, x = build(**KINDS[kind]), torch.randn(2, 3, 21, 13)
    found = exported(rewritten(model).half(), x.half())
    assert found.dtype == torch.float16
    assert difference(found.float(), model(x)) <= 2e-2


class Adapted(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 3 * self.layer(x)


class OtherAttention(WindowAttention):
    def forward(self, y, g):
        return 3 * super().forward(y, g)


CHANGES = {
    "adapter": lambda block: block.attn.set_submodule("qkv", Adapted(block.attn.qkv)),
    "hook": lambda block: block.attn.qkv.register_forward_hook(lambda module, args, y: 3 * y),
    "hook on the block": lambda block: block.register_forward_hook(lambda module, args, y: 3 * y),
    "attention": lambda block: setattr(block.attn, "__class__", OtherAttention),
    "MLP": lambda block: setattr(block, "mlp", Adapted(block.mlp)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changed_stays(change):
    model, x = build().double(), torch.randn(1, 3, 21, 13, dtype=torch.float64)
    plain = model(x)
    CHANGES[change](model.stages[0].blocks[0])
    expected, twin = model(x), rewritten(model)
    assert difference(expected, plain) > 1e-3
    assert [type(block) is ExportedBlock for block in twin.stages[0].blocks] == [False, True]
    assert difference(exported(twin, x), expected) <= 1e-9


def test_a_kernel_that_was_chosen_stays():
    model = build()
    model.set_kernel("reference")
    assert not any(isinstance(module, ExportedBlock) for module in rewritten(model).modules())
