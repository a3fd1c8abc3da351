"""Where weights come from, and files that are broken or meant to harm: a clear error each, and nothing is run."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import functools
import io
import json
import pickle
import random
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import swindow
from helpers.definition import difference, randomise
from swindow import CheckpointError, ModelCard, Preprocess
from swindow.card import HeldOut
from swindow.models import build


@pytest.fixture
def model():
    fields = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "num_classes": 4, "drop_path_rate": 0.0}
    model = randomise(swindow.SwinTransformer(swindow.SwinConfig(window_size=4, **fields))).eval()
    model.card = ModelCard(input_size=(32, 32))
    return model


@pytest.fixture
def official(model, tmp_path):
    """Its weights as the official code has them."""
    swindow.save(model, tmp_path / "official.pth", "microsoft")
    return torch.load(tmp_path / "official.pth", weights_only=True)


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


# --- wrapped ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes classes of modules that are not installed, as a file pickled elsewhere has them."""

    def make(module, name, base):
        for i in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:i])
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        made = type(name, (base,), {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, made)
        return made

    return make


def wrappings(weights, elsewhere):
    """What training scripts save around weights."""
    node = elsewhere("yacs.config", "CfgNode", dict)
    config = node({"MODEL": node({"TYPE": "swin", "SIZES": [1, 2]})})
    config.__dict__["__immutable__"] = True
    settings = elsewhere("mmengine.config.config", "ConfigDict", dict)
    history = elsewhere("mmengine.logging.history_buffer", "HistoryBuffer", object)()
    history.__dict__.update(_log_history=np.arange(3.0), _statistics={"mean": 3})
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict()
    ddp = {f"module.{key}": value for key, value in weights.items()}
    compiled = {key.replace("layers.0", "layers.0._orig_mod"): value for key, value in weights.items()}
    return {
        "official": {"model": weights, "optimizer": optimizer, "config": config, "max_accuracy": 81.2, "epoch": 299},
        "namespace": {"model": weights, "args": argparse.Namespace(lr=1e-3, out=Path("runs"))},
        "openmmlab": {
            "state_dict": weights,
            "meta": {"cfg": settings(a=1), "epoch": 3},
            "message_hub": {"loss": history},
        },
        "scalars": {"state_dict": weights, "best": np.float64(0.8), "seen": np.int64(3), "rng": np.arange(4.0)},
        "twice": {"state": 1, "model": {"state_dict": ddp, "n": 3}, "model_ema": weights},
        "ema": {"epoch": 3, "model_ema": ddp},
        "lightning": {"state_dict": {f"model.{k}": v for k, v in weights.items()} | {"loss.weight": torch.ones(1)}},
        "compiled": {"model": compiled},
        "bare": {**weights, "epoch": 3},
    }


NAMES = ["official", "namespace", "openmmlab", "scalars", "twice", "ema", "lightning", "compiled", "bare"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_weights_are_unwrapped(model, official, elsewhere, tmp_path, monkeypatch, name, zipped):
    torch.save(wrappings(official, elsewhere)[name], tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.undo()  # the classes are gone, as for a user who has only the file
    found = swindow.load(tmp_path / "m.pth")
    assert same(found, model)
    dropped = found.load_report.dropped
    expected = {
        "official": ["optimizer", "config", "max_accuracy", "epoch"],
        "twice": ["state", "model_ema", "n"],
        "lightning": ["loss.weight"],
        "bare": ["epoch"],
    }
    assert set(expected.get(name, ())) <= set(dropped)


def test_state_dicts_and_their_errors(model, official):
    assert same(swindow.load(official), model)
    assert same(swindow.load(model.state_dict()), model)
    assert swindow.load(model.state_dict()).config.mask_padding  # our own names mean our own rule for sizes
    for wrong, message in (
        ({}, "holds no tensors"),
        ({"model": {"model": {"model": {"model": {"model": official}}}}}, "holds no tensors"),
        ({"a": torch.ones(1)}, "no patch embedding of a Swin Transformer"),
        (3, "got a int, expected a path"),
    ):
        with pytest.raises(CheckpointError, match=message):
            swindow.load(wrong)
    with pytest.raises(CheckpointError, match="did you mean 'microsoft'"):
        swindow.load(official, layout="mircosoft")
    with pytest.raises(CheckpointError, match=r"looks like a file of timm.*layers\.0\.downsample"):
        swindow.load(official, layout="timm")


# --- hostile ----------------------------------------------------------------------------------------------------------


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_by_name_and_not_run(official, tmp_path, zipped):
    mark = tmp_path / "mark"
    torch.save({"model": official, "config": Trap(mark)}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"holds an object of pathlib\.Path\.touch|holds an object of \S*getattr"):
        swindow.load(tmp_path / "m.pth")
    assert not mark.exists()
    torch.save({"model": official, "extra": collections.ChainMap({})}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"an object of collections\.ChainMap, .* none was run.*torch\.save"):
        swindow.load(tmp_path / "m.pth")
    for command in (b"cos\nsystem\n(S'touch %s'\ntR." % bytes(mark), b"cbuiltins\neval\n(S'1'\ntR."):
        (tmp_path / "m.pth").write_bytes(command)
        with pytest.raises(CheckpointError):
            swindow.load(tmp_path / "m.pth")
    assert not mark.exists()


def test_the_known_classes_do_nothing(official, tmp_path):
    """What stands for them takes whatever it is given, however large, and keeps nothing."""
    huge = (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x08"
        + b"\x00" * 6
        + b"\x10\x00\x85U\x01b\x87R."
    )
    (tmp_path / "m.pth").write_bytes(huge)
    with pytest.raises(CheckpointError):
        swindow.load(tmp_path / "m.pth")
    found = swindow.checkpoints.unpickle.Unread(1, 2, 3)
    found.__setstate__({"a": 1})
    assert vars(found) == {}


def test_compressed_archives_are_refused(official, tmp_path):
    torch.save({"model": official}, tmp_path / "good.pth")
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in good.infolist():
            bomb.writestr(entry.filename, bytes(50_000_000) if entry.filename.endswith("data/0") else good.read(entry))
    with pytest.raises(CheckpointError, match=r"unfolds to [\d,]+ bytes"):
        swindow.load(tmp_path / "bomb.pth")
    assert (tmp_path / "bomb.pth").stat().st_size < 1_000_000


def test_a_tensor_larger_than_its_memory_is_refused(official, tmp_path):
    key = "head.weight"
    official[key] = torch.zeros(1).expand(10**7, official[key].shape[1])
    official["head.bias"] = torch.zeros(1).expand(10**7)
    torch.save(official, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="larger than what the file holds"):
        swindow.load(tmp_path / "m.pth")


# --- damaged ----------------------------------------------------------------------------------------------------------


def refusal(path):
    """The error that a file gives; else the model, which works."""
    try:
        found = swindow.load(path)
    except CheckpointError as error:
        return str(error)
    with torch.no_grad():
        assert found(torch.zeros(1, 3, 32, 32)).shape[1] == 4
    return found


@pytest.mark.parametrize("suffix", ["pth", "legacy.pth", "safetensors", "own.safetensors"])
def test_damaged_files(model, official, tmp_path, suffix):
    """Cut off anywhere, or a bit changed anywhere: an error. Only numbers without a checksum may change unnoticed."""
    path = tmp_path / f"m.{suffix}"
    if suffix.endswith("pth"):
        torch.save({"model": official}, path, _use_new_zipfile_serialization=suffix == "pth")
    elif suffix.startswith("own"):
        swindow.save(model, path)
    else:
        save_file(official, path)
    whole = path.read_bytes()
    chance = random.Random(0)
    lengths = [0, 1, 8, 9, *(chance.randrange(len(whole)) for _ in range(40))]
    # Of a safetensors file and one of the old format the part is changed that says what the rest is.
    start = len(whole) if suffix == "pth" else 20_000 if "legacy" in suffix else int.from_bytes(whole[:8], "little") + 8
    for length, at in [*((length, None) for length in lengths), *((None, chance.randrange(start)) for _ in range(80))]:
        changed = bytearray(whole[:length])
        if at is not None:
            changed[at] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        found = refusal(path)
        if isinstance(found, str):
            assert found.startswith(str(path)), found
            assert "\n" not in found
            assert len(found) < 900, found
        else:
            assert length is None
            assert suffix != "pth" or same(found, model)  # an archive of torch.save has checksums


def without_buffers(weights, table):
    for key in [key for key in weights if key.endswith(("relative_position_index", "attn_mask"))]:
        del weights[key]
    weights["layers.0.blocks.0.attn.relative_position_bias_table"] = table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.bias"), r"norm\.bias .* is missing"),
        (lambda w: w.pop("layers.1.blocks.0.norm1.weight"), r"layers\.1\.blocks\.0\.|is missing"),
        (lambda w: w.update(extra=torch.ones(1)), "'microsoft'.*no place, or .*extra"),
        (lambda w: w["norm.bias"].fill_(float("nan")), r"norm\.bias holds NaN"),
        (lambda w: w["layers.0.blocks.0.attn.qkv.weight"].view(-1)[5].fill_(float("inf")), "holds NaN or infinite"),
        (
            lambda w: w.update({"norm.bias": torch.ones(16, dtype=torch.long)}),
            "type torch.int64, expected a floating type",
        ),
        (lambda w: w.update({"norm.bias": torch.ones(3)}), r"norm\.bias has shape \(3,\), expected \(16,\)"),
        (lambda w: w.update({"patch_embed.proj.weight": torch.ones(0, 3, 4, 4)}), "is empty"),
        (lambda w: w.update({"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16).long()}), "index"),
        (lambda w: w.update({"layers.9.blocks.0.norm1.weight": torch.ones(8)}), "blocks are missing"),
        (lambda w: w.update({"layers.1.downsample.reduction.weight": torch.ones(32, 64)}), "missing"),
        (lambda w: w.update({"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(50, 1)}), r"\(50, 1\)"),
        (lambda w: without_buffers(w, torch.ones(50, 1)), r"leave the windows open.*input_size=.*'window_size'"),
    ],
)
def test_wrong_tensors(official, change, message):
    change(official)
    with pytest.raises(CheckpointError, match=message):
        swindow.load(official)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.99999999.blocks.0.norm1.weight": torch.ones(8)}, "no place"),
        ({"layers.999999.blocks.0.norm1.weight": torch.ones(8)}, "blocks are missing"),
        ({f"layers.{'9' * 5000}.blocks.0.norm1.weight": torch.ones(8)}, "no place"),
        ({"layers.00.blocks.0.mlp.fc1.weight": torch.zeros(32, 8)}, r"no place, or .* layers\.00\."),
        ({"_orig_mod.norm.bias": torch.zeros(16)}, "two of its keys are the same"),
        ({"layers.0.blocks.0.attn.relative_position_index": torch.zeros(0, 0).long()}, "is empty"),
        ({"layers.0.blocks.0.attn.relative_position_index": torch.ones(16, 16) > 0}, "not that of a window"),
        ({"layers.1.blocks.1.attn_mask": torch.zeros(0, 16, 16)}, "is empty"),
        ({"norm.bias": torch.zeros(16).to_sparse()}, "sparse or quantized"),
        ({"norm.bias": torch.zeros(16, device="meta")}, "on the meta device"),
    ],
)
def test_tensors_meant_to_harm(official, tmp_path, change, message):
    for source in (official | change, tmp_path / "m.pth"):
        if source == tmp_path / "m.pth" and "meta" not in message:
            torch.save(official | change, source)
        elif source == tmp_path / "m.pth":
            continue
        with pytest.raises(CheckpointError, match=message):
            swindow.load(source)


@pytest.mark.parametrize("layout", ["transformers_5", "mmdetection", "torchvision", "simmim", "forks"])
def test_shapes_that_do_not_go_together(layout, tmp_path):
    """Every tensor in turn with another shape, in layouts that rearrange some: cut, joined, reordered."""
    v2 = {"similarity": "cosine", "position_bias": "continuous", "norm_placement": "post", "merge_norm": "post"}
    fields = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
    fields |= {**v2, "qkv_bias": "qv"} if layout == "torchvision" else {}
    fields |= {"mask_token": True, "decoder_stride": 8, "absolute_position_size": (8, 8)} if layout == "simmim" else {}
    fields |= {"absolute_position_size": (8, 8)} if layout in ("forks", "transformers_5") else {}
    swindow.save(build(swindow.SwinConfig(**fields)), tmp_path / "m.pth", layout, input_size=32)
    good = torch.load(tmp_path / "m.pth", weights_only=True)
    for key, tensor in good.items():
        for shape in ((), (1,), (5,), (3, 5), (1, 2, 3, 5), (*tensor.shape, 1), tensor.shape[1:]):
            if shape != tensor.shape and not key.endswith("mask_token"):  # a vector, however it is written
                with pytest.raises(CheckpointError):
                    swindow.load({**good, key: torch.ones(shape, dtype=tensor.dtype)})


@pytest.mark.parametrize(
    ("config", "card"),
    [
        ({"depths": [10**6, 2]}, {}),
        ({"embed_dim": 10**12}, {}),
        ({"depths": [1] * 5000, "num_heads": [1] * 5000, "window_size": 4}, {}),
        ({"absolute_position_size": [10**9, 10**9]}, {}),
        ({"mlp_ratio": 1e300}, {}),
        ({"window_size": 10**9}, {}),
        ({}, []),
        ({}, "card"),
        ({}, {"input_size": 5}),
        ({}, {"input_size": [-32, 32]}),
        ({}, {"input_size": [True, True]}),
        ({}, {"class_names": {"a": 0, "b": 1, "c": 2, "d": 3}}),
        ({}, {"class_names": "abcd"}),
        ({}, {"class_names": [[[[["a"]]]], 1, 2, 3]}),
        ({}, {"preprocess": "squash"}),
        ({}, {"preprocess": {"size": ["a", "b"]}}),
        ({}, {"preprocess": {"sizes": [32, 32]}}),
        ({}, {"preprocess": {"mean": [10**400] * 3}}),
        ({}, {"settings": functools.reduce(lambda inner, _: {"a": inner}, range(400), {})}),
        ({}, {"split": {"share": 2.0, "seed": 0}}),
        ({}, {"input_size": "ab"}),
        ({}, {"preprocess": 5}),
        ({}, {"class_names": 3}),
    ],
)
def test_descriptions_meant_to_harm(model, tmp_path, config, card):
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    for key in ("card", "metadata"):
        about = json.dumps({"config": {**model.config.to_dict(), **config}, key: card})
        save_file(weights, tmp_path / "m.safetensors", {"swindow": about})
        with pytest.raises(CheckpointError, match=r"m\.safetensors|too large"):
            swindow.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [
        {"config": "swin_tiny"},
        {"config": 5},
        {"config": {"depths": 5}},
        {"config": {"depths": (2, 2)}},
        {"config": {"windowsize": 3}},
        {"dtype": torch.int32},
        {"input_size": 224.0},
        {"input_size": True},
        {"input_size": (1, 2, 3)},
    ],
)
def test_wrong_arguments(official, arguments):
    with pytest.raises(swindow.ConfigError):
        swindow.load(official, **arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(model, official, tmp_path, dtype):
    save_file({k: v.to(dtype) if v.is_floating_point() else v for k, v in official.items()}, tmp_path / "m.safetensors")
    found = swindow.load(tmp_path / "m.safetensors")
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert all(torch.equal(a, b.to(dtype).float()) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    kept = swindow.load(tmp_path / "m.safetensors", dtype=None, num_classes=2)
    assert {p.dtype for p in kept.parameters()} == {dtype}


# --- folders and the hub ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(model, tmp_path):
    """A folder as transformers writes it."""
    model.card = model.card.replace(preprocess=Preprocess((32, 32), "squash"))
    swindow.save(model, tmp_path / "folder", "transformers")
    return tmp_path / "folder"


def shard(folder, suffix):
    """Distributes a folder's weights over three files."""
    weights = load_file(folder / "model.safetensors")
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    where = {key: f"{stem}-{i % 3 + 1:05}-of-00003.{suffix}" for i, key in enumerate(sorted(weights))}
    for name in set(where.values()):
        part = {key: weights[key] for key in weights if where[key] == name}
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_sharded_folders(model, folder, suffix):
    shard(folder, suffix)
    assert same(swindow.load(folder), model)
    absent = next(folder.glob(f"*-00002-of-*.{suffix}"))
    absent.rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match=r"00002-of-00003.* is absent, which .*index\.json names"):
        swindow.load(folder)
    index = next(folder.glob("*.index.json"))
    for text, message in (
        ('{"weight_map": {"a": "../secret"}}', "files of the same folder"),
        ('{"weight_map": 3}', "no weight_map"),
        ("{", "not whole JSON"),
        ("[]", "expected an object"),
    ):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            swindow.load(folder)


def test_config_json_that_does_not_fit(model, folder):
    about = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"depths": [1, 3]}, r"have depths \(1, 2\), config.json says \(1, 3\)"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"window_size": "seven"}, "cannot be understood"),
    ):
        (folder / "config.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(CheckpointError, match=message):
            swindow.load(folder)
    # Beside a single file it may be of another model: then it is left, and that is said.
    (folder / "config.json").write_text(json.dumps({**about, "depths": [1, 3]}))
    found = swindow.load(folder / "model.safetensors")
    assert same(found, model)
    assert "not used" in found.load_report.assumed["config.json"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is a folder without model\.safetensors or pytorch_model\.bin"):
        swindow.load(folder)


def test_the_hub_from_its_cache(model, folder, tmp_path):
    """Without a network, from a cache laid out as huggingface_hub lays it out: by branch, and by commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "hub" / "models--org--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "blobs").mkdir()
    (home / "snapshots" / commit).mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.move(file, home / "blobs" / str(number))
        (home / "snapshots" / commit / file.name).symlink_to(home / "blobs" / str(number))
    swindow.save(model, tmp_path / "expected.safetensors")
    script = """
import sys, torch, swindow
expected = swindow.load(sys.argv[1])
for name in ("hf://org/tiny", "hf://org/tiny@main", "hf://org/tiny@" + sys.argv[2]):
    found = swindow.load(name)
    assert found.load_report.source == name and found.load_report.layout == "transformers"
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
for name in ("hf://org/absent", "hf://org/tiny@nowhere", "hf://tiny", "hf://a/b/c", "hf:///"):
    try:
        swindow.load(name)
    except swindow.CheckpointError as error:
        print(error)
"""
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    command = [sys.executable, "-c", script, str(tmp_path / "expected.safetensors"), commit]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all("could not be had from the hub or its cache" in line for line in lines[:2])
    assert all("expected hf://organisation/name" in line for line in lines[2:])


# --- what the caller asks for -----------------------------------------------------------------------------------------


def test_heads_of_imagenet_22k(official):
    """The rows of ImageNet-1k's classes, as the official list has them; other numbers of classes get a new head."""
    official["head.weight"] = torch.arange(21_841.0)[:, None].expand(-1, 16).contiguous()
    official["head.bias"] = torch.arange(21_841.0)
    cut = swindow.load(official, num_classes=1000)
    rows = cut.head.bias.detach()
    assert rows[[0, 1, 850, 999]].tolist() == [359, 368, 5564, 21_817]  # 850: teddy bear, which 22k has not
    assert len(rows.unique()) == 1000
    assert torch.equal(cut.head.weight[:, 0].detach(), rows)
    assert cut.load_report.initialised == ()
    assert set(cut.load_report.resized) == {"head.weight", "head.bias"}
    assert cut.config.num_classes == 1000
    assert swindow.load(official, num_classes=999).load_report.initialised == ("head.weight", "head.bias")
    assert swindow.load(official).config.num_classes == 21_841


def test_input_size_settles_windows_and_resizes_tables(official, model):
    """As the official code builds it for that size: at 16 pixels the second map has 2 tokens."""
    found = swindow.load(official, input_size=16)
    assert found.config.window_size == ((4, 4), (2, 2))
    assert len(found.load_report.resized) == 2
    assert swindow.load(official, input_size=32).load_report.resized == {}
    assert swindow.load(official, input_size=(32, 64)).card.input_size == (32, 64)
    wide = swindow.load(official, window_size=8, input_size=48)
    assert wide.config.window_size == ((8, 8), (6, 6))
    for wrong in ("big", 0, (32, 0)):
        with pytest.raises(swindow.ConfigError, match="input_size"):
            swindow.load(official, input_size=wrong)
    with torch.no_grad():
        x = torch.randn(1, 3, 32, 32)
        assert difference(swindow.load(official, input_size=32)(x), model(x)) <= 2e-5


def test_save_says_what_it_leaves_out_and_refuses_what_cannot_be(model, tmp_path):
    assert set(swindow.save(model, tmp_path / "m.pth", "mmdetection")) == {"head.weight", "head.bias"}
    for layout, message in (
        ("nonsense", "expected one of swindow, timm, microsoft"),
        ("video", "has no models like this one .Swin with 2 axes"),
    ):
        with pytest.raises(CheckpointError, match=message):
            swindow.save(model, tmp_path / "x.pth", layout)
    uneven = swindow.load(model.state_dict(), window_size=(4, 2))
    for layout in ("torchvision", "forks", "transformers"):
        with pytest.raises(CheckpointError, match="one window for all stages"):
            swindow.save(uneven, tmp_path / "x.pth", layout, input_size=32)
    bare = swindow.SwinTransformer(model.config.replace(patch_norm=False))
    with pytest.raises(CheckpointError, match="always has a norm after the patch embedding"):
        swindow.save(bare, tmp_path / "x.pth", "timm")
    with pytest.raises(CheckpointError, match=r"written for one size.*try input_size=224"):
        swindow.save(bare, tmp_path / "x.pth", "microsoft")
    with pytest.raises(swindow.ConfigError, match="whole windows"):
        swindow.save(model, tmp_path / "x.pth", "microsoft", input_size=36)
    volumes = swindow.SwinTransformer(model.config.replace(out_norms=True, out_indices=(0, 1)))
    with pytest.raises(CheckpointError, match=r"has no place for out_norms\.0"):
        swindow.save(volumes, tmp_path / "x.pth", "timm")
    assert not (tmp_path / "x.pth").exists()


def test_convert(model, tmp_path):
    swindow.save(model, tmp_path / "in.safetensors")
    done = swindow.convert(tmp_path / "in.safetensors", tmp_path / "out.pth", to="torchvision")
    assert done.difference <= 2e-5
    assert done.other_sizes == {"mask_padding": (True, False), "patch_remainder": ("pad", "drop")}
    with pytest.raises(CheckpointError, match="is there already"):
        swindow.convert(tmp_path / "in.safetensors", tmp_path / "out.pth", to="torchvision")
    swindow.convert(tmp_path / "in.safetensors", tmp_path / "out.pth", to="timm", overwrite=True)
    assert swindow.load(tmp_path / "out.pth").load_report.layout == "timm"
    with pytest.raises(CheckpointError, match="is the source itself"):
        swindow.convert(tmp_path / "out.pth", tmp_path / "out.pth", overwrite=True)
    swindow.convert(tmp_path / "out.pth", tmp_path / "folder", to="transformers", input_size=32)
    assert same(swindow.load(tmp_path / "folder"), model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in.safetensors", "out.pth"]  # no trial is left


def test_suffixes_are_checked_before_any_work(tmp_path):
    """The source is not opened: it is not even there."""
    for out, to, hint in (("m.onnx", "swindow", ""), ("m", "microsoft", ""), ("m.bin", "timm", "; layout 'timm'")):
        with pytest.raises(CheckpointError) as caught:
            swindow.convert(tmp_path / "absent.pth", tmp_path / out, to=to)
        message = f"{tmp_path / out}: expected a name that ends in .safetensors or .pth{hint}"
        assert str(caught.value).startswith(message)
        with pytest.raises(CheckpointError, match="expected a name that ends in"):
            swindow.save(swindow.create("swin_nano"), tmp_path / out, to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields",
    [
        {"norm_placement": "post"},
        {"merge_norm": "post"},
        {"norm_eps": 1e-3},
        {"final_merge": True},
        {"similarity": "cosine"},
        {"similarity": "cosine", "position_bias": "continuous", "norm_placement": "post", "merge_norm": "post"},
    ],
)
def test_what_no_other_library_has_is_not_written_as_if_it_had(model, tmp_path, fields):
    odd = swindow.SwinTransformer(model.config.replace(**fields))
    for layout in ("timm", "microsoft", "torchvision", "transformers", "mmpretrain"):
        with pytest.raises(CheckpointError, match=rf"layout '{layout}' has"):
            swindow.save(odd, tmp_path / "x.pth", layout, input_size=32)
    swindow.save(odd, tmp_path / "x.safetensors")
    assert same(swindow.load(tmp_path / "x.safetensors"), odd)


def test_norms_that_are_lost_are_told(model, tmp_path):
    first = swindow.SwinTransformer(model.config.replace(out_norms=True, out_indices=(0,)))
    with pytest.raises(CheckpointError, match="the head needs the last stage's norm"):
        swindow.save(first, tmp_path / "x.pth", "mmpretrain")
    assert set(swindow.save(first, tmp_path / "x.pth", "mmdetection")) == {
        "head.weight", "head.bias", "norm.weight", "norm.bias",
    }  # fmt: skip


def test_places_to_write(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    swindow.save(model, "~/m.safetensors")
    assert same(swindow.load("~/m.safetensors"), model)
    swindow.convert("~/m.safetensors", "~/there.pth", to="timm")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").write_text("")
    for out, to in (("folder.pth", "timm"), ("file", "transformers"), (".", "timm"), ("", "timm"), ("/", "timm"),
                    ("x" * 300 + ".pth", "timm"), ("a\0.pth", "timm"), ("file/below.pth", "timm")):  # fmt: skip
        with pytest.raises(swindow.OutputError):
            swindow.convert("m.safetensors", out, to=to, overwrite=True, input_size=32)
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "there.pth", "folder.pth", "file"}
    with pytest.raises(CheckpointError, match="cannot be looked for"):
        swindow.load("x" * 5000)


def test_writers_at_one_place_do_not_meet(model, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: swindow.save(model, tmp_path / "m.safetensors"), range(12)))
    assert same(swindow.load(tmp_path / "m.safetensors"), model)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    "odd",
    [
        {"do_normalize": False},
        {"do_resize": False},
        {"rescale_factor": 1 / 127.5},
        {"resample": 5},
        {"image_mean": 0.5},
    ],
)
def test_preprocessing_that_we_cannot_do_is_told(folder, odd):
    about = json.loads((folder / "preprocessor_config.json").read_text())
    assert "preprocess" not in swindow.load(folder).load_report.assumed
    (folder / "preprocessor_config.json").write_text(json.dumps({**about, **odd}))
    assert next(iter(odd)) in swindow.load(folder).load_report.assumed["preprocess"]


def test_preprocessing_of_timm_that_we_cannot_do_is_told(model, tmp_path):
    swindow.save(model, tmp_path / "folder", "timm")
    about = json.loads((tmp_path / "folder" / "config.json").read_text())
    for odd in ({"interpolation": "lanczos"}, {"mean": [0.5, 0.5]}, {"crop_pct": 1.5}):
        changed = {**about, "pretrained_cfg": {**about["pretrained_cfg"], **odd}}
        (tmp_path / "folder" / "config.json").write_text(json.dumps(changed))
        found = swindow.load(tmp_path / "folder")
        assert found.card.preprocess == Preprocess((32, 32), crop_fraction=0.9)
        assert "config.json asks for what swindow cannot do" in found.load_report.assumed["preprocess"]


def test_what_travels_with_weights(model, tmp_path):
    model.card = ModelCard(
        task="classify",
        settings={"smoothing": 0.1},
        class_names=tuple("abcd"),
        preprocess=Preprocess((32, 32), "squash", value_range=(0, 4095)),
        input_size=(32, 32),
        split=HeldOut(0.2, 3, fingerprint="abc"),
        data="photos",
        licence="MIT",
    )
    swindow.save(model, tmp_path / "in.safetensors")
    for layout in ("timm", "microsoft", "mmpretrain", "torchvision"):
        done = swindow.convert(tmp_path / "in.safetensors", tmp_path / f"{layout}.safetensors", to=layout)
        assert done.lost == ()
        assert swindow.load(tmp_path / f"{layout}.safetensors").card == model.card
    for layout in ("timm", "transformers"):
        swindow.convert(tmp_path / "in.safetensors", tmp_path / layout, to=layout)
        assert swindow.load(tmp_path / layout).card == model.card
    lost = ("task", "settings", "class_names", "preprocess", "split", "data", "licence")
    assert swindow.convert(tmp_path / "in.safetensors", tmp_path / "m.pth", to="timm").lost == lost
    weights = load_file(tmp_path / "timm.safetensors")
    for text in ("{", "3", '{"preprocess": 3}', '{"format": 2}', "[" * 100_000):
        for key in ("swindow.card", "swindow.metadata"):
            save_file(weights, tmp_path / "bad.safetensors", {key: text})
            with pytest.raises(CheckpointError, match=r"bad\.safetensors: .*model card.*get the file again"):
                swindow.load(tmp_path / "bad.safetensors")


BEFORE = """{"class_names": ["cat", "dog", "ele", "fox"], "preprocess": {"size": [32, 32], "fit": "squash",
"crop_fraction": 0.875, "interpolation": "bicubic", "mean": [0.305], "std": [0.376]}, "input_size": [32, 32],
"data": "photos", "mine": [1, 2]}"""


@pytest.mark.parametrize("layout", ["swindow", "timm", "microsoft"])
def test_files_written_before_cards_had_a_format(model, tmp_path, layout):
    swindow.save(model, tmp_path / "m.safetensors", layout)
    weights = load_file(tmp_path / "m.safetensors")
    about = {"swindow": f'{{"config": {json.dumps(model.config.to_dict())}, "metadata": {BEFORE}}}'}
    save_file(weights, tmp_path / "m.safetensors", about if layout == "swindow" else {"swindow.metadata": BEFORE})
    found = swindow.load(tmp_path / "m.safetensors")
    assert same(found, model)
    how = Preprocess((32, 32), "squash", mean=(0.305,), std=(0.376,))
    names = ("cat", "dog", "ele", "fox")
    assert found.card == ModelCard(class_names=names, preprocess=how, input_size=(32, 32), data="photos")


@pytest.mark.parametrize("layout", ["swindow", "timm"])
def test_cards_of_other_versions(model, tmp_path, layout):
    """A later format is refused; a field added within a format is passed over."""
    swindow.save(model, tmp_path / "m.safetensors", layout)
    weights = load_file(tmp_path / "m.safetensors")

    def load(card):
        about = {"swindow.card": json.dumps(card)}
        if layout == "swindow":
            about = {"swindow": json.dumps({"config": model.config.to_dict(), "card": card})}
        save_file(weights, tmp_path / "m.safetensors", about)
        return swindow.load(tmp_path / "m.safetensors").card

    message = r"m\.safetensors: model card: format is 2, expected a number up to 1; try a newer version of swindow"
    for other in ({}, {"preprocess": "means something else"}):
        with pytest.raises(CheckpointError, match=message):
            load({"format": 2, "data": "photos", **other})
    assert load({"format": 1, "data": "photos", "authors": ["me"]}).data == "photos"


def test_convert_notices_what_does_not_come_back(model, tmp_path, monkeypatch):
    swindow.save(model, tmp_path / "in.safetensors")
    write = swindow.api.conversion.save

    def careless(model, *args):
        model.stages[0].blocks[0].mlp.fc1.weight.data[0] += 1
        found = write(model, *args)
        model.stages[0].blocks[0].mlp.fc1.weight.data[0] -= 1
        return found

    monkeypatch.setattr(swindow.api.conversion, "save", careless)
    with pytest.raises(CheckpointError, match="what was written gives other outputs"):
        swindow.convert(tmp_path / "in.safetensors", tmp_path / "out.pth", to="timm")
    assert [p.name for p in tmp_path.iterdir()] == ["in.safetensors"]


def test_what_is_counted(model):
    """The cost published for Swin-T and SwinV2-T, counted from outside."""
    for variant, size, gmacs in (("swin_tiny", 224, 4.5), ("swin_base", 224, 15.4), ("swinv2_tiny_w8", 256, 5.9)):
        found = swindow.checkpoints.describe(swindow.create(variant))
        assert abs(found["gmacs"] / gmacs - 1) < 0.025, found["gmacs"]
        assert (found["variant"], found["input_size"]) == (variant, [size, size])


def test_pickles_in_memory_are_what_the_tests_think(official):
    """That the files above hold the classes they are said to hold."""
    stream = io.BytesIO()
    torch.save({"args": argparse.Namespace(a=1), "best": np.float64(1)}, stream)
    with zipfile.ZipFile(stream) as archive:
        content = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    assert b"argparse\nNamespace" in content
    assert b"multiarray\nscalar" in content
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
