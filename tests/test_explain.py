"""The pictures show what the model computes: masks, borders, regions and index are compared with its own tensors."""

from __future__ import annotations

import itertools
import math
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import swindow
from helpers import definition
from swindow import explain, windows
from swindow.checkpoints import summary
from swindow.config import SwinConfig
from swindow.errors import ConfigError, InputError, OutputError
from swindow.explain import geometry, hierarchy, style
from swindow.explain.cost import Count, Point
from swindow.explain.findings import Findings
from swindow.explain.hierarchy import merging_order
from swindow.models import SwinTransformer
from swindow.windows import SizeRule, resolve

NAMES = ["01_hierarchy", "02a_patches", "02b_merging", "03a_windows_stage1", "03a_windows_stage2", "03a_windows_stage3"]
NAMES += ["03b_cyclic_shift", "03c_masks", "04_exact", "05a_relative_position_index", "05c_relative_position_bias"]
NAMES += ["06a_attention_first", "06a_attention_last", "06b_rollout", "06c_grad_cam", "06d_receptive_field", "07_cost"]

GEOMETRIES = {
    "even": resolve((8, 12), (4, 4), (2, 2)),
    "padded": resolve((9, 11), (4, 4), (2, 2)),
    "padding not masked": resolve((9, 11), (4, 4), (2, 2), SizeRule(mask_padding=False)),
    "oblong window": resolve((9, 10), (3, 5), (1, 2)),
    "one axis": resolve((3, 20), (7, 7), (3, 3)),
    "one shifted window": resolve((4, 4), (4, 4), (2, 2), SizeRule(shift_single=True)),
    "not shifted": resolve((6, 6), (4, 4), (0, 0)),
}


def nano(**fields):
    return swindow.create("swin_nano", **{"embed_dim": 8, "num_heads": (1, 2, 4), **fields})


def pair(height, width, chans=3):
    """An image for the model and the same pixels for showing."""
    display = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return torch.from_numpy(display).permute(2, 0, 1)[:chans].float() / 255, display


def look(model, height, width):
    image, display = pair(height, width, model.config.in_chans)
    return explain.record(model, image), display


def segments(axes):
    return {tuple(map(tuple, s.astype(int).tolist())) for c in axes.collections for s in c.get_segments()}


@pytest.mark.parametrize("size", [(1, 1), (31, 47), (32, 32), (64, 3)])
def test_a_record_holds_what_every_block_resolves_to(size):
    model = nano(depths=(2, 1, 3))
    record, _ = look(model, *size)
    maps = model.eval().pyramid(torch.zeros(1, 3, *size))
    assert record.image == size
    for i, (stage, layer, y) in enumerate(zip(record.stages, model.stages, maps, strict=True)):
        found = [resolve(tuple(y.shape[2:]), b.window, b.shift, b.rule) for b in layer.blocks]
        assert stage.number == i + 1
        assert stage.token == (2 * 2**i,) * 2
        assert stage.channels == y.shape[1]
        assert stage.depth == len(layer.blocks)
        assert stage.w_msa == found[0]
        assert stage.sw_msa == (found[1] if len(found) > 1 else None)
    np.testing.assert_allclose(
        record.tokens, model.patch_embed(pair(*size)[0][None])[0].detach().numpy(), rtol=1e-6, atol=1e-6
    )


