"""What a model is seen to do: attention, roll-out, gradients and measurements against definitions and brute force."""

from __future__ import annotations

import copy
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import swindow
from helpers import definition
from helpers.kernels import KERNELS, using
from helpers.peers import peer
from swindow import caching, explain, kernels
from swindow.config import SwinConfig
from swindow.errors import InputError
from swindow.explain import cost, gradients, live
from swindow.explain.attention import on_pixels
from swindow.explain.findings import Findings
from swindow.explain.hierarchy import extent
from swindow.models import SimMIM, SwinTransformer

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "patch_size": 2, "window_size": 4}


def model_of(**fields):
    return definition.randomise(SwinTransformer(SwinConfig(**{**SMALL, **fields})).eval())


def look(model, x):
    with torch.no_grad(), explain.capture(model) as seen:
        model(x)
    return seen


def problem_of(model, record):
    block = model.get_submodule(record.name)
    return definition.Problem(record.geometry.grid, block.window, block.shift, block.rule)


def token_maps(seen, record, head=None):
    """The attention maps of every token of a block as a matrix (h, T, T), read off the image."""
    grid, side = record.geometry.grid, record.token
    rows = []
    for place in definition.places(grid):
        pixel = tuple(p * s for p, s in zip(place, side))
        shown = explain.attention_maps(seen, pixel, record.name)
        rows.append(shown[(slice(None), *(slice(None, None, s) for s in side))].reshape(len(shown), -1))
    return np.stack(rows, 1)


VARIANTS = {
    "v1": {},
    "v2": definition.V2,
    "3-D": {"patch_size": (2, 2, 2), "window_size": 2},
    "1-D": {"patch_size": (2,), "window_size": 4},
    "one axis merged": {"merge_axes": (1,)},
    "oblong": {"window_size": ((2, 3), (3, 2)), "patch_size": (1, 2)},
    "padding unmasked": {"mask_padding": False},
    "one shifted window": {"shift_single": True},
    "shrink": {"shrink": "min"},
}


def image_for(model, longest=27):
    sizes = {1: (longest,), 2: (longest, 18), 3: (6, 9, 7)}[model.config.ndim]
    return torch.randn(1, model.config.in_chans, *sizes)


@pytest.mark.parametrize("name", VARIANTS)
def test_attention_maps_are_attention_by_definition(name):
    model = model_of(**VARIANTS[name])
    seen = look(model, image_for(model))
    for record in seen.blocks:
        problem = problem_of(model, record)
        keys = definition.key_numbers(problem)
        found = token_maps(seen, record)
        np.testing.assert_array_equal(found[0] > 0, definition.attends(problem)[:, keys].numpy())
        if problem.rule.mask_padding:
            np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
        if name != "v2" and problem.rule.shrink is None:
            attn = record.module
            scale = attn.similarity.scale()
            _, p = definition.attention(record.tokens, attn.qkv, attn.position_bias.table, scale, problem)
            np.testing.assert_allclose(found, p[0][..., keys].numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["v1", "v2", "3-D"])
def test_attention_maps_give_what_the_kernel_gave(name):
    model = model_of(**VARIANTS[name])
    seen = look(model, image_for(model))
    for record in seen.blocks:
        attn, g = record.module, record.geometry
        maps = torch.from_numpy(token_maps(seen, record)).float()  # (h, T, T)
        v = attn.project(record.tokens).unflatten(-1, (3, attn.num_heads, -1))[0].flatten(0, -4)[:, 2]  # (T, h, d)
        ours = torch.einsum("hqk,khd->qhd", maps, v).reshape(record.tokens.shape)
        theirs = kernels.attend(record.tokens, attn.project, attn.position_bias(g.window), g, attn.similarity)
        assert definition.difference(ours, theirs) < 2e-5


