"""Gradient checkpointing: the same gradients from less memory."""

from __future__ import annotations

import pytest
import torch

from helpers.definition import V2, randomise
from swindow import ConfigError, SwinConfig, SwinTransformer

CONFIG = SwinConfig(
    embed_dim=16, depths=(2, 3), num_heads=(2, 4), num_classes=5, drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.3
)
VIDEO = {"patch_size": (2, 4, 4), "merge_axes": (1, 2), "window_size": ((2, 4, 4),) * 2}


def step(model, x):
    """Logits, all gradients, and the bytes that autograd keeps between forward and backward."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    y.square().sum().backward()
    return y, [p.grad for p in model.parameters()], sum(kept.values())


@pytest.mark.parametrize(("config", "size"), [(CONFIG, (60, 72)), (CONFIG.replace(**V2), (60, 72))])
def test_gradients_are_equal_and_less_is_kept(config, size):
    model, x = randomise(SwinTransformer(config)).train(), torch.randn(2, 3, *size)
    expected, gradients, whole = step(model, x)
    kept = {}
    for stages in ((0,), (1,), True):
        model.set_grad_checkpointing(stages)
        found, ours, kept[stages] = step(model, x)
        assert torch.equal(found, expected)
        assert all(map(torch.equal, ours, gradients))
    assert kept[True] < 0.35 * whole
    assert kept[True] < min(kept[(0,)], kept[(1,)]) <= max(kept[(0,)], kept[(1,)]) < whole
    model.set_grad_checkpointing(False)
    assert step(model, x)[2] == whole


def test_video_frozen_stages_and_compiling():
    config = CONFIG.replace(**VIDEO, frozen_stages=1)
    model, x = randomise(SwinTransformer(config)).train(), torch.randn(1, 3, 7, 30, 33)
    model.set_grad_checkpointing()
    y = model(x)
    y.square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    model.eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), rtol=1e-5)


def test_without_gradients_nothing_is_checkpointed():
    model = SwinTransformer(CONFIG).eval()
    model.set_grad_checkpointing()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 30, 30)).shape == (1, 5)


@pytest.mark.parametrize("stages", [(2,), (-1,), (0, 7)])
def test_a_stage_that_is_not_there_is_refused(stages):
    with pytest.raises(ConfigError, match="expected numbers below 2"):
        SwinTransformer(CONFIG).set_grad_checkpointing(stages)