def test_token_sizes_follow_the_merged_axes():
    record, _ = look(nano(merge_axes=(1,), patch_size=(2, 4)), 16, 64)
    assert [stage.token for stage in record.stages] == [(2, 4), (2, 8), (2, 16)]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_regions_are_exactly_what_attends_to_each_other(name):
    g = GEOMETRIES[name]
    gather, _ = windows.order(g)
    label, n = windows.labels(g), math.prod(g.window)
    region = geometry.region_map(g)[: g.grid[0], : g.grid[1]].flatten()
    attends = np.zeros((region.size, region.size), dtype=bool)
    for places, labels in zip(gather.view(-1, n).tolist(), label.tolist(), strict=True):
        for (p, a), (q, b) in itertools.product(zip(places, labels, strict=True), repeat=2):
            if p < region.size and q < region.size:
                attends[p, q] |= a == b
    np.testing.assert_array_equal(region[:, None] == region[None, :], attends)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_maps_are_the_models_labels_and_padding(name):
    g = GEOMETRIES[name]
    rolled = windows.merge(windows.labels(g)[None, ..., None], g.window, g.padded)[0, ..., 0].numpy()
    np.testing.assert_array_equal(geometry.label_map(g, rolled=True), rolled)
    np.testing.assert_array_equal(geometry.label_map(g), np.roll(rolled, g.shift, (0, 1)))
    padding = geometry.padding_map(g)
    assert not padding[: g.grid[0], : g.grid[1]].any()
    assert padding.sum() == math.prod(g.padded) - math.prod(g.grid)
    if g.mask_padding:
        np.testing.assert_array_equal(padding, geometry.label_map(g) == geometry.PADDING)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_kinds_cover_every_window_with_its_own_mask(name):
    g = GEOMETRIES[name]
    region = windows.labels(g).numpy()
    found = explain.kinds(g)
    assert sorted(i for kind in found for i in kind.windows) == list(range(math.prod(g.windows)))
    assert len({kind.mask.tobytes() for kind in found}) == len(found)
    for kind in found:
        np.testing.assert_array_equal(kind.labels.flatten(), region[kind.windows[0]])
        for i in kind.windows:
            np.testing.assert_array_equal(kind.mask, region[i][:, None] != region[i][None, :])


def test_the_mask_picture_is_the_mask():
    record, display = look(nano(), 32, 32)
    stage = record.stages[0]
    figure = explain.mask_figure(stage)
    region = windows.labels(stage.sw_msa)
    expected = {(r[:, None] != r[None, :]).numpy().tobytes() for r in region}
    masks = [i.get_array() for a in figure.findobj(lambda a: hasattr(a, "images")) for i in a.images]
    shown = [np.asarray(m, dtype=bool) for m in masks if m.shape == (16, 16) and m.dtype == bool]
    assert len(shown) == len(expected) == 4
    assert {m.tobytes() for m in shown} == expected
    assert "16 windows; 9 need no mask" in explain.shift_figure(stage, display).get_suptitle()


def test_the_hierarchy_counts_what_others_count():
    model = swindow.create("swin_tiny").eval()
    image, display = pair(224, 224)
    seen = geometry.observe(model, image)
    fields = explain.receptive_field(model, image, (112, 112))
    found = explain.levels(seen, fields)
    outside = (model.patch_embed, model.norm, model.head)
    counted = sum(level.parameters for level in found) + sum(p.numel() for m in outside for p in m.parameters())
    assert counted == 28288354  # published
    macs = sum(level.macs for level in found) + 56 * 56 * 96 * 48 + 768 * 1000
    assert macs == summary.count_macs(model, (224, 224))
    assert [level.grid for level in found] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert found[0].field == (28 + 28, 28 + 28)  # a window crossed by a shifted one, by definition in test_capture.py
    assert found[3].field == (224, 224)
    figure = explain.hierarchy_figure(found, display)
    for ax, level in zip(figure.axes[1:], found, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), level.map)
        assert f"{level.grid[0]}x{level.grid[1]} tokens x {level.channels}" in ax.get_title()


def test_the_order_of_merging_is_the_models():
    merge = nano().stages[0].merge
    assert merging_order(merge).tolist() == [0, 2, 1, 3]
    words = " ".join(t.get_text() for ax in explain.merging_figure(1, 96, merge).axes for t in ax.texts)
    assert re.findall(r"(\d\d): channels ([\d,]+) to", words) == [
        ("00", "0"),
        ("10", "96"),
        ("01", "192"),
        ("11", "288"),
    ]
    one = nano(merge_axes=(1,)).stages[0].merge
    assert merging_order(one).tolist() == [0, 1]
    assert "become one of 16" in explain.merging_figure(1, 8, one).get_suptitle()


