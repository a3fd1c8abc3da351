"""Exported files: the model in the runtime that reads them, at any size; what is inside; what is refused."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import swindow
from helpers.definition import V2, difference, randomise
from swindow import CheckpointError, ConfigError, InputError, OutputError, Preprocess, SwinConfig, SwinTransformer
from swindow.card import ModelCard
from swindow.data import digits
from swindow.deployment import quantize, verify, write
from swindow.inference.exported import describe, entries
from swindow.inference.file_runtimes import open_file

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
SMALL = SwinConfig(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=4, patch_size=2, num_classes=5)
KINDS = {
    "v1": SMALL,
    "v2": SMALL.replace(**V2, window_size=4),
    "video": SMALL.replace(patch_size=(2, 4, 4), window_size=((4, 3, 3),) * 2, merge_axes=(1, 2)),
}
CARD = ModelCard(
    task="classify",
    class_names=("ant", "bee", "café", "dog", "emu"),
    preprocess=Preprocess((24, 24), crop_fraction=0.875),
    licence="MIT",
)
OTHER_RULES = (("mask_padding", False), ("shift_single", True))
READ_BY = {"onnx": ("onnxruntime", "openvino"), "xml": ("openvino",), "pt2": ("torch",)}


def build(kind="v1", card=CARD, **fields):
    model = randomise(SwinTransformer(KINDS[kind].replace(**fields))).eval()
    model.card = card if model.config.ndim == 2 else None
    return model


def onnx_file(path):
    proto = onnx.load(path)
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [20]
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build()


@pytest.fixture(scope="module", params=["onnx", "pt2", pytest.param("xml", marks=pytest.mark.slow)])
def exported(model, request, tmp_path_factory):
    """A file of a fixed size and batch, and what export said of it."""
    return swindow.export(model, tmp_path_factory.mktemp("file") / f"model.{request.param}", batch=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_file_serves_any_size_and_batch(kind, tmp_path):
    model = build(kind)
    done = swindow.export(model, tmp_path / "model.onnx", open_size=True, open_batch=True)
    assert len(done.trials) == 6
    assert done.difference <= 2e-5
    sizes = [(8, 8, 8), (9, 301, 12), (17, 8, 77), (24, 24, 24), (50, 23, 48), (11, 64, 13)]
    for name in ("onnxruntime", "openvino"):
        runtime, _ = open_file(done.path, name)
        for batch, size in enumerate(sizes, start=1):
            x = torch.randn(batch, 3, *size[: model.config.ndim])
            with torch.no_grad():
                assert difference(runtime.outputs(x)[0], model(x)) <= 2e-5


@pytest.mark.slow
def test_the_largest_open_size(tmp_path):
    model = build()
    done = swindow.export(model, tmp_path / "model.onnx", open_size=True)
    x = torch.randn(1, 3, 2048, 2048)
    with torch.no_grad():
        assert difference(open_file(done.path, "onnxruntime")[0].outputs(x)[0], model(x)) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "settings"), [("onnx", {"open_size": True, "open_batch": True}), ("xml", {})])
def test_swin_tiny(suffix, settings, tmp_path):
    model = randomise(swindow.create("swin_tiny", num_classes=10)).eval()
    done = swindow.export(model, tmp_path / f"model.{suffix}", **settings)
    for name in READ_BY[suffix]:
        for size in ((224, 224),) if suffix == "xml" else ((224, 224), (300, 177), (20, 40)):
            x = torch.randn(1, 3, *size)
            with torch.no_grad():
                assert difference(open_file(done.path, name)[0].outputs(x)[0], model(x)) <= 2e-5


@pytest.mark.parametrize("open_size", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_pt2_file_serves_any_batch_and_size(model, open_size, tmp_path):
    done = swindow.export(model, tmp_path / "model.pt2", open_size=open_size, open_batch=True)
    runtime, _ = open_file(done.path)
    for batch, size in ((1, (24, 24)), (3, (8, 8)), (2, (61, 9))):
        x = torch.randn(batch, 3, *(size if open_size else (24, 24)))
        with torch.no_grad():
            assert difference(runtime.outputs(x)[0], model(x)) <= 2e-5


def test_a_file_is_the_model_in_every_runtime_that_reads_it(model, exported):
    assert exported.difference <= 2e-5
    assert [trial.shape for trial in exported.trials] == [(2, 3, 24, 24)]
    assert exported.bytes >= exported.path.stat().st_size > 1000
    for name in READ_BY[exported.path.suffix[1:]]:
        runtime, _ = open_file(exported.path, name, threads=None if name == "torch" else 1)
        for batch in (1, 2, 5):  # in pieces of the file's own
            x = torch.randn(batch, 3, 24, 24)
            with torch.no_grad():
                assert difference(runtime({"x": x}), model(x)) <= 2e-5


def test_the_card_is_inside(model, exported):
    kind, found = describe(exported.path)
    assert kind == exported.format
    assert found.card == CARD
    assert found.about == exported.about


def test_a_file_is_a_checkpoint(model, exported, tmp_path, run):
    swindow.save(model, tmp_path / "model.safetensors")
    answers = []
    for source in (tmp_path / "model.safetensors", exported.path):
        code, out, _ = run("predict", source, CAT, "--json", "--top", 5)
        assert code == 0
        answers.append(json.loads(out)[0]["predictions"])
    assert [p["class"] for p in answers[0]] == [p["class"] for p in answers[1]]
    for a, b in zip(*answers, strict=True):
        assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)
    for i, name in enumerate(CARD.class_names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (30, 20), (40 * i, 200 - 40 * i, 90)).save(tmp_path / "photos" / name / "a.png")
    measured = [
        json.loads(run("evaluate", source, tmp_path / "photos", "--all", "--json")[1])
        for source in (tmp_path / "model.safetensors", exported.path)
    ]
    assert measured[0]["accuracy"] == measured[1]["accuracy"]
    assert measured[0]["loss"] == pytest.approx(measured[1]["loss"], abs=1e-4)
    code, out, _ = run("bench", exported.path, "--batch", 2, "--rounds", 3, "--json")
    (row,) = json.loads(out)
    assert row["way"] in READ_BY[exported.path.suffix[1:]]
    assert row["images_per_second"] > 0
    [prediction] = swindow.predict(exported.path, CAT, top=5)
    assert prediction.classes == tuple(p["class"] for p in answers[0])


def test_the_command(model, tmp_path, run):
    swindow.save(model, tmp_path / "model.safetensors")
    out = tmp_path / "out" / "model.pt2"
    code, text, _ = run("export", tmp_path / "model.safetensors", out, "--open-batch", "--size", 32, 40)
    assert code == 0
    assert "capturing the model" in text
    assert "comparing it with the model in torch" in text
    assert f"wrote {out} (torch, " in " ".join(text.split())
    assert describe(out)[1].about.size == (32, 40)
    assert describe(out)[1].card.preprocess.size == (32, 40)  # what predict prepares
    assert run("predict", out, CAT)[0] == 0
    code, _, error = run("export", tmp_path / "model.safetensors", out)
    assert (code, error.strip()) == (2, f"swindow: error: {out} exists; try --overwrite, or another name")
    code, text, _ = run("export", tmp_path / "model.safetensors", out, "--overwrite", "--json", "--what", "pyramid")
    assert json.loads(text)["what"] == "pyramid"
    code, _, error = run("predict", out, CAT)
    assert code == 2
    assert "gives pyramid, expected logits or probabilities" in error
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.pt2"]


@pytest.mark.parametrize(
    "what", ["pyramid", *(pytest.param(what, marks=pytest.mark.slow) for what in ("features", "probabilities"))]
)
@pytest.mark.parametrize("suffix", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_other_outputs(what, suffix, tmp_path):
    model = build("v2", out_norms=True)
    runtime, _ = open_file(swindow.export(model, tmp_path / f"model.{suffix}", what=what, open_batch=True).path)
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        expected = {
            "features": lambda: [model.features(x)],
            "pyramid": lambda: model.pyramid(x),
            "probabilities": lambda: [model(x).softmax(-1)],
        }[what]()
    found = runtime.outputs(x)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert difference(a, b) <= 2e-5
    if what == "probabilities":  # predict takes the softmax of what a runtime gives
        assert difference(runtime({"x": x}).softmax(-1), expected[0]) <= 2e-5


def test_probabilities_of_several_labels(tmp_path):
    model = build(card=CARD.replace(task="multilabel"))
    runtime, _ = open_file(swindow.export(model, tmp_path / "model.pt2", what="probabilities").path)
    x = torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        assert difference(runtime.outputs(x)[0], model(x).sigmoid()) <= 2e-5
        assert difference(runtime({"x": x}), model(x)) <= 1e-4


@pytest.mark.parametrize(
    "how",
    [
        Preprocess((24, 24), crop_fraction=0.875),
        pytest.param(Preprocess((20, 28), fit="squash", interpolation="bilinear"), marks=pytest.mark.slow),
        pytest.param(Preprocess((24, 24), interpolation="nearest", mean=(0.4,), std=(0.3,)), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("suffix", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_preprocessing_inside(how, suffix, tmp_path, run):
    """The same pixels as Pillow's, at sizes up and down."""
    model = build(card=CARD.replace(preprocess=how), in_chans=how.channels)
    swindow.save(model, tmp_path / "model.safetensors")
    done = swindow.export(model, tmp_path / f"model.{suffix}", with_preprocessing=True, open_batch=True)
    assert done.about.photos
    assert done.difference <= 1e-2
    noise = np.random.default_rng(0).integers(0, 256, (19, 37, 3), np.uint8)  # the hardest picture to resample
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for image in (CAT, tmp_path / "noise.png"):
        (expected,), (found,) = (
            swindow.predict(source, image, top=5) for source in (tmp_path / "model.safetensors", done.path)
        )
        assert expected.classes == found.classes
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-3)
    code, _, error = run("predict", done.path, CAT, "--sizes", 32)
    assert code == 2
    assert "prepares photos itself" in error
    flipped = [
        json.loads(run("predict", s, CAT, "--flip", "--json")[1]) for s in (tmp_path / "model.safetensors", done.path)
    ]
    a, b = (one[0]["predictions"][0] for one in flipped)
    assert a["class"] == b["class"]
    assert a["probability"] == pytest.approx(b["probability"], abs=1e-3)


