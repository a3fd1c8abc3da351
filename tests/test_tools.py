"""Other people's tools see an ordinary PyTorch model: what they count, record and change is as with timm's Swin."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.export import Dim
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, is_in_torch_dispatch_mode
from torch.utils.flop_counter import FlopCounterMode

from helpers.definition import V2, difference, randomise
from helpers.kernels import KERNELS
from helpers.peers import NARROW, peer, timm_model
from swindow import SwinTransformer, caching, create
from swindow.errors import ConfigError, InputError
from swindow.kernels import fast_path
from swindow.models import Mlp

CONFIG = NARROW.replace(window_size=4)
KINDS = {"v1": CONFIG, "v2": CONFIG.replace(**V2)}
PADDED = {"v1, padded": NARROW}
SIZE = (32, 32)  # timm's maps fit its windows
TINY = CONFIG.replace(embed_dim=4, depths=(2,), num_heads=(1,), window_size=3, num_classes=2)


def build(config=CONFIG):
    return randomise(SwinTransformer(config)).eval()


def timms(config=CONFIG):
    return randomise(timm_model(config, SIZE)).eval()


def images(batch=2, size=SIZE):
    return torch.randn(batch, 3, *size)


def linear_layers(model):
    return [module for module in model.modules() if type(module) is nn.Linear]


def block_of(model, number=1):
    return model.stages[0].blocks[number]


@pytest.fixture(params=[True, False], ids=["gradients", "no_grad"])
def gradients(request):
    """Runs the test with gradients on, then off."""
    with torch.set_grad_enabled(request.param):
        yield request.param


# --- quantisation, counters, hooks ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.no_grad()
def test_dynamic_quantisation_converts_all_linear_layers_that_timm_s_does():
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch has no quantised layers")

    def quantised(model):
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)

    def converted(model):
        return sum(type(module) is torch.ao.nn.quantized.dynamic.Linear for module in quantised(model).modules())

    model, x = build(), images()
    assert converted(model) == len(linear_layers(model)) == converted(timms())
    assert 1e-5 < difference(quantised(model)(x), model(x)) < 0.05  # in int8, and close


def flops(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def test_flops_are_timm_s(gradients):
    x = images()
    assert flops(build(), x) == flops(timms(), x)


def test_flops_of_swin_tiny_are_the_paper_s(gradients):
    found = flops(create("swin_tiny").eval(), torch.zeros(1, 3, 224, 224)) / 2e9  # multiplications and additions
    assert found == pytest.approx(4.5, rel=0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_flops_do_not_depend_on_gradients(kind):
    model, x = build(KINDS[kind]), images(size=(37, 50))
    with torch.no_grad():
        without = flops(model, x)
    assert flops(model, x) == without


def test_thop_counts_what_it_counts_in_timm_s(gradients):
    thop = pytest.importorskip("thop")

    def count(model):  # timm's softmax is a module, ours a function: not counted
        ignored = {nn.Softmax: lambda module, inputs, output: None}
        return thop.profile(model, (images(),), custom_ops=ignored, verbose=False)

    ours, parameters = count(build())
    assert (ours, parameters) == count(timms())
    assert ours > 0


def test_fvcore_counts_what_it_counts_in_timm_s(gradients):
    fvcore = pytest.importorskip("fvcore.nn")

    def count(model):
        analysis = fvcore.FlopCountAnalysis(model, images()).unsupported_ops_warnings(False)
        return analysis.uncalled_modules_warnings(False).by_operator()

    ours, theirs = count(build()), count(timms())
    for part in ("linear", "conv", "layer_norm"):
        assert ours[part] == theirs[part] > 0


def test_global_hooks_see_every_linear_layer(gradients):
    def seen(model):
        found = []
        hook = nn.modules.module.register_module_forward_hook(lambda module, *_: found.append(module))
        try:
            model(images())
        finally:
            hook.remove()
        return [module for module in found if type(module) is nn.Linear]

    model = build()
    assert set(seen(model)) == set(linear_layers(model))
    assert len(seen(model)) == len(linear_layers(model)) == len(seen(timms()))


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_a_hook_sees_its_layer_once_and_may_change_what_it_returns(kernel, gradients):
    model, x = build(), images()
    model.set_kernel(kernel)
    before = model(x)
    for layer in linear_layers(model):
        seen = []
        hooks = [
            layer.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0].shape)),
            layer.register_forward_hook(lambda module, given, y, seen=seen: seen.append(y.shape) or 2 * y),
        ]
        after = model(x)
        for hook in hooks:
            hook.remove()
        assert len(seen) == 2
        assert seen[0][:-1] == seen[1][:-1]
        assert difference(after, before) > 1e-4
    assert torch.equal(model(x), before)


def test_backward_hooks_see_every_linear_layer_once():
    def seen(model):
        found = []
        for layer in linear_layers(model):
            layer.register_full_backward_hook(lambda module, *_: found.append(module))
        model(images()).sum().backward()
        return found

    model = build()
    found = seen(model)
    assert set(found) == set(linear_layers(model))
    assert len(found) == len(linear_layers(model)) == len(seen(timms()))


# --- recording and exporting ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("kind", "size"),
    [("v1, padded", SIZE), *(pytest.param(kind, (37, 50), marks=pytest.mark.slow) for kind in KINDS)],
)
def test_a_traced_model_takes_any_batch(kind, size, gradients):
    model = build((KINDS | PADDED)[kind])
    traced = torch.jit.trace(model, images(2, size))  # it traces twice, and refuses where the records differ
    for batch in (1, 2, 5):
        x = images(batch, size)
        assert difference(traced(x), model(x)) <= 2e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracing_leaves_nothing_in_the_caches():
    model, x = build(), images(size=(23, 61))  # sizes that no other test uses
    caching.clear()
    torch.jit.trace(model, x, check_trace=False)
    assert not any(cached.cache_info().currsize for cached in caching._caches)  # tensors stood for sizes
    found = model(x)
    found.sum().backward()
    model.set_kernel("reference")
    assert difference(found, model(x)) <= 2e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrapped", [lambda m: m, nn.Sequential, lambda m: m.deploy()])
def test_scripting_is_refused_with_a_way_out(wrapped):
    with pytest.raises(ConfigError, match=r"torch.jit.script, which cannot compile it; try torch.jit.trace or torch"):
        torch.jit.script(wrapped(build()))


class BySize(torch.fx.Tracer):
    """Does not look into the modules whose code depends on sizes."""

    def is_leaf_module(self, m, name):
        return type(m).__name__ in ("PatchEmbed", "SwinStage") or super().is_leaf_module(m, name)


def test_fx_needs_leaf_modules():
    model, x = build(), images()
    with pytest.raises(
        InputError, match=r"got an input of type torch.fx.proxy.Proxy, expected a tensor .*; try torch.export.export"
    ):
        torch.fx.symbolic_trace(model)
    assert difference(torch.fx.GraphModule(model, BySize().trace(model))(x), model(x)) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_export_leaves_the_batch_open_at_small_sizes(kind, gradients):
    model = create("swin_nano").eval() if kind == "v1" else build(KINDS[kind])
    shapes = ({0: Dim("batch", min=1, max=64)},)
    exported = torch.export.export(model, (images(),), dynamic_shapes=shapes).module()
    for batch in (1, 2, 5):
        x = images(batch)
        assert difference(exported(x), model(x)) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "open_batch", "with_gradients"),
    [("v1", False, True), ("v1", True, True), ("v2", True, True), ("v2", False, False)],
)
def test_onnx_gives_what_the_model_gives(kind, open_batch, with_gradients, tmp_path):
    """With gradients on, which is PyTorch's default, and off."""
    onnxruntime, _ = peer("onnxruntime"), peer("onnxscript")
    model, path = build(KINDS[kind]), str(tmp_path / "model.onnx")
    shapes = ({0: Dim("batch", min=1, max=64)},) if open_batch else None
    options = {"dynamo": True, "verbose": False, "input_names": ["images"], "dynamic_shapes": shapes}
    with torch.set_grad_enabled(with_gradients):
        torch.onnx.export(model, (images(),), path, **options)
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 2, 5) if open_batch else (2,):
        x = images(batch)
        (found,) = session.run(None, {"images": x.numpy()})
        assert difference(torch.from_numpy(found), model(x)) <= 2e-5