def test_pictures_of_attention_show_the_maps():
    model, (image, display) = nano().eval(), pair(32, 48)
    seen = geometry.observe(model, image)
    figure = explain.attention_figure(seen, (5, 40), display, "stages.2.blocks.1")
    maps = explain.attention_maps(seen, (5, 40), "stages.2.blocks.1")
    assert len(figure.axes) >= 5
    for ax, values in zip(figure.axes[1:], maps):
        np.testing.assert_array_equal(ax.images[0].get_array(), explain.overlay(display, values))
    token = figure.axes[1].patches[0].get_path().get_extents().bounds
    assert token == (40, 0, 8, 8)
    rolled = explain.rollout_figure(seen, (5, 40), display)
    np.testing.assert_array_equal(rolled.axes[4].images[0].get_array(), explain.overlay(display, explain.rollout(seen)))


def test_an_overlay_is_brightest_where_the_map_is_and_grey_where_it_is_nothing():
    display = np.full((4, 4, 3), 200, np.uint8)
    heat = np.zeros((4, 4))
    heat[1, 2], heat[3, 0] = 1, 0.25
    shown = explain.overlay(display, heat).astype(int)
    assert len(set(shown[0, 0])) == 1
    assert shown[1, 2].sum() > shown[3, 0].sum() > 0
    assert (shown[heat == 0] == shown[0, 0]).all()
    assert (explain.overlay(display, 0 * heat) == shown[0, 0]).all()


def costs_of(times=(3, 12, 48)):
    """Costs that grow as pixels (windowed) and as their square, with times in microseconds for the windowed ones."""
    sides = (56, 112, 224)
    counts = tuple(Count(side, 1000 * side**2, 10 * side**4) for side in sides)
    windowed = tuple(Point(side, 1e-6 * t, 4 * side**2) for side, t in zip(sides, times))
    return explain.Costs(windowed, tuple(Point(side, 1e-9 * side**4, side**4) for side in sides), counts)


def test_the_cost_picture_holds_the_measurements():
    figure = explain.cost_figure(costs_of(), (7, 7))
    multiplications, time, memory = ({line.get_label(): line for line in ax.lines} for ax in figure.axes)
    np.testing.assert_allclose(multiplications["windows of 7x7"].get_ydata(), [0.003136, 0.012544, 0.050176])
    np.testing.assert_allclose(time["windows of 7x7"].get_ydata(), [0.003, 0.012, 0.048])
    np.testing.assert_allclose(time["proportional to pixels"].get_ydata(), [0.003, 0.012, 0.048])
    np.testing.assert_allclose(memory["to pixels squared"].get_ydata(), np.array([56, 112, 224]) ** 4 / 2**20)
    caption = " ".join(figure.get_supxlabel().split())
    assert "windows of 7x7: multiplications pixels^1.00, time pixels^1.00, memory pixels^1.00" in caption
    assert "global: multiplications pixels^2.00, time pixels^2.00, memory pixels^2.00" in caption


@pytest.mark.parametrize("times", [(3, 12, 12), (3, 3, 48), (48, 12, 12), (3, 30, 48)])
def test_times_that_follow_no_power_are_not_fitted(times):
    figure = explain.cost_figure(costs_of(times), (7, 7))
    labels = [[line.get_label() for line in ax.lines] for ax in figure.axes]
    assert [("proportional to pixels" in found, "to pixels squared" in found) for found in labels] == [
        (True, True), (False, True), (True, True),
    ]  # fmt: skip
    caption = " ".join(figure.get_supxlabel().split())
    assert "windows of 7x7: multiplications pixels^1.00, time not fitted, memory pixels^1.00" in caption
    assert "global: multiplications pixels^2.00, time pixels^2.00" in caption


def test_the_picture_of_log_spaced_coordinates_is_theirs():
    model = nano(**definition.V2)
    block = model.stages[1].blocks[0]
    figure = explain.log_spaced_figure(block, "stage 2, block 1", trained=True)
    spaced = windows.log_spaced_offsets((4, 8), (4, 4))[:, 1].view(7, 15)[0].numpy()
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), spaced)
    table = geometry.bias_table(block.attn.position_bias((4, 8)).detach().double(), (4, 8))
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), table[0, 3])
    with pytest.raises(InputError, match="continuous"):
        explain.log_spaced_figure(nano().stages[0].blocks[0], "stage 1, block 1", trained=True)


