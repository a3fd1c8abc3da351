import concurrent.futures
import itertools
import math
import re
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.definition import V2, Problem, attends, difference, places, randomise, table_row
from helpers.kernels import KERNELS, using
from swindow import SwinConfig, create, list_variants, models
from swindow.errors import ConfigError, InputError
from swindow.models import (
    DropPath,
    Mlp,
    PatchEmbed,
    PatchMerging,
    RelativePositionBias,
    SwinBlock,
    SwinTransformer,
    WindowAttention,
)
from swindow.models.meta import meta_model
from swindow.variants import PARAMETERS
from swindow.windows import SizeRule, resolve

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "drop_path_rate": 0.0}
NARROW = SwinConfig(**SMALL, window_size=3, patch_size=2)
CLIP = SwinConfig(**SMALL, window_size=((2, 3, 3), (2, 3, 3)), patch_size=(2, 4, 4))


def build(config, dtype=torch.float64):
    return randomise(SwinTransformer(config)).to(dtype).eval()


# --- what depends on what ---------------------------------------------------------------------------------------------


@torch.no_grad()
def reach(module, grid, dim):
    """Whether output token p changes when input token q does, (T, T) bool."""
    tokens = math.prod(grid)
    x = torch.randn(1, *grid, dim, dtype=torch.float64)
    changed = x.repeat(tokens, *(1,) * (x.ndim - 1))
    changed.flatten(1, -2)[range(tokens), range(tokens)] += torch.randn(dim, dtype=x.dtype)  # a constant is normed away
    moved = (module(changed) - module(x)).abs().amax(-1).flatten(1)  # (q, p)
    return (moved > 1e-9).T


def one_stage(window, dim=4, heads=2, **fields):
    """The config of a single stage on a grid of as many axes as the window."""
    shape = {"patch_size": (1,) * len(window), "window_size": (window,)}
    return SwinConfig(embed_dim=dim, depths=(1,), num_heads=(heads,), **shape, **fields)


def block(problem, dim=4, **fields):
    module = SwinBlock(one_stage(problem.window, dim, **problem.rule._asdict(), **fields), stage=0, block=0)
    module.shift = problem.shift
    return randomise(module).double().eval()