def test_real_photos_with_preprocessing_inside(shared, tmp_path):
    photos = sorted(shared("data", "photos").glob("*.JPEG"))
    model = swindow.load("swin_nano.cifar10")
    done = swindow.export(model, tmp_path / "model.pt2", with_preprocessing=True)
    expected, found = (swindow.predict(source, photos, top=10) for source in (model, done.path))
    assert len(found) == len(photos) > 0
    for a, b in zip(expected, found, strict=True):
        assert a.classes[0] == b.classes[0]
        logits = [dict(zip(p.classes, np.log(p.probabilities), strict=True)) for p in (a, b)]
        assert max(abs(logits[0][name] - logits[1][name]) for name in logits[0]) <= 1e-2 * max(
            map(abs, logits[0].values())
        )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "aotinductor"])
def test_deploy_to_a_runtime(runtime):
    model = build("v2")
    twin = swindow.deploy(model, runtime=runtime)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 24, 24)
        with torch.no_grad():
            assert difference(twin(x), model(x)) <= 2e-5
    assert (twin.config, twin.card) == (model.config, model.card)


@pytest.mark.slow
def test_what_a_deployed_model_gives():
    model = build("v2")
    twin, x = swindow.deploy(model, runtime="onnxruntime", threads=1), torch.randn(2, 3, 17, 30)
    with torch.no_grad():
        assert difference(twin.features(x), model.features(x)) <= 2e-5
        for a, b in zip(twin.pyramid(x), model.pyramid(x), strict=True):
            assert difference(a, b) <= 2e-5