def test_the_rolled_image_is_the_image_rolled():
    record, display = look(nano(), 32, 32)
    figure = explain.shift_figure(record.stages[0], display)
    pictures = [i.get_array() for a in figure.findobj(lambda a: hasattr(a, "images")) for i in a.images]
    rolled = next(p for p in pictures if p.shape == (32, 32, 4))
    np.testing.assert_array_equal(rolled[..., :3], np.roll(display, (-4, -4), (0, 1)))


def test_window_borders_are_at_the_right_pixels():
    record, display = look(nano(), 32, 32)
    left, right = explain.window_figure(record.stages[0], display).axes  # windows of 4 tokens of 2 pixels
    assert segments(left) == {
        *(((0, y), (32, y)) for y in range(0, 33, 8)),
        *(((x, 0), (x, 32)) for x in range(0, 33, 8)),
    }
    shifted = [0, 4, 12, 20, 28, 32]
    assert segments(right) == {
        *(((0, y), (32, y)) for y in shifted),
        *(((x, 0), (x, 32)) for x in shifted),
    }


def test_borders_of_an_irregular_map():
    found = style.borders(np.array([[0, 0, 1], [0, 0, 1], [2, 2, 1]]), (2, 3))
    inner = [line for line in found if line not in style.borders(np.zeros((3, 3), dtype=int), (2, 3))]
    assert sorted(inner) == [((0, 4), (6, 4)), ((6, 0), (6, 6))]


def test_the_image_is_drawn_to_scale_with_padding_outside():
    record, display = look(nano(), 31, 47)  # stage 3: 4x6 tokens of 8 pixels, padded to 4x8
    left, right = explain.window_figure(record.stages[2], display).axes
    assert left.images[0].get_extent() == [0, 47, 31, 0]
    assert (left.get_xlim(), left.get_ylim()) == ((0, 64), (32, 0))
    hatched = [p.get_path().get_extents().bounds for p in right.patches if p.get_hatch() == "////"]
    assert hatched == [(48, 0, 16, 32)]


@pytest.mark.parametrize("window", [(3, 3), (2, 3), (1, 4), (7, 7), (1, 1)])
def test_the_steps_add_up_to_the_index(window):
    steps = geometry.index_steps(window)
    index = windows.relative_position_index(window).numpy()
    np.testing.assert_array_equal(steps["rows scaled"] + steps["columns from 0"], index)
    np.testing.assert_array_equal(steps["index"], index)
    np.testing.assert_array_equal(steps["rows"], -steps["rows"].T)
    assert steps["rows from 0"].min() == steps["columns from 0"].min() == 0


@pytest.mark.parametrize(("window", "table"), [((7, 7), None), ((2, 7), (7, 7)), ((3, 3), None), ((1, 1), (4, 4))])
def test_the_index_picture_is_the_index(window, table):
    figure = explain.position_index_figure(window, table)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    small = tuple(min(w, 3) for w in window)
    np.testing.assert_array_equal(shown[4], windows.relative_position_index(window, table).numpy())
    np.testing.assert_array_equal(shown[7], windows.relative_position_index(small).numpy())
    numbers = [int(t.get_text().replace("−", "-")) for t in figure.axes[7].texts]
    assert numbers == windows.relative_position_index(small).flatten().tolist()


@pytest.mark.parametrize("window", [(4, 4), (2, 5)])
def test_the_bias_picture_is_the_table(window):
    model = nano(window_size=(window,) * 3)
    block = model.stages[2].blocks[1]
    found = explain.bias_pictures(block)
    table = block.attn.position_bias.table.detach().double().numpy()
    np.testing.assert_allclose(found, table.T.reshape(4, 2 * window[0] - 1, 2 * window[1] - 1))
    figure = explain.position_bias_figure(found, "stage 3, block 2", trained=False)
    assert "untrained" in figure.get_suptitle()
    for axes, values in zip(figure.axes, found):
        np.testing.assert_array_equal(axes.images[0].get_array(), values)
    assert "untrained" not in explain.position_bias_figure(found, "stage 3, block 2", trained=True).get_suptitle()


def test_first_component_of_tokens_along_one_direction():
    along = np.arange(12.0).reshape(3, 4)
    found = geometry.first_component(along[..., None] * np.array([3.0, 4.0]))
    np.testing.assert_allclose(np.abs(found), np.abs(5 * (along - along.mean())))
    assert found.flat[np.abs(found).argmax()] > 0
    assert not geometry.first_component(np.ones((1, 1, 8))).any()


