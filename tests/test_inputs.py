"""What a model takes: wrong inputs are refused before any work, stand-ins for tensors pass, a batch may be empty."""

import copy
import re

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

from helpers.definition import V2, difference, randomise
from helpers.kernels import KERNELS
from swindow import InputError, SwinConfig, SwinTransformer
from swindow.models import PatchEmbed, SimMIM

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 3, "num_classes": 5}
CONFIGS = {
    "v1": SwinConfig(**SMALL, drop_rate=0.1, attn_drop_rate=0.1),
    "v2": SwinConfig(**SMALL, **V2),
    "3-D": SwinConfig(**SMALL, patch_size=(2, 4, 4)),
}


def build(config=CONFIGS["v1"]):
    return randomise(SwinTransformer(config)).eval()


# --- wrong inputs -----------------------------------------------------------------------------------------------------

X = torch.zeros(1, 3, 32, 32)
DENSE = "expected a dense tensor (batch, 3 channels, height, width); try "
TENSOR = "expected a tensor (batch, 3 channels, height, width); try "
FLOATING = "expected a floating type; try "


def wrong():
    """Wrong inputs, and how their messages begin after "got an input"."""
    return {
        "NumPy": (X.numpy(), f"of type numpy.ndarray, {TENSOR}torch.from_numpy(x)"),
        "a list of images": ([X[0], X[0]], f"of type list, {TENSOR}torch.stack(x)"),
        "a list of numbers": ([[0.0]], f"of type list, {TENSOR}torch.tensor(x)"),
        "nothing": (None, f"of type NoneType, {TENSOR}swindow.predict(model, x) for files and PIL images"),
        "sparse": (X.to_sparse(), f"of layout torch.sparse_coo, {DENSE}x.to_dense()"),
        "nested": (torch.nested.nested_tensor([X[0], X[0]]), f"of layout nested, {DENSE}one call per size"),
        "complex": (X.to(torch.complex64), f"of type torch.complex64, {FLOATING}x.abs(), or torch.cat("),
        "bytes": (X.byte(), f"of type torch.uint8, {FLOATING}x.float() / 255, normalised"),
        "integers": (X.long(), f"of type torch.int64, {FLOATING}x.float(), normalised"),
        "quantised": (
            torch.quantize_per_tensor(X, 1.0, 0, torch.quint8),
            f"of type torch.quint8, {FLOATING}x.dequantize()",
        ),
        "double": (X.double(), "of type torch.float64, expected the model's torch.float32; try x.to(torch.float32)"),
        "half": (X.half(), "of type torch.float16, expected the model's torch.float32; try x.to(torch.float32)"),
        "meta": (
            X.to("meta"),
            "on meta, expected the model's cpu; try an input with data, which a meta tensor has not",
        ),
        "no pixels": (
            X[..., :0],
            "of shape (1, 3, 32, 0), expected (batch, 3 channels, height, width); try height and",
        ),
        "no channels": (
            X[:, :0],
            "of shape (1, 0, 32, 32), expected (batch, 3 channels, height, width); try: create the",
        ),
        "no image and no pixels": (
            X[:0, ..., :0],
            "of shape (0, 3, 32, 0), expected (batch, 3 channels, height, width)",
        ),
    }


CALLS = {
    "forward": lambda model, x: model(x),
    "features": lambda model, x: model.features(x),
    "pyramid": lambda model, x: model.pyramid(x),
    "deploy": lambda model, x: model.deploy()(x),
    "features of the twin": lambda model, x: model.deploy().features(x),
    "pyramid of the twin": lambda model, x: model.deploy().pyramid(x),
}


@pytest.mark.filterwarnings("ignore:.*(nested tensors|quantized tensor)")
@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_input_is_refused_before_any_work(call):
    model, ran = build(), []
    model.patch_embed.proj.register_forward_hook(lambda *_: ran.append(1))
    for x, message in wrong().values():
        with pytest.raises(InputError, match=rf"^got an (empty )?input {re.escape(message)}"):
            CALLS[call](without_hooks(model) if "meta" in message or "model's" in message else model, x)
    assert ran == []
    assert CALLS[call](model, X) is not None


def without_hooks(model):
    """A copy of a model whose projection has no hook: with one, type and device are left to it."""
    model = copy.deepcopy(model)
    model.patch_embed.proj._forward_hooks.clear()
    return model


def test_simmim_refuses_too():
    model = SimMIM(SwinConfig(**SMALL | {"num_classes": 0}, decoder_stride=8))
    with pytest.raises(InputError, match=r"got an input of type NoneType, expected a tensor \(batch"):
        model(None, torch.zeros(1, 8, 8))


def test_a_model_without_data_takes_inputs_without_data():
    model = build().to("meta")
    assert model(X.to("meta")).shape == (1, 5)
    assert model.deploy()(X.to("meta")).is_meta
    with pytest.raises(InputError, match=r"got an input on cpu, expected the model's meta; try a model with weights"):
        model(X)


def test_autocast_converts_all_but_float64():
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(X.half()).shape == (1, 5)
        with pytest.raises(InputError, match=r"expected the model's torch\.float32"):
            model(X.double())
        with pytest.raises(InputError, match=r"expected the model's torch\.float64"):
            build().double()(X)


# --- another layer in the projection's place --------------------------------------------------------------------------


