"""Our own files: what is saved is what is loaded, and anything else is a clear error."""

from __future__ import annotations

import json
import resource
import sys
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import swindow
from helpers.definition import V2, difference, randomise
from swindow import ModelCard, Preprocess
from swindow.card import HeldOut
from swindow.checkpoints import replacing
from swindow.checkpoints.resize import resize_table
from swindow.errors import CheckpointError, ConfigError, OutputError


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = swindow.create("swin_nano", num_classes=4, in_chans=1).eval()
    model.card = ModelCard(class_names=("a", "b", "c", "d"))
    return model


def test_round_trip(model, tmp_path):
    swindow.save(model, tmp_path / "m.safetensors")
    again = swindow.load(tmp_path / "m.safetensors")
    x = torch.randn(2, 1, 33, 20)
    assert torch.equal(model(x), again(x))
    assert again.config == model.config
    assert again.card == model.card
    assert not again.training
    assert again.load_report.matched == len(model.state_dict())
    assert all(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(
    "fields",
    [
        {"head_dim": (5, 3, 7), "num_heads": (3, 2, 5)},
        {"head_dim": 10, "num_heads": (3, 2, 5), **V2},
        {"head_dim": (5, 3, 7), "patch_size": (2, 2, 2), "merge_axes": (1, 2), "window_size": 4},
    ],
)
def test_heads_of_any_number_of_channels(fields, tmp_path):
    """Written with the config and read from it; from bare tensors too."""
    model = randomise(swindow.create("swin_nano", num_classes=4, **fields)).eval()
    swindow.save(model, tmp_path / "m.safetensors")
    told = {"config": {"window_size": model.config.window_size}} if "similarity" in fields else {}
    bare = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 3, *(4, 33, 20)[-model.config.ndim :])
    for again in (swindow.load(tmp_path / "m.safetensors"), swindow.load(bare, **told)):
        assert again.config.head_dims == model.config.head_dims
        assert torch.equal(model(x), again(x))
    bare["stages.0.blocks.0.attn.qkv.weight"] = bare["stages.0.blocks.0.attn.qkv.weight"][:-3]
    with pytest.raises(CheckpointError, match="has shape"):
        swindow.load(bare, **told)


def test_a_created_model_has_no_card_and_a_loaded_one_none_where_nothing_is_known(tmp_path):
    model = swindow.create("swin_nano", num_classes=4)
    assert model.card is None
    swindow.save(model, tmp_path / "m.safetensors")
    assert swindow.load(tmp_path / "m.safetensors").card is None


def test_another_head_has_no_task_but_the_weights_keep_their_split(model, tmp_path):
    split, how = HeldOut(0.2, 3, fingerprint="abc"), Preprocess((32, 32), mean=(0.5,), std=(0.5,))
    of_weights = ModelCard(preprocess=how, input_size=(32, 32), split=split, data="photos", licence="MIT")
    model.card = of_weights.replace(task="classify", settings={"smoothing": 0.1}, class_names=("a", "b", "c", "d"))
    swindow.save(model, tmp_path / "m.safetensors")
    for classes in (None, 4):
        assert swindow.load(tmp_path / "m.safetensors", num_classes=classes).card == model.card
    for classes in (7, 0):
        assert swindow.load(tmp_path / "m.safetensors", num_classes=classes).card == of_weights


def test_class_names_must_be_as_many_as_the_outputs(model, tmp_path):
    model.card = ModelCard(class_names=("a", "b"))
    with pytest.raises(ConfigError, match="got 2 class names, expected 4"):
        swindow.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    about = json.dumps({"config": model.config.to_dict(), "card": {"class_names": ["a", "b"]}})
    save_file(dict(model.state_dict()), tmp_path / "m.safetensors", {"swindow": about})
    with pytest.raises(CheckpointError, match=r"m\.safetensors.*got 2 class names, expected 4"):
        swindow.load(tmp_path / "m.safetensors")


