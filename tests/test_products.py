"""Which matrix product runs where, and that all give the same: forward, backward, and derivatives of second order."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.definition import V2, difference, randomise
from swindow import ConfigError, SwinConfig, SwinTransformer, create, kernels
from swindow.kernels import products
from swindow.kernels.products import ALL, LARGE, MEDIUM, NONE, ONEDNN, TABLE, TORCH, Area, Processor
from swindow.models.deployed import Product

needs_onednn = pytest.mark.skipif(not products.private.has_onednn_linear(), reason="this PyTorch has no oneDNN")
SIZES = {
    "v1, odd sizes": (SwinConfig(embed_dim=24, depths=(2, 2), num_heads=(3, 6), num_classes=5), (3, 61, 47)),
    "no bias": (SwinConfig(embed_dim=24, depths=(1, 1), num_heads=(1, 2), qkv_bias=False), (3, 40, 33)),
    "v2": (SwinConfig(embed_dim=24, depths=(2, 2), num_heads=(3, 6), window_size=5, **V2), (3, 37, 50)),
    "3-D": (
        SwinConfig(embed_dim=24, depths=(2, 2), num_heads=(1, 2), patch_size=(2, 4, 4), window_size=(3, 3)),
        (3, 5, 30, 41),
    ),
}


@needs_onednn
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 50), st.integers(1, 50), st.booleans(), st.booleans())
def test_onednn_gives_what_pytorch_gives(rows, dim, out, bias, gelu):
    layer = nn.Linear(dim, out, bias)
    x = torch.randn(2, rows, dim, requires_grad=True)
    leaves = [x, *layer.parameters()]
    results = []
    for product in ("torch", "onednn"):
        y = products.linear(x, layer.weight, layer.bias, product, gelu=gelu)
        gradients = torch.autograd.grad(y, leaves, torch.cos(y.detach()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves, allow_unused=True)
        with torch.no_grad():
            results.append((y, products.linear(x, layer.weight, layer.bias, product, gelu), *gradients, *second))
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or difference(ours, theirs) <= 2e-5


@needs_onednn
@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen):
    x, weight, bias = torch.randn(9, 6), torch.randn(4, 6), torch.randn(4)
    leaves = {"x": x, "weight": weight, "bias": bias}
    for name, t in leaves.items():
        t.requires_grad_(name != frozen)
    products.linear(x, weight, bias, "onednn").square().sum().backward()
    found = {name: t.grad for name, t in leaves.items()}
    for t in leaves.values():
        t.grad = None
    F.linear(x, weight, bias).square().sum().backward()
    for name, t in leaves.items():
        assert (found[name] is None) == (name == frozen)
        assert t.grad is None or difference(found[name], t.grad) <= 2e-5


@needs_onednn
@pytest.mark.parametrize("kind", SIZES)
def test_models_give_the_same_with_every_product(kind, monkeypatch):
    config, size = SIZES[kind]
    model, x = randomise(SwinTransformer(config)).eval(), torch.randn(2, *size)
    found, calls, multiply = [], [], products.private.onednn_linear
    monkeypatch.setattr(products.private, "onednn_linear", lambda *a: calls.append(product) or multiply(*a))
    for product in ("torch", "onednn"):
        model.set_kernel(product=product)
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        with torch.no_grad():
            plain = model(x)
        found.append([y, plain, model.deploy(product)(x), *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert difference(ours, theirs) <= 1e-4
    assert difference(found[1][0], found[0][0]) <= 2e-5
    assert set(calls) == {"onednn"}


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_prepacked_products_are_the_plain_ones(bias):
    layer, x = nn.Linear(40, 24, bias), torch.randn(9, 40)
    plain, packed = Product(layer.weight, layer.bias, "torch"), Product(layer.weight, layer.bias, "onednn")
    assert plain.packed is None
    assert packed.packed is not None
    for product in (plain, packed):
        for rows in (1, 9):
            assert difference(product(x[:rows]), layer(x[:rows])) <= 2e-6
            assert difference(product(x[:rows], gelu=True), F.gelu(layer(x[:rows]))) <= 2e-6
        total = torch.ones(9, 24)
        product.add_to(total, x)
        assert difference(total, 1 + layer(x)) <= 2e-6


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (Processor("AuthenticAMD", 26, "AVX512", True), TABLE[0].choice),
        (Processor("AuthenticAMD", 25, "AVX512", True), TABLE[1].choice),
        (Processor("AuthenticAMD", 25, "AVX2"), TABLE[2].choice),
        (Processor("GenuineIntel", 6, "AVX512", True), TORCH),  # not measured
        (Processor("", 0, "DEFAULT"), TORCH),
    ],
)
def test_the_table_is_read_by_the_processor(processor, expected, monkeypatch):
    monkeypatch.delenv(products.VARIABLE, raising=False)
    monkeypatch.setattr(products.private, "has_onednn_linear", lambda: True)
    monkeypatch.setattr(products, "processor", lambda: processor)
    products._choice.cache_clear()
    try:
        assert products.choice() == expected
        assert products.choice("onednn") == ONEDNN
        assert products.choice("torch") == TORCH
        monkeypatch.setenv(products.VARIABLE, "onednn")
        assert products.choice() == ONEDNN
        assert products.choice("torch") == TORCH  # what is asked for in the program comes first
        monkeypatch.setattr(products.private, "has_onednn_linear", lambda: False)
        products._choice.cache_clear()
        assert products.choice("onednn") == TORCH  # this PyTorch has none
    finally:
        products._choice.cache_clear()


def test_every_row_says_where_it_was_measured():
    assert all("2026" in row.measured and "core" in row.measured for row in TABLE)


def test_areas():
    assert LARGE.holds(3136, 96 * 96)
    assert not LARGE.holds(49, 96 * 384)
    assert MEDIUM.holds_some(96)
    assert not NONE.holds_some(2**40)
    assert ALL.holds(0, 1)
    assert [Area(128, 2**20).holds(*size) for size in ((128, 2**20), (129, 2**20), (128, 2**20 - 1))] == [1, 0, 0]


def test_an_unknown_product_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv(products.VARIABLE, "mkl")
    with pytest.raises(ConfigError, match=r"SWINDOW_PRODUCT: got 'mkl', expected one of torch, onednn"):
        create("swin_nano").set_kernel()


@needs_onednn
def test_a_product_is_not_used_where_somebody_looks_on():
    layer, x, seen = nn.Linear(8, 8), torch.randn(3, 8), []
    layer.register_forward_hook(lambda *call: seen.append(1))
    kernels.linear(layer, x, kernel=kernels.Kernel(product="onednn"))
    assert seen == [1]


@needs_onednn
@pytest.mark.parametrize("stride", [0, 2])
@torch.no_grad()
def test_a_bias_may_lie_anyhow_in_memory(stride):
    x, weight, bias = torch.randn(9, 6), torch.randn(4, 6), torch.randn(8).as_strided((4,), (stride,))
    assert difference(products.linear(x, weight, bias, "onednn"), F.linear(x, weight, bias)) <= 2e-6
    assert difference(Product(weight, bias, "onednn")(x), F.linear(x, weight, bias)) <= 2e-6


@torch.no_grad()
def test_the_product_of_the_model_decides_in_bfloat16_and_in_deploy(monkeypatch):
    monkeypatch.delenv(products.VARIABLE, raising=False)
    monkeypatch.setattr(products, "processor", lambda: Processor("AuthenticAMD", 25, "AVX512", bf16=True))
    monkeypatch.setattr(products.private, "has_onednn_linear", lambda: True)
    products._choice.cache_clear()
    calls, compute = [], kernels.cpu_mlp.mlp
    monkeypatch.setattr(kernels.cpu_mlp, "mlp", lambda *a: calls.append(1) or compute(*a))
    try:
        model, x = create("swin_nano", num_classes=3).eval().bfloat16(), torch.randn(1, 3, 32, 32).bfloat16()
        model.set_kernel(product="torch")
        model(x)
        assert not calls
        model.set_kernel()
        model(x)
        assert len(calls) == sum(model.config.depths)
        monkeypatch.setattr(products, "processor", lambda: Processor("AuthenticAMD", 25, "AVX512", bf16=False))
        assert not products.bf16_in_blocks()
        model.float().set_kernel(product="torch")
        assert model.deploy().model.stages[0].blocks[0].fc1.choice == TORCH
    finally:
        products._choice.cache_clear()


def test_a_product_that_is_no_name_is_refused():
    with pytest.raises(ConfigError, match=r"product: got \['torch'\], expected one of torch, onednn"):
        create("swin_nano").set_kernel(product=["torch"])