def test_an_unknown_runtime_to_deploy_to(model):
    with pytest.raises(ConfigError, match=r"'onnxruntim' \(did you mean 'onnxruntime'\?\)"):
        swindow.deploy(model, runtime="onnxruntim")


def test_a_deployed_twin_exports_the_model_it_is_from(tmp_path):
    model = build("v2")
    twin = swindow.deploy(model)
    done = swindow.export(twin, tmp_path / "model.pt2")
    assert done.difference <= 2e-5
    with torch.no_grad():
        model.stages[0].blocks[0].attn.similarity.logit_scale += 0.1
    with pytest.raises(ConfigError, match="was deployed from has changed since; export that model"):
        swindow.export(twin, tmp_path / "other.pt2")
    assert not (tmp_path / "other.pt2").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "half"), [("onnx", "half"), ("xml", "half"), ("pt2", "half"), ("pt2", "bf16")])
def test_half_precision(suffix, half, tmp_path):
    model = build("v2", embed_dim=64)
    for block in model.modules():
        if hasattr(block, "logit_scale"):
            block.logit_scale.data.fill_(9.0)  # above its limit: the scale is 100
    whole = swindow.export(model, tmp_path / f"whole.{suffix}")
    done = swindow.export(model, tmp_path / f"half.{suffix}", **{half: True})
    assert whole.bytes - done.bytes >= sum(p.numel() for p in model.parameters())  # two bytes each, less some nodes
    assert 0 < done.difference <= (2e-2 if half == "half" else 1e-1)
    assert done.about.precision == ("fp16" if half == "half" else "bf16")
    [prediction] = swindow.predict(done.path, CAT)
    assert prediction.classes[0] == swindow.predict(model, CAT)[0].classes[0]


