"""The law: attention by cyclic shift and mask is attention over the irregular, unshifted windows, token by token."""

import concurrent.futures
import contextlib
import itertools
import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from helpers import definition
from helpers.definition import RULES, Problem, difference, problems, randomise
from helpers.kernels import KERNELS
from swindow import create, kernels, windows
from swindow.errors import ConfigError
from swindow.models import RelativePositionBias
from swindow.models.attention import ScaledDotProduct
from swindow.models.position_bias import ContinuousPositionBias
from swindow.windows import SizeRule

WAYS = [*KERNELS, "sdpa, compiled", "sdpa, compiled for any size"]


def attend(way, *arguments):
    """Attends by a kernel, also in the form that it has while it is compiled."""
    kernel, _, compiled = way.partition(", ")
    with contextlib.ExitStack() as stack:
        if compiled:
            stack.enter_context(mock.patch.object(torch.compiler, "is_compiling", return_value=True))
        if compiled == "compiled for any size":
            stack.enter_context(mock.patch.object(kernels.plan, "is_static", return_value=False))
        return kernels.attend(*arguments, kernel=kernel)


class Setting:
    """Random tokens, projection and bias for a problem, and the gradients with respect to all of them."""

    def __init__(self, problem, heads=2, head_dim=2, batch=1, qkv_bias=True, dtype=torch.float64, dim=None):
        dim = dim or heads * head_dim
        self.problem, self.g = problem, windows.resolve(*problem)
        self.head_dim, self.scale = head_dim, head_dim**-0.5
        self.y = torch.randn(batch, *problem.grid, dim, dtype=dtype, requires_grad=True)
        self.qkv = randomise(nn.Linear(dim, 3 * heads * head_dim, bias=qkv_bias)).to(dtype)
        self.position_bias = randomise(RelativePositionBias(problem.window, heads)).to(dtype)
        self.cotangent = torch.randn(batch, *problem.grid, heads * head_dim, dtype=dtype)

    def by_definition(self):
        return definition.attention(self.y, self.qkv, self.position_bias.table, self.scale, self.problem)

    def arguments(self, similarity=None):
        return (
            self.y,
            self.qkv,
            self.position_bias(self.g.window),
            self.g,
            similarity or ScaledDotProduct(len(self.qkv.weight), self.head_dim),
        )

    def attend(self, way, similarity=None):
        return attend(way, *self.arguments(similarity))

    def gradients(self, out):
        leaves = [self.y, self.position_bias.table, *self.qkv.parameters()]
        return torch.autograd.grad(out, leaves, self.cotangent)


def assert_equal(ours, theirs, setting, forward=1e-9, backward=1e-9):
    assert difference(ours, theirs) <= forward
    for a, b in zip(setting.gradients(ours), setting.gradients(theirs), strict=True):
        assert difference(a, b) <= backward


# --- the law ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60)
@given(problems(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.booleans())
@example(
    Problem((15, 15), (7, 7), (3, 3)), 2, 2, 1, True
)  # padded by 6: the shift moves padding out of the last window
@example(Problem((15, 15), (7, 7), (3, 3), SizeRule(mask_padding=False)), 2, 2, 1, True)
@example(Problem((8, 14), (7, 7), (6, 6)), 1, 1, 1, True)  # every real token of the first rows wraps
@example(Problem((2, 9, 8), (2, 4, 3), (1, 2, 1)), 1, 2, 1, True)
@example(Problem((7, 7), (7, 7), (3, 3), SizeRule(shift_single=True)), 1, 2, 1, True)
@example(Problem((1, 1), (7, 7), (3, 3), SizeRule(mask_padding=False, shift_single=True)), 1, 2, 2, True)
@example(Problem((5, 6, 7), (2, 2, 3), (0, 0, 0), SizeRule(mask_padding=False)), 2, 1, 1, False)
def test_the_law(way, problem, heads, head_dim, batch, qkv_bias):
    setting = Setting(problem, heads, head_dim, batch, qkv_bias)
    assert_equal(setting.attend(way), setting.by_definition()[0], setting)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=20)
