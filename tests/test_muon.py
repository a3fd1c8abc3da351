"""Muon: beside torch.optim.Muon, beside AdamW, by its definition, and in runs."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import swindow
from swindow import data
from swindow.data import Splits, Subset
from swindow.training import Progress, TrainConfig, train
from swindow.training.muon import Muon, matrices_apart, orthogonal
from swindow.training.optimizer import optimizer_of, parameter_groups


def groups_of(model, weight_decay=0.1):
    return matrices_apart(model, parameter_groups(model, weight_decay))


def with_gradients(model, seed):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (3, 6, 8), (2, 3, 7, 5), (1, 6), (6, 1)])
def test_orthogonal_matrices_have_the_same_directions(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ orthogonal(x).double() @ vh.mT  # diagonal: the same singular vectors
    values = inside.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(inside, torch.diag_embed(values), atol=1e-4)
    assert values.min() > 0.4  # the smallest values of x have not yet grown to 0.7 after five steps
    assert values.max() < 1.25


def test_the_zero_matrix_stays_zero():
    assert torch.equal(orthogonal(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is in PyTorch from 2.9 on")
def test_one_matrix_goes_as_with_torch():
    ours, start = nn.Linear(24, 10, bias=False), torch.randn(10, 24)
    ours.weight.data.copy_(start)
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.02, "weight_decay": 0.1}
    mine = Muon([{"params": [ours.weight], "weight_decay": 0.1, "pieces": 1}], lr=0.02)
    other = torch.optim.Muon(theirs.parameters(), **settings, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        for model, optimizer in ((ours, mine), (theirs, other)):
            with_gradients(model, step)
            optimizer.step()
    moved = (ours.weight - start).norm()
    assert (ours.weight - theirs.weight).norm() < 0.02 * moved  # theirs is computed in bfloat16


@pytest.mark.parametrize("pieces", [1, 3])
def test_matrices_of_one_shape_do_not_touch_each_other(pieces):
    together = [nn.Parameter(torch.randn(shape)) for shape in ((6, 8), (18, 4), (6, 8), (6, 8), (18, 4))]
    alone = copy.deepcopy(together)
    one = Muon([{"params": together, "pieces": pieces}], lr=0.1)
    each = [Muon([{"params": [weight], "pieces": pieces}], lr=0.1) for weight in alone]
    for step in range(3):
        for weights, optimizers in ((together, [one]), (alone, each)):
            with_gradients(nn.ParameterList(weights), step)
            weights[2].grad = None if step == 1 else weights[2].grad * 1e3  # one has no gradient in a step
            for optimizer in optimizers:
                optimizer.step()
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_all_else_goes_as_with_adamw():
    ours = swindow.create("swin_nano", num_classes=3, depths=(1, 1, 1))
    theirs = copy.deepcopy(ours)
    mine = optimizer_of("muon", ours, parameter_groups(ours, 0.1), {})
    other = optimizer_of("adamw", theirs, parameter_groups(theirs, 0.1), {})
    for step in range(3):
        for model, optimizer in ((ours, mine), (theirs, other)):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * group["lr_scale"]
            with_gradients(model, step)
            optimizer.step()
    same = {name for name, p in ours.named_parameters() if torch.equal(p, theirs.get_parameter(name))}
    matrices = {name for name, p in ours.named_parameters() if "stages" in name and p.ndim == 2 and "bias" not in name}
    assert same == {name for name, _ in ours.named_parameters()} - matrices
    assert {name.rsplit(".", 2)[1] for name in matrices} == {"qkv", "proj", "fc1", "fc2", "reduction"}
    assert all(p.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("variant", ["swin_nano", "swinv2_tiny_w8", "swin3d_tiny"])
def test_every_parameter_is_in_one_group(variant, layer_decay):
    model = swindow.create(variant, num_classes=3)
    groups = matrices_apart(model, parameter_groups(model, 0.1, layer_decay, head_lr_scale=2.0))
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(map(id, model.parameters()))
    qkv = {id(p) for name, p in model.named_parameters() if name.endswith("qkv.weight")}
    assert {id(p) for group in groups if group.get("pieces") == 3 for p in group["params"]} == qkv
    assert all(p.ndim == 2 and group["weight_decay"] for group in groups if "pieces" in group for p in group["params"])


def test_queries_keys_and_values_are_three_matrices():
    model = swindow.create("swin_nano", num_classes=3)
    weight = model.stages[0].blocks[0].attn.qkv.weight
    before = weight.detach().clone()
    optimizer = Muon(groups_of(model, 0.0), lr=1.0)
    with_gradients(model, 0)
    weight.grad[:32] *= 1000  # of the queries: the others' steps stay as large
    optimizer.step()
    steps = (before - weight).unflatten(0, (3, 32)).norm(dim=(1, 2))
    assert steps.max() < 1.3 * steps.min()


def test_a_wrong_momentum():
    with pytest.raises(ValueError, match="momentum: got 1, expected a fraction below 1"):
        Muon([{"params": [nn.Parameter(torch.ones(2, 2))]}], momentum=1)


class Stop(Progress):
    def step(self, done, figures, images_per_s):
        if done == 5:
            raise KeyboardInterrupt


def test_a_run_resumes_exactly(tmp_path):
    digits = Splits(*(Subset(part.dataset, part.indices[:80]) for part in data.digits()))
    settings = TrainConfig(
        optimizer="muon", epochs=2, batch_size=16, image_size=8, device="cpu", save_minutes=0.0, out=tmp_path / "whole"
    )
    whole = train(digits, settings)
    stopped = dataclasses.replace(settings, out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(digits, stopped, progress=Stop())
    train(digits, stopped)
    one, two = (swindow.load(out / "model.safetensors").state_dict() for out in (whole.out, stopped.out))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert whole.history[-1]["train_loss"] < whole.history[0]["train_loss"]