# --- layers that are changed ------------------------------------------------------------------------------------------


@pytest.mark.slow  # importing peft takes long
@pytest.mark.parametrize("targets", [["qkv", "fc1", "fc2"], ["qkv", "proj", "fc1", "fc2"]])
@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_its_adapters_alone_and_merges(kind, targets):
    """ "proj" is the name of the patch embedding's convolution too."""
    peft = peer("peft")
    model, x = build(KINDS[kind]), images()
    before = copy.deepcopy(model.state_dict())
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    start = adapted(x)
    assert difference(start, build_from(before, KINDS[kind])(x)) <= 2e-5  # adapters start as nothing
    for _ in range(2):  # at first one factor of each adapter is 0, and the other has no gradient
        adapted(x).square().sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    assert difference(adapted(x), start) > 1e-4
    trained = adapted(x)
    assert difference(adapted.merge_and_unload()(x), trained) <= 2e-5
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[-2] for key in changed} == set(targets)
    assert all(key.endswith(".weight") for key in changed)


def build_from(state, config):
    model = build(config)
    model.load_state_dict(state)
    return model


class Doubled(nn.Module):
    """A parametrisation: the weight that is used is twice the one that is kept."""

    def forward(self, weight):
        return 2 * weight


WRAPPINGS = {
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "spectral_norm": parametrizations.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
def test_a_wrapped_weight_is_used_and_trained(name, wrapping, gradients):
    model, x = build(), images()
    before = model(x)
    layer = block_of(model).get_submodule(name)
    WRAPPINGS[wrapping](layer)
    found = model(x)
    assert difference(found, before) > 1e-4
    plain = build_from({**build().state_dict(), **plain_weights(model)}, CONFIG)
    assert difference(found, plain(x)) <= 2e-5
    if gradients:
        found.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


def plain_weights(model):
    """The weights that the layers use, under the names of a model in which nothing is wrapped."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    kept = {key: value for key, value in model.state_dict().items() if key in build().state_dict()}
    return kept | {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}


# --- derivatives and functional calls ---------------------------------------------------------------------------------


def exact(config):
    return build(config).double(), images(size=(20, 24)).double()


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_gives_the_slope_of_finite_differences(kind):
    model, x = exact(KINDS[kind])
    t, step = torch.randn_like(x), 1e-6
    with torch.no_grad():
        slope = (model(x + step * t) - model(x - step * t)) / (2 * step)
    y, found = torch.func.jvp(model, (x,), (t,))
    assert difference(y, model(x)) <= 1e-9
    assert difference(found, slope) <= 1e-6
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(model(forward_ad.make_dual(x, t)))
    assert difference(dual.primal, y) <= 1e-9
    assert difference(dual.tangent, found) <= 1e-9


def second_order(config):
    """A small model's loss as a function of a bias that attention reads."""
    model, x = exact(config)
    name = "stages.0.blocks.1.attn.proj.bias" if config.qkv_bias == "qv" else "stages.0.blocks.0.attn.qkv.bias"
    parameter = dict(model.named_parameters())[name].detach()
    return (lambda value: functional_call(model, {name: value}, (x,)).square().sum()), parameter


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_and_hessians_are_those_of_reverse_mode(kind):
    loss, parameter = second_order(TINY.replace(**V2) if kind == "v2" else TINY)
    wanted = torch.autograd.functional.jacobian(loss, parameter)
    assert wanted.abs().max() > 1e-3
    assert difference(torch.func.jacfwd(loss)(parameter), wanted) <= 1e-9
    assert difference(torch.func.jacrev(loss)(parameter), wanted) <= 1e-9
    assert difference(torch.autograd.functional.jacobian(loss, parameter, vectorize=True), wanted) <= 1e-9
    wanted = torch.autograd.functional.hessian(loss, parameter)  # by the rules of the fast kernel
    assert difference(torch.func.hessian(loss)(parameter), wanted) <= 1e-9


@pytest.mark.parametrize("way", ["torch", "onednn", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_gradients_at_once_are_those_of_a_loop(kind, way):
    model, x = exact(KINDS[kind])
    model, x = model.float(), x.float().requires_grad_()
    if way == "bfloat16":
        model.set_kernel("cpu")
    else:
        model.set_kernel(product=way)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "bfloat16"):
        y = model(x).float()
    parameters, many = [x, *model.parameters()], torch.randn(3, *y.shape)
    found = torch.autograd.grad(y, parameters, many, retain_graph=True, is_grads_batched=True)
    for i, one in enumerate(many):
        for a, b in zip(found, torch.autograd.grad(y, parameters, one, retain_graph=True)):
            assert difference(a[i], b) <= (0.1 if way == "bfloat16" else 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_and_gradients_of_each_sample_equal_a_loop(kind):
    model, x = exact(KINDS[kind])
    with torch.no_grad():
        assert difference(torch.func.vmap(lambda image: model(image[None])[0])(x), model(x)) <= 1e-9
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, image):
        return functional_call(model, parameters, (image[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(len(x)):
        model.zero_grad()
        model(x[i : i + 1]).square().sum().backward()
        for name, p in model.named_parameters():
            assert difference(found[name][i], p.grad) <= 1e-8, name


def test_a_functional_call_uses_the_weights_it_is_given(gradients):
    model, other, x = build(), build(), images()
    weights = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    before, wanted = model(x), other(x)
    found = functional_call(model, weights, (x,))
    assert difference(found, wanted) <= 1e-6
    with pytest.warns(FutureWarning):
        assert torch.equal(torch.nn.utils.stateless.functional_call(model, weights, (x,)), found)
    assert torch.equal(model(x), before)
    if gradients:
        found.sum().backward()
        wanted.sum().backward()
        assert all(p.grad is None for p in model.parameters())
        for name, p in other.named_parameters():
            assert difference(weights[name].grad, p.grad) <= 1e-5, name


# --- copies and processes ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_the_kernel(way):
    model, x = build(), images()
    model.set_kernel("reference", "torch")
    found = way(model)
    assert block_of(found).attn.kernel == block_of(found).kernel == block_of(model).kernel
    assert block_of(found).kernel.attention == "reference"
    assert torch.equal(found(x), model(x))
    found.set_kernel("sdpa")
    assert block_of(model).kernel.attention == "reference"


def test_distributed_data_parallel_gives_the_same_gradients(tmp_path):
    model, x = build(), images()
    plain = copy.deepcopy(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        nn.parallel.DistributedDataParallel(model)(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    plain(x).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), plain.parameters()):
        assert difference(p.grad, q.grad) <= 1e-6, name


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch):
    """What ``fast_path.may_run`` answers while models run."""
    found, rule = [], fast_path.may_run

    def may_run(*given):
        found.append(rule(*given))
        return found[-1]

    monkeypatch.setattr(fast_path, "may_run", may_run)
    return found


class Seen(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    pass


class SeenByDispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def under(mode):
    def run(model, x):
        with mode():
            model(x)

    return run


def with_a_global_hook(model, x):
    hook = nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    model(x)
    hook.remove()


def with_dual_numbers(model, x):
    with forward_ad.dual_level():
        model(x)


WATCHED = {
    "trace": lambda model, x: torch.jit.trace(model, x, check_trace=False),
    "export": lambda model, x: torch.export.export(model, (x,)),
    "compile": lambda model, x: torch.compile(model, backend="eager", fullgraph=True)(x),
    "make_fx": lambda model, x: make_fx(model)(x),
    "make_fx before dispatch": lambda model, x: make_fx(model, pre_dispatch=True)(x),
    "FLOP counter": under(lambda: FlopCounterMode(display=False)),
    "fake tensors": under(lambda: FakeTensorMode(allow_non_fake_inputs=True)),
    "function mode": under(Seen),
    "vmap": lambda model, x: torch.func.vmap(model)(x[None]),
    "grad": lambda model, x: torch.func.grad(lambda x: model(x).sum())(x),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x,)),
    "dual numbers": with_dual_numbers,
    "global hook": with_a_global_hook,
    "subclass": lambda model, x: model(x.as_subclass(Subclass)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "situation", [pytest.param(s, marks=pytest.mark.slow) if s in ("export", "compile") else s for s in WATCHED]
)
def test_no_fast_path_while_somebody_looks_on(situation, answers, gradients):
    torch.compiler.reset()
    model, x = build(KINDS["v2"]), images()  # its similarity is a module of ours, which is asked about too
    WATCHED[situation](model, x)
    assert not any(answers)
    answers.clear()
    model(x)
    assert answers
    assert all(answers)  # afterwards and in the plain case


@pytest.mark.parametrize("mode", [Seen, SeenByDispatch])
def test_a_mode_is_of_its_own_thread(mode, answers):
    """Modes of two threads that overlap leave PyTorch's own flag set, here until a mode ends that began before them."""
    model, x = build(), images()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two, ThreadPoolExecutor(1) as three:
        modes, first = [mode(), mode()], mode()
        three.submit(first.__enter__).result()
        for thread, each in zip((one, two), modes, strict=True):
            thread.submit(each.__enter__).result()
        one.submit(model, x).result()
        assert not any(answers)
        answers.clear()
        model(x)
        for thread, each in zip((one, two), modes, strict=True):
            thread.submit(each.__exit__, None, None, None).result()
        model(x)
        two.submit(model, x).result()
        three.submit(first.__exit__, None, None, None).result()
    assert answers
    assert not is_in_torch_dispatch_mode()
    assert all(answers)


def replaced(mlp):
    mlp.fc1.forward = lambda x: nn.functional.linear(x, mlp.fc1.weight)


class Other(nn.Linear):
    pass


CHANGED = {
    "hook": lambda mlp: mlp.fc1.register_forward_hook(lambda *_: None),
    "pre-hook": lambda mlp: mlp.act.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda mlp: mlp.fc2.register_full_backward_hook(lambda *_: None),
    "hook on the whole": lambda mlp: mlp.register_forward_hook(lambda *_: None),
    "forward": replaced,
    "subclass": lambda mlp: setattr(mlp, "fc1", Other(8, 32)),
    "another activation": lambda mlp: setattr(mlp, "act", nn.ReLU()),
    "subclass of tensor": lambda mlp: setattr(mlp.fc1, "weight", nn.Parameter(mlp.fc1.weight.as_subclass(Subclass))),
    **{name: lambda mlp, name=name: WRAPPINGS[name](mlp.fc2) for name in WRAPPINGS},
}


@pytest.mark.parametrize("change", CHANGED)
def test_no_fast_path_for_changed_layers(change):
    model, x = build(), images()
    mlp, other = block_of(model, 0).mlp, block_of(model, 1).mlp
    y = torch.randn(2, 8, 8, 8)
    assert fast_path.may_run(y, mlp)
    CHANGED[change](mlp)
    assert not fast_path.may_run(y, mlp)
    assert fast_path.may_run(y, other)
    found = model(x)
    model.set_kernel("reference")
    assert difference(found, model(x)) <= 2e-5


def test_no_fast_path_where_a_class_of_ours_has_another_forward(monkeypatch):
    model, x = build(), images()
    expected = model(x)
    monkeypatch.setattr(Mlp, "forward", lambda self, y: 3 * self.fc2(self.act(self.fc1(y))))
    found = model(x)
    assert difference(found, expected) > 1e-3
    model.set_kernel("reference")
    assert difference(found, model(x)) <= 2e-5