@given(problems(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 7))
@example(Problem((15, 15), (7, 7), (3, 3)), 3, 5, 8)
@example(Problem((2, 9, 8), (2, 4, 3), (1, 2, 1)), 2, 3, 7)
def test_the_law_where_heads_times_their_channels_are_not_the_width(way, problem, heads, head_dim, dim):
    setting = Setting(problem, heads, head_dim, batch=2, dim=dim)
    assert_equal(setting.attend(way), setting.by_definition()[0], setting)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("make", [RelativePositionBias, ContinuousPositionBias])
@given(problems(rules=[SizeRule(shrink="axis")]))
def test_a_shrunk_window_is_the_whole_window_with_its_padding_masked(kernel, make, problem):
    """Reading the centre of the table on every axis: not where it would have been had the table been cut."""
    heads, bias = 2, randomise(make(problem.window, 2)).double()
    shrunk = windows.resolve(*problem)
    padded = tuple(math.ceil(n / w) * w for n, w in zip(problem.grid, problem.window))
    shift = tuple(s if p > w else 0 for s, p, w in zip(problem.shift, padded, problem.window))
    whole = windows.Geometry(problem.grid, padded, problem.window, shift, mask_padding=True)
    qkv = randomise(nn.Linear(2 * heads, 6 * heads)).double()
    y = torch.randn(1, *problem.grid, 2 * heads, dtype=torch.float64, requires_grad=True)
    leaves = [y, *bias.parameters(), *qkv.parameters()]
    similarity = ScaledDotProduct(heads, 2)
    found, expected = (kernels.attend(y, qkv, bias(g.window), g, similarity, kernel=kernel) for g in (shrunk, whole))
    assert difference(found, expected) <= 1e-9
    cotangent = torch.randn_like(y)
    gradients = (torch.autograd.grad(out, leaves, cotangent) for out in (found, expected))
    for a, b in zip(*gradients, strict=True):
        assert difference(a, b) <= 1e-9


@settings(max_examples=30)
@given(problems(), st.integers(1, 3))
def test_weights_are_the_probabilities_of_the_definition(problem, heads):
    setting = Setting(problem, heads)
    g, (_, wanted) = setting.g, setting.by_definition()
    found = kernels.weights(*setting.arguments())  # (B, nW, h, N, N)
    gather, _ = windows.order(g)
    tokens = math.prod(g.grid)
    for window, places in zip(found[0], gather.view(found.shape[1], -1), strict=True):
        real = places < tokens
        ours = window[:, real][:, :, real]  # (h, n, n) between tokens of the grid
        theirs = wanted[0][:, places[real]][:, :, definition.key_numbers(problem)[places[real]]]
        assert difference(ours, theirs) <= 1e-9
        assert torch.equal(ours == 0, theirs == 0)  # nothing leaks across regions, not even e^-100


@given(problems())
def test_weights_sum_to_one_and_times_the_values_are_what_attend_returns(problem):
    setting = Setting(problem, heads=2, batch=2)
    g = setting.g
    found = kernels.weights(*setting.arguments())
    assert found.shape == (2, math.prod(g.windows), 2, math.prod(g.window), math.prod(g.window))
    assert difference(found.sum(-1), torch.ones(found.shape[:-1], dtype=found.dtype)) <= 1e-12
    label = windows.labels(g)
    apart = (label[:, :, None] != label[:, None, :])[None, :, None].expand_as(found)
    assert not found[apart].any()
    gather, scatter = windows.order(g)
    tokens = F.pad(setting.y.flatten(1, -2), [0, 0, 0, 1])[:, gather].unflatten(1, label.shape)  # (B, nW, N, C)
    v = setting.qkv(tokens).chunk(3, -1)[2].unflatten(-1, (2, -1)).transpose(2, 3)  # (B, nW, h, N, d)
    out = (found @ v).transpose(2, 3).flatten(3).flatten(1, 2)[:, scatter].view_as(setting.y)
    assert difference(out, setting.attend("sdpa")) <= 1e-9


# --- kernels among themselves -----------------------------------------------------------------------------------------

SIZES = [
    ((14, 14), (7, 7)),
    ((15, 15), (7, 7)),
    ((7, 7), (7, 7)),
    ((3, 20), (4, 4)),
    ((3, 9, 7), (2, 4, 4)),
    ((2, 3, 9), (3, 3, 3)),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("grid", "window"), SIZES)
