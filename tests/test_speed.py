"""The benchmarks of speed: ratios are of the right things, peers get our weights, pages say what was measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    return speed


def test_speed_is_a_ratio_to_the_products_and_to_the_fastest_peer(speed, tmp_path, monkeypatch):
    import speed_report

    seconds = {"products": [1.0, 2.0, 3.0], "swindow": [2.0, 4.0, 6.0], "a": [6.0, 9.0, 8.0], "b": [4.0, 8.0, 12.0]}
    monkeypatch.setattr(speed.timing, "interleaved", lambda cases, rounds: {name: seconds[name] for name in cases})
    case = speed.Case("swin_tiny", 1, (64, 64))
    errors = {"swindow": 0.0, "a": 1e-7, "b": 2e-7}
    found = speed.summary(case, dict.fromkeys(seconds), 5, errors, ["a", "b"])
    assert found["fastest_peer"] == "b"
    assert found["rows"]["swindow"]["products"]["median"] == 2
    assert found["rows"]["swindow"]["fastest peer"]["median"] == 0.5
    rows = {"swindow": {"peak": 5e8, "seconds": [3.0, 4.0], "products": [2.0, 2.0]}}
    alone, startup = (
        [case._asdict() | {"training": True, "rows": rows}],
        {"import torch": {"median": 1.25, "seconds": [1.25]}},
    )
    result = {"inference": [found], "training": [found], "alone": alone, "startup": startup, "versions": {"timm": "1"}}
    page = speed_report.page(result, "- about")
    for part in ("swin_tiny, batch 1, 64x64 pixels", "| swindow | 500 | 1.75 |", "| import torch | 1.250 |", "2e-07"):
        assert part in page
    speed_report.chart(result, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_a_library_that_gives_something_else_stops_the_measurement(speed):
    fits, pads = speed.Case("swin_tiny", 1, (224, 448)), speed.Case("swin_tiny", 1, (224, 450))
    speed.accept({"swindow": 0.0, "timm": 1e-6}, fits)
    speed.accept({"timm": 0.1}, pads)
    for errors, case in (({"timm": 1e-4}, fits), ({"torchvision": 1e-4}, pads), ({"swindow": float("nan")}, fits)):
        with pytest.raises(RuntimeError, match=f"{next(iter(errors))} differs by"):
            speed.accept(errors, case)


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
@pytest.mark.parametrize("variant", ["swin_tiny", "swinv2_tiny_w8"])
@torch.no_grad()
def test_peers_get_our_weights(speed, library, variant):
    import peer_models

    side = 256 if "v2" in variant else 224
    model, x = speed.build(speed.Case(variant, 1, (side, side)))
    peer = peer_models.PEERS[library](model, (side, side))
    if peer is None:
        pytest.skip(f"{library} is not installed")
    assert speed.difference(peer(x), model(x)) <= 2e-5


@pytest.fixture
def backends(speed) -> ModuleType:
    import backends

    return backends


@pytest.mark.slow
def test_backends_run_in_processes_and_are_compared(backends):
    pytest.importorskip("openvino")
    case = backends.Case("swin_tiny", 1, (224, 224), ("eager", "int8"))
    found = backends.measured(case, 3)
    for name in ("swindow, eager", "timm, eager", "swindow, int8"):
        row = found["rows"][name]
        assert len(row["seconds"]) == 3
        assert row["error"] <= (0.2 if name.endswith("int8") else 2e-5)
    assert found["rows"]["swindow, int8"]["error"] > 1e-4  # it is in int8
    assert "| int8 |" in "\n".join(importlib.import_module("backends_report").table(found | {"date": "", "commit": ""}))


def test_results_of_other_cases_stay(backends, tmp_path, monkeypatch):
    row = {"seconds": [1.0], "build_seconds": 1.0, "products": {"median": 1.0, "low": 1.0, "high": 1.0}}
    rows = {"products, beside openvino": row, "swindow, openvino": row}
    monkeypatch.setattr(backends, "measured", lambda case, rounds: case._asdict() | {"rows": rows, "failed": {}})
    monkeypatch.setattr(backends, "versions", lambda: backends.speed.versions())
    for chosen in (2, 1, 2):
        backends.main(out=tmp_path, cases=(chosen,))
    found = json.loads((tmp_path / "backends.json").read_text())["cases"]
    assert [case["variant"] for case in found] == ["swin_tiny", "swinv2_tiny_w8"]
    assert (tmp_path / "backends.md").read_text().count("Measured 2") == 2


@pytest.mark.slow
def test_a_backend_that_gives_something_else_stops_the_measurement(backends, tmp_path):
    case = backends.Case("swin_tiny", 1, (32, 32), ("eager",))
    model, x = backends.speed.build(backends.speed.Case(case.variant, 1, case.size))
    np.save(tmp_path / "images.npy", x.numpy())
    runs = {"swindow, eager": backends.prepared("swindow", model, "eager", case, x, tmp_path)}
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"swindow, eager: outputs differ by 9\.1e-02"):
        backends.in_turns(runs, case, model(x) * 1.1, 1, tmp_path, {})


def test_the_page_on_backends_says_what_ran_and_what_did_not(backends):
    import backends_report

    def row(median, seconds):
        ratio = {"median": median, "low": median, "high": median}
        return {"products": ratio, "seconds": [1.0], "build_seconds": seconds}

    rows = {"products, beside eager": row(1, 0), "swindow, eager": row(1.5, 0.1), "timm, eager": row(1.75, 0.1)}
    rows |= {"swindow, openvino": row(1.25, 20.0)}
    case = {"variant": "swin_tiny", "batch": 1, "size": (768, 1024), "rows": rows}
    case |= {"failed": {"timm, openvino": "RuntimeError: no"}, "peers": ("timm",)}
    case |= {
        "date": "2026-01-02T03:04",
        "commit": 4 * "0123456789" + " with changes",
        "backends": ("eager", "openvino"),
    }
    page = backends_report.page({"cases": [case], "versions": {"openvino": "1"}}, "- about")
    for line in (
        "## swin_tiny, batch 1, 1024x768 pixels",
        "| | swindow | timm | swindow over the fastest other | seconds until swindow's first answer |",
        "| eager | 1.50 (1.50 to 1.50) | 1.75 (1.75 to 1.75) | 1.00 (1.00 to 1.00) | 0.1 |",
        "| openvino | 1.25 (1.25 to 1.25) |  |  | 20.0 |",
        "Not run: timm, openvino (RuntimeError: no).",
        "Measured 2026-01-02 at commit 0123456789 with changes.",
        "Of the others only timm: memory does not hold more graphs.",
        "- with: openvino 1",
    ):
        assert line in page.splitlines()


def test_growth_with_resolution_is_fitted(speed):
    import measure
    import resolution

    sides = [
        {"side": side, "peak": 10 * side**2, "model": [side**2.2, side**2.2 * 2], "products": [side**2.0] * 2}
        for side in (64, 128, 256)
    ]
    row = {"variant": "swin_tiny", "size": (200, 304)}
    first = [[{**row, "seconds": [s, 2.0, 2.0, 1.0, 4.0]}] for s in (3.0, 9.0, 2.0)]
    about = {"hardware": measure.hardware(), "versions": measure.versions(), "command": "c"}
    about |= {"date": "d", "commit": "e", "load_average_before": 0.1}
    page = resolution.page({"sides": sides, "first": first} | about)
    assert "model **1.10**,\nmatrix products 1.00; peak memory **1.00**." in page
    assert "| swin_tiny | 304x200 | 3.000 | 1.50 | 1.00, 1.50, 4.50 |" in page
    record = resolution.one(64)
    assert record["side"] == 64
    assert len(record["model"]) == len(record["products"]) == 5