@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_does_not_depend_on_the_kernel_that_ran(kernel):
    model, x = model_of(), torch.randn(2, 3, 20, 30)
    with using(model, kernel):
        seen = look(model, x)
    other = look(model, x)
    torch.testing.assert_close(seen.block(1).attention(), other.block(1).attention())
    np.testing.assert_allclose(explain.rollout(seen, image=1), explain.rollout(other, image=1), atol=1e-6)


def merging_matrix(below, above, axes):
    """Which tokens below a merged token was made of, each row summing to 1."""
    rows = []
    for place in definition.places(above):
        made = [
            all(q // 2 == p if axis in axes else q == p for axis, (p, q) in enumerate(zip(place, other)))
            for other in definition.places(below)
        ]
        rows.append(np.array(made) / sum(made))
    return np.stack(rows)


@pytest.mark.parametrize("name", ["v1", "v2", "3-D", "one axis merged", "1-D"])
def test_rollout_is_the_product_of_whole_matrices(name):
    model = model_of(**VARIANTS[name])
    seen = look(model, image_for(model))
    flow, grids = None, []
    for record in seen.blocks:
        step = 0.5 * token_maps(seen, record).mean(0) + 0.5 * np.eye(math.prod(record.geometry.grid))
        if flow is None:
            flow = step
        elif record.geometry.grid != grids[-1]:
            flow = step @ merging_matrix(grids[-1], record.geometry.grid, model.config.merge_axes) @ flow
        else:
            flow = step @ flow
        grids.append(record.geometry.grid)
        for place in (definition.places(record.geometry.grid)[0], definition.places(record.geometry.grid)[-1]):
            pixel = tuple(p * s for p, s in zip(place, record.token))
            row = flow[int(np.ravel_multi_index(place, record.geometry.grid))].reshape(grids[0])
            expected = on_pixels(row, model.config.patch_size, seen.pixels)
            np.testing.assert_allclose(explain.rollout(seen, pixel, record.name), expected, atol=1e-9)
    mean = on_pixels(flow.mean(0).reshape(grids[0]), model.config.patch_size, seen.pixels)
    np.testing.assert_allclose(explain.rollout(seen), mean, atol=1e-9)
    assert explain.rollout(seen, residual=1.0, pixel=(0,) * len(seen.pixels)).ravel()[0] > 0


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["v1", "v2", "oblong", "shrink", "one shifted window"]))
def test_rollout_sums_to_one_at_any_size(height, width, name):
    model = model_of(**VARIANTS[name])
    seen = look(model, torch.randn(1, 3, height, width))
    found = explain.rollout(seen, (height - 1, width - 1))
    step = tuple(slice(None, None, p) for p in model.config.patch_size)
    assert found.shape == (height, width)
    assert found[step].sum() == pytest.approx(1)


def reaches(model, seen, record, place):
    """The pixels that a token depends on, by definition: through windows and merging, block by block."""
    blocks = seen.blocks[: seen.blocks.index(record) + 1]
    tokens, above = {place}, record
    for block in reversed(blocks):
        if block.stage != above.stage:
            axes = model.config.merge_axes
            made = [[2 * p, 2 * p + 1] if axis in axes else [p] for token in tokens for axis, p in enumerate(token)]
            n = len(block.geometry.grid)
            tokens = {t for i in range(0, len(made), n) for t in definition.itertools.product(*made[i : i + n])}
            tokens = {t for t in tokens if all(a < b for a, b in zip(t, block.geometry.grid))}
        problem = problem_of(model, block)
        seen_by, keys = definition.attends(problem), definition.keys_of(problem)
        number = {p: i for i, p in enumerate(definition.places(problem.grid))}
        tokens = {keys[j] for t in tokens for j in seen_by[number[t]].nonzero().flatten().tolist()}
        tokens = {t for t in tokens if all(a < b for a, b in zip(t, problem.grid))}
        above = block
    field = np.zeros(above.geometry.grid)
    for t in tokens:
        field[t] = 1
    return on_pixels(field, above.token, seen.pixels) > 0