def test_half_precision_that_overflows_is_refused(tmp_path):
    model = build()
    with torch.no_grad():
        model.norm.weight.fill_(1e5)  # beyond the largest number of fp16
    with pytest.raises(OutputError, match="not finite in fp16, so nothing was written; try --bf16"):
        swindow.export(model, tmp_path / "model.pt2", half=True)
    assert list(tmp_path.iterdir()) == []


def int8_model(tmp_path):
    """The trained model that comes with the package, and pictures."""
    model = swindow.load("swin_nano.cifar10")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(20):
        smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((40, 40), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    return model, [*paths, CAT]


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True])
def test_int8_by_nncf(static, tmp_path, capsys):
    pytest.importorskip("nncf")
    model, images = int8_model(tmp_path)
    whole = swindow.export(model, tmp_path / "whole.xml")
    done = swindow.export(model, tmp_path / "int8.xml", int8=True, static=static, images=images, agreement=0.8)
    assert done.about.int8 == ("static" if static else "weights")
    assert done.bytes < 0.8 * whole.bytes
    assert done.agreement.images == len(images)
    assert describe(done.path)[1].card == model.card
    assert swindow.predict(done.path, CAT)[0].classes[0] == "cat"
    assert capsys.readouterr() == ("", "")
    quantised = [op for op in openvino_ops(done.path) if op.get_type_name() == "FakeQuantize"]
    assert bool(quantised) == static
    products = products_of_attention(done.path)
    assert len(products) == 2 * sum(model.config.depths)
    assert not any("FakeQuantize" in kinds for kinds in products)


def openvino_ops(path):
    return importlib.import_module("openvino").Core().read_model(path).get_ops()


def products_of_attention(path):
    """Of the products before and after each softmax: what kinds of operation give the two factors."""

    def source(op, i):
        found = op.input_value(i).get_node()
        return source(found, 0) if found.get_type_name() in ("Reshape", "Transpose") else found

    found = []
    for op in openvino_ops(path):
        if op.get_type_name() == "Softmax":
            found.append(source(op.input_value(0).get_node(), 0))
        elif op.get_type_name() == "MatMul" and source(op, 0).get_type_name() == "Softmax":
            found.append(op)
    assert {op.get_type_name() for op in found} == {"MatMul"}
    return [[source(op, i).get_type_name() for i in (0, 1)] for op in found]


