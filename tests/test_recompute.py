"""Training on a CPU does not save normalised tokens for backward, and nothing else changes."""

from __future__ import annotations

import gc
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from helpers.definition import difference, randomise
from swindow import SwinConfig, SwinTransformer, kernels, private
from swindow.kernels import cpu_mlp, products, recompute

pytestmark = pytest.mark.skipif(
    private._saved_tensor_hooks is None, reason="this PyTorch cannot say whether hooks are active: tokens are saved"
)
SMALL = SwinConfig(embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=3, drop_path_rate=0.0)
KINDS = {
    "v1": (SMALL, (36, 40)),  # maps that windows do not fit
    "stochastic depth": (SMALL.replace(drop_path_rate=0.5), (36, 40)),
    "dropout": (SMALL.replace(drop_rate=0.2, attn_drop_rate=0.2), (36, 40)),
    "3d": (SMALL.replace(patch_size=(2, 4, 4), window_size=((2, 7, 7),) * 2, merge_axes=(1, 2)), (4, 36, 40)),
}


def save_all(monkeypatch):
    monkeypatch.setattr(recompute, "saved", lambda y: recompute.Saved(recompute._itself, (y,)))


def build(config=SMALL, dtype=torch.float32):
    return randomise(SwinTransformer(config)).to(dtype).train()


def step(model, x, run=SwinTransformer.__call__):
    """Logits and gradients of a training step, and how many norms were computed again in backward."""
    torch.manual_seed(3)
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = run(model, x)
    with mock.patch.object(F, "layer_norm", side_effect=F.layer_norm) as norm:
        y.sin().sum().backward()
    return [y, x.grad, *(p.grad.clone() for p in model.parameters())], norm.call_count


