import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.definition import RULES, Problem, fit, places, problems, region, table_row
from swindow import windows
from swindow.errors import InputError
from swindow.windows import Geometry, SizeRule

MASKED = SizeRule()
TORCHVISION = SizeRule(mask_padding=False)
MICROSOFT = SizeRule(shrink="min", mask_padding=False)
VIDEO = SizeRule(shrink="axis", mask_padding=False)
MMDETECTION = SizeRule(shift_single=True, mask_padding=False)


def resolved(problem: Problem) -> Geometry:
    return windows.resolve(*problem)


def tokens_in_window_order(g: Geometry) -> list[list[tuple[int, ...]]]:
    """For each window, the places on the padded grid of its tokens, from loops alone."""
    first = itertools.product(*(range(0, p, w) for p, w in zip(g.padded, g.window)))
    return [
        [tuple((a + b + s) % p for a, b, s, p in zip(corner, inner, g.shift, g.padded)) for inner in places(g.window)]
        for corner in first
    ]


# --- resolve ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "rule", "padded", "window", "shift"),
    [
        ((56, 56), MASKED, (56, 56), (7, 7), (3, 3)),
        ((15, 20), MASKED, (21, 21), (7, 7), (3, 3)),
        ((7, 7), MASKED, (7, 7), (7, 7), (0, 0)),
        ((5, 30), MASKED, (5, 35), (5, 7), (0, 3)),  # narrowed: the same result for less work
        ((5, 30), TORCHVISION, (7, 35), (7, 7), (0, 3)),
        ((5, 30), MMDETECTION, (7, 35), (7, 7), (3, 3)),
        ((5, 30), VIDEO, (5, 35), (5, 7), (0, 3)),
        ((5, 30), MICROSOFT, (5, 30), (5, 5), (0, 0)),
        ((7, 30), MICROSOFT, (7, 35), (7, 7), (0, 0)),
        ((8, 30), MICROSOFT, (14, 35), (7, 7), (3, 3)),
        ((1, 1), MASKED, (1, 1), (1, 1), (0, 0)),
        ((1, 1), TORCHVISION, (7, 7), (7, 7), (0, 0)),
    ],
)
def test_resolve_applies_the_size_rule(grid, rule, padded, window, shift):
    g = windows.resolve(grid, (7, 7), (3, 3), rule)
    assert g == Geometry(grid, padded, window, shift, rule.mask_padding)
    assert g.pads == (grid != padded)
    assert g.windows == tuple(p // w for p, w in zip(padded, window))


def test_resolve_uses_the_own_rule_by_default():
    assert windows.resolve((9, 4), (7, 7), (3, 3)) == windows.resolve(
        (9, 4), (7, 7), (3, 3), SizeRule(None, False, True)
    )


@given(problems())
def test_resolve_agrees_with_the_definition(problem):
    g, fitted = resolved(problem), fit(problem)
    narrowed = tuple(min(w, n) for w, n in zip(fitted.window, problem.grid))
    if g.window != fitted.window:  # the one freedom: padding is masked, so that narrowing changes no result
        assert problem.rule.mask_padding
        assert (g.window, g.shift) == (narrowed, fitted.shift)
        assert g.padded == tuple(math.ceil(n / w) * w for n, w in zip(problem.grid, narrowed))
    else:
        assert (g.padded, g.shift) == (fitted.padded, fitted.shift)
    assert g.grid == problem.grid
    assert all(0 <= s < w for s, w in zip(g.shift, g.window))


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [
        ((8,), (4, 4), (2, 2)),
        ((8, 8), (4, 4), (2,)),
        ((), (), ()),
        ((0, 8), (4, 4), (2, 2)),
        ((8, 8), (0, 4), (0, 2)),
        ((8, 8), (4, 4), (4, 0)),
        ((8, 8), (4, 4), (-1, 0)),
    ],
)
def test_resolve_refuses_what_is_no_geometry(grid, window, shift):
    with pytest.raises(InputError, match=r"resolve: got grid .* expected .*shift < window"):
        windows.resolve(grid, window, shift)


# --- partition, merge, pad, crop, shift -------------------------------------------------------------------------------

fitting = st.integers(1, 3).flatmap(
    lambda n: st.tuples(st.tuples(*[st.integers(1, 4)] * n), st.tuples(*[st.integers(1, 3)] * n))
)


@given(fitting, st.integers(1, 2), st.integers(1, 3))
def test_partition_is_the_loop_over_windows_and_merge_undoes_it(sizes, batch, channels):
    window, per_axis = sizes
    grid = tuple(w * n for w, n in zip(window, per_axis))
    x = torch.arange(batch * math.prod(grid) * channels).view(batch, *grid, channels)
    cut = windows.partition(x, window)
    assert cut.shape == (batch, math.prod(per_axis), math.prod(window), channels)
    for i, corner in enumerate(places(per_axis)):
        for j, inner in enumerate(places(window)):
            place = tuple(c * w + t for c, w, t in zip(corner, window, inner))
            assert torch.equal(cut[:, i, j], x[(slice(None), *place)])
    assert torch.equal(windows.merge(cut, window, grid), x)


@given(fitting)
def test_merge_then_partition_is_the_identity(sizes):
    window, per_axis = sizes
    x = torch.randn(2, math.prod(per_axis), math.prod(window), 3)
    grid = tuple(w * n for w, n in zip(window, per_axis))
    assert torch.equal(windows.partition(windows.merge(x, window, grid), window), x)