@pytest.mark.parametrize(("dtype", "forward", "backward"), [(torch.float64, 1e-9, 1e-9), (torch.float32, 2e-5, 1e-4)])
def test_kernels_are_equal_on_all_size_rules(grid, window, rule, dtype, forward, backward):
    if rule.shrink == "min" and len(set(window)) > 1:
        window = window[:1] * len(window)
    problem = Problem(grid, window, tuple(w // 2 for w in window), rule)
    setting = Setting(problem, heads=2, head_dim=4, batch=2, dtype=dtype)
    assert_equal(setting.attend("sdpa"), setting.attend("reference"), setting, forward, backward)


def cosine(q, k):
    return 7.0 * F.normalize(q, dim=-1), F.normalize(k, dim=-1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_similarity_decides_the_scale(kernel):
    setting = Setting(Problem((5, 6), (3, 3), (1, 1)), heads=2, head_dim=3)
    logits = kernels.weights(*setting.arguments(cosine))
    assert difference(setting.attend(kernel, cosine), setting.attend("reference", cosine)) <= 1e-9
    assert difference(logits, kernels.weights(*setting.arguments())) > 1e-2
    unscaled = setting.attend(kernel, lambda q, k: (q, k))
    assert difference(unscaled, setting.attend(kernel)) > 1e-2


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_has_the_projection_s_bias_as_key_and_value(kernel):
    # One token in a window of four: three keys are padding. With q = 0 and no position bias, all weigh the same.
    setting = Setting(Problem((1, 1), (2, 2), (0, 0), SizeRule(mask_padding=False)), heads=1, head_dim=2)
    with torch.no_grad():
        setting.qkv.weight[:2], setting.qkv.bias[:2] = 0, 0
        setting.position_bias.table.zero_()
        value, padded = setting.qkv(setting.y)[..., 4:], setting.qkv.bias[4:]
        assert difference(setting.attend(kernel), (value + 3 * padded) / 4) <= 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_dropout_drops_probabilities_and_keeps_their_expectation(kernel):
    setting = Setting(Problem((4, 4), (2, 2), (1, 1)), heads=1, head_dim=1, batch=4000)
    y, qkv, bias, g, similarity = setting.arguments()
    with torch.no_grad():
        y = y[:1].expand_as(y)
        whole = kernels.attend(y[:1], qkv, bias, g, similarity, kernel=kernel)
        dropped = kernels.attend(y, qkv, bias, g, similarity, dropout=0.5, kernel=kernel)
    assert difference(dropped[:1], dropped[1:2]) > 1e-2
    assert difference(dropped.mean(0, keepdim=True), whole) < 0.1
    # The corner token has a window of its own: its one probability is dropped or doubled, nothing between.
    ratio = dropped[:, 0, 0, 0] / whole[0, 0, 0, 0]
    assert torch.all(((ratio - 2).abs() < 1e-9) | (ratio == 0))
    assert 0.45 < float((ratio == 0).double().mean()) < 0.55


def test_kernels_agree_under_autocast():
    setting = Setting(Problem((9, 10), (4, 4), (2, 2)), heads=2, head_dim=4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = {kernel: setting.attend(kernel) for kernel in KERNELS}
    assert {out.dtype for out in found.values()} <= {torch.bfloat16, torch.float32}
    for a, b in itertools.combinations(found.values(), 2):
        assert difference(a.float(), b.float()) < 2e-2


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_call_in_fake_mode_leaves_nothing_behind(kernel):
    setting = Setting(Problem((2, 23), (2, 19), (1, 9)))  # sizes that no other test uses: nothing about them is cached
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(setting.attend(kernel), FakeTensor)
    assert_equal(setting.attend(kernel), setting.by_definition()[0], setting)


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_choice_belongs_to_the_model(monkeypatch):
    calls = []
    for name in KERNELS:
        module = getattr(kernels, name)
        monkeypatch.setattr(module, "attend", lambda y, *_, name=name: calls.append(name) or y)
    one, other = (create("swin_nano", embed_dim=4, depths=(1,), num_heads=(1,)).eval() for _ in range(2))
    x = torch.zeros(1, 3, 16, 16)
    one.set_kernel("reference")
    one(x), other(x)
    one.set_kernel("sdpa")
    other.half()
    one(x), other(x.half())
    one.set_kernel(None)
    one(x)
    assert calls == ["reference", "cpu", "sdpa", "sdpa", "cpu"]


def test_set_kernel_names_the_nearest():
    model = create("swin_nano")
    with pytest.raises(
        ConfigError, match=r"unknown kernel 'sdp' \(did you mean 'sdpa'\?\); known: reference, sdpa, cpu"
    ):
        model.set_kernel("sdp")
    with pytest.raises(ConfigError, match=r"product: got 'onednnn' \(did you mean 'onednn'\?\), expected one of torch"):
        model.set_kernel(product="onednnn")


@torch.no_grad()
def test_threads_with_models_on_other_kernels_do_not_meet():
    """A choice made for one model is not seen by another that runs at the same time."""
    models = {name: create("swin_nano", num_classes=3).eval() for name in (*KERNELS, None)}
    for name, model in models.items():
        model.set_kernel(name)
    x = torch.randn(2, 3, 40, 36)
    expected = {name: model(x) for name, model in models.items()}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: (name := list(models)[i % 4], torch.no_grad()(models[name])(x)), range(80)))
    assert all(torch.equal(y, expected[name]) for name, y in found)


def test_dropout_of_an_mlp_is_asked_of_its_own_flag():
    """Monte Carlo dropout: a model in evaluation mode whose dropouts train."""
    model = create("swin_nano", drop_rate=0.5, num_classes=3).eval()
    for block in model.stages[0].blocks:
        block.mlp.drop1.train()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("kernel", [*KERNELS, None])
def test_first_gradients_for_second_ones_where_a_block_is_applied_twice(kernel):
    model = randomise(create("swin_nano", num_classes=3)).double().eval()
    model.set_kernel(kernel if kernel != "sdpa" else "reference")  # PyTorch's attention has no second derivative
    block, x = model.stages[0].blocks[1], torch.randn(1, 9, 7, 32, dtype=torch.float64)
    found = [
        torch.autograd.grad(block(block(x)).square().sum(), list(block.parameters()), create_graph=graph)
        for graph in (False, True)
    ]
    assert all(difference(a, b) <= 1e-9 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kernel", [*KERNELS, None])
def test_an_mlp_may_have_no_bias_and_no_dropout(kernel):
    model = create("swin_nano", num_classes=3).train()
    model.set_kernel(kernel)
    mlp = model.stages[0].blocks[0].mlp
    mlp.fc1, mlp.drop1 = nn.Linear(mlp.fc1.in_features, mlp.fc1.out_features, bias=False), nn.Identity()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert mlp.fc1.weight.grad.isfinite().all()


@pytest.mark.parametrize("frozen", [False, True])
def test_functional_call_uses_the_scale_that_it_was_given(frozen):
    fields = {"embed_dim": 16, "depths": (2,), "num_heads": (2,), "window_size": 4, "num_classes": 3}
    model = randomise(create("swinv2_tiny_w8", **fields, pretrained_window_size=None)).double().eval()
    given = {name: p.detach() + 0.3 * torch.randn_like(p) for name, p in model.named_parameters()}
    for tensors in (dict(model.named_parameters()), given):
        for name, p in tensors.items():
            p.requires_grad_(not (frozen and "logit" in name))
    leaves, x, found = [p for p in given.values() if p.requires_grad], torch.randn(1, 3, 30, 25).double(), []
    for kernel in ("reference", None):
        model.set_kernel(kernel)
        out = torch.func.functional_call(model, given, (x,))
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    assert all(difference(a, b) <= 1e-8 for a, b in zip(*found, strict=True))


class Transposed(nn.Module):
    """A projection whose result does not lie row by row in memory."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x).transpose(1, -1).contiguous().transpose(1, -1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("grad", [True, False])
def test_a_projection_may_give_any_layout(kernel, grad):
    model, x = create("swin_nano", num_classes=3).eval(), torch.randn(2, 3, 32, 40)
    model.set_kernel(kernel)
    with torch.set_grad_enabled(grad):
        expected = model(x)
        attn = model.stages[0].blocks[0].attn
        attn.qkv = Transposed(attn.qkv)
        assert difference(model(x), expected) <= 1e-5


@pytest.mark.parametrize("stages", [2, "all", [True], [9], {0}])
def test_gradient_checkpointing_of_no_stages_that_exist_is_refused(stages):
    with pytest.raises(
        ConfigError, match=r"set_grad_checkpointing: got stages .*, expected numbers below 4, or True or False"
    ):
        create("swin_tiny", depths=(1, 1, 1, 1)).set_grad_checkpointing(stages)
