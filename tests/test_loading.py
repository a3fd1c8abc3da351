"""Loading in four steps: what each gives, what a caller may ask for, and that nothing is changed behind a back."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import swindow
from helpers.definition import difference, randomise
from helpers.peers import peer
from swindow import CheckpointError, ConfigError
from swindow.card import ModelCard
from swindow.checkpoints.evidence import TENSORS, Evidence, merge, of_tensors
from swindow.checkpoints.fill import fill
from swindow.checkpoints.infer import infer
from swindow.checkpoints.loading import known_of, load_parts
from swindow.checkpoints.match import match
from swindow.checkpoints.parts import Request
from swindow.checkpoints.read import read
from swindow.models import build

FIELDS = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "num_classes": 4, "window_size": 4}

V2 = {
    "similarity": "cosine",
    "position_bias": "continuous",
    "norm_placement": "post",
    "merge_norm": "post",
    "qkv_bias": "qv",
}


@pytest.fixture
def model():
    return randomise(build(swindow.SwinConfig(**FIELDS))).eval()


@pytest.fixture
def official(model, tmp_path):
    swindow.save(model, tmp_path / "official.pth", "microsoft", input_size=32)
    return torch.load(tmp_path / "official.pth", weights_only=True)


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


# --- the steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["swindow", "microsoft", "timm", "torchvision", "mmpretrain", "transformers"])
def test_no_step_changes_what_it_is_given(model, tmp_path, layout):
    path = tmp_path / ("m" if layout == "transformers" else "m.safetensors")
    swindow.save(model, path, layout, input_size=32)
    found = read(path)
    before = {key: tensor.clone() for key, tensor in found.tensors.items()}
    matched = match(found.name, found.tensors)
    ours = {name: tensor.clone() for name, tensor in matched.tensors.items()}
    inferred = infer(found.name, matched, Evidence("config"), known_of(found))
    dropped, config = dict(matched.dropped), inferred.config
    parts = fill(found, matched, inferred)
    again = fill(found, matched, inferred)
    changed = swindow.checkpoints.adapted(parts, {"num_classes": 7, "window_size": 2, "in_chans": 1})
    assert changed.config != parts.config == config == inferred.config
    assert found.tensors.keys() == before.keys()
    assert all(torch.equal(found.tensors[key], tensor) for key, tensor in before.items())
    assert matched.tensors.keys() == ours.keys()
    assert all(torch.equal(matched.tensors[key], tensor) for key, tensor in ours.items())
    assert matched.dropped == dropped
    assert all(torch.equal(parts.tensors[key], tensor) for key, tensor in again.tensors.items())
    assert parts.report == again.report


def test_evidence_that_stands_first_counts(model):
    tensors = of_tensors("f", dict(model.state_dict()))
    caller = Evidence("config", {"shrink": "min", "depths": [1, 2]})
    said = Evidence("config.json", {"shrink": "axis", "norm_eps": 1e-6})
    fields, kept, unused = merge("f", [caller, tensors, said, Evidence("its library", {"norm_eps": 1e-3})])
    assert (fields["shrink"], fields["norm_eps"], fields["num_heads"]) == ("min", 1e-6, (1, 2))
    assert len(kept) == 4
    assert unused == {}


def test_contradictions(model):
    tensors = of_tensors("f", dict(model.state_dict()))
    assert tensors.source == TENSORS
    wrong = {"embed_dim": 16, "norm_eps": 1e-6}
    with pytest.raises(ConfigError, match="embed_dim 16 does not fit f, whose tensors have 8"):
        merge("f", [Evidence("config", wrong), tensors])
    with pytest.raises(CheckpointError, match=r"have embed_dim 8, config.json says 16; they are of different"):
        merge("f", [Evidence("config"), tensors, Evidence("config.json", wrong)])
    fields, kept, unused = merge("f", [Evidence("config"), tensors, Evidence("config.json", wrong, certain=False)])
    assert "norm_eps" not in fields
    assert [said.source for said in kept] == ["config", TENSORS]
    assert "not used" in unused["config.json"]


def test_the_header_of_a_file_and_its_tensors(model, tmp_path):
    """Also for a model that has what tensors do not tell, or tell otherwise."""
    fields = {**FIELDS, "similarity": "cosine", "merge_axes": (0,), "mlp_ratio": 3.3, "norm_eps": 1e-3}
    odd = randomise(build(swindow.SwinConfig(**fields))).eval()
    swindow.save(odd, tmp_path / "odd.safetensors")
    found = swindow.load(tmp_path / "odd.safetensors")
    assert found.config == odd.config
    assert same(found, odd)
    header = json.dumps({"config": model.config.replace(depths=(2, 2)).to_dict(), "card": {}})
    save_file(dict(model.state_dict()), tmp_path / "m.safetensors", {"swindow": header})
    with pytest.raises(CheckpointError, match=r"have depths \(1, 2\), its header says \(2, 2\); the file is broken"):
        swindow.load(tmp_path / "m.safetensors")


# --- what a caller asks for -------------------------------------------------------------------------------------------


def test_fields_of_load_are_those_of_the_config():
    from swindow.config import SwinConfig, SwinConfigFields

    assert list(SwinConfigFields.__annotations__) == list(SwinConfig.__dataclass_fields__)
    with pytest.raises(ConfigError, match=r"'out_norm' is no field.*out_norms"):
        swindow.load({}, out_norm=True)


@pytest.mark.parametrize("layout", ["microsoft", "timm", "torchvision", "transformers", "mmpretrain"])
def test_a_backbone_from_a_classifier(model, tmp_path, layout):
    path = tmp_path / ("m" if layout == "transformers" else "m.safetensors")
    swindow.save(model, path, layout, input_size=32)
    found = swindow.load(path, num_classes=0, out_norms=True, out_indices=(0, 1), frozen_stages=1)
    report = found.load_report
    kept = layout == "mmpretrain"  # where a classifier's norm is that of its last map
    names = tuple(f"out_norms.{i}.{kind}" for i in ((0,) if kept else (0, 1)) for kind in ("weight", "bias"))
    assert report.initialised == names
    assert report.matched == len(model.state_dict()) - (2 if kept else 4)  # without head and final norm
    assert sorted(report.dropped.values()).count("num_classes was given") == 2
    x = torch.randn(1, 3, 32, 32)
    model.config = model.config.replace(out_indices=(0, 1))
    for mine, theirs in zip(found.pyramid(x), model.pyramid(x), strict=True):
        norm = model.norm if kept and theirs.shape[1] == 16 else nn.LayerNorm(theirs.shape[1])
        assert difference(mine, norm(theirs.movedim(1, -1)).movedim(-1, 1)) <= 2e-5
    assert not any(p.requires_grad for p in found.stages[0].parameters())
    assert all(p.requires_grad for p in found.stages[1].parameters())


def test_a_classifier_from_a_backbone(model, tmp_path):
    """The norm of its last map is the final norm."""
    backbone = randomise(build(swindow.SwinConfig(**{**FIELDS, "num_classes": 0, "out_norms": True}))).eval()
    swindow.save(backbone, tmp_path / "b.safetensors", "forks")
    found = swindow.load(tmp_path / "b.safetensors", num_classes=3, out_norms=False)
    assert torch.equal(found.norm.weight, backbone.out_norms["1"].weight)
    assert found.load_report.initialised == ("head.weight", "head.bias")
    assert set(found.load_report.dropped) == {"backbone.norm0.weight", "backbone.norm0.bias"} | {
        key for key, why in found.load_report.dropped.items() if why.startswith("worked out")
    }
    some = swindow.load(tmp_path / "b.safetensors", out_indices=(1,))
    assert list(some.out_norms) == ["1"]


def test_pretraining_from_a_classifier(model, official):
    found = swindow.load(official, decoder_stride=8)
    assert isinstance(found, swindow.models.SimMIM)
    assert found.load_report.initialised == ("mask_token", "decoder.proj.weight", "decoder.proj.bias")
    assert set(found.load_report.dropped) >= {"head.weight", "head.bias"}
    assert found(torch.randn(1, 3, 32, 32), torch.zeros(1, 8, 8)).shape == (1, 3, 32, 32)


def test_new_parts_are_drawn_as_at_first(official):
    torch.manual_seed(0)
    head = swindow.load(official, num_classes=500).head.weight.detach()
    assert abs(float(head.std()) - 0.02) < 2e-3
    half = swindow.load(official, num_classes=3, out_norms=True, dtype=torch.float16)
    assert {p.dtype for p in half.parameters()} == {torch.float16}


@pytest.mark.parametrize("change", [{"embed_dim": 16}, {"depths": (1, 3)}, {"patch_norm": False}, {"qkv_bias": False}])
def test_what_tensors_tell_cannot_be_changed(official, change):
    with pytest.raises(ConfigError, match=r"does not fit the state dict, whose tensors have"):
        swindow.load(official, **change)


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_projection_head_is_left_out_where_it_is_not_wanted(model, official):
    """As EsViT's files have it: a student and a teacher, wrapped, each with two heads of several layers."""
    body = {key: value for key, value in official.items() if not key.startswith("head.")}
    head = {f"{h}.mlp.{i}.weight": torch.randn(4, 4) for h in ("head", "head_dense") for i in (0, 2)}
    head |= {f"{h}.last_layer.weight_{k}": torch.randn(4, 4) for h in ("head", "head_dense") for k in "gv"}
    student = {f"module.{key}": value for key, value in {**body, **head}.items()}
    teacher = {
        key: value + 1 if value.is_floating_point() and "attn" not in key else value for key, value in student.items()
    }
    file = {"student": student, "teacher": teacher, "epoch": 3}
    with pytest.raises(CheckpointError, match=r"8 of its keys have no place.*try num_classes="):
        swindow.load(file)
    with pytest.raises(CheckpointError, match=r"try num_classes="):
        swindow.load(file, layout="microsoft")
    for classes in (0, 5):
        found = swindow.load(file, num_classes=classes)
        assert {key for key, why in found.load_report.dropped.items() if why == "num_classes was given"} == {
            f"module.{key}" for key in head
        }
        assert found.load_report.dropped["student"] == "other weights, beside 'teacher'; part='student' takes them"
        assert torch.equal(found.norm.weight, model.norm.weight + 1)
    assert torch.equal(swindow.load(file, part="student", num_classes=0).norm.weight, model.norm.weight)


