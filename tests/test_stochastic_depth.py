"""Stochastic depth: branches that samples drop are not computed on a CPU, and nothing else changes."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from helpers.definition import V2, difference, randomise
from swindow import SwinConfig, SwinTransformer, explain, kernels, private
from swindow.models import DropPath, SwinBlock

pytestmark = pytest.mark.skipif(
    private._saved_tensor_hooks is None,
    reason="this PyTorch cannot say whether hooks are active: all samples are computed",
)
SMALL = {"embed_dim": 16, "depths": (2, 4), "num_heads": (2, 4), "num_classes": 3, "drop_path_rate": 0.6}
KINDS = {
    "v1": (SMALL, (36, 40)),
    "v2": ({**SMALL, **V2}, (36, 40)),
    "3d": ({**SMALL, "patch_size": (2, 4, 4), "window_size": ((2, 7, 7),) * 2, "merge_axes": (1, 2)}, (4, 36, 40)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("add", [False, True])
def test_stochastic_depth_keeps_the_expectation(add, dtype):
    """1 / 0.9 is no number of bfloat16: it would make every branch 0.2 % too small."""
    drop_path, y = DropPath(0.1).train(), (torch.rand(1, 20_000) + 1).to(dtype).expand(400, -1)
    found = drop_path.add(torch.zeros_like(y), lambda kept: kept + y[: len(kept)]) if add else drop_path(y)
    found = found[found[:, 0] != 0].double()
    assert 320 < len(found) < 400
    assert found.mean() / y.double().mean() == pytest.approx(1 / 0.9, rel=3e-4)


def test_what_is_added_is_not_kept_for_backward():
    drop_path, x, weight = DropPath(0.5).train(), torch.randn(8, 5, 16), torch.randn(16, 16, requires_grad=True)
    kept, results = [], []

    def branch(x):
        results.append(F.linear(x, weight))
        return results[-1]

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        drop_path.add(x, branch).sum().backward()
    assert kept
    assert all(t.data_ptr() != results[0].data_ptr() for t in kept)


class Counter:
    """The samples that went through layer norms: what a hook would change cannot be counted by one."""

    def __init__(self):
        self.samples = 0

    def counting(self, f):
        def count(x, *rest):
            self.samples += len(x)
            return f(x, *rest)

        return count


def step(model, x, half=False):
    """Logits and gradients of one training step, always with the same samples dropped; and how many were computed."""
    torch.manual_seed(3)
    model.zero_grad()
    counter = Counter()
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=half),
        mock.patch.object(F, "layer_norm", counter.counting(F.layer_norm)),
        mock.patch.object(torch, "native_layer_norm", counter.counting(torch.native_layer_norm)),
    ):
        y = model(x).float()
    y.sin().sum().backward()
    return [y, *(p.grad.clone() for p in model.parameters())], counter.samples


def far(found, expected):
    """The largest difference of the logits, and of the whole gradient in its length, both relative."""
    a, b = (torch.cat([t.flatten() for t in some[1:]]) for some in (found, expected))
    return max(difference(found[0], expected[0]), float((a - b).norm() / b.norm()))


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
    assert far(found, expected) <= (3e-2 if half else 1e-5)


@pytest.mark.parametrize("rate", [0.0, 1e-9])
def test_where_nothing_is_dropped_the_result_is_the_same_to_the_bit(rate):
    model, x = SwinTransformer(SwinConfig(**{**SMALL, "drop_path_rate": rate})).train(), torch.randn(2, 3, 36, 40)
    with mock.patch.object(DropPath, "add", autospec=True, side_effect=DropPath.add) as add:
        (found, samples), (expected, of_all) = step(model, x), step(model.eval(), x)
    assert add.call_count == (0 if rate == 0 else 10)  # two for every block but the first, whose rate is 0
    assert samples == of_all
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Doubled(SwinBlock):
    def forward(self, x):
        return 2 * super().forward(x)


def _replace(name, make):
    def change(block):
        setattr(block, name, make())

    return change


def _batch_norm():
    return nn.Sequential(nn.Flatten(0, -2), nn.BatchNorm1d(32), nn.Unflatten(0, (6, 5, 5)))


CHANGES = {
    "hook": lambda block: block.attn.register_forward_hook(lambda *_: None),
    "batch norm": _replace("norm2", _batch_norm),
    "over the batch": _replace("norm2", lambda: nn.Softmax(0)),
    "dropout": lambda block: setattr(block.mlp.drop1, "p", 0.1),
    "dropout of attention": lambda block: setattr(block.attn, "attn_drop", 0.1),
    "another kernel": lambda block: setattr(block, "kernel", kernels.kernel("sdpa")),
    "forward": lambda block: setattr(block.drop_path, "forward", lambda y: 2 * y),
    "subclass": lambda block: setattr(block, "__class__", Doubled),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_all_samples_are_computed_where_somebody_looks_on(change, checkpointing):
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    model.set_grad_checkpointing(checkpointing)
    block, seen = model.stages[1].blocks[3], []
    CHANGES[change](block)
    plain = SwinBlock._add
    with mock.patch.object(SwinBlock, "_add", lambda self, x, branch: seen.append(self) or plain(self, x, branch)):
        step(model, x)
    assert block in seen
    assert model.stages[1].blocks[2] not in seen


def test_another_forward_of_the_class_is_called(monkeypatch):
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    monkeypatch.setattr(DropPath, "forward", lambda self, y: torch.zeros_like(y))
    assert torch.equal(model(x), model(x))


def test_seeds_and_dropout_give_the_same_on_every_kernel():
    model, x = SwinTransformer(SwinConfig(**SMALL, drop_rate=0.1)).train(), torch.randn(6, 3, 36, 40)
    expected, _ = step(model, x)
    model.set_kernel("sdpa")
    assert far(step(model, x)[0], expected) <= 1e-4


def test_a_block_in_the_place_of_another_is_checkpointed_too():
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    model.set_grad_checkpointing()
    model.stages[1].blocks[1] = nn.Identity()
    seen = []
    model.stages[1].blocks[2].register_forward_pre_hook(lambda block, args: seen.append(args))
    step(model, x)
    assert [len(args) for args in seen] == [1, 1]  # forward, and worked out again: the tokens and nothing else


def test_checkpointing_works_out_the_same_samples_again():
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    expected, _ = step(model, x)
    model.set_grad_checkpointing()
    found, _ = step(model, x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_capture_sees_all_samples(checkpointing):
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    model.set_grad_checkpointing(checkpointing)
    with explain.capture(model) as seen:
        y = model(x)
    y.sum().backward()  # outside, where nobody looks on any more
    assert {len(seen[f"stages.1.blocks.{i}.attn"]) for i in range(4)} == {6}


def test_a_checkpoint_of_the_whole_model_computes_the_same_again():
    model, x = SwinTransformer(SwinConfig(**SMALL)).train(), torch.randn(6, 3, 36, 40)
    with explain.capture(model):
        y = checkpoint(model, x, use_reentrant=False)
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