@pytest.mark.parametrize("grid", [(50, 50), (49, 50), (7,)])
def test_partition_refuses_a_grid_that_is_no_multiple(grid):
    with pytest.raises(InputError, match=r"partition: grid .* is not a multiple of window \(7, 7\); pad it first"):
        windows.partition(torch.zeros(1, *grid, 2), (7, 7))


@pytest.mark.parametrize(
    ("shape", "grid"), [((1, 3, 4, 1), (4, 4)), ((1, 4, 5, 1), (4, 4)), ((1, 4, 4, 1), (5, 4)), ((4, 4, 1), (4, 4))]
)
def test_merge_refuses_windows_that_do_not_fit(shape, grid):
    with pytest.raises(InputError, match=r"merge: got windows .* expected \(B, "):
        windows.merge(torch.zeros(shape), (2, 2), grid)


@given(problems())
def test_padding_is_zero_and_at_the_end_and_crop_removes_it(problem):
    g = resolved(problem)
    x = torch.rand(2, *g.grid, 3) + 1
    padded = windows.pad(x, g)
    assert padded.shape == (2, *g.padded, 3)
    assert torch.equal(padded[(slice(None), *map(slice, g.grid))], x)
    assert torch.isclose(padded.sum(), x.sum())
    assert torch.equal(windows.crop(padded, g), x)


def test_cyclic_shift_moves_to_the_top_left_and_back():
    x = torch.arange(20).view(1, 4, 5, 1)
    y = windows.cyclic_shift(x, (1, 2))
    assert y[0, 0, 0, 0] == x[0, 1, 2, 0]
    assert y[0, 3, 4, 0] == x[0, 0, 1, 0]
    assert torch.equal(windows.cyclic_shift(y, (-1, -2)), x)


# --- order and labels -------------------------------------------------------------------------------------------------


@given(problems())
def test_order_is_the_loop_and_scatter_undoes_gather(problem):
    g = resolved(problem)
    gather, scatter = windows.order(g)
    number = {place: i for i, place in enumerate(places(g.grid))}
    expected = [number.get(place, len(number)) for window in tokens_in_window_order(g) for place in window]
    assert gather.tolist() == expected
    assert torch.equal(gather[scatter], torch.arange(math.prod(g.grid)))


@given(problems())
def test_labels_are_equal_exactly_in_one_region(problem):
    g, fitted = resolved(problem), fit(problem)
    for labels, window in zip(windows.labels(g).tolist(), tokens_in_window_order(g), strict=True):
        real = [all(p < n for p, n in zip(place, g.grid)) or not g.mask_padding for place in window]
        wanted = [region(place, fitted) if kept else "padding" for place, kept in zip(window, real)]
        for i, j in itertools.combinations(range(len(window)), 2):
            assert (labels[i] == labels[j]) == (wanted[i] == wanted[j]), (window[i], window[j])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", range(1, 30))
def test_tokens_that_attend_are_less_than_a_window_apart_at_every_size(n, rule):
    g = windows.resolve((n,), (7,), (3,), rule)
    gather, _ = windows.order(g)
    for labels, tokens in zip(windows.labels(g), gather.view(-1, *g.window), strict=True):
        for label in labels.unique():
            together = tokens[(labels == label) & (tokens < n)].tolist()
            assert not together or max(together) - min(together) < g.window[0]


# --- relative position index ------------------------------------------------------------------------------------------


@given(st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.tuples(st.integers(1, 4), st.integers(0, 2))] * n)))
def test_relative_position_index_is_the_nested_loop_and_reads_the_centre_of_a_larger_table(axes):
    window, table = tuple(w for w, _ in axes), tuple(w + more for w, more in axes)
    index = windows.relative_position_index(window, table).tolist()
    assert index == [[table_row(p, q, table) for q in places(window)] for p in places(window)]


@pytest.mark.parametrize("window", [(7, 7), (2, 5), (3,), (2, 3, 4), (1, 1)])
def test_relative_position_index_has_a_row_of_its_own_for_every_offset(window):
    index = windows.relative_position_index(window)
    rows = math.prod(2 * w - 1 for w in window)
    by_offset = {}
    for (i, p), (j, q) in itertools.product(enumerate(places(window)), repeat=2):
        by_offset.setdefault(tuple(a - b for a, b in zip(p, q)), set()).add(int(index[i, j]))
    assert all(len(found) == 1 for found in by_offset.values())
    assert set().union(*by_offset.values()) == set(range(rows))
    assert len(by_offset) == rows
    assert torch.equal(index + index.T, torch.full_like(index, rows - 1))  # an offset and its opposite mirror


def test_relative_position_index_keeps_2_1_and_1_2_apart():
    index = windows.relative_position_index((3, 3)).view(3, 3, 3, 3)
    assert index[2, 1, 0, 0] == 4 * 5 + 3
    assert index[1, 2, 0, 0] == 3 * 5 + 4


def test_a_smaller_window_reads_the_rows_that_its_offsets_have_in_the_whole():
    whole = windows.relative_position_index((4, 5)).view(4, 5, 4, 5)
    part = windows.relative_position_index((2, 3), (4, 5)).view(2, 3, 2, 3)
    for top, left in itertools.product(range(3), range(3)):
        rows, columns = slice(top, top + 2), slice(left, left + 3)
        assert torch.equal(part, whole[rows, columns, rows, columns])


@pytest.mark.parametrize(("window", "table"), [((5, 4), (4, 4)), ((4,), (4, 4))])
def test_relative_position_index_refuses_a_window_larger_than_the_table(window, table):
    with pytest.raises(InputError, match=r"relative_position_index: window .* does not fit"):
        windows.relative_position_index(window, table)
