"""SwinV2 and the backbone options: each of the places where the family differs, against its definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from helpers.definition import RULES, V2, Problem, difference, fit, keys_of, places, randomise, region
from helpers.kernels import KERNELS, using
from swindow import ConfigError, InputError, SwinConfig, SwinTransformer
from swindow.models import SwinBlock
from swindow.models.attention import ScaledCosine
from swindow.models.position_bias import ContinuousPositionBias

SMALL = SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, patch_size=2, num_classes=5, **V2)


def build(config, dtype=torch.float64):
    return randomise(SwinTransformer(config)).to(dtype).eval()


def log_spaced(offset, trained):
    """Equation 4 of SwinV2 for one axis, with the official code's factor of 8 and base 8."""
    x = 8 * offset / (trained - 1) if trained > 1 else 0.0
    return math.copysign(math.log2(1 + abs(x)) / math.log2(8), x)


def attention_by_definition(y, attn, problem, trained):
    """Cosine attention with the continuous bias, pair by pair, (B, *grid, hd)."""
    tokens, keys = places(problem.grid), keys_of(problem)
    size = problem.grid if problem.rule.mask_padding else fit(problem).padded
    x = y.new_zeros(y.shape[0], *size, y.shape[-1])
    x[(slice(None), *map(slice, problem.grid))] = y
    bias = torch.cat((attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias))
    heads = attn.similarity.logit_scale.shape[0]
    projected = (x.flatten(1, -2) @ attn.qkv.weight.T + bias).unflatten(-1, (3, heads, -1))
    q, k, v = projected.unbind(2)  # (B, P, h, d) each
    scale = attn.similarity.logit_scale.clamp(max=math.log(100)).exp().flatten()  # (h,)
    mlp = attn.position_bias.mlp
    rows = []
    for place in tokens:
        seen = [j for j, key in enumerate(keys) if region(place, fit(problem)) == region(key, fit(problem))]
        at = keys.index(place)
        offsets = [[log_spaced(a - b, t) for a, b, t in zip(place, keys[j], trained)] for j in seen]
        b = 16 * mlp(torch.tensor(offsets, dtype=y.dtype)).sigmoid()  # (seen, h)
        cosine = torch.cosine_similarity(q[:, at, None], k[:, seen], dim=-1)  # (B, seen, h)
        weights = (cosine * scale + b).softmax(1)
        rows.append((weights[..., None] * v[:, seen]).sum(1).flatten(1))
    return torch.stack(rows, 1).unflatten(1, y.shape[1:-1])  # (B, *grid, hd)