def test_int8_of_openvino_needs_nncf(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ConfigError, match=r"writes \.xml files in 8 bits, is not installed; try pip install nncf"):
        swindow.export(model, tmp_path / "model.xml", int8=True)


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True])
def test_int8(static, tmp_path, caplog):
    model, images = int8_model(tmp_path)
    handlers = list(logging.getLogger().handlers)
    whole = swindow.export(model, tmp_path / "whole.onnx")
    done = swindow.export(model, tmp_path / "int8.onnx", int8=True, static=static, images=images, agreement=0.8)
    assert done.about.int8 == ("static" if static else "dynamic")
    assert done.bytes < 0.6 * whole.bytes
    assert done.agreement.images == len(images)
    assert done.agreement.share >= 0.8
    assert describe(done.path)[1].card == model.card  # kept through quantisation
    proto = onnx_file(done.path)
    kinds = {node.op_type for node in proto.graph.node}
    assert kinds & {"MatMulInteger", "DynamicQuantizeLinear", "QuantizeLinear"}
    assert swindow.predict(done.path, CAT)[0].classes[0] == "cat"
    assert "pre-processing" not in caplog.text  # ONNX Runtime's advice to those who call it
    assert logging.getLogger().handlers == handlers


@pytest.mark.slow
def test_int8_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    model, images = int8_model(tmp_path)
    monkeypatch.setitem(verify.INT8, "dynamic", 10.0)
    plain = quantize.dynamic

    def broken(source, path, texts):
        plain(source, path, texts)
        proto = onnx.load(path)
        for tensor in proto.graph.initializer:
            if tensor.name.startswith("model.head.weight") and tensor.name.endswith("_quantized"):
                tensor.raw_data = bytes(len(tensor.raw_data))
        onnx.save(proto, path)

    monkeypatch.setattr(quantize, "dynamic", broken)
    with pytest.raises(OutputError, match=r"in int8 it names the class that the model names on \d+ of 21 images"):
        swindow.export(model, tmp_path / "int8.onnx", int8=True, images=images)
    assert not (tmp_path / "int8.onnx").exists()


def test_a_file_that_is_not_the_model_is_refused(tmp_path, monkeypatch):
    model, plain = build(), write.torch_program

    def broken(program, path, texts):
        program.state_dict["model.head.bias"] += 1e-3
        plain(program, path, texts)

    monkeypatch.setattr(write, "torch_program", broken)
    with pytest.raises(OutputError, match=r"differ from the model's by .* so nothing was written"):
        swindow.export(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_onnx_files_are_of_standard_operators_and_at_most_5_axes(exported):
    if exported.format != "onnx":
        pytest.skip("of ONNX files")
    check_graph(onnx_file(exported.path))


def check_graph(proto):
    assert {entry.domain for entry in proto.opset_import} <= {"", "ai.onnx"}
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert not proto.functions
    shaped = [*proto.graph.value_info, *proto.graph.output]
    ranks = [len(v.type.tensor_type.shape.dim) for v in shaped if v.type.tensor_type.HasField("shape")]
    assert len(ranks) > 50
    assert max(ranks) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_open_graphs_are_of_standard_operators_too(kind, tmp_path):
    photos = kind == "v1"
    settings = {"with_preprocessing": True} if photos else {"open_size": True}
    check_graph(onnx_file(swindow.export(build(kind), tmp_path / "model.onnx", open_batch=True, **settings).path))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"path": "model.tflite"}, "expected a name that ends in .onnx, .xml, .pt2"),
        ({"path": "model.onnx", "format": "torch"}, "expected a name that ends in .pt2"),
        ({"format": "tourch"}, r"got 'tourch' \(did you mean 'torch'\?\)"),
        ({"what": "logit"}, r"got 'logit' \(did you mean 'logits'\?\)"),
        ({"size": (24, 24, 24)}, "expected pixels, 2 numbers above 0"),
        ({"size": 0}, "expected pixels"),
        ({"batch": 0}, "batch: got 0, expected at least 1"),
        ({"size": 24, "open_size": True}, "got a size and open_size"),
        ({"half": True, "bf16": True}, "got half and bf16"),
        ({"int8": True}, "expected a name that ends in .onnx or .xml"),
        ({"path": "m.onnx", "int8": True, "half": True}, "got int8 and half"),
        ({"path": "m.onnx", "bf16": True}, "try half"),
        ({"path": "m.onnx", "int8": True, "static": True}, "static: expected images"),
        ({"path": "m.onnx", "int8": True, "images": []}, "expected some image files"),
        ({"images": CAT}, "images: expected int8 too"),
        ({"agreement": 98}, "expected a fraction from 0 to 1"),
        ({"with_preprocessing": True, "open_size": True}, "leave size and open_size out"),
    ],
)
def test_wrong_settings(model, settings, expected, tmp_path):
    settings = dict(settings)
    with pytest.raises((ConfigError, CheckpointError), match=expected):
        swindow.export(model, tmp_path / settings.pop("path", "model.pt2"), **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fields", [{"shrink": "min"}, *(pytest.param({k: v}, marks=pytest.mark.slow) for k, v in OTHER_RULES)]
)
def test_rules_of_other_libraries_have_a_fixed_size(fields, tmp_path):
    model = build(**fields)
    with pytest.raises(ConfigError, match="sizes can stay open only by swindow's own rule for padding; the model has"):
        swindow.export(model, tmp_path / "model.pt2", open_size=True)
    assert swindow.export(model, tmp_path / "model.pt2", size=(21, 30)).difference <= 2e-5