MAPS = [
    ((14, 14), (7, 7)),
    ((15, 15), (7, 7)),
    ((8, 20), (7, 7)),
    ((7, 13), (7, 7)),
    ((6, 9), (4, 3)),
    ((3, 5, 4), (2, 3, 3)),
    ((17,), (4,)),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shifted", [False, True], ids=["W-MSA", "SW-MSA"])
@pytest.mark.parametrize("version", [{}, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(("grid", "window"), MAPS)
def test_a_block_connects_exactly_the_tokens_of_one_window(grid, window, version, shifted, kernel):
    problem = Problem(grid, window, tuple(w // 2 if shifted else 0 for w in window))
    module = block(problem, **version)
    with using(module, kernel):
        assert torch.equal(reach(module, grid, 4), attends(problem))


@pytest.mark.parametrize("n", [8, 13, 14, 15, 20, 21, 22])
@pytest.mark.parametrize("mask_padding", [True, False])
def test_opposite_borders_never_meet(n, mask_padding):
    problem = Problem((n, 3), (7, 7), (3, 3), SizeRule(mask_padding=mask_padding))
    seen = reach(block(problem), problem.grid, 4).view(n, 3, n, 3)
    assert seen[0, :, 0].all()
    assert not seen[0, :, -1].any()
    assert not seen[-1, :, 0].any()


# 15 = 2 * 7 + 1: the size at which rolling before padding lets the last row see the first ones.
@pytest.mark.parametrize("version", [{}, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(("grid", "window"), [((15, 15), (7, 7)), ((5, 7, 4), (4, 3, 3)), ((3, 5, 8), (2, 2, 3))])
def test_a_stage_passes_on_what_two_blocks_connect_and_no_more(grid, window, version):
    axes = len(grid)
    config = SwinConfig(
        depths=(2,), num_heads=(2,), embed_dim=8, window_size=(window,), patch_size=(1,) * axes, **version
    )
    model = build(config)
    seen = reach(lambda x: model.pyramid(x.movedim(-1, 1))[0].movedim(1, -1), grid, 3)
    regular, shifted = (attends(Problem(grid, window, tuple(w // 2 * s for w in window))).double() for s in (0, 1))
    assert torch.equal(seen, shifted @ regular > 0)


def test_the_last_row_sees_no_more_than_its_two_windows():
    config = NARROW.replace(depths=(2,), num_heads=(2,), window_size=7, patch_size=1, in_chans=3)
    model = build(config)
    seen = reach(lambda x: model.pyramid(x.movedim(-1, 1))[0].movedim(1, -1), (15, 15), 3)
    rows = seen.view(15, 15, 15, 15).any(3).any(1)
    assert rows[14].nonzero().flatten().tolist() == list(range(7, 15))
    assert rows[0].nonzero().flatten().tolist() == list(range(7))


# --- a window that covers the map -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("grid", "window"), [((4, 5), (4, 5)), ((4, 5), (7, 6)), ((2, 3, 2), (2, 3, 4)), ((1, 1), (7, 7))]
)
def test_a_window_that_covers_the_map_is_global_attention(grid, window, kernel):
    ours = randomise(WindowAttention(one_stage(window, 8), stage=0)).double()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    rows = [[table_row(p, q, window) for q in places(grid)] for p in places(grid)]
    bias = ours.position_bias.table[torch.tensor(rows)].permute(2, 0, 1)  # (h, T, T)
    y = torch.randn(3, *grid, 8, dtype=torch.float64)
    tokens = y.flatten(1, -2)
    with using(ours, kernel):
        found = ours(y, resolve(grid, window, tuple(w // 2 for w in window)))
    wanted, _ = theirs(tokens, tokens, tokens, attn_mask=bias.repeat(3, 1, 1), need_weights=False)
    assert difference(found, wanted.view_as(y)) <= 1e-9


def test_position_bias_gives_equal_offsets_one_number_and_a_smaller_window_the_centre():
    module = randomise(RelativePositionBias((4, 3), 2))
    whole, part = module((4, 3)).view(2, 4, 3, 4, 3), module((2, 2)).view(2, 2, 2, 2, 2)
    assert module.table.shape == (7 * 5, 2)
    for top, left in itertools.product(range(3), range(2)):
        rows, columns = slice(top, top + 2), slice(left, left + 2)
        assert torch.equal(whole[:, rows, columns, rows, columns], part)
    assert not torch.equal(whole[:, 2, 1, 0, 0], whole[:, 1, 2, 0, 0])


# --- every size -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def both(model, x):
    """Logits of the kernels, which must agree."""
    found = []
    for kernel in KERNELS:
        with using(model, kernel):
            found.append(model(x))
    assert all(difference(found[0], other) <= 2e-5 for other in found[1:])
    return found[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (5, 3), (31, 33), (224, 224)])
def test_nano_runs_on_any_height_and_width(size):
    model = build(create("swin_nano", num_classes=7).config, torch.float32)
    x = torch.randn(1, 3, *size)
    assert both(model, x).shape == (1, 7)
    grids = [tuple(math.ceil(s / 2 ** (1 + i)) for s in size) for i in range(3)]
    with torch.no_grad():
        assert [tuple(y.shape) for y in model.pyramid(x)] == [(1, 32 * 2**i, *grid) for i, grid in enumerate(grids)]


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 9, 13), (4, 24, 16)])
def test_a_clip_of_any_size_runs(size):
    x = torch.randn(2, 3, *size)
    model = build(CLIP, torch.float32)
    assert both(model, x).shape == (2, 5)
    frames = math.ceil(size[0] / 2)
    grids = [(frames, *(math.ceil(s / 4 / 2**i) for s in size[1:])) for i in range(2)]  # time is not merged
    with torch.no_grad():
        assert [tuple(y.shape[2:]) for y in model.pyramid(x)] == grids


@st.composite
def configs(draw):
    """Any small config, of one to three axes: v1, SwinV2 and everything between them."""
    stages, axes = draw(st.integers(1, 3)), draw(st.sampled_from([2, 3, 1]))
    per_axis = st.tuples(*[st.integers(1, 3)] * axes)
    per_stage = st.tuples(*[per_axis] * stages)
    return SwinConfig(
        embed_dim=4 * draw(st.integers(1, 2)),
        depths=draw(st.tuples(*[st.integers(1, 2)] * stages)),
        num_heads=draw(st.tuples(*[st.sampled_from([1, 2, 4])] * stages)),
        head_dim=draw(st.none() | st.tuples(*[st.integers(1, 5)] * stages)),
        window_size=draw(per_stage),
        pretrained_window_size=draw(st.none() | per_stage),
        patch_size=draw(per_axis),
        in_chans=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(0, 3)),
        mlp_ratio=draw(st.sampled_from([0.5, 2.0])),
        qkv_bias=draw(st.sampled_from([True, False, "qv"])),
        patch_norm=draw(st.booleans()),
        absolute_position_size=draw(st.none() | per_axis),
        similarity=draw(st.sampled_from(["dot", "cosine"])),
        position_bias=draw(st.sampled_from(["table", "continuous"])),
        norm_placement=draw(st.sampled_from(["pre", "post"])),
        merge_norm=draw(st.sampled_from(["pre", "post"])),
        extra_norm_period=draw(st.integers(0, 2)),
        merge_axes=tuple(sorted(draw(st.sets(st.integers(0, axes - 1), min_size=1)))),
        out_indices=draw(st.none() | st.sets(st.integers(0, stages - 1), min_size=1).map(lambda s: tuple(sorted(s)))),
        out_norms=draw(st.booleans()),
        patch_remainder=draw(st.sampled_from(["pad", "drop"])),
        shrink=draw(st.sampled_from([None, "axis", "min"])),
        shift_single=draw(st.booleans()),
        mask_padding=draw(st.booleans()),
        drop_path_rate=0.0,
    )


@settings(max_examples=40)
@given(configs(), st.data())
def test_any_small_config_gives_the_promised_shapes_and_a_gradient_to_every_parameter(config, data):
    size = data.draw(st.tuples(*[st.integers(3, 9)] * config.ndim))
    batch = data.draw(st.integers(1, 2))
    model, x = build(config), torch.randn(batch, config.in_chans, *size, dtype=torch.float64)
    logits, features, pyramid = model(x), model.features(x), model.pyramid(x)
    width = config.width(config.num_stages - 1)
    assert features.shape == (batch, width)
    assert logits.shape == (batch, config.num_classes or width)
    rounded = math.ceil if config.patch_remainder == "pad" else math.floor
    grid, grids = tuple(rounded(s / p) for s, p in zip(size, config.patch_size)), []
    for _ in range(config.num_stages):
        grids.append(grid)
        grid = tuple(math.ceil(g / 2) if axis in config.merge_axes else g for axis, g in enumerate(grid))
    assert [y.shape for y in pyramid] == [(batch, config.width(i), *grids[i]) for i in config.out_stages]
    (logits.square().sum() + sum(y.square().sum() for y in pyramid)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad(), using(model, "reference"):
        assert difference(model(x), logits) <= 1e-9
        for ours, reference in zip(pyramid, model.pyramid(x), strict=True):
            assert difference(ours, reference) <= 1e-9


# --- a call is a function of its input --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("config", "size"), [(NARROW, (21, 30)), (CLIP, (5, 21, 30))])
def test_a_batch_gives_what_its_images_give_one_by_one(config, size, kernel):
    model, x = build(config), torch.randn(3, 3, *size, dtype=torch.float64)
    with using(model, kernel):
        whole, single = model(x), torch.cat([model(image[None]) for image in x])
    assert difference(whole, single) <= 1e-9
    assert difference(whole[:1], whole[1:2]) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shrink", [None, "axis", "min"])
def test_no_call_changes_what_another_returns(kernel, shrink):
    model = build(NARROW.replace(shrink=shrink))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    shown = repr(model)
    large, small = (torch.randn(1, 3, *size, dtype=torch.float64) for size in ((40, 26), (3, 2)))
    with using(model, kernel):
        first, other = model(large), model(small)
        assert torch.equal(model(large), first)
        with pytest.raises(InputError):
            model(large[:, :2])
        assert torch.equal(model(small), other)
        assert torch.equal(model(large), first)
    assert repr(model) == shown
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_state_dict_holds_learned_weights_only():
    model = SwinTransformer(NARROW.replace(absolute_position_size=(4, 4)))
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


def fresh(axes):
    """A model with windows that no other test uses, so that nothing about it is cached yet."""
    return build(NARROW.replace(window_size=(axes, axes)), torch.float32)


@pytest.mark.parametrize(("kernel", "window"), [("reference", (2, 11)), ("sdpa", (2, 13))])
def test_training_works_after_inference_mode(kernel, window):
    model, x = fresh(window), torch.randn(1, 3, 9, 60)
    with using(model, kernel):
        with torch.inference_mode():
            first = model(x).clone()
        out = model.train()(x.requires_grad_())
        out.sum().backward()
    assert difference(out, first) <= 2e-5
    assert x.grad is not None


@pytest.mark.parametrize("fields", [{}, V2, {"decoder_stride": 4, "absolute_position_size": (4, 4)}], ids=str)
def test_a_meta_model_has_every_size_and_draws_nothing(fields):
    config = SwinConfig(**SMALL, **fields)
    before = torch.get_rng_state()
    found = meta_model(config).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in models.build(config).state_dict().items()}
    assert all(v.is_meta for v in found.values())


def on_meta(model):
    return model.to("meta")(torch.empty(1, 3, 9, 60, device="meta"))


def on_fakes(model):
    mode = FakeTensorMode()
    weights = {name: mode.from_tensor(value) for name, value in model.state_dict().items()}
    with mode:
        return torch.func.functional_call(model, weights, (torch.empty(1, 3, 9, 60),))


def on_real_weights_in_fake_mode(model):
    with FakeTensorMode(allow_non_fake_inputs=True):
        return model(torch.empty(1, 3, 9, 60))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("shapes_only", "window"), [(on_meta, (3, 11)), (on_fakes, (3, 13)), (on_real_weights_in_fake_mode, (4, 11))]
)
@torch.no_grad()
def test_shapes_without_values_first_then_real_ones_and_back(shapes_only, window, kernel):
    window = (window[0], window[1] + 4 * KERNELS.index(kernel))
    for _ in range(2):
        model, other = fresh(window), fresh(window)
        with using(model, kernel), using(other, kernel):
            assert shapes_only(model).shape == (1, 5)
            assert other(torch.randn(1, 3, 9, 60)).isfinite().all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask_padding", [True, False])
def test_a_shifted_block_is_captured_without_a_break(mask_padding, kernel):
    problem = Problem((8, 12), (7, 5), (3, 2), SizeRule(mask_padding=mask_padding))
    module, x = block(problem), torch.randn(2, *problem.grid, 4, dtype=torch.float64)
    with using(module, kernel), torch.no_grad():
        captured = torch.export.export(module, (x,)).module()
        assert difference(captured(x), module(x)) <= 1e-9


# --- parameters -------------------------------------------------------------------------------------------------------


def count(name):
    with torch.device("meta"):
        return sum(p.numel() for p in create(name).parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("swin_tiny", 28_288_354),
        ("swin_small", 49_606_258),
        ("swin_base", 87_768_224),
        ("swin_large", 196_532_476),
        ("swin_base_w12_384", 87_903_584),
        ("swin_large_w12_384", 196_735_516),
        *((f"swinv2_tiny_{window}", 28_347_154) for window in ("w8", "w16")),
        *((f"swinv2_small_{window}", 49_728_418) for window in ("w8", "w16")),
        *((f"swinv2_base_{window}", 87_918_816) for window in ("w8", "w16", "w12_192", "w12to16", "w12to24")),
        *((f"swinv2_large_{window}", 196_739_932) for window in ("w12_192", "w12to16", "w12to24")),
        ("swin3d_tiny", 28_158_070),
        ("swin3d_small", 49_816_678),
        ("swin3d_base", 88_048_984),
    ],
)
def test_parameter_counts_are_the_published_ones(name, published):
    assert count(name) == published


def test_the_table_of_parameters_is_right():
    assert {name: count(name) for name in list_variants()} == PARAMETERS


def test_the_own_variants_are_small():
    assert 0.5e6 <= count("swin_nano") <= 1e6
    assert count("swin_nano") < count("swin_micro") < count("swin_tiny")


def test_weights_are_initialised_as_published():
    model = SwinTransformer(
        NARROW.replace(embed_dim=64, num_heads=(4, 4), window_size=12, absolute_position_size=(9, 9))
    )
    drawn = {m.weight: None for m in model.modules() if isinstance(m, nn.Linear)}
    drawn |= {m.table: None for m in model.modules() if isinstance(m, RelativePositionBias)}
    drawn[model.position_embed.embedding] = None
    convolution = model.patch_embed.proj
    for name, parameter in model.named_parameters():
        if parameter in drawn:
            error = 5 * 0.02 / math.sqrt(2 * parameter.numel())  # five sigma of a sample's standard deviation
            assert float(parameter.detach().std()) == pytest.approx(0.02, abs=error), name
            assert abs(float(parameter.detach().mean())) < 5 * 0.02 / math.sqrt(parameter.numel()), name
        elif parameter is convolution.weight or parameter is convolution.bias:  # PyTorch's default, uniform
            bound = 1 / math.sqrt(convolution.weight[0].numel())
            assert 0.8 * bound < float(parameter.detach().abs().max()) <= bound, name
        else:
            value = 1.0 if name.endswith("weight") else 0.0
            assert torch.equal(parameter, torch.full_like(parameter, value)), name


def test_every_norm_has_the_published_epsilon_and_every_gelu_is_exact():
    model = SwinTransformer(NARROW)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    changed = SwinTransformer(NARROW.replace(norm_eps=1e-3))
    assert {m.eps for m in changed.modules() if isinstance(m, nn.LayerNorm)} == {1e-3}
    mlp = randomise(Mlp(3, 12)).double()
    y = torch.randn(50, 3, dtype=torch.float64)
    hidden = mlp.fc1(y)
    assert difference(mlp(y), mlp.fc2(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)) <= 1e-12


def test_mlp_ratio_is_the_hidden_width_over_the_width():
    model = SwinTransformer(NARROW.replace(mlp_ratio=2.5))
    assert [stage.blocks[0].mlp.fc1.weight.shape for stage in model.stages] == [(20, 8), (40, 16)]


@pytest.mark.parametrize(
    ("fields", "absent"),
    [({"qkv_bias": False}, "qkv.bias"), ({"patch_norm": False}, "patch_embed.norm"), ({"num_classes": 0}, "head.")],
)
def test_what_a_config_leaves_out_has_no_parameters(fields, absent):
    assert any(absent in name for name in SwinTransformer(NARROW).state_dict())
    model = build(NARROW.replace(**fields))
    assert not any(absent in name for name in model.state_dict())
    assert model(torch.randn(1, 3, 9, 9, dtype=torch.float64)).isfinite().all()


def test_without_a_head_the_logits_are_the_features():
    model, x = build(NARROW.replace(num_classes=0)), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert torch.equal(model(x), model.features(x))


# --- regularisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depths", "rate"), [((2, 2, 6, 2), 0.2), ((1, 2), 0.5), ((1,), 0.3)])
def test_drop_path_grows_linearly_over_all_blocks(depths, rate):
    heads, total = (1,) * len(depths), sum(depths)
    config = NARROW.replace(depths=depths, num_heads=heads, window_size=3, drop_path_rate=rate)
    rates = [b.drop_path.rate for stage in SwinTransformer(config).stages for b in stage.blocks]
    assert rates == pytest.approx([rate * i / max(1, total - 1) for i in range(total)])


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    drop, y = DropPath(0.3).train(), torch.rand(20_000, 2, 3) + 1
    factor = drop(y) / y
    assert torch.allclose(factor, factor[:, :1, :1].expand_as(factor))
    assert torch.all((factor == 0) | torch.isclose(factor, torch.tensor(1 / 0.7)))
    assert float(factor.mean()) == pytest.approx(1, abs=5 * math.sqrt(0.3 / 0.7 / 20_000))
    assert drop.eval()(y) is y
    assert DropPath(0.0).train()(y) is y


def test_drop_path_drops_the_two_branches_of_a_block_each_for_itself():
    module = randomise(SwinBlock(one_stage((2, 2), heads=1), 0, 0, drop_path=0.5)).double().train()
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64)
    found = module(x.repeat(64, 1, 1, 1)).detach()
    attended = x + 2 * module.attn(module.norm1(x), resolve((3, 3), (2, 2), (0, 0)))
    either = [y + twice * module.mlp(module.norm2(y)) for y in (x, attended) for twice in (0, 2)]
    kinds = torch.stack([(found - y.detach()).abs().amax((1, 2, 3)) < 1e-9 for y in either])  # (4, 64)
    assert torch.equal(kinds.sum(0), torch.ones(64, dtype=torch.int64))
    assert kinds.any(1).all()


@pytest.mark.parametrize("field", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_is_for_training_only(field):
    model = build(NARROW.replace(**{field: 0.5}))
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


# --- patches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "axes"),
    [((4, 6), (0, 1)), ((5, 3), (0, 1)), ((1, 1), (0, 1)), ((2, 3, 4), (1, 2)), ((3, 2, 5), (0, 1, 2)), ((5,), (0,))],
)
def test_patch_merging_lays_neighbours_side_by_side_first_axis_fastest(grid, axes):
    config = one_stage((1,) * len(grid), dim=2, heads=1, merge_axes=axes)
    module = randomise(PatchMerging(config, stage=0)).double()
    x = torch.randn(2, *grid, 2, dtype=torch.float64)
    merged = tuple(math.ceil(g / 2) if axis in axes else g for axis, g in enumerate(grid))
    rows = []
    for corner in places(merged):
        parts = []
        for number in range(2 ** len(axes)):  # 0: 00, 1: 10, 2: 01, 3: 11
            place = list(corner)
            for digit, axis in enumerate(axes):
                place[axis] = 2 * corner[axis] + (number >> digit) % 2
            outside = any(p >= g for p, g in zip(place, grid))
            parts.append(x.new_zeros(2, 2) if outside else x[(slice(None), *place)])
        rows.append(torch.cat(parts, -1))
    wanted = torch.stack(rows, 1).view(2, *merged, -1)
    assert torch.equal(module.neighbours(x), wanted)
    assert difference(module(x), module.norm(wanted) @ module.reduction.weight.T) <= 1e-12
    assert module.reduction.bias is None


@pytest.mark.parametrize(
    ("size", "patch"), [((8, 12), (4, 4)), ((9, 5), (4, 3)), ((1, 1), (4, 4)), ((3, 9, 10), (2, 4, 4)), ((7,), (2,))]
)
def test_patch_embed_projects_each_patch_of_the_image_padded_at_its_end(size, patch):
    config = SwinConfig(embed_dim=6, depths=(1,), num_heads=(1,), window_size=1, patch_size=patch, in_chans=2)
    module = randomise(PatchEmbed(config)).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    grid = tuple(math.ceil(s / p) for s, p in zip(size, patch))
    padded = x.new_zeros(2, 2, *(g * p for g, p in zip(grid, patch)))
    padded[(slice(None), slice(None), *map(slice, size))] = x
    tokens = []
    for corner in places(grid):
        pixels = padded[(slice(None), slice(None), *(slice(c * p, (c + 1) * p) for c, p in zip(corner, patch)))]
        tokens.append(module.norm(pixels.flatten(1) @ module.proj.weight.flatten(1).T + module.proj.bias))
    assert difference(module(x), torch.stack(tokens, 1).view(2, *grid, 6)) <= 1e-9
    assert torch.equal(module(x), module(padded))


@pytest.mark.parametrize(
    ("x", "got", "hint"),
    [
        (torch.zeros(3, 32, 32), "an input of shape (3, 32, 32)", "x.unsqueeze(0)"),
        (torch.zeros(1, 3, 4, 32, 32), "an input of shape (1, 3, 4, 32, 32)", "x.transpose(1, 2).flatten(0, 1)"),
        (torch.zeros(32, 32), "an input of shape (32, 32)", "try an input of 4 axes"),
        (torch.zeros(1, 32, 32, 3), "an input of shape (1, 32, 32, 3)", "move the channels to axis 1"),
        (torch.zeros(1, 1, 32, 32), "an input of shape (1, 1, 32, 32)", "create the model with in_chans=1"),
        (torch.zeros(1, 3, 0, 32), "an empty input of shape (1, 3, 0, 32)", "at least 1"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "an input of type torch.uint8", "x.float() / 255"),
    ],
    ids=["no batch axis", "a clip", "two axes", "channels last", "grey", "no pixels", "bytes"],
)
def test_an_input_that_does_not_fit_is_refused_in_one_line(x, got, hint):
    with pytest.raises(InputError) as caught:
        SwinTransformer(NARROW)(x)
    message = str(caught.value)
    expected = "a floating type" if x.dtype == torch.uint8 else "(batch, 3 channels, height, width)"
    assert message.startswith(f"got {got}, expected {expected}; try")
    assert hint in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((1, 3, 32, 32), "x.unsqueeze(2) for images, as clips of one frame"),
        ((8, 3, 32, 32), "x.unsqueeze(2) for images, as clips of one frame"),
        ((3, 3, 32, 32), "x.unsqueeze(2) for images, as clips of one frame"),
        ((8, 1, 32, 32), "x.unsqueeze(2) for images, as clips of one frame"),
        ((3, 16, 32, 32), "x.unsqueeze(0) for a single clip"),
        ((3, 32, 32), "an input of 5 axes"),
    ],
)
def test_a_clip_model_names_its_axes(shape, hint):
    expected = r"expected \(batch, 3 channels, frames, height, width\); try " + re.escape(hint)
    with pytest.raises(InputError, match=expected):
        SwinTransformer(CLIP)(torch.zeros(shape))


def test_the_hints_for_other_axes_are_right():
    images, clips = SwinTransformer(NARROW).eval(), SwinTransformer(CLIP).eval()
    x = torch.randn(2, 3, 4, 32, 32)
    assert difference(images(x.transpose(1, 2).flatten(0, 1))[5], images(x[1:, :, 1])[0]) <= 1e-5
    assert clips(x[:, :, 0].unsqueeze(2)).shape == (2, 5)
    assert clips(x[0].unsqueeze(0)).shape == (1, 5)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_features_are_the_pooled_norm_of_the_last_map_and_logits_the_head_of_them():
    model, x = build(NARROW), torch.randn(2, 3, 21, 30, dtype=torch.float64)
    last = model.pyramid(x)[-1].movedim(1, -1)
    features = model.norm(last).mean((1, 2))
    assert difference(model.features(x), features) <= 1e-12
    assert difference(model(x), features @ model.head.weight.T + model.head.bias) <= 1e-12


def test_the_pyramid_is_taken_before_merging():
    model, x = build(NARROW), torch.randn(1, 3, 21, 30, dtype=torch.float64)
    first, second = (y.movedim(1, -1) for y in model.pyramid(x))
    assert difference(model.stages[1].blocks(model.stages[0].merge(first)), second) <= 1e-12
    assert difference(model.stages[0].blocks(model.patch_embed(x)), first) <= 1e-12


def test_a_block_is_two_residual_branches_and_every_second_one_is_shifted():
    model = build(NARROW.replace(depths=(3, 2), window_size=((4, 5), 3)))
    assert [[b.shift for b in stage.blocks] for stage in model.stages] == [[(0, 0), (2, 2), (0, 0)], [(0, 0), (1, 1)]]
    module, x = model.stages[0].blocks[1], torch.randn(1, 9, 9, 8, dtype=torch.float64)
    y = x + module.attn(module.norm1(x), resolve((9, 9), (4, 5), (2, 2)))
    assert difference(module(x), y + module.mlp(module.norm2(y))) <= 1e-12


def test_absolute_positions_are_added_to_the_patches_and_resized_on_another_grid():
    model = build(NARROW.replace(absolute_position_size=(4, 6)))
    embedding = model.position_embed.embedding
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    assert torch.equal(model.position_embed(x), x + embedding)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    resized = F.interpolate(embedding.permute(2, 0, 1)[None], (5, 3), mode="bicubic").permute(0, 2, 3, 1)
    assert torch.equal(model.position_embed(x), x + resized)
    first = model.pyramid(torch.zeros(1, 3, 8, 12, dtype=torch.float64))[0]
    with torch.no_grad():
        embedding.zero_()
    assert difference(model.pyramid(torch.zeros(1, 3, 8, 12, dtype=torch.float64))[0], first) > 1e-2


def test_create_takes_fields_and_names_the_nearest_variant():
    model = create("swin_nano", num_classes=4, in_chans=1)
    assert model.training
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 4)
    with pytest.raises(ConfigError, match="did you mean 'swin_nano'"):
        create("swin_nanno")


# --- seeds ------------------------------------------------------------------------------------------------------------

KINDS = [
    {},
    {**V2},
    {"absolute_position_size": (4, 4), "num_classes": 0, "out_norms": True},
    {"decoder_stride": 8},
    {"patch_size": (2, 2, 2), "merge_axes": (0, 1, 2), "final_merge": True},
]


def weights(fields, seed):
    return create("swin_nano", **fields, seed=seed).state_dict()


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_a_seed_draws_what_the_global_seed_draws_and_leaves_that_alone(fields):
    torch.manual_seed(5)
    wanted = create("swin_nano", **fields).state_dict()
    before = torch.get_rng_state()
    assert same_weights(weights(fields, 5), wanted)
    assert not same_weights(weights(fields, 6), wanted)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_weights_follow_the_global_one():
    one, other = (create("swin_nano").state_dict() for _ in range(2))
    assert not same_weights(one, other)


def test_eight_threads_with_seeds_draw_what_each_draws_alone():
    wanted = [weights({}, seed) for seed in range(8)]
    before, barrier = torch.get_rng_state(), threading.Barrier(8)

    def draw(seed):
        barrier.wait()
        return [weights({}, seed) for _ in range(5)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(draw, range(8)))
    assert all(same_weights(a, b) for several, b in zip(found, wanted) for a in several)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "0", True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ConfigError, match=r"seed: got .*, expected an int from 0 to 2\*\*63 - 1"):
        create("swin_nano", seed=seed)


def test_a_seeded_model_on_the_meta_device_holds_nothing():
    with torch.device("meta"):
        assert all(p.is_meta for p in create("swin_nano", seed=0).parameters())