def test_a_part_is_chosen(model, official, tmp_path):
    average = {key: value * 2 if key == "norm.weight" else value for key, value in official.items()}
    torch.save({"state_dict": official, "state_dict_ema": average, "mine": average}, tmp_path / "f.pth")
    plain = swindow.load(tmp_path / "f.pth")
    assert plain.load_report.dropped["state_dict_ema"].endswith("part='state_dict_ema' takes them")
    assert torch.equal(plain.norm.weight, model.norm.weight)
    for part in ("state_dict_ema", "mine"):
        assert torch.equal(swindow.load(tmp_path / "f.pth", part=part).norm.weight, 2 * model.norm.weight)
    with pytest.raises(CheckpointError, match=r"part='teacher', expected one of 'state_dict', 'state_dict_ema'"):
        swindow.load(tmp_path / "f.pth", part="teacher")
    with pytest.raises(CheckpointError, match=r"expected no part, as it holds one state dict"):
        swindow.load(official, part="teacher")
    swindow.save(model, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"no parts"):
        swindow.load(tmp_path / "m.safetensors", part="teacher")


def test_monai_after_self_supervised_training():
    """Keys of ``model_swinvit.pt``: ``module.``, other names in the MLP, three heads; against MONAI's own model."""
    peer("monai")
    from monai.networks.nets import SwinUNETR

    theirs = randomise(
        SwinUNETR(
            in_channels=1, out_channels=2, feature_size=12, window_size=2, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)
        )
    )
    file = {}
    for key, value in theirs.swinViT.state_dict().items():
        file["module." + key.replace("linear1", "fc1").replace("linear2", "fc2")] = value
    for head in ("rotation_head", "contrastive_head", "convTrans3d"):
        file |= {f"module.{head}.{kind}": torch.randn(4) for kind in ("weight", "bias")}
    found = swindow.load({"state_dict": file, "epoch": 1})
    assert found.load_report.layout == "monai"
    assert {key for key, why in found.load_report.dropped.items() if why == "a head of pre-training"} == {
        key for key in file if "head" in key or "conv" in key
    }
    live = swindow.adopt(theirs)
    assert found.config == live.config.replace(drop_path_rate=found.config.drop_path_rate)
    assert same(found, live)
    x = torch.randn(1, 1, 32, 32, 32)
    maps = theirs.swinViT.eval()(x, normalize=False)
    merged = found.patch_embed(x)
    for stage, wanted in zip(found.stages, maps[1:], strict=True):
        _, merged = stage(merged)
        assert difference(merged.movedim(-1, 1), wanted) <= 2e-5


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("layers.0.residual_group.blocks.0.norm1.weight", "SwinIR"),
        ("patch_embed.proj.0.weight", "CTransPath"),
        ("stages.0.blocks.0.attn.meta_mlp.fc1.weight", "swinv2_cr"),
        ("layers_up.1.blocks.0.norm1.weight", "Swin-Unet"),
    ],
)
def test_models_that_are_none_of_ours_are_named(official, key, what):
    weights = {
        name: value for name, value in official.items() if what != "CTransPath" or not name.startswith("patch_embed")
    }
    with pytest.raises(CheckpointError, match=f"is of .*{what}"):
        swindow.load({**weights, key: torch.zeros(4, 4)})
    with pytest.raises(CheckpointError, match=f"is of .*{what}"):
        swindow.load({key: torch.zeros(4, 4)})