@pytest.mark.parametrize("name", ["v1", "v2", "3-D", "oblong", "one axis merged", "one shifted window"])
def test_receptive_fields_are_what_windows_and_merging_reach(name):
    model = model_of(**VARIANTS[name]).double()
    x = image_for(model).double()
    pixel = tuple(n // 2 for n in x.shape[2:])
    fields, seen = explain.receptive_field(model, x[0], pixel), look(model, x)
    assert list(fields) == ["patch_embed", *(b.name for b in seen.blocks)]
    for record in seen.blocks:
        place = tuple(p // s for p, s in zip(pixel, record.token))
        np.testing.assert_array_equal(fields[record.name] > 0, reaches(model, seen, record, place))


def test_a_receptive_field_is_the_gradient():
    model, x = model_of().double(), torch.randn(3, 16, 16, dtype=torch.float64)
    field = explain.receptive_field(model, x, (5, 9))["stages.0.blocks.1"]
    direction = torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    step, pixel = 1e-6, (4, 7)
    total = 0.0
    for channel in range(3):
        moved = [x.clone(), x.clone()]
        moved[0][(channel, *pixel)] += step
        moved[1][(channel, *pixel)] -= step
        ends = [look(model, m[None])["stages.0.blocks.1"][0, 2, 4] @ direction for m in moved]
        total += abs(float(ends[0] - ends[1]) / (2 * step))
    assert field[pixel] == pytest.approx(total, rel=1e-5)


def test_grad_cam_of_a_pooled_linear_head_is_the_class_activation_map():
    model, x = model_of(), torch.randn(3, 32, 32)
    seen = look(model, x[None])
    maps = (seen["norm"][0] @ model.head.weight[3].detach()).relu()  # the gradient of the mean is W / tokens everywhere
    found = explain.grad_cam(model, x, target=3)
    assert found.shape == (32, 32)
    assert found.max() == pytest.approx(1)
    whole = torch.nn.functional.interpolate(maps[None, None], (32, 32), mode="bilinear")[0, 0]
    np.testing.assert_allclose(found, (whole / whole.max()).numpy(), atol=1e-5)
    likeliest = int(seen["head"].argmax())
    np.testing.assert_array_equal(explain.grad_cam(model, x), explain.grad_cam(model, x, target=likeliest))


@pytest.mark.parametrize("size", [(1, 1), (33, 50), (3, 60)])
@pytest.mark.parametrize("layer", [None, "stages.0.blocks.1", "stages.0.merge", "patch_embed"])
def test_grad_cam_lies_where_its_tokens_lie(size, layer):
    model, x = model_of(), torch.randn(3, *size)
    found = explain.grad_cam(model, x, layer=layer)
    assert found.shape == size
    assert 0 <= found.min() <= found.max() <= 1
    seen = look(model, x[None])
    grid = tuple(seen[layer or "norm"].shape[1:-1])
    side = gradients._token_side(grid, model.config, size)
    assert all(-(-n // s) == g for n, s, g in zip(size, side, grid))


def test_gradients_of_clips_and_other_norms():
    clips = model_of(patch_size=(2, 2, 2), window_size=2)
    assert explain.grad_cam(clips, torch.randn(3, 6, 9, 7)).shape == (6, 9, 7)
    norms = model_of(out_norms=True, out_indices=(0, 1))
    assert explain.grad_cam(norms, torch.randn(3, 20, 20)).max() in (0, pytest.approx(1))


def test_everything_works_without_gradients_and_on_frozen_weights():
    model, x = model_of().requires_grad_(False), torch.randn(3, 16, 16)
    expected = explain.grad_cam(model_of_same(model), x, target=1)
    with torch.inference_mode():
        np.testing.assert_allclose(explain.grad_cam(model, x, target=1), expected)
        assert explain.receptive_field(model, x, (0, 0))["patch_embed"].any()


def model_of_same(model):
    other = SwinTransformer(model.config).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_capture_records_what_the_parts_returned_and_leaves_the_model_alone():
    model, x = model_of(drop_path_rate=0.5), torch.randn(2, 3, 20, 30)
    model.stages[0].train()
    flags, keys = [m.training for m in model.modules()], set(model.__dict__)
    with explain.capture(model) as seen:
        logits = model(x)
    assert torch.equal(seen["head"], logits)
    assert logits.requires_grad
    assert seen.pixels == (20, 30)
    blocks = [f"stages.{i}.blocks.{j}" for i in (0, 1) for j in (0, 1)]
    inside = [f"{b}.{part}" for b in blocks for part in ("attn", "mlp")]
    assert set(seen.names) == {"patch_embed", *blocks, *inside, "stages.0.merge", "norm", "head"}
    assert [b.name for b in seen.blocks] == blocks
    assert (seen.block(-1).stage, seen.block(-1).number, seen.block(-1).token) == (2, 2, (4, 4))
    assert flags == [m.training for m in model.modules()]
    assert keys == set(model.__dict__)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with explain.capture(model) as seen:
        model(x)
        model(x[:1, :, :8, :8])
    assert seen.pixels == (8, 8)
    assert seen["norm"].shape[0] == 1


def test_capture_under_autocast_and_checkpointing():
    model, x = model_of(), torch.randn(1, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), explain.capture(model) as seen:
        model(x)
    assert seen.block(0).autocast == torch.bfloat16
    torch.testing.assert_close(
        seen.block(0).attention().float(), look(model, x).block(0).attention(), atol=0.05, rtol=0
    )
    model.set_grad_checkpointing()
    with explain.capture(model) as seen:
        model(x).sum().backward()
    assert [b.name for b in seen.blocks] == [b.name for b in look(model, x).blocks]


def test_grad_cam_agrees_with_pytorch_grad_cam():
    cam = peer("pytorch_grad_cam")
    model, x = model_of(), torch.randn(1, 3, 48, 32)
    theirs = cam.GradCAM(model=model, target_layers=[model.norm], reshape_transform=explain.reshape_transform)
    targets = [peer("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(2)]
    shown = theirs(input_tensor=x, targets=targets)[0]
    ours = explain.grad_cam(model, x[0], target=2)
    middles = (slice(2, None, 4), slice(2, None, 4))
    ours, shown = ours[middles], shown[middles]
    np.testing.assert_allclose((ours - ours.min()) / np.ptp(ours), (shown - shown.min()) / np.ptp(shown), atol=0.02)


@pytest.mark.parametrize("name", VARIANTS)
def test_shift_and_mask_are_exact(name):
    model = model_of(**VARIANTS[name])
    for record in look(model, image_for(model)).blocks:
        found = explain.exactness(record)
        assert found.error < 2e-6
        shares = any(definition.fit(problem_of(model, record)).shift)
        if shares and name in ("v1", "v2", "3-D"):
            assert found.error_without_mask > 1e-2


def test_peak_memory_is_what_is_held():
    def work(n):
        a = torch.zeros(n)
        b = a + 1
        del a
        return b.view(-1, 1).mul_(2) + b[:, None]

    with cost.PeakMemory() as memory:
        work(1000)
    assert memory.peak == 8000


def measured_costs(seconds=0.0, **fields):
    return explain.measure_cost(SwinConfig(**{"embed_dim": 32, "num_heads": (2, 2, 2, 2), **fields}), seconds)


def test_memory_grows_linearly_with_windows_and_with_the_square_without():
    costs = measured_costs()  # the least sizes
    assert len(costs.windowed) == len(costs.whole) == 3
    assert cost.exponent(costs.windowed[1:], "bytes") == pytest.approx(1, abs=0.1)
    assert cost.exponent(costs.whole[1:], "bytes") == pytest.approx(2, abs=0.15)
    assert [p.side for p in costs.windowed] == [56, 112, 224]
    assert [c.side for c in costs.counts] == [56, 112, 224, 448, 896]


@pytest.mark.parametrize("fields", [{}, {"window_size": 8, "mlp_ratio": 3.0}, {"window_size": 24}, definition.V2])
def test_multiplications_are_those_of_equations_1_and_2(fields):
    config = SwinConfig(**{"embed_dim": 32, "num_heads": (2, 2, 2, 2), **fields})
    c, h, pixels = 32, 2, 16  # of a token

    def by_hand(n, m):
        """Tokens n, tokens m of a window: equation 2 (equation 1 where one window holds all), the MLP, the bias."""
        bias = (2 * math.isqrt(m) - 1) ** 2 * (2 * 512 + 512 * h) if config.position_bias == "continuous" else 0
        return 2 * (4 * n * c**2 + 2 * m * n * c + 2 * int(config.mlp_ratio * c) * n * c + bias)

    counts = explain.measure_cost(config, 0.0).counts
    assert len(counts) == 5
    for side, windowed, whole in counts:
        n = side**2 // pixels
        assert windowed == by_hand(n, math.prod(config.window_size[0]))
        assert whole == by_hand(n, n)
    assert cost.exponent(counts, "windowed") == pytest.approx(1, abs=0.01)
    assert 1.9 < cost.exponent(counts, "whole") < 2


def test_every_size_is_timed_for_50_ms(monkeypatch):
    ticks = iter(range(10**9))
    monkeypatch.setattr(cost, "_clock", lambda: next(ticks) / 64)  # a call takes about 16 ms
    costs = measured_costs(embed_dim=8)
    assert {round(p.seconds, 6) for p in (*costs.windowed, *costs.whole)} == {round(1 / 64, 6)}
    assert next(ticks) == 2 * 4 * 6


@pytest.mark.slow
def test_times_beside_a_busy_thread_are_sane_or_not_fitted():
    """Two threads gave exponents from -1 to 1.5 beside other work."""
    stop, threads = threading.Event(), torch.get_num_threads()

    def work():
        x = torch.randn(400, 400)
        while not stop.is_set():
            (x @ x).softmax(-1).sum().item()

    torch.set_num_threads(2)
    busy = threading.Thread(target=work)
    busy.start()
    try:
        found = [points for _ in range(10) for points in measured_costs(1.0)[:2]]  # four sizes where there is time
    finally:
        stop.set()
        busy.join()
        torch.set_num_threads(threads)
    fitted = [
        [cost.exponent(points, "seconds") for points in some if cost.fits(points)] for some in (found[::2], found[1::2])
    ]
    assert any(fitted)
    assert all(0.6 < p < 1.4 for p in fitted[0]), fitted
    assert all(0.9 < p < 2.6 for p in fitted[1]), fitted


def test_measuring_is_not_noticed_by_others():
    """Others keep their number of threads, also those that begin meanwhile, their random numbers and their modes."""
    threads, found = torch.get_num_threads(), set()

    def look(_):
        with ThreadPoolExecutor(1) as pool:
            found.add((torch.get_num_threads(), pool.submit(torch.get_num_threads).result()))

    config = SwinConfig(embed_dim=8, num_heads=(2, 2, 2, 2))
    expected = explain.measure_cost(config, 0.0)
    torch.set_num_threads(3)
    try:
        state = torch.get_rng_state()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
            costs = explain.measure_cost(config, 0.0, look)
        look(None)
    finally:
        torch.set_num_threads(threads)
    assert found == {(3, 3)}
    assert torch.equal(torch.get_rng_state(), state)
    assert costs.counts == expected.counts
    assert [p.bytes for p in costs.windowed] == [p.bytes for p in expected.windowed]


def test_one_thread_is_timed(monkeypatch):
    found, pair = set(), cost._pair
    monkeypatch.setattr(cost, "_pair", lambda *args: found.add(torch.get_num_threads()) or pair(*args))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measured_costs(embed_dim=8)
    finally:
        torch.set_num_threads(threads)
    assert found == {1}


def test_cost_leaves_nothing_behind():
    measured_costs(embed_dim=8, num_heads=(1, 1, 1, 1), window_size=24)
    assert [cached.cache_info().currsize for cached in caching._caches] == [0] * len(caching._caches)
    assert caching._caches


def test_fits():
    points = [cost.Point(side, 3e-6 * side**4, 5 * side**2) for side in (8, 16, 32)]
    assert cost.exponent(points, "seconds") == pytest.approx(2)
    assert cost.exponent(points, "bytes") == pytest.approx(1)
    assert cost.coefficient(points, "bytes", 1) == pytest.approx(5)
    assert cost.fits(points)
    assert cost.fits(points[:2])
    assert cost.fits([points[0]._replace(seconds=1.5 * points[0].seconds), *points[1:]])
    assert not cost.fits([points[0]._replace(seconds=2 * points[0].seconds), *points[1:]])
    assert not cost.fits([*points[:2], points[2]._replace(seconds=points[1].seconds)])
    assert cost.fits([cost.Point(4, 1.0, 1), *points])  # the three largest count


def test_times_that_are_mostly_fixed_costs_do_not_fit():
    """They are near a power of the pixels, 0.5, that says nothing of how cost grows."""
    points = [cost.Point(side, 1 + side**2 / 256, 1) for side in (8, 16, 32)]
    power = cost.exponent(points, "seconds")
    assert power == pytest.approx(0.5, abs=0.01)
    assert all(abs(p.seconds / (2.32 * (p.side / 16) ** (2 * power)) - 1) < 0.15 for p in points)
    assert not cost.fits(points)
    assert cost.fits([p._replace(seconds=p.seconds - 1) for p in points])


def test_bad_requests_are_refused():
    model, x = model_of(), torch.randn(1, 3, 16, 16)
    seen = look(model, x)
    for wrong in ((16, 0), (0, -1), (3,), (0, 0, 0)):
        with pytest.raises(InputError, match="inside the image"):
            explain.attention_maps(seen, wrong)
    with pytest.raises(InputError, match="expected a number from -4 to 3"):
        explain.attention_maps(seen, (0, 0), 4)
    with pytest.raises(InputError, match="or a name"):
        explain.rollout(seen, block="stages.9.blocks.0")
    with pytest.raises(InputError, match="image 1"):
        explain.attention_maps(seen, (0, 0), image=1)
    with pytest.raises(InputError, match="nothing named"):
        seen["stages.7"]
    with explain.capture(model) as empty:
        pass
    with pytest.raises(InputError, match="no block ran"):
        explain.rollout(empty)
    with pytest.raises(InputError, match="deployed"), explain.capture(model.deploy()):
        pass
    with pytest.raises(InputError, match="expected a SwinTransformer"), explain.capture(torch.nn.Linear(1, 1)):
        pass
    with pytest.raises(InputError, match="5 classes"):
        explain.grad_cam(model, x[0], target=5)
    with pytest.raises(InputError, match="image 1"):
        explain.rollout(seen, image=1)
    assert seen.block(np.int64(1)) is seen.blocks[1]
    with pytest.raises(InputError, match="does not depend"):
        explain.grad_cam(model_of(final_merge=True), x[0], layer="stages.1.merge")
    with pytest.raises(InputError, match="0 classes"):
        explain.grad_cam(model_of(num_classes=0), x[0])
    with pytest.raises(InputError, match="no map"):
        explain.grad_cam(model, x[0], layer="head")
    with pytest.raises(InputError, match="of a batch"):
        explain.grad_cam(model, x)
    with pytest.raises(InputError, match="floating"):
        explain.receptive_field(model, (x[0] * 9).byte(), (0, 0))


def test_the_page_gets_the_attention_and_as_much_as_fits():
    model = model_of()
    seen = look(model, torch.randn(1, 3, 20, 30))
    for block in seen.blocks:
        kept = live._attention(block, "heads").astype(float)
        rows = kept.sum(-1, keepdims=True)
        exact = block.attention()[0].detach().transpose(0, 1).numpy()
        np.testing.assert_allclose(kept / rows, exact, atol=2 / 255)
        assert live._attention(block, "mean").shape == (1, *exact.shape[1:])
    sizes = {b.name: math.prod(b.geometry.windows) * math.prod(b.geometry.window) ** 2 for b in seen.blocks}
    every = sum(n * seen.block(name).module.num_heads for name, n in sizes.items())
    assert set(live._kept(seen.blocks, every).values()) == {"heads"}
    assert list(live._kept(seen.blocks, every - 1).values()).count("heads") < 4
    kept = live._kept(seen.blocks, sizes["stages.1.blocks.1"] + 1)
    assert [kept[block.name] for block in seen.blocks] == ["", "", "", "mean"]


def test_swin_tiny_sees_at_224():
    model = swindow.create("swin_tiny").eval()
    seen = look(model, torch.randn(1, 3, 224, 224))
    maps = explain.attention_maps(seen, (100, 200), "stages.2.blocks.3")
    assert maps.shape == (12, 224, 224)
    np.testing.assert_allclose(maps[:, ::16, ::16].sum((1, 2)), 1, rtol=1e-5)
    assert explain.attention_maps(seen, (0, 0)).shape == (24, 224, 224)


def test_half_precision_reaches_as_far():
    model, image = model_of(), torch.randn(3, 24, 40)
    found = explain.receptive_field(model, image, (9, 20))
    half = explain.receptive_field(copy.deepcopy(model).half(), image, (9, 20))
    assert {name: np.count_nonzero(x) for name, x in half.items()} == {n: np.count_nonzero(x) for n, x in found.items()}


def test_what_is_frozen_stays_so_and_nothing_else():
    model = model_of(frozen_stages=1).requires_grad_(True).train()
    before = [(p.requires_grad, m.training) for m in model.modules() for p in m.parameters(recurse=False)]
    explain.grad_cam(model, torch.randn(3, 16, 16))
    assert [(p.requires_grad, m.training) for m in model.modules() for p in m.parameters(recurse=False)] == before


def test_fields_of_an_untrained_swinv2_are_those_of_an_open_one():
    """Its residual branches start at 0, so by its own weights a token would depend on its patch only."""
    closed = swindow.create("swin_nano", embed_dim=8, num_heads=(1, 2, 4), num_classes=3, **definition.V2).eval()
    image, display = torch.rand(3, 40, 36), np.zeros((40, 36, 3), np.uint8)
    before = {name: x.clone() for name, x in closed.state_dict().items()}
    found = Findings(closed, image, display, trained=False).fields
    assert all(torch.equal(x, before[name]) for name, x in closed.state_dict().items())
    opened = Findings(definition.randomise(closed).eval(), image, display, trained=True).fields
    assert {name: extent(x) for name, x in found.items()} == {name: extent(x) for name, x in opened.items()}
    assert extent(found["stages.2.blocks.1"]) > extent(found["patch_embed"])


def test_a_backbone_is_recorded_inside_a_simmim():
    model = SimMIM(SwinConfig(**{**SMALL, "num_classes": 0}, decoder_stride=4))
    with torch.no_grad(), explain.capture(model.backbone) as seen:
        model(torch.rand(1, 3, 32, 32), torch.rand(1, 16, 16) < 0.6)
    assert seen.pixels == (32, 32)
    assert seen["patch_embed"].shape == (1, 16, 16, 8)


def test_what_checkpointing_works_out_again_is_not_recorded():
    model = model_of()
    model.set_grad_checkpointing()
    with explain.capture(model) as seen:
        out = model(torch.randn(1, 3, 20, 30))
        first = seen["stages.0.blocks.0.attn"]
        out.sum().backward()
    assert seen["stages.0.blocks.0.attn"] is first