def test_files_hold_learned_weights_only(model, tmp_path):
    swindow.save(model, tmp_path / "m.safetensors")
    assert set(load_file(tmp_path / "m.safetensors")) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_training_does_not_change_the_file_that_weights_are_mapped_from(model, tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    swindow.save(model, path)
    whole = path.read_bytes()
    found = swindow.load(path, config={"window_size": 4})
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(1)
    assert path.read_bytes() == whole
    swindow.save(found, path)  # over the file that they are mapped from
    again = swindow.load(path, config={"window_size": 4})
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), found.parameters(), strict=True))
    assert all(torch.equal(a, b + 1) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    assert path.read_bytes() != whole
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_fields_that_tensors_leave_open(model, tmp_path):
    for path, layout in (("m.safetensors", "swindow"), ("m.pth", "timm")):
        swindow.save(model, tmp_path / path, layout)
        found = swindow.load(
            tmp_path / path, config={"drop_path_rate": 0.3, "shrink": "min"}, drop_path_rate=0.4, frozen_stages=1
        )
        assert (found.config.drop_path_rate, found.config.frozen_stages, found.config.shrink) == (0.4, 1, "min")
        assert not any(p.requires_grad for p in found.stages[0].parameters())
        assert all(p.requires_grad for p in found.stages[1].parameters())
        assert not any(m.training for m in found.train().stages[0].modules())
        with pytest.raises(ConfigError, match=r"'frozen_stage' is no field .*\(did you mean 'frozen_stages'"):
            swindow.load(tmp_path / path, frozen_stage=1)


def test_half_precision_files_load_as_fp32(model, tmp_path):
    swindow.save(model.half(), tmp_path / "m.safetensors")
    assert {p.dtype for p in swindow.load(tmp_path / "m.safetensors").parameters()} == {torch.float32}


def test_another_head(model, tmp_path):
    swindow.save(model, tmp_path / "m.safetensors")
    again = swindow.load(tmp_path / "m.safetensors", num_classes=7)
    assert again(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    assert again.load_report.initialised == ("head.weight", "head.bias")
    assert set(again.load_report.dropped) == {"head.weight", "head.bias"}
    assert again.card is None
    assert torch.equal(again.features(torch.ones(1, 1, 32, 32)), model.features(torch.ones(1, 1, 32, 32)))
    assert swindow.load(tmp_path / "m.safetensors", num_classes=0)(torch.zeros(1, 1, 32, 32)).shape == (1, 128)


def test_a_resized_table_is_what_the_official_code_makes_of_it():
    table = torch.randn(13 * 13, 3)
    wanted = F.interpolate(table.T.view(1, 3, 13, 13), size=(23, 23), mode="bicubic").view(3, 529).T
    assert torch.equal(resize_table(table, (7, 7), (12, 12)), wanted)
    assert resize_table(table, (7, 7), (7, 7)) is table
    ramp = torch.arange(5.0).view(1, 5, 1).expand(3, 5, 3).reshape(45, 1)  # grows along the second of three axes
    assert resize_table(ramp, (2, 3, 2), (2, 5, 2)).view(3, 9, 3)[1, :, 1].diff().min() > 0


@pytest.mark.parametrize(("old", "new"), [(7, 12), (6, 24), (8, 16), (12, 7), (2, 3)])
def test_geometric_resizing_is_that_of_simmim(old, new):
    """SimMIM fits one surface per head; scipy's surface stands in for interp2d, which scipy no longer has."""
    interpolate = pytest.importorskip("scipy.interpolate")
    table = torch.randn((2 * old - 1) ** 2, 2, dtype=torch.float64)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if sum(q**i for i in range(old - 1)) > new - 1 else (q, high)
    side = np.cumsum([q**i for i in range(old - 1)])
    at = np.concatenate((-side[::-1], [0.0], side))
    wanted = np.clip(np.arange(1.0 - new, new), at[0], at[-1])
    found = resize_table(table, (old, old), (new, new), "geometric")
    assert found.shape == ((2 * new - 1) ** 2, 2)
    for head in range(2):
        values = table[:, head].view(2 * old - 1, 2 * old - 1).numpy()
        degree = min(3, len(at) - 1)
        surface = interpolate.RectBivariateSpline(at, at, values, kx=degree, ky=degree)
        expected = torch.from_numpy(surface(wanted, wanted)).flatten()
        assert difference(found[:, head], expected) <= 1e-9


def test_geometric_resizing_on_any_axes_and_where_it_cannot():
    table = torch.randn(3 * 1 * 13, 2)
    found = resize_table(table, (2, 1, 7), (3, 2, 7), "geometric").view(5, 3, 13, 2)
    assert difference(found[2, 0], table.view(3, 13, 2)[1]) <= 1e-6  # offset 0 stays what it was
    assert torch.equal(found[:, 0], found[:, 2])  # an axis with one offset has one number for all
    with pytest.raises(ConfigError, match="'bicubic' or 'geometric'"):
        resize_table(table, (2, 1, 7), (3, 2, 7), "cubic")
    with mock.patch.dict(sys.modules, {"scipy.interpolate": None}), pytest.raises(ConfigError, match="needs scipy"):
        resize_table(table, (2, 1, 7), (3, 2, 7), "geometric")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_other_channels_keep_the_sum(channels, tmp_path):
    first = swindow.create("swin_nano", num_classes=4).eval()
    first.card = ModelCard(preprocess=Preprocess(), data="photos")
    swindow.save(first, tmp_path / "m.safetensors")
    again = swindow.load(tmp_path / "m.safetensors", in_chans=channels)
    grey = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(again(grey.expand(1, channels, 32, 32)), first(grey.expand(1, 3, 32, 32)))
    assert bool(again.load_report.resized) == (channels != 3)
    assert again.card == first.card if channels == 3 else again.card == ModelCard(data="photos")


def test_other_windows(tmp_path):
    first = swindow.create("swin_nano", num_classes=4).eval()
    swindow.save(first, tmp_path / "m.safetensors")
    windows = (8, (4, 6), 4)
    with pytest.raises(ConfigError, match="got 'cubic'"):
        swindow.load(tmp_path / "m.safetensors", table_resize="cubic")  # even where nothing is resized
    other = swindow.load(tmp_path / "m.safetensors", window_size=windows, table_resize="geometric")
    again = swindow.load(tmp_path / "m.safetensors", window_size=windows)
    assert "geometric" in other.load_report.resized["stages.0.blocks.0.attn.position_bias.table"]
    assert difference(*(m.stages[0].blocks[0].attn.position_bias.table for m in (other, again))) > 1e-3
    assert again.config.window_size == ((8, 8), (4, 6), (4, 4))
    assert len(again.load_report.resized) == 4  # two blocks in each of two stages
    tables = [stage.blocks[0].attn.position_bias.table for stage in again.stages]
    assert [len(t) for t in tables] == [15 * 15, 7 * 11, 7 * 7]
    assert torch.equal(tables[2], first.stages[2].blocks[0].attn.position_bias.table)
    assert again(torch.zeros(1, 3, 50, 60)).shape == (1, 4)


def test_other_windows_of_a_continuous_bias_keep_the_trained_one(tmp_path):
    fields = {"qkv_bias": "qv", "similarity": "cosine", "position_bias": "continuous"}
    first = swindow.create("swin_nano", num_classes=4, **fields).eval()
    swindow.save(first, tmp_path / "m.safetensors")
    again = swindow.load(tmp_path / "m.safetensors", window_size=6)
    assert again.config.pretrained_window_size == ((4, 4),) * 3
    assert again.load_report.resized == {}
    bias, same = (m.stages[0].blocks[0].attn.position_bias for m in (first, again))
    assert torch.equal(same((4, 4)), bias((4, 4)))  # offsets mean what they meant


def broken(model, tmp_path):
    """Files that are not whole checkpoints of ours, and what the error must say."""
    swindow.save(model, tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    tensors = load_file(tmp_path / "good.safetensors")
    about = {"swindow": json.dumps({"config": model.config.to_dict(), "card": {}})}
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "nothing.safetensors").write_bytes(b"")
    torch.save(tensors, tmp_path / "torch.safetensors")
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "foreign.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "norm.bias"}, tmp_path / "missing.safetensors", about)
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "extra.safetensors", about)
    save_file({**tensors, "norm.bias": torch.zeros(3)}, tmp_path / "shape.safetensors", about)
    unknown = {"swindow": json.dumps({"config": {"embed_dimm": 3}, "card": {}})}
    save_file(tensors, tmp_path / "config.safetensors", unknown)
    save_file(tensors, tmp_path / "json.safetensors", {"swindow": "{"})
    save_file(tensors, tmp_path / "keys.safetensors", {"swindow": "[]"})
    return {
        "json.safetensors": "description is broken",
        "keys.safetensors": "description is broken",
        "absent.safetensors": "no such file",
        "": "is a folder without model.safetensors",
        "cut.safetensors": "not a whole safetensors file",
        "text.safetensors": "not a whole safetensors file",
        "nothing.safetensors": "not a whole safetensors file",
        "torch.safetensors": "not a whole safetensors file",
        "foreign.safetensors": "no patch embedding of a Swin Transformer",
        "missing.safetensors": "norm.bias .* is missing",
        "extra.safetensors": "extra",
        "shape.safetensors": "norm.bias has shape",
        "config.safetensors": "embed_dim",
    }


def test_other_files_are_refused_in_one_line(model, tmp_path):
    for name, expected in broken(model, tmp_path).items():
        with pytest.raises(CheckpointError, match=expected) as error:
            swindow.load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_save_refuses_other_suffixes(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"safetensors or \.pth"):
        swindow.save(model, tmp_path / "m.bin")


@pytest.fixture
def full_disk():
    """Every file may hold 100 kB, as on a disk with no more space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file(model, tmp_path, full_disk):
    for name in ("m.safetensors", "m.pth"):
        (tmp_path / name).write_text("old")
        with pytest.raises(OutputError, match="could not write"):
            swindow.save(model, tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "old"
        (tmp_path / name).unlink()
    with pytest.raises(OutputError, match="could not write"):
        swindow.save(model, tmp_path / "folder", "transformers", input_size=32)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_replacing_is_all_or_nothing(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("ne")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), replacing(tmp_path / "file" / "below"):
        pass
