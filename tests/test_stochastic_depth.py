"""Stochastic depth: branches that samples drop are not computed on a CPU, and nothing else changes."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.definition import V2, difference, randomise
from swindow import SwinConfig, SwinTransformer, explain
from swindow.models import DropPath, SwinBlock

SMALL = {"embed_dim": 16, "depths": (2, 4), "num_heads": (2, 4), "num_classes": 3, "drop_path_rate": 0.6}
KINDS = {
    "v1": (SMALL, (36, 40)),
    "v2": ({**SMALL, **V2}, (36, 40)),
    "3d": ({**SMALL, "patch_size": (2, 4, 4), "window_size": ((2, 7, 7),) * 2, "merge_axes": (1, 2)}, (4, 36, 40)),
}
LAYER_NORM = F.layer_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stochastic_depth_keeps_the_expectation(dtype):
    """1 / 0.9 is no number of bfloat16: it would make every branch 0.2 % too small."""
    y = DropPath(0.1).train()(torch.full((400, 1), 9.0, dtype=dtype))
    assert set(y.flatten().tolist()) == {0.0, 10.0}


class Counter:
    """The samples that went through layer norms: what a hook would change cannot be counted by one."""

    def __init__(self):
        self.samples = 0

    def __call__(self, x, *rest):
        self.samples += len(x)
        return LAYER_NORM(x, *rest)


def step(model, x, half=False):
    """Logits and gradients of one training step, always with the same samples dropped; and how many were computed."""
    torch.manual_seed(3)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half), mock.patch.object(F, "layer_norm", Counter()) as counter:
        y = model(x).float()
    y.sin().sum().backward()
    return torch.cat([y.flatten(), *(p.grad.flatten() for p in model.parameters())]).detach(), counter.samples


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_dropped_branches_are_not_computed_and_nothing_else_changes(kind, batch, half, monkeypatch):
    fields, size = KINDS[kind]
    model, x = randomise(SwinTransformer(SwinConfig(**fields))).train(), torch.randn(batch, 3, *size)
    found, samples = step(model, x, half)
    monkeypatch.setattr(SwinBlock, "may_leave_out", lambda self, x: False)
    expected, of_all = step(model, x, half)
    assert samples < of_all
    assert difference(found, expected) <= (3e-2 if half else 1e-5)


@pytest.mark.parametrize("rate", [0.0, 1e-9])
def test_where_nothing_is_dropped_the_result_is_the_same_to_the_bit(rate):
    model, x = SwinTransformer(SwinConfig(**{**SMALL, "drop_path_rate": rate})).train(), torch.randn(2, 3, 36, 40)
    (found, samples), (expected, of_all) = step(model, x), step(model.eval(), x)
    assert samples == of_all
    assert torch.equal(found, expected)


def _hook(model):
    model.stages[1].blocks[3].attn.register_forward_hook(lambda *_: None)


def _batch_norm(model):
    model.stages[1].blocks[3].norm2 = nn.Sequential(nn.Flatten(0, -2), nn.BatchNorm1d(32), nn.Unflatten(0, (6, 5, 5)))


CHANGES = {
    "hook": _hook,
    "batch norm": _batch_norm,
    "another kernel": lambda model: model.set_kernel("sdpa"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_samples_are_computed_where_somebody_looks_on(change):
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    CHANGES[change](model)
    seen = []
    forward = SwinBlock._add
    with mock.patch.object(SwinBlock, "_add", lambda self, x, branch: seen.append(self) or forward(self, x, branch)):
        step(model, x)
    assert model.stages[1].blocks[3] in seen


def test_checkpointing_works_out_the_same_samples_again():
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    expected, _ = step(model, x)
    model.set_grad_checkpointing()
    found, _ = step(model, x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_capture_sees_all_samples(checkpointing):
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    model.set_grad_checkpointing(checkpointing)
    with explain.capture(model) as seen:
        y = model(x)
    y.sum().backward()
    assert {len(seen[f"stages.1.blocks.{i}.attn"]) for i in range(4)} == {6}
