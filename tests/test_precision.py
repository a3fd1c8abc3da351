"""Half precision: how far from fp32 it may be, that nothing overflows, and what is never computed in it."""

from __future__ import annotations

import functools

import pytest
import torch

from helpers.definition import V2, difference, randomise
from helpers.kernels import KERNELS, using
from swindow import SwinConfig, SwinTransformer, create
from swindow.kernels import attend, weights
from swindow.models.attention import ScaledCosine, ScaledDotProduct
from swindow.models.position_bias import ContinuousPositionBias
from swindow.precision import wide
from swindow.windows import resolve

NARROW = SwinConfig(embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=7, num_classes=5, drop_path_rate=0.0)
KINDS = {
    "v1": (NARROW, (100, 140)),
    "v2": (NARROW.replace(**V2, window_size=8), (100, 140)),
    "3d": (NARROW.replace(patch_size=(2, 4, 4), window_size=((4, 3, 3),) * 2, merge_axes=(1, 2)), (8, 50, 70)),
}
# max|a - b| / max|b| of the logits, and |a - b| / |b| of the whole gradient, from fp32: 4 to 8 units in the last place
# of the type (2^-8, 2^-11) for a model whose every parameter is random; docs/guarantees.md names the same numbers.
LOGITS = {torch.bfloat16: 0.04, torch.float16: 0.004}
GRADIENT = {torch.bfloat16: 0.08, torch.float16: 0.01}


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", LOGITS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_near_fp32(kind, dtype, kernel):
    config, size = KINDS[kind]
    model = randomise(SwinTransformer(config)).eval()
    x = torch.randn(2, 3, *size)
    with using(model, kernel):
        expected = model(x)
        cotangent = torch.randn_like(expected)
        expected.backward(cotangent)
        of_fp32 = gradient(model)
        model.zero_grad()
        with torch.autocast("cpu", dtype):
            found = model(x)
        assert found.dtype == dtype
        assert difference(found.float(), expected) <= LOGITS[dtype]
        found.backward(cotangent.to(dtype))
        assert float((gradient(model) - of_fp32).norm() / of_fp32.norm()) <= GRADIENT[dtype]
        assert difference(model.to(dtype)(x.to(dtype)).float(), expected) <= LOGITS[dtype]  # all weights in half


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_penalty_on_the_gradient_in_bfloat16_stays_near_fp32(kind, kernel):
    config, size = KINDS[kind]
    model, x = randomise(SwinTransformer(config)).eval(), torch.randn(2, 3, *size)
    found = {}
    with using(model, kernel):
        for half in (False, True):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):  # backward too, as nobody should
                first = torch.autograd.grad(model(x).float().sin().sum(), list(model.parameters()), create_graph=True)
            sum(g.float().square().sum() for g in first).backward()
            found[half] = gradient(model)
    assert float((found[True] - found[False]).norm() / found[False].norm()) <= 2 * GRADIENT[torch.bfloat16]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("grid", "window", "shift"), [((14, 14), (7, 7), (3, 3)), ((9, 5), (4, 4), (2, 2))])
def test_logits_of_ten_thousand_make_no_nan_in_fp16(grid, window, shift, kernel):
    """Queries, keys and values are plus or minus 36: fp16 holds them, and with 8 channels logits reach 10368."""
    heads, d = 2, 8
    qkv = 36.0 * torch.randint(0, 2, (2, *grid, 3 * heads * d)).mul(2).sub(1).flatten(0, -2)  # (B*H*W, 3C)
    g = resolve(grid, window, shift)
    bias = torch.randn(heads, g.window[0] * g.window[1], g.window[0] * g.window[1]).half()

    def run(dtype, function):
        held = qkv.to(dtype).requires_grad_()
        number = torch.arange(len(held), dtype=dtype).view(2, *grid, 1).expand(2, *grid, heads * d)
        # Tokens hold their number; the projection looks up what stands there.
        return held, function(number, lambda x: held[x[..., 0].long()], bias.to(dtype), g, lambda q, k: (q, k))

    on_kernel = functools.partial(attend, kernel=kernel)
    (held, found), (_, expected) = run(torch.float16, on_kernel), run(torch.float64, on_kernel)
    assert difference(found.double(), expected) <= 2e-3
    found.sum().backward()
    assert held.grad.isfinite().all()
    assert run(torch.float16, weights)[1].isfinite().all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["v1", "3d"])
def test_a_model_with_huge_logits_survives_fp16_autocast(kind, kernel):
    config, size = KINDS[kind]
    model = randomise(SwinTransformer(config))
    x, seen = torch.randn(1, 3, *size), []

    def record(module, inputs, output):
        seen.append(float((output[0].float() @ output[1].float().transpose(-2, -1)).detach().abs().max()))

    for stage in model.stages:
        for block in stage.blocks:
            with torch.no_grad():
                block.attn.qkv.weight.mul_(55)
            block.attn.similarity.register_forward_hook(record)
    with using(model, kernel), torch.autocast("cpu", torch.float16):
        y = model(x)
    assert 1e4 < max(seen) < 1e5
    assert y.isfinite().all()
    y.float().sum().backward()
    assert gradient(model).isfinite().all()


@pytest.mark.parametrize("dtype", LOGITS, ids=str)
def test_coordinates_and_scale_are_never_computed_in_half(dtype):
    bias = randomise(ContinuousPositionBias((12, 12), 2)).to(dtype)
    same = randomise(ContinuousPositionBias((12, 12), 2))
    same.load_state_dict({name: p.float() for name, p in bias.state_dict().items()})
    with torch.autocast("cpu", dtype):
        assert torch.equal(bias((24, 24)), same((24, 24)))
        assert bias((24, 24)).dtype == torch.float32
    similarity = ScaledCosine(2, 4).to(dtype)
    with torch.no_grad():
        similarity.logit_scale.fill_(50)
    tiny = torch.full((1, 2, 3, 4), 2e-4, dtype=dtype)  # its square is 0 in fp16
    long, unit = similarity(tiny, tiny)
    assert difference(long.float().norm(dim=-1), torch.full((1, 2, 3), 100.0)) <= 4e-3
    assert difference(unit.float().norm(dim=-1), torch.ones(1, 2, 3)) <= 4e-3


def test_double_stays_double():
    assert wide(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert wide(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    q = torch.randn(1, 3, 4, dtype=torch.float64)
    assert ScaledDotProduct(2, 4)(q, q)[0].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("watched", [False, True])
def test_queries_keys_and_values_are_in_the_type_of_the_autocast(dtype, watched):
    """SwinV2 adds its bias where the layer is called too: in fp32 it would make the result fp32."""
    attention = create("swinv2_tiny_w8", embed_dim=8, depths=(1,), num_heads=(1,)).stages[0].blocks[0].attn
    if watched:
        attention.qkv.register_forward_hook(lambda *_: None)
    with torch.autocast("cpu", dtype):
        assert attention.project(torch.randn(2, 4, 4, 8)).dtype == dtype