PROBLEMS = [
    ((5, 6), (3, 4), (1, 2)),
    ((4, 9), (4, 4), (2, 2)),
    ((3, 2), (4, 4), (2, 2)),
    ((3, 4, 5), (2, 3, 3), (1, 1, 1)),
    ((7,), (1,), (0,)),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("grid", "window", "shift"), PROBLEMS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_block_is_its_definition_forward_and_backward(grid, window, shift, rule, kernel):
    """On any rule, in both kernels; a window that shrinks keeps the coordinates of the one it was trained with."""
    check_block(grid, window, shift, rule, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("grid", "window", "shift"), PROBLEMS)
def test_so_it_is_where_heads_times_their_channels_are_not_the_width(grid, window, shift, kernel):
    check_block(grid, window, shift, RULES[0], kernel, head_dim=3)


def check_block(grid, window, shift, rule, kernel, **fields):
    """Compares a block with its definition, forward and backward."""
    if rule.shrink == "min":  # made for windows of equal sides
        window, shift = window[-1:] * len(window), shift[-1:] * len(shift)
    trained = tuple(w + 1 for w in window)
    config = SwinConfig(
        embed_dim=4,
        depths=(1,),
        num_heads=(2,),
        patch_size=(1,) * len(grid),
        window_size=(window,),
        pretrained_window_size=(trained,),
        **V2,
        **rule._asdict(),
        **fields,
    )
    block = randomise(SwinBlock(config, 0, 0)).double().eval()
    block.shift = shift
    problem = Problem(grid, window, shift, rule)
    inputs = [torch.randn(2, *grid, 4, dtype=torch.float64, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    y = block.attn.proj(attention_by_definition(inputs[0], block.attn, problem, trained))
    x = inputs[0] + block.norm1(y)
    wanted = x + block.norm2(block.mlp(x))
    with using(block, kernel):
        found = block(inputs[1])
    assert difference(found, wanted) <= 1e-9
    cotangent = torch.randn_like(wanted)
    of_definition = torch.autograd.grad(wanted, [inputs[0], *block.parameters()], cotangent)
    of_block = torch.autograd.grad(found, [inputs[1], *block.parameters()], cotangent)
    for a, b in zip(of_block, of_definition, strict=True):
        assert difference(a, b) <= 1e-9


def test_the_scale_starts_at_ten_and_ends_at_a_hundred():
    similarity = ScaledCosine(3, 4)
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    assert torch.allclose(similarity(q, k)[0].norm(dim=-1), torch.tensor(10.0))
    nn.init.constant_(similarity.logit_scale, 50.0)
    long, unit = similarity(q, k)
    assert torch.allclose(long.norm(dim=-1), torch.tensor(100.0))
    assert torch.allclose(unit.norm(dim=-1), torch.tensor(1.0))


def test_keys_have_no_bias():
    attn = randomise(SwinTransformer(SMALL)).stages[0].blocks[0].attn
    q, k, v = attn.project(torch.zeros(1, SMALL.embed_dim)).chunk(3, -1)
    assert not k.any()
    assert torch.equal(q[0], attn.q_bias)
    assert torch.equal(v[0], attn.v_bias)


def test_branches_start_as_nothing():
    """Res-post-norm norms start at 0, so that a fresh stage hands its tokens on as they are."""
    model = SwinTransformer(SMALL)
    x = torch.randn(1, 7, 9, 8)
    assert torch.equal(model.stages[0].blocks(x), x)
    assert float(model.stages[0].merge.norm.weight.detach().mean()) == 1
    assert sum(p.numel() for p in ContinuousPositionBias((4, 4), 3).parameters()) == 2 * 512 + 512 + 512 * 3


def test_the_bias_lies_between_0_and_16_and_is_computed_in_fp32_under_autocast():
    bias = randomise(ContinuousPositionBias((7, 7), 2))
    wide = bias((7, 7))
    assert 0 < wide.detach().min() < wide.detach().max() < 16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bias((7, 7)), wide)


def test_extra_norms_end_every_so_many_blocks():
    model = SwinTransformer(SMALL.replace(depths=(2, 5), extra_norm_period=2))
    extra = [[isinstance(b.norm3, nn.LayerNorm) for b in stage.blocks] for stage in model.stages]
    assert extra == [[False, True], [False, True, False, True, False]]


@pytest.mark.parametrize("version", [{}, V2])
@pytest.mark.parametrize("patch", [2, (2, 2, 2)])
def test_any_size_in_both_kernels(version, patch):
    axes = 2 if patch == 2 else 3
    config = SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=3, patch_size=patch, **version)
    model = build(config)
    for size in itertools.product((1, 7, 12), repeat=axes):
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        with using(model, "reference"):
            wanted = model(x)
        assert difference(model(x), wanted) <= 1e-9


# --- a backbone for others --------------------------------------------------------------------------------------------


def test_output_norms_and_a_choice_of_stages():
    model = build(SMALL.replace(out_norms=True, out_indices=(0, 1)))
    x = torch.randn(2, 3, 20, 26, dtype=torch.float64)
    raw = list(model._maps(model.patch_embed(x)))
    for i, found in enumerate(model.pyramid(x)):
        assert difference(found, model.out_norms[str(i)](raw[i]).movedim(-1, 1)) <= 1e-12
    assert difference(model.features(x), model.pyramid(x)[-1].flatten(2).mean(-1)) <= 1e-12
    assert "norm.weight" not in model.state_dict()  # the last output norm takes its place
    first = build(SMALL.replace(out_indices=(0,)))
    assert [m.shape[1] for m in first.pyramid(x)] == [8]
    assert first(x).shape == (2, 5)


@pytest.mark.parametrize("stages", [-1, 0, 1, 2])
def test_frozen_stages_are_not_trained(stages):
    model = SwinTransformer(SMALL.replace(frozen_stages=stages, drop_rate=0.5, out_norms=True)).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    prefixes = tuple(f"{kind}.{i}." for i in range(stages) for kind in ("stages", "out_norms"))
    prefixes += ("patch_embed.",) if stages >= 0 else ()
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    assert model.patch_embed.training == (stages < 0)
    assert [stage.training for stage in model.stages] == [i >= stages for i in range(2)]
    assert model.training


def test_pixels_that_fill_no_patch_can_be_dropped():
    model = build(SMALL.replace(patch_remainder="drop", patch_size=4))
    x = torch.randn(1, 3, 61, 35, dtype=torch.float64)
    assert torch.equal(model(x), model(x[..., :60, :32]))
    with pytest.raises(InputError, match="smaller than a patch"):
        model(x[..., :3, :])


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("qkv_bias", "kv"),
        ("similarity", "l2"),
        ("position_bias", "none"),
        ("norm_placement", "both"),
        ("pretrained_window_size", (7, 7, 7)),
        ("extra_norm_period", -1),
        ("out_indices", (1, 0)),
        ("out_indices", (2,)),
        ("frozen_stages", 3),
        ("patch_remainder", "crop"),
    ],
)
def test_wrong_fields_are_refused(field, bad):
    with pytest.raises(ConfigError, match=field):
        SMALL.replace(**{field: bad})


# --- the layers of the continuous position bias are called ------------------------------------------------------------


class Adapted(nn.Module):
    """A linear layer and another beside it, as LoRA does it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.beside = base, randomise(nn.Linear(base.in_features, base.out_features))

    def forward(self, x):
        return self.base(x) + self.beside(x)


@torch.no_grad()
def test_changed_layers_of_the_position_bias_are_used():
    model, x = build(SMALL), torch.randn(1, 3, 20, 26, dtype=torch.float64)
    plain, mlp = model(x), model.stages[0].blocks[0].attn.position_bias.mlp
    handle = mlp[2].register_forward_hook(lambda layer, args, y: 5 * y)
    assert difference(model(x), plain) > 1e-3
    handle.remove()
    assert torch.equal(model(x), plain)
    base, mlp[0] = mlp[0], Adapted(mlp[0]).double()
    assert difference(model(x), plain) > 1e-3
    mlp[0] = base
    nn.utils.parametrize.register_parametrization(mlp[0], "weight", nn.Identity())
    assert torch.equal(model(x), plain)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_all_linear_layers_may_be_quantised():
    model, x = build(SMALL).float(), torch.randn(2, 3, 20, 26)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    kinds = {type(module) for module in quantised.modules()}
    assert nn.Linear not in kinds
    assert quantised(x).shape == model(x).shape