# --- files and memory -------------------------------------------------------------------------------------------------

OVERWRITE = """
import sys, torch, swindow
path = sys.argv[1]
model = swindow.load(path)
torch.save({key: value + 0 for key, value in model.state_dict().items()}, path)  # in place, and smaller or larger
print(float(sum(value.double().sum() for value in model.state_dict().values())))
print(float(model(torch.ones(1, 3, 32, 32)).sum().detach()))
"""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["swindow", "microsoft"])
def test_a_file_may_be_overwritten_while_its_model_lives(model, tmp_path, suffix, layout):
    path = tmp_path / f"m{suffix}"
    swindow.save(model, path, layout, input_size=32)
    done = subprocess.run([sys.executable, "-c", OVERWRITE, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, logits = map(float, done.stdout.split())
    assert total == pytest.approx(float(sum(v.double().sum() for v in model.state_dict().values())))
    assert logits == pytest.approx(float(model(torch.ones(1, 3, 32, 32)).sum().detach()), rel=1e-4)
    assert torch.load(io.BytesIO(path.read_bytes()), weights_only=True).keys() == model.state_dict().keys()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_mapped_on_request(model, tmp_path, suffix):
    """Then a byte that changes in the file is seen by the model; copied, it is not."""
    path = tmp_path / f"m{suffix}"
    swindow.save(model, path)
    value = model.norm.weight.detach()
    copied, mapped = swindow.load(path), swindow.load(path, mmap=True)
    whole = path.read_bytes()
    place = whole.index(value.numpy().tobytes())
    with path.open("r+b") as file:
        file.seek(place)
        file.write((value + 1).numpy().tobytes())
    assert torch.equal(copied.norm.weight, value)
    assert torch.equal(mapped.norm.weight, value + 1)
    with torch.no_grad():
        mapped.norm.weight.zero_()  # a page of its own: the file stays
    assert value.add(1).numpy().tobytes() in path.read_bytes()


def test_saving_to_the_path_of_a_mapped_model(model, tmp_path):
    path = tmp_path / "m.safetensors"
    swindow.save(model, path)
    mapped = swindow.load(path, mmap=True)
    swindow.save(mapped, path)
    assert same(mapped, model)
    assert all(torch.equal(value, load_file(path)[name]) for name, value in model.state_dict().items())


def test_a_state_dict_is_copied(model):
    weights = dict(model.state_dict())
    found = swindow.load(weights)
    with torch.no_grad():
        found.norm.weight.zero_()
    assert not torch.equal(model.norm.weight, found.norm.weight)
    shared = swindow.load(weights, mmap=True)
    assert shared.norm.weight.data_ptr() == model.norm.weight.data_ptr()


def test_checksums_are_verified_on_request_only(model, tmp_path):
    path = tmp_path / "m.pth"
    swindow.save(model, path)
    whole = path.read_bytes()
    place = whole.index(model.norm.weight.detach().numpy().tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match=r"does not fit its checksum.*verify=False"):
        swindow.load(path)
    found = swindow.load(path, verify=False)
    assert difference(found.norm.weight, model.norm.weight) <= 1e-5
    assert not torch.equal(found.norm.weight, model.norm.weight)


def test_parts_are_the_model(model, tmp_path):
    model.card = ModelCard(class_names=("a", "b", "c", "d"))
    swindow.save(model, tmp_path / "m.safetensors")
    parts = load_parts(tmp_path / "m.safetensors", Request())
    assert parts.config == model.config
    assert parts.card == model.card
    assert parts.tensors.keys() == model.state_dict().keys()
    assert parts.report.matched == len(parts.tensors)


def test_what_is_asked_for_in_config_is_told_where_it_belongs(official):
    """``config`` says what weights are; what they are to become is an argument of its own."""
    for config, advice in (
        ({"num_classes": 0}, "give num_classes= as an argument of its own"),
        ({"in_chans": 1}, "give in_chans= as an argument of its own"),
        ({"out_norms": True, "out_indices": (1,)}, "out_norms=True as an argument of its own makes new norms"),
    ):
        with pytest.raises(swindow.SwindowError, match=advice):
            swindow.load(official, config=config)
        assert swindow.load(official, **config).load_report.layout == "microsoft"


def refused(weights, kind=CheckpointError, **arguments):
    with pytest.raises(kind) as caught:
        swindow.load(weights, **arguments)
    return str(caught.value)


def test_a_grid_of_positions_is_not_turned(tmp_path):
    """An embedding for 4 x 8 tokens is none for 8 x 4, though it has as many numbers."""
    model = randomise(build(swindow.SwinConfig(**FIELDS, absolute_position_size=(4, 8))))
    for layout in ("forks", "swindow"):
        swindow.save(model, tmp_path / "m.pth", layout)
        assert swindow.load(tmp_path / "m.pth").config.absolute_position_size == (4, 8)
        assert "expected (8, 4, 8)" in refused(tmp_path / "m.pth", config={"absolute_position_size": (8, 4)})


def test_a_number_of_classes_does_not_change_the_layout():
    """A model of one stage without buffers could be of timm but for its head."""
    model = randomise(build(swindow.SwinConfig(**{**FIELDS, "depths": (2,), "num_heads": (1,)})))
    official = swindow.checkpoints.layouts.layouts_named("microsoft")[0].table.write(model.state_dict()).tensors
    for classes in (None, 4):
        found = swindow.load(official, num_classes=classes)
        assert found.load_report.layout == "microsoft"
        assert torch.equal(found.head.weight, model.head.weight)


def test_windows_that_grow_are_kept(tmp_path):
    """S3 has windows of its own in every stage; for images of its size they stay as they are."""
    fields = {"embed_dim": 8, "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1), "num_classes": 2}
    model = swindow.create("swin_s3_tiny", **fields)
    swindow.save(model, tmp_path / "m.safetensors", "timm")
    found = swindow.load(tmp_path / "m.safetensors", input_size=224)
    assert found.config.window_size == model.config.window_size == tuple((w, w) for w in (7, 7, 14, 7))
    assert found.load_report.resized == {}


def test_the_norm_of_a_backbone_whose_last_map_is_not_wanted():
    backbone = randomise(build(swindow.SwinConfig(**{**FIELDS, "num_classes": 0, "out_norms": True})))
    found = swindow.load(backbone.state_dict(), config=backbone.config, out_indices=(0,))
    assert torch.equal(found.norm.weight, backbone.out_norms["1"].weight)
    assert torch.equal(found.out_norms["0"].weight, backbone.out_norms["0"].weight)
    assert found.load_report.initialised == ()


def test_new_tensors_lie_where_the_others_do():
    from swindow.models.assemble import initial

    config = swindow.SwinConfig(**FIELDS)
    like = torch.empty(1, dtype=torch.float16, device="meta")
    assert {tensor.device.type for tensor in initial(config, ["head.weight", "norm.bias"], like).values()} == {"meta"}


def test_odd_values_are_errors_of_ours(model, official, tmp_path):
    v2 = build(swindow.SwinConfig(**FIELDS, **V2))
    swindow.save(v2, tmp_path / "v2.pth", "timm")
    cosine = torch.load(tmp_path / "v2.pth", weights_only=True)
    table = {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(49, 1)}
    assert "tables of position biases are missing" in refused({**cosine, **table})
    refused(cosine, position_bias="table")
    assert "drop_path_rate: got 1.5" in refused(official, ConfigError, drop_path_rate=1.5)
    for ratio in (math.nan, math.inf):
        assert "mlp_ratio" in refused(official, ConfigError, mlp_ratio=ratio)
    assert swindow.load(official, patch_size=4).config.patch_size == (4, 4)
    outside = {**{f"backbone.{key}": value for key, value in official.items()}, "extra.x": torch.eye(3).to_sparse()}
    assert "extra.x" in swindow.load(outside).load_report.dropped
    swindow.save(v2, tmp_path / "v2_official.pth", "microsoft", input_size=32)
    buffers = torch.load(tmp_path / "v2_official.pth", weights_only=True)
    refused({key: value * 1e6 if key.endswith("coords_table") else value for key, value in buffers.items()})
    assert swindow.load({"meta": {"CLASSES": torch.zeros(3)}, "state_dict": official}).card is not None
    with pytest.raises(ConfigError, match="num_classes=3 and decoder_stride=8, expected one of them"):
        swindow.load(official, num_classes=3, decoder_stride=8)
    best = {"state_dict": official, "best": torch.tensor(1.0)}
    assert swindow.load(best, part="state_dict").load_report.dropped["best"] == "not weights, beside 'state_dict'"


@pytest.mark.parametrize("wrong", [{"window_size": "x"}, {"window_size": 8.5}, {"pretrained_window_sizes": [1.5, 1]}])
def test_odd_windows_in_json_files(tmp_path, wrong):
    v2 = build(swindow.SwinConfig(**FIELDS, **V2))
    swindow.save(v2, tmp_path / "v2", "timm", input_size=32)
    about = json.loads((tmp_path / "v2" / "config.json").read_text())
    about["model_args"] |= wrong
    (tmp_path / "v2" / "config.json").write_text(json.dumps(about))
    assert "config.json: cannot be understood" in refused(tmp_path / "v2")


def test_a_size_for_other_axes_is_not_used(tmp_path):
    volume = build(swindow.SwinConfig(**{**FIELDS, "window_size": 3, "patch_size": (2, 2, 2), "num_classes": 0}))
    swindow.save(volume, tmp_path / "m.safetensors", "video")
    about = {"architecture": "x", "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert swindow.load(tmp_path / "m.safetensors").config.window_size == volume.config.window_size


def test_pretraining_goes_on_with_another_decoder(official):
    first = swindow.load(official, decoder_stride=8)
    assert first.load_report.dropped["head.weight"] == "decoder_stride was given"
    again = swindow.load(first.state_dict(), config={"window_size": 4}, decoder_stride=4)
    assert again.load_report.initialised == ("decoder.proj.weight", "decoder.proj.bias")
    assert again.load_report.dropped["decoder.proj.weight"] == "decoder_stride was given"
    assert torch.equal(again.mask_token, first.mask_token)


def test_a_task_does_not_train_the_parts_it_was_built_from(official):
    from swindow.tasks import Classify

    parts = load_parts(official)
    built = [Classify().build(swindow.data.DataInfo("pets", class_names=("cat", "dog")), parts) for _ in range(2)]
    with torch.no_grad():
        built[0].norm.weight.fill_(9.0)
    assert torch.equal(built[1].norm.weight, parts.tensors["norm.weight"])
    assert not torch.equal(built[0].norm.weight, built[1].norm.weight)