ODD = {
    "one pixel": (1, 1, {}),
    "padded": (31, 47, {}),
    "wide": (8, 200, {}),
    "tall": (200, 8, {}),
    "grey": (16, 16, {"in_chans": 1}),
    "oblong windows": (50, 70, {"window_size": ((4, 2), (2, 4), (3, 5))}),
    "shrink min": (24, 64, {"shrink": "min"}),
    "shrink axis": (20, 64, {"shrink": "axis", "mask_padding": False}),
    "one shifted window": (30, 30, {"shift_single": True, "mask_padding": False}),
    "window of one": (32, 32, {"window_size": 1}),
    "one block": (32, 32, {"depths": (1, 1, 1)}),
    "pixels left out": (35, 43, {"patch_remainder": "drop"}),
    "more left out than padded": (33, 33, {"patch_remainder": "drop", "patch_size": 4, "window_size": 4}),
    "other windows on each axis": (16, 40, {"window_size": ((4, 1), (4, 1), (4, 1))}),
}


@pytest.mark.parametrize("name", ODD)
def test_every_figure_of_odd_cases(name):
    height, width, fields = ODD[name]
    record, display = look(nano(**fields), height, width)
    figures = [explain.patch_figure(record, display), explain.shift_figure(record.stages[-1], display)]
    figures += [explain.window_figure(stage, display) for stage in record.stages]
    figures += [explain.mask_figure(stage) for stage in record.stages]
    for figure in figures:
        assert len(figure.get_label()) > len(figure.get_suptitle()) > 20


@pytest.mark.parametrize("fields", [{"depths": (1, 1, 1)}, {"window_size": ((1, 1), (2, 3), (2, 2)), "in_chans": 1}])
def test_the_pictures_are_of_a_stage_that_shifts_if_there_is_one(fields):
    model = nano(**fields)
    found = dict(explain.pictures(model, *pair(16, 24, model.config.in_chans), trained=True))
    assert list(found) == NAMES
    number, block = (1, 1) if "depths" in fields else (2, 2)
    assert found["03b_cyclic_shift"].get_suptitle().startswith(f"Stage {number}:")
    assert f"stage {number}, block {block}" in found["05c_relative_position_bias"].get_suptitle()
    assert f"stage {number}, block {block}" in found["06a_attention_first"].get_suptitle()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"depths": (1, 1, 1)}, "one block"),
        ({"window_size": 1}, "one token"),
        ({"window_size": 16}, "one window covers the map"),
        ({"shrink": "min", "window_size": 12}, "narrowed"),
        (
            {"window_size": ((16, 1),) * 3},
            "Rows are not shifted: one window covers that axis. Columns are not shifted: a window",
        ),
    ],
)
def test_a_stage_that_shifts_nothing_says_why(fields, reason):
    record, display = look(nano(**fields), 16 if reason != "narrowed" else 20, 32 if reason == "narrowed" else 16)
    figure = explain.window_figure(record.stages[0], display)
    words = " ".join(t.get_text() for a in figure.axes for t in (a.title, *a.texts))
    assert "nothing is shifted" in figure.get_suptitle()
    assert reason in " ".join(words.split())
    assert "nothing is shifted" in explain.shift_figure(record.stages[0], display).get_suptitle()


def test_receptive_fields_of_the_hierarchy_are_those_of_the_middle():
    model, shown = nano(), pair(64, 64)
    middle, corner = (Findings(model, *shown, True, pixel) for pixel in (None, (0, 0)))
    assert [level.field for level in corner.levels] == [level.field for level in middle.levels]
    assert corner.fields["stages.0.blocks.1"].shape == (64, 64)
    assert not np.array_equal(corner.fields["stages.0.blocks.1"], middle.fields["stages.0.blocks.1"])


@pytest.mark.parametrize("name", ["$x_$", "$5 to $10 bill"])
def test_class_names_are_no_mathematics(name):
    model = nano(num_classes=1)
    model.card = swindow.ModelCard(class_names=(name,))
    figure = Findings(model, *pair(16, 16), True).figures()["06c_grad_cam"]()
    figure.draw_without_rendering()
    assert name in figure.get_suptitle()