@pytest.mark.slow
def test_a_model_without_a_head_gives_features(tmp_path):
    model = build(num_classes=0, card=None)
    with pytest.raises(ConfigError, match="a model without a head; try 'features' or 'pyramid'"):
        swindow.export(model, tmp_path / "model.pt2")
    assert swindow.export(model, tmp_path / "model.pt2", what="features").difference <= 2e-5


def test_what_is_not_installed_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript is not installed; try pip install 'swindow\[export\]'"):
        swindow.export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_runtimes_that_are_not_installed(exported, monkeypatch):
    if exported.format != "onnx":
        pytest.skip("of ONNX files")
    found = importlib.util.find_spec
    for gone, expected in (("openvino", "onnxruntime"), ("onnxruntime", "openvino")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, gone=gone: None if name == gone else found(name))
        assert open_file(exported.path)[0].name == expected
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="none of openvino, onnxruntime is installed"):
        open_file(exported.path)


def test_wrong_arguments_of_a_file(exported, tmp_path, run):
    path = exported.path
    for settings, expected in (
        ({"runtime": "tensorrt"}, "got 'tensorrt' for"),
        ({"runtime": "eager"}, "expected one of auto"),
        ({"threads": 0}, "threads: got 0"),
        ({"device": "tpu"}, "device: got 'tpu'"),
        ({"precision": "fp64"}, "precision: got 'fp64'"),
    ):
        with pytest.raises(ConfigError, match=expected):
            open_file(path, **settings)
    runtime, _ = open_file(path)
    for x in (torch.randn(1, 3, 24, 25), torch.randn(1, 1, 24, 24), torch.zeros(1, 3, 24, 24, dtype=torch.uint8)):
        with pytest.raises(InputError, match=r"expected \(batch, 3, 24, 24\) of float32; another size"):
            runtime.outputs(x)
    code, _, error = run("predict", path, CAT, "--sizes", 32)
    assert code == 1
    assert "expected (batch, 3, 24, 24) of float32" in error
    with pytest.raises(ConfigError, match="expected an exported file"):
        swindow.Predictor.open(build(), threads=1)


@pytest.mark.parametrize("suffix", ["onnx", "xml", "pt2"])
def test_broken_and_strange_files(suffix, tmp_path, run):
    path = tmp_path / f"model.{suffix}"
    for content in (b"", b"no model", os.urandom(2000)):
        path.write_bytes(content)
        code, _, error = run("predict", path, CAT)
        assert code == 1
        assert len(error.strip().splitlines()) == 1
        assert str(path) in error
    path.unlink()
    assert "there is no such file" in run("predict", path, CAT)[2]
    path.mkdir()
    assert "is a folder, expected a file" in run("predict", path, CAT)[2]


def test_a_truncated_file_is_one_line(exported, tmp_path, run):
    path = tmp_path / exported.path.name
    whole = exported.path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    code, _, error = run("predict", path, CAT)
    assert code == 1
    assert len(error.strip().splitlines()) == 1


