"""Timing: ratios of interleaved calls, and the limit that they are measured against."""

import json
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from swindow import ConfigError, ModelCard, Preprocess, create, save, timing
from swindow.cli import main
from swindow.inference.bench import bench, matrix_products

FIELDS = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 3}


def test_calls_are_interleaved_and_the_first_rounds_do_not_count():
    called = []
    seconds = timing.interleaved({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3, warm=2)
    assert called == ["a", "b"] * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert min(min(times) for times in seconds.values()) > 0


def test_a_ratio_is_taken_round_by_round():
    found = timing.ratio([2.0, 30.0, 4.0, 8.0, 5.0], [1.0, 10.0, 2.0, 2.0, 1.0])
    assert found == timing.Ratio(3.0, 2.0, 4.0)
    assert timing.ratio([6.0], [2.0]) == timing.Ratio(3.0, 3.0, 3.0)


@pytest.mark.parametrize("variant", ["swin_tiny", "swinv2_tiny_w8"])
@pytest.mark.parametrize("training", [False, True])
def test_the_products_are_those_of_the_linear_layers_of_the_blocks(variant, training):
    model, shapes = create(variant, **FIELDS, window_size=4, pretrained_window_size=None), []
    x = torch.randn(3, 3, 30, 30)  # maps of 8 x 8 and 4 x 4, which windows fit
    run = matrix_products(model.eval(), x, training)

    linear = F.linear

    def note(x, weight, bias):
        shapes.append((x.numel() // x.shape[-1], *weight.shape))
        return linear(x, weight, bias)

    with mock.patch.object(F, "linear", note):
        run()
    layers = [(3 * 64, 48, 16), (3 * 64, 16, 16), (3 * 64, 64, 16), (3 * 64, 16, 64)]
    assert shapes == [(rows // s**2, o * s, i * s) for s in (1, 2) for _ in range(2) for rows, o, i in layers]
    assert not any(m._forward_hooks for m in model.modules())


def test_bench_times_each_way_and_leaves_the_model_as_it_was():
    model = create("swin_tiny", **FIELDS).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    rows = bench(model, (32, 32), 2, ("train", "eager", "deploy"), rounds=2)
    assert [row["way"] for row in rows] == ["eager", "deploy", "train"]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["products"]["low"] <= row["products"]["median"] <= row["products"]["high"]
        assert row["products"]["median"] > 1
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_an_unknown_way_is_refused():
    with pytest.raises(ConfigError, match=r"unknown way 'deploi' \(did you mean 'deploy'\?\)"):
        bench(create("swin_nano"), (16, 16), 1, ("deploi",))


def test_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "swin_nano", "--batch", "1", "2", "--size", "16", "--rounds", "2", "--json"])
    captured = capsys.readouterr()
    assert stop.value.code == 0
    assert [(row["way"], row["batch"]) for row in json.loads(captured.out)] == [
        ("eager", 1), ("deploy", 1), ("eager", 2), ("deploy", 2)
    ]  # fmt: skip
    assert "over the matrix products" in captured.err


def test_the_command_times_the_size_that_a_model_is_for(capsys, tmp_path):
    model = create("swin_nano", num_classes=2)
    model.card = ModelCard(preprocess=Preprocess((24, 40)))
    save(model, tmp_path / "own.safetensors")
    save(create("swin_nano", num_classes=3, window_size=12), tmp_path / "timm.safetensors", layout="timm")
    clips = ["swin3d_tiny", "--frames", "2", "--size", "32"]
    for arguments, size in (
        ([tmp_path / "own.safetensors"], "24x40"),
        ([tmp_path / "timm.safetensors", "--size", "48"], "48x48"),
        (clips, "2x32x32"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["bench", *map(str, arguments), "--batch", "1", "--rounds", "1", "--ways", "eager"])
        assert stop.value.code == 0
        assert f"inputs of {size};" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["bench", "swin_nano", "--frames", "4"])
    assert stop.value.code == 2
    assert "leave --frames out" in capsys.readouterr().err
