"""Without the interfaces of PyTorch that are not public, everything gives the same, if more slowly."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect

import pytest
import torch
from torch import nn

from helpers.definition import V2, difference, randomise
from helpers.kernels import KERNELS
from swindow import SwinConfig, SwinTransformer, caching, private
from swindow.kernels import fast_path, products

CONFIG = SwinConfig(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=3, num_classes=5, drop_path_rate=0.0)
KINDS = {"v1": CONFIG, "v2": CONFIG.replace(**V2)}


def looked_up():
    """The path of every interface that ``private`` looks up."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(private))) if isinstance(node, ast.Call)]
    found = [call.args for call in calls if isinstance(call.func, ast.Name) and call.func.id == "_find"]
    return [tuple(ast.literal_eval(name) for name in names) for names in found]


SAVED_TENSORS = ("_C", "_autograd", "_top_saved_tensors_default_hooks")  # since PyTorch 2.8
PATHS = [path for path in looked_up() if path != SAVED_TENSORS or torch.__version__ >= "2.8"]
OTHERS = (  # recorders, backward and stochastic depth ask; fast paths do not
    ("_C", "_current_graph_task_id"),
    ("_C", "_dispatch_keys"),
    SAVED_TENSORS,
)
QUESTIONS = [path for path in PATHS if path[0] != "ops" and path not in OTHERS]


class Without:
    """A module of PyTorch that lacks one name."""

    def __init__(self, of, name):
        self.of, self.name = of, name

    def __getattr__(self, name):
        if name == self.name:
            raise AttributeError(name)
        return getattr(self.of, name)


@pytest.fixture
def without():
    """Reloads ``private`` as if PyTorch lacked some names; PyTorch itself has them again afterwards."""

    def reload(*paths):
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for *parents, name in paths:
                owner = torch
                for parent in parents[:-1]:
                    owner = getattr(owner, parent)
                patch.setattr(owner, parents[-1], Without(getattr(owner, parents[-1]), name))
            importlib.reload(private)
        products._choice.cache_clear()
        caching.clear()

    yield reload
    reload()


def results(config):
    """Outputs, gradients and what ``deploy()`` gives, on every kernel and product."""
    torch.manual_seed(0)
    model, x = randomise(SwinTransformer(config)).eval(), torch.randn(2, 3, 37, 26)
    found = []
    for kernel, product in [(None, "torch"), (None, "onednn"), *((kernel, None) for kernel in KERNELS)]:
        model.set_kernel(kernel, product)
        model.zero_grad()
        with torch.no_grad():
            found.append(model(x))
        y = model(x)
        y.square().sum().backward()
        found += [y, *(p.grad for p in model.parameters()), model.deploy(product)(x)]
    return found


def assert_same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert difference(a, b) <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [*PATHS, None], ids=lambda path: "all" if path is None else ".".join(path))
def test_each_interface_may_be_missing(path, kind, without):
    wanted = results(KINDS[kind])
    missing = PATHS if path is None else [path]
    without(*missing)
    assert private._find(*missing[0]) is not None  # only looked up while it was missing
    asks = any(p in QUESTIONS for p in missing)
    assert fast_path.may_run(torch.zeros(1)) is not asks  # who cannot ask assumes that somebody looks on
    assert_same(results(KINDS[kind]), wanted)


def test_all_that_is_looked_up_exists_in_this_pytorch():
    """Where it does not, a fallback runs that nobody noticed."""
    assert len(PATHS) >= 10
    missing = [path for path in PATHS if private._find(*path) is None and path[:2] != ("ops", "mkldnn")]
    assert missing == []


def test_the_functions_that_stand_in_are_right(without):
    x, gradient = torch.randn(5, 7, dtype=torch.float64, requires_grad=True), torch.randn(5, 7, dtype=torch.float64)
    without(*PATHS)
    assert not private.has_onednn_linear()
    assert private.onednn_packed(torch.zeros(2, 2)) is None
    y = torch.nn.functional.gelu(x)
    (wanted,) = torch.autograd.grad(y, x, gradient)
    assert difference(private.gelu_(x.detach()), y.detach()) <= 1e-12
    assert difference(private.gelu_backward_(gradient.clone(), x.detach()), wanted) <= 1e-12
    p = x.softmax(-1)
    (wanted,) = torch.autograd.grad(p, x, gradient)
    assert difference(private.softmax_backward(gradient, p.detach()), wanted) <= 1e-12


def test_without_the_level_of_forward_mode_it_counts_as_active(monkeypatch):
    monkeypatch.delattr(torch.autograd.forward_ad, "_current_level")
    assert private.forward_mode()
    assert not fast_path.may_run(torch.zeros(1))


@pytest.mark.parametrize("name", ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"])
def test_a_module_without_a_place_for_hooks_counts_as_hooked(name):
    layer = nn.Linear(2, 2)
    assert not private.has_hooks(layer)
    del layer.__dict__[name]
    assert private.has_hooks(layer)


def test_parameters_and_hooks_are_found():
    layer = nn.Linear(2, 2, bias=False)
    assert list(private.parameters_of(layer)) == [layer.weight, None]
    layer.register_forward_hook(lambda *_: None)
    assert [len(hooks) for hooks in private.hooks_of(layer)].count(1) == 1
    del layer.__dict__["_parameters"]
    layer.parameters = lambda recurse: iter((1,) if not recurse else ())
    assert list(private.parameters_of(layer)) == [1]


@pytest.mark.slow
@torch.no_grad()
def test_without_static_values_sizes_count_as_open(monkeypatch):
    from torch.fx.experimental import symbolic_shapes

    model, x = randomise(SwinTransformer(CONFIG)).eval(), torch.randn(2, 3, 37, 26)
    for lacks in (False, True):  # PyTorch's compiler knows its own function: it is looked up first
        if lacks:
            monkeypatch.delattr(symbolic_shapes, "has_static_value", raising=False)  # 2.6 and 2.7 have none
        assert private.has_static_value(3) is hasattr(symbolic_shapes, "has_static_value")
        torch.compiler.reset()
        assert difference(torch.compile(model, backend="eager", fullgraph=True)(x), model(x)) <= 2e-5


def test_a_backward_pass_is_seen(without):
    seen = []
    x = torch.zeros(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda gradient: seen.append(private.in_backward()))
    y.sum().backward(retain_graph=True)
    assert (seen, private.in_backward()) == ([True], False)
    without(OTHERS[0])
    y.sum().backward()
    assert seen == [True, False]