class LoRA(nn.Module):
    """A layer with a learned addition, as adapters have it: it has no attribute of the convolution in it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.a, self.b = nn.Conv2d(3, 2, 4, 4, bias=False), nn.Conv2d(2, 8, 1, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.b(self.a(x))


class Int8(nn.Module):
    """A layer whose weights are bytes; the scale, a buffer or a parameter, tells the type or does not."""

    def __init__(self, base, buffers):
        super().__init__()
        self.weight = nn.Parameter((base.weight * 100).to(torch.int8), requires_grad=False)
        scale = torch.tensor(0.01)
        self.register_buffer("scale", scale) if buffers else setattr(self, "scale", nn.Parameter(scale))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight * self.scale, stride=4)


@pytest.mark.parametrize("wrap", [LoRA, lambda base: Int8(base, False), lambda base: Int8(base, True)])
def test_a_layer_in_the_projection_s_place(wrap):
    model = build()
    model.patch_embed.proj = wrap(model.patch_embed.proj)
    assert model(X).shape == model.deploy()(X).shape == (1, 5)
    with pytest.raises(InputError, match="create the model with in_chans=1"):
        model(X[:, :1])
    with pytest.raises(InputError, match="expected a floating type"):
        model(X.byte())
    if next(model.patch_embed.proj.buffers(), None) is None:
        with pytest.raises(InputError, match=r"expected the model's torch\.float32"):
            model(X.bfloat16())


@pytest.mark.filterwarnings("ignore:.*quantized tensor")
def test_a_quantised_projection_takes_quantised_inputs():
    embed = PatchEmbed(CONFIGS["v1"])
    embed.proj = nn.Sequential(torch.ao.nn.quantized.DeQuantize(), torch.ao.nn.quantized.Conv2d(3, 8, 4, 4))
    embed.check(torch.quantize_per_tensor(X, 1.0, 0, torch.quint8))


def test_a_projection_with_a_hook_may_convert_or_move_its_input():
    """As accelerate does it, and FSDP, whose weights are elsewhere until the layer is called."""
    model = build()
    expected = model(X)
    model.patch_embed.proj.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
    assert torch.equal(model(X.bfloat16()), expected)


# --- stand-ins for tensors --------------------------------------------------------------------------------------------


def test_stand_ins_for_tensors_pass():
    model, x = build(), torch.randn(2, 3, 24, 20)
    with torch.no_grad():
        expected = model(x)
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert model(torch.empty(2, 3, 24, 20)).shape == (2, 5)
        found = torch.vmap(model)(x[:, None])[:, 0]
        assert difference(found, expected) <= 1e-5
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        assert difference(exported.module()(x), expected) <= 1e-5


def test_distributed_tensors_pass(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        embed = PatchEmbed(CONFIGS["v1"]).double()
        x = torch.randn(2, 3, 24, 20, dtype=torch.float64)
        expected = embed(x)
        for module in embed.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(DTensor.from_local(parameter.data, mesh, [Replicate()])))
        found = embed(DTensor.from_local(x, mesh, [Replicate()]))
        assert torch.equal(found.to_local(), expected)
        with pytest.raises(InputError, match=r"expected the model's torch\.float64"):
            embed(DTensor.from_local(x.float(), mesh, [Replicate()]))
    finally:
        torch.distributed.destroy_process_group()


def test_an_input_may_have_no_static_size():
    model = build()

    class Model(nn.Module):
        def forward(self, x, count):
            size = count.item()
            torch._check(size >= 4)
            torch._check(size < 100)
            model.patch_embed.check(x.expand(1, 3, size, size))
            return x.expand(1, 3, size, size).sum()

    torch.export.export(Model(), (torch.zeros(1, 3, 1, 1), torch.tensor(32)))


# --- a batch of 0 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [*KERNELS, None])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_batch_of_0_gives_empty_results_and_gradients_of_zeros(kind, kernel, dtype):
    config = CONFIGS[kind].replace(absolute_position_size=(2,) * CONFIGS[kind].ndim)
    model = SwinTransformer(config).to(dtype).train()
    model.set_kernel(kernel)
    size = (5, 21, 30)[-config.ndim :]
    x, one = torch.zeros(0, 3, *size, dtype=dtype, requires_grad=True), torch.zeros(1, 3, *size, dtype=dtype)
    logits, features, pyramid = model(x), model.features(x), model.pyramid(x)
    assert logits.shape == (0, 5)
    assert features.shape == (0, 16)
    assert [y.shape[1:] for y in pyramid] == [y.shape[1:] for y in model.pyramid(one)]
    assert {len(y) for y in pyramid} == {0}
    assert {y.dtype for y in (logits, features, *pyramid)} == {dtype}
    logits.sum().backward()
    assert x.grad.shape == x.shape
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    twin = model.eval().deploy()
    assert twin(x).shape == (0, 5)
    assert [y.shape for y in twin.pyramid(x)] == [y.shape for y in pyramid]


def test_a_batch_of_0_under_autocast_with_checkpointing_and_oneDNN():
    model = build().train()
    model.set_kernel(product="onednn")
    model.set_grad_checkpointing()
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = model(X[:0])
        assert y.shape == (0, 5)
        model.zero_grad()
        y.sum().backward()
        assert not any(p.grad.any() for p in model.parameters())
    assert model.deploy("onednn")(X[:0]).shape == (0, 5)


def test_a_batch_of_0_changes_no_other_call():
    model = build()
    expected = model(X)
    model(X[:0]), model.deploy()(X[:0])
    assert torch.equal(model(X), expected)