def test_a_foreign_onnx_file_is_refused(exported, tmp_path, run):
    if exported.format != "onnx":
        pytest.skip("of ONNX files")
    proto = onnx.load(exported.path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "model.onnx")
    code, _, error = run("predict", tmp_path / "model.onnx", CAT)
    assert code == 1
    assert "not written by swindow" in error


@pytest.mark.parametrize("place", ["../outside.bin", "/etc/passwd"])
def test_data_outside_the_folder_of_a_file_is_not_read(exported, place, tmp_path, run):
    if exported.format != "onnx":
        pytest.skip("of ONNX files")
    proto = onnx.load(exported.path)
    weights = next(t for t in proto.graph.initializer if t.name.endswith("head.weight"))
    (tmp_path / "outside.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0")):
        weights.external_data.add(key=key, value=value)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "model.onnx").write_bytes(proto.SerializeToString())
    for runtime in ("onnxruntime", "openvino"):
        code, _, error = run("predict", tmp_path / "inside" / "model.onnx", CAT, "--runtime", runtime)
        assert code == 1
        assert len(error.strip().splitlines()) == 1
        assert "cannot load it" in error


class Hostile:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["SWINDOW_TEST_HOSTILE"],)


def test_a_pt2_file_that_runs_code_is_refused(exported, tmp_path, run, monkeypatch):
    if exported.format != "torch":
        pytest.skip("of files of torch.export")
    monkeypatch.setenv("SWINDOW_TEST_HOSTILE", str(tmp_path / "run"))

    def changed(name, change):
        path = tmp_path / f"{name}.pt2"
        with zipfile.ZipFile(exported.path) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.namelist():
                new.writestr(entry, change(entry, old.read(entry)))
        return path

    def entry_of(key, value):
        """A change of the graph: an entry more."""
        return lambda name, data: (
            json.dumps(json.loads(data) | {"more": {key: value}}) if name.endswith("models/model.json") else data
        )

    payload = pickle.dumps(Hostile())
    cases = {
        "pickle": (lambda name, data: payload if "sample_inputs" in name else data, "holds pickled objects"),
        "flag": (entry_of("use_pickle", True), "has the entry use_pickle True"),
        "path": (entry_of("path_name", "opaque_obj_0"), "has the entry path_name"),
        "expression": (entry_of("expr_str", "__import__('os').getcwd()"), "has the entry expr_str"),
        "guard": (entry_of("guards_code", ["print(1)"]), "has the entry guards_code"),
        "call": (entry_of("target", "torch.hub.load"), "has the entry target"),
        "file": (entry_of("target", "torch.ops.aten.from_file.default"), "has the entry target"),
    }
    for more in ("models/evil.JSON", "models/extra/y.json", "data/weights/extra/y_weights_config.json"):
        name = more.replace("/", "_")
        cases[name] = (lambda name, data: data, "holds the entry")
        with zipfile.ZipFile(changed(name, cases[name][0]), "a") as archive:
            archive.writestr(f"{archive.namelist()[0].split('/')[0]}/{more}", "{}")
    with zipfile.ZipFile(changed("twice", lambda name, data: data), "a") as archive:
        archive.writestr(f"{archive.namelist()[0].split('/')[0]}/MODELS/MODEL.JSON", "{}")
    cases["twice"] = (None, "holds two entries of one name")
    for name, (change, expected) in cases.items():
        path = tmp_path / f"{name}.pt2"
        code, _, error = run("predict", path if path.exists() else changed(name, change), CAT)
        assert code == 1
        assert expected in error
        assert "add --trust" in error
    assert not (tmp_path / "run").exists()
    assert run("predict", changed("unchanged", lambda entry, data: data), CAT)[0] == 0


@pytest.mark.slow
def test_a_compiled_library_needs_trust(tmp_path, run):
    model = build()
    done = swindow.export(model, tmp_path / "model.pt2", "aotinductor", open_batch=True)
    assert done.format == "aotinductor"
    assert done.difference <= 2e-5
    assert describe(done.path)[1].card == CARD
    code, _, error = run("predict", done.path, CAT)
    assert code == 1
    assert "holds a compiled library, which runs code of whoever wrote the file" in error
    assert "add --trust" in error
    code, out, _ = run("predict", done.path, CAT, "--trust", "--json")
    assert code == 0
    assert json.loads(out)[0]["predictions"][0]["class"] == swindow.predict(model, CAT)[0].classes[0]