@pytest.mark.parametrize("product", [None, "torch", "onednn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_saved_tokens(kind, dtype, product, monkeypatch):
    config, size = KINDS[kind]
    model, x = build(config, dtype), torch.randn(2, 3, *size, dtype=dtype)
    model.set_kernel(product=product)
    found, again = step(model, x)
    save_all(monkeypatch)
    expected, none = step(model, x)
    assert none == 0
    assert again or kind == "dropout"  # there, other functions run, which save their inputs
    assert max(map(difference, found, expected)) <= (1e-6 if dtype == torch.float32 else 1e-14)


def held(run, collect=gc.collect):
    """Bytes that a function allocates and does not free, beside those of a first call, while its result is there."""
    run()
    collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = run()
        collect()
    del result
    return sum(event.self_cpu_memory_usage for event in profiled.key_averages())


@pytest.mark.parametrize("product", ["torch", "onednn"])
def test_two_of_twelve_channels_are_not_saved(product, monkeypatch):
    model, x = build(SMALL.replace(depths=(2, 3))), torch.randn(2, 3, 56, 56)
    model.set_kernel(product=product)
    less = held(lambda: model(x))
    save_all(monkeypatch)
    tokens = 2 * (2 * 196 * 16 + 3 * 49 * 32)  # numbers of all blocks' maps; 14 x 14 and 7 x 7 tokens, without padding
    merged = 2 * 49 * 64
    assert held(lambda: model(x)) - less == 4 * (2 * tokens + merged)


def checkpointed(part, calling):
    """Replaces a part of the second block by one that checkpoints itself; what is called follows from the part."""

    def run(model, x):
        block = model.stages[0].blocks[1]
        plain = getattr(block, part)

        class Checkpointed(nn.Module):
            def forward(self, *inputs):
                return checkpoint(calling(plain), *inputs, use_reentrant=False)

        setattr(block, part, Checkpointed())
        y = model(x)
        setattr(block, part, plain)
        return y

    return run


def saved_hooks(model, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().numpy(), torch.from_numpy):
        return model(x)


def forbidden(model, x):
    with torch.autograd.graph.disable_saved_tensors_hooks("they are forbidden"):
        return model(x)


def hooked(model, x):
    handles = [m.register_forward_hook(lambda *_: None) for m in model.modules() if isinstance(m, nn.LayerNorm)]
    y = model(x)
    for handle in handles:
        handle.remove()
    return y


def half(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        return model(x).float()


OTHERS = {
    "hooks for saved tensors": (saved_hooks, 0),
    "a checkpoint": (lambda model, x: checkpoint(model, x, use_reentrant=False), None),  # which computes all again
    "a checkpoint of attention": (checkpointed("attn", lambda attn: attn), 8),  # of 2 for every block and 1 for merging
    "a checkpoint of an MLP": (checkpointed("mlp", lambda mlp: lambda y: kernels.mlp(mlp, y)), 8),
    "hooks disabled": (forbidden, 9),
    "hooks of norms": (hooked, 0),
    "autocast": (half, 0),
}


@pytest.mark.parametrize("other", OTHERS)
def test_tokens_are_saved_where_somebody_else_decides(other):
    run, times = OTHERS[other]
    model, x = build(), torch.randn(2, 3, 36, 40)
    expected, again = step(model, x)
    assert again == 9
    found, again = step(model, x, run)
    bounds = (3e-2, 3e-1) if other == "autocast" else (1e-6, 1e-5)
    assert difference(found[0], expected[0]) <= bounds[0]
    assert max(map(difference, found, expected)) <= bounds[1]
    assert times is None or again == times


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_second_gradients_are_those_of_saved_tokens(dtype, bound, monkeypatch):
    model, x = build(dtype=dtype), torch.randn(1, 3, 36, 40, dtype=dtype)
    weights = list(model.parameters())

    def second():
        first = torch.autograd.grad(model(x).sin().sum(), weights, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), weights)

    found = second()
    save_all(monkeypatch)
    assert max(map(difference, found, second())) <= bound
    model.set_kernel("reference")
    assert max(map(difference, found, second())) <= 1e3 * bound


def linear(y, weight, bias):
    return products._Linear.apply(y, weight, bias, products.TORCH, recompute.saved(y))  # fp32 alone gets there


def turned(y, weight, bias):
    there, back = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([1, 3, 5, 0, 4])  # the sixth token is padding
    return linear(recompute.reordered(y.view(1, 5, 4), there, back), weight, bias)


def mlp(y, weight, bias):
    return cpu_mlp.mlp(y, weight, bias, weight.t(), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("function", [lambda y, *_: y, linear, turned, mlp])
def test_each_function_passes_gradcheck(function):
    def f(x, norm_weight, norm_bias, *weights):
        return function(recompute.norm(x, norm_weight, norm_bias, 1e-5), *weights)

    inputs = [
        torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((5, 4), (4,), (4,), (3, 4), (3,))
    ]
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


def test_a_graph_that_is_retained_gives_its_gradients_again():
    model, x = build(), torch.randn(2, 3, 36, 40)
    y = model(x).sum()
    one, other = (torch.autograd.grad(y, model.parameters(), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, one, other))


def test_backward_frees_what_was_saved():
    """Also while the graph is still there."""
    model, x = build(), torch.randn(2, 3, 36, 40)

    def run():
        loss = model(x).sum()
        loss.backward()
        return loss

    assert held(run) <= 64  # bytes; the loss, but none of the gradients, which are added up where they are


NAMES = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alone", [False, True])
def test_a_weight_changed_before_backward_is_an_error(name, alone):
    """Also where gradients of the linear layers alone are asked for, and the LayerNorm's own backward does not run."""
    model = build()
    block = model.stages[0].blocks[0]
    y = model(torch.randn(2, 3, 36, 40)).sum()
    with torch.no_grad():
        block.get_submodule(name).weight.add_(1)
    wanted = [block.attn.qkv.weight, block.mlp.fc1.weight] if alone else list(model.parameters())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, wanted)


def in_place(y):
    with torch.no_grad():  # which leaves the node of y as it is
        return y.mul_(2)


CHANGES = [in_place, lambda y: y.mul_(2), lambda y: y[1:], lambda y: y.t().contiguous().t(), torch.relu]


@pytest.mark.parametrize("change", CHANGES)
def test_tokens_that_were_changed_are_saved(change):
    norm, layer, x = nn.LayerNorm(8), nn.Linear(8, 8), torch.randn(3, 8)

    def gradient(y, product):
        return torch.autograd.grad(product(change(y)).sin().sum(), layer.weight)[0]

    def normed():
        return recompute.norm(x, norm.weight, norm.bias, norm.eps)

    assert recompute.saved(normed()).recomputes
    assert not recompute.saved(change(normed())).recomputes
    assert difference(gradient(normed(), lambda y: kernels.linear(layer, y)), gradient(norm(x), layer)) <= 1e-6


def test_gradients_of_parts_one_after_the_other():
    """The node of the norm is freed before that of the layer runs, as where a pipeline splits the backward pass."""
    norm, layer, x = nn.LayerNorm(8), nn.Linear(8, 8), torch.randn(3, 8, requires_grad=True)

    def gradients(y, product):
        edge, z = torch.autograd.graph.get_gradient_edge(y), product(y)
        torch.autograd.grad(edge, [norm.weight], torch.ones_like(y))
        return torch.autograd.grad(z.sin().sum(), layer.weight)[0]

    found = gradients(recompute.norm(x, norm.weight, norm.bias, norm.eps), lambda y: kernels.linear(layer, y))
    assert difference(found, gradients(norm(x), layer)) <= 1e-6


@pytest.mark.parametrize("kernel", [None, "reference"])
def test_a_graph_without_a_backward_pass_is_freed(kernel):
    model, x = build(), torch.randn(2, 3, 36, 40)
    model.set_kernel(kernel)
    gc.disable()  # the graph holds no cycle
    try:
        assert held(lambda: model(x).sum().item(), collect=lambda: None) == 0
    finally:
        gc.enable()