def test_a_model_that_diverged_is_refused():
    model = nano()
    torch.nn.init.constant_(model.stages[2].blocks[1].mlp.fc2.bias, math.nan)
    with pytest.raises(InputError, match="not finite"):
        Findings(model, *pair(16, 16), True)


def test_explain_writes_every_picture(tmp_path):
    model, (image, display), seen = nano(in_chans=1), pair(31, 47, 1), []
    paths = explain.explain(
        model, image, display, tmp_path / "a" / "b", trained=False, on_progress=lambda *step: seen.append(step)
    )
    assert [p.name for p in paths] == [f"{name}.png" for name in NAMES]
    assert seen == [(name, i + 1, len(NAMES)) for i, name in enumerate(NAMES)]
    assert sorted(paths) == sorted((tmp_path / "a" / "b").iterdir())
    for path in paths:
        with Image.open(path) as picture:
            assert 1200 <= picture.width <= 1600
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
            assert picture.text["Description"].startswith(picture.text["Title"][:40])


def test_pictures_of_a_tiny_model_at_224():
    config = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=7, num_classes=0)
    record, display = look(SwinTransformer(config), 224, 224)
    titles = [explain.window_figure(stage, display).get_suptitle() for stage in record.stages]
    assert titles[0].startswith("Stage 1: 56x56 tokens, window 7x7, shift 3: 64 windows; 49 need no mask")
    assert titles[3].startswith("Stage 4: 7x7 tokens, window 7x7: 1 window, nothing is shifted")
    assert "3,136 patches" in explain.patch_figure(record, display).axes[0].get_title()


def test_the_model_is_handed_back_untouched():
    model = nano(drop_path_rate=0.5, drop_rate=0.5)
    model.stages[0].eval()  # part of it frozen
    flags = [m.training for m in model.modules()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    image, display = pair(32, 32)
    for _ in explain.pictures(model, image, display, trained=True):
        pass
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_model_is_handed_back_after_an_error():
    model = nano()
    with pytest.raises(InputError, match="channels"):
        explain.record(model, torch.zeros(1, 32, 32))
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bad_input_is_refused():
    image, display = pair(32, 32)
    with pytest.raises(InputError, match="for images"):
        explain.record(nano(patch_size=(2, 2, 2), window_size=2), image)
    with pytest.raises(InputError, match="of a batch"):
        explain.record(nano(), image[None])
    with pytest.raises(InputError, match="same height and width"):
        next(explain.pictures(nano(), image, display[:16], trained=True))
    with pytest.raises(InputError, match="uint8"):
        next(explain.pictures(nano(), image, display / 255, trained=True))
    with pytest.raises(InputError, match="floating"):
        explain.record(nano(), (image * 255).to(torch.uint8))


def test_a_failure_to_write_is_one_line_and_leaves_nothing(tmp_path):
    image, display = pair(8, 8)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="could not write") as caught:
        explain.explain(nano(), image, display, tmp_path / "file", trained=True)
    assert "\n" not in str(caught.value)
    (tmp_path / "dir" / "01_hierarchy.png").mkdir(parents=True)
    with pytest.raises(OutputError):
        explain.explain(nano(), image, display, tmp_path / "dir", trained=True)
    assert [p.name for p in (tmp_path / "dir").iterdir()] == ["01_hierarchy.png"]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    record, display = look(nano(), 8, 8)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'swindow\[explain\]'"):
        explain.patch_figure(record, display)


def as_seen(colour, by):
    """CIELAB of a colour as a kind of eye sees it: Machado et al. 2009, table 1, severity 1, on linear RGB."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ np.clip(np.array(by) @ linear, 0, 1) / (0.95047, 1, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize(
    "by",
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
    ids=["usual", "protanopia", "deuteranopia", "tritanopia"],
)
def test_colours_are_told_apart_by_colour_blind_eyes(by):
    """A difference of 2.3 can just be noticed; padding, the tenth colour, is hatched."""
    for colours in (style.REGIONS[:-1], style.MASK, hierarchy._ORDER):
        seen = [as_seen(colour, by) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15
