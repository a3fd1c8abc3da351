"""Our own files: what is saved is what is loaded, and anything else is a clear error."""

from __future__ import annotations

import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

import swindow
from swindow.checkpoints import replacing
from swindow.errors import CheckpointError, OutputError


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = swindow.create("swin_nano", num_classes=4, in_chans=1).eval()
    model.metadata = {"class_names": ["a", "b", "c", "d"]}
    return model


def test_round_trip(model, tmp_path):
    swindow.save(model, tmp_path / "m.safetensors")
    again = swindow.load(tmp_path / "m.safetensors")
    x = torch.randn(2, 1, 33, 20)
    assert torch.equal(model(x), again(x))
    assert again.config == model.config
    assert again.metadata == model.metadata
    assert not again.training
    assert again.load_report.matched == len(model.state_dict())
    assert all(p.requires_grad for p in again.parameters())


def test_files_hold_learned_weights_only(model, tmp_path):
    swindow.save(model, tmp_path / "m.safetensors")
    assert set(load_file(tmp_path / "m.safetensors")) == {name for name, _ in model.named_parameters()}


def test_half_precision_files_load_as_fp32(model, tmp_path):
    swindow.save(model.half(), tmp_path / "m.safetensors")
    assert {p.dtype for p in swindow.load(tmp_path / "m.safetensors").parameters()} == {torch.float32}


def test_another_head(model, tmp_path):
    swindow.save(model, tmp_path / "m.safetensors")
    again = swindow.load(tmp_path / "m.safetensors", num_classes=7)
    assert again(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    assert again.load_report.initialised == ("head.weight", "head.bias")
    assert set(again.load_report.dropped) == {"head.weight", "head.bias"}
    assert again.metadata == {}
    assert torch.equal(again.features(torch.ones(1, 1, 32, 32)), model.features(torch.ones(1, 1, 32, 32)))
    assert swindow.load(tmp_path / "m.safetensors", num_classes=0)(torch.zeros(1, 1, 32, 32)).shape == (1, 128)


def broken(model, tmp_path):
    """Files that are not whole checkpoints of ours, and what the error must say."""
    swindow.save(model, tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    tensors = load_file(tmp_path / "good.safetensors")
    about = {"swindow": json.dumps({"config": model.config.to_dict(), "metadata": {}})}
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "nothing.safetensors").write_bytes(b"")
    torch.save(tensors, tmp_path / "torch.pth")
    save_file(tensors, tmp_path / "foreign.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "norm.bias"}, tmp_path / "missing.safetensors", about)
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "extra.safetensors", about)
    save_file({**tensors, "norm.bias": torch.zeros(3)}, tmp_path / "shape.safetensors", about)
    unknown = {"swindow": json.dumps({"config": {"embed_dimm": 3}, "metadata": {}})}
    save_file(tensors, tmp_path / "config.safetensors", unknown)
    return {
        "absent.safetensors": "no such file",
        "": "is a folder",
        "cut.safetensors": "not a whole safetensors file",
        "text.safetensors": "not a whole safetensors file",
        "nothing.safetensors": "not a whole safetensors file",
        "torch.pth": "not a whole safetensors file",
        "foreign.safetensors": "without swindow's own description",
        "missing.safetensors": "norm.bias is missing",
        "extra.safetensors": "extra has no place",
        "shape.safetensors": "norm.bias has shape",
        "config.safetensors": "embed_dim",
    }


def test_other_files_are_refused_in_one_line(model, tmp_path):
    for name, expected in broken(model, tmp_path).items():
        with pytest.raises(CheckpointError, match=expected) as error:
            swindow.load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_save_refuses_other_suffixes(model, tmp_path):
    with pytest.raises(CheckpointError, match="safetensors"):
        swindow.save(model, tmp_path / "m.pth")


@pytest.fixture
def full_disk():
    """Every file may hold 100 kB, as on a disk with no more space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file(model, tmp_path, full_disk):
    (tmp_path / "m.safetensors").write_text("old")
    with pytest.raises(OutputError, match="could not write"):
        swindow.save(model, tmp_path / "m.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert (tmp_path / "m.safetensors").read_text() == "old"


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