@pytest.mark.parametrize(("suffix", "writer"), [(".onnx", "onnx"), (".xml", "openvino"), (".pt2", "torch_program")])
def test_a_full_disk_leaves_what_was_there(model, tmp_path, monkeypatch, suffix, writer):
    resource = pytest.importorskip("resource")
    path, write_file = tmp_path / f"model{suffix}", getattr(write, writer)
    path.write_text("before")

    def limited(*arguments):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # bytes; writing more fails as on a full disk
        try:
            write_file(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(write, writer, limited)
    with pytest.raises(OutputError, match=rf"could not write .*model\{suffix}"):
        swindow.export(model, path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_file_of_weights_that_is_not_its_own_is_not_replaced(model, tmp_path):
    (tmp_path / "model.bin").write_text("another library's weights")
    with pytest.raises(ConfigError, match=r"model\.bin stands beside it, which would be replaced"):
        swindow.export(model, tmp_path / "model.xml")
    assert (tmp_path / "model.bin").read_text() == "another library's weights"


def test_more_images_than_an_open_batch_takes_at_once(model, tmp_path):
    runtime, _ = open_file(swindow.export(model, tmp_path / "model.PT2", size=8, open_batch=True).path)
    x = torch.randn(1030, 3, 8, 8)
    with torch.no_grad():
        assert difference(runtime.outputs(x)[0], model(x)) <= 2e-5


@pytest.mark.slow
def test_a_model_in_half_precision_is_exported_in_fp32(tmp_path):
    """int8 with photos: the answers are compared on the photos themselves."""
    model, images = int8_model(tmp_path)
    done = swindow.export(
        model.half(), tmp_path / "int8.onnx", int8=True, with_preprocessing=True, images=images, agreement=0.8
    )
    assert done.agreement.share >= 0.8


@pytest.mark.slow
def test_a_checkpoint_is_exported_first_where_a_runtime_needs_it(model, tmp_path, run):
    swindow.save(model, tmp_path / "model.safetensors")
    expected = json.loads(run("predict", tmp_path / "model.safetensors", CAT, "--json")[1])
    code, out, error = run("predict", tmp_path / "model.safetensors", CAT, "--json", "--runtime", "onnxruntime")
    assert code == 0
    assert "for onnxruntime first; 'swindow export' keeps the file" in error
    found = json.loads(out)
    assert found[0]["predictions"][0]["class"] == expected[0]["predictions"][0]["class"]


def test_the_model_and_random_numbers_are_left_alone(tmp_path):
    model = build(frozen_stages=1).train()
    model.requires_grad_(True)  # what is frozen by the config is trained all the same
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    swindow.export(model, tmp_path / "model.pt2")
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_digits_in_int8_as_in_fp32(tmp_path):
    """The default of int8 keeps the answers of a small trained model, which other settings lose."""
    run = swindow.train("digits", swindow.TrainConfig(epochs=4, out=tmp_path / "run", device="cpu"))
    model = swindow.load(run.out)
    paths = [swindow.export(model, tmp_path / f"{n}.onnx", int8=n == "int8", batch=32).path for n in ("fp32", "int8")]
    whole, small = (swindow.evaluate(str(path), "digits") for path in paths)
    assert whole.images == len(digits().held_out)
    assert abs(whole.accuracy - small.accuracy) * whole.images <= 2


def test_info_of_a_later_version_is_one_line(exported, tmp_path, run):
    if exported.format != "onnx":
        pytest.skip("of ONNX files")
    proto = onnx.load(exported.path)
    about = {**json.loads(entries(CARD, exported.about)["swindow.export"]), "something": 1}
    onnx.helper.set_model_props(proto, {"swindow.card": "{}", "swindow.export": json.dumps(about)})
    onnx.save(proto, tmp_path / "model.onnx")
    code, _, error = run("predict", tmp_path / "model.onnx", CAT)
    assert code == 1
    assert "broken or of a later version" in error
