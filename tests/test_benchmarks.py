"""The benchmarks: known answers are measured, known exponents are fitted, and the quick run writes its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SIDES = (112, 224, 448, 896)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType, ModuleType]:
    """measure, scaling and cases, imported as they import each other: as scripts of one folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cases
    import measure
    import scaling

    return measure, scaling, cases


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(BENCHMARKS / "scaling.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def _record(line: str, side: int, number: int, seconds: float, peak: int) -> dict[str, Any]:
    returned = {"first_call_seconds": 9.0, "rounds_seconds": [2 * seconds], "baseline_bytes": 1, "peak_bytes": peak}
    return {
        "line": line,
        "side": side,
        "pass": number,
        "rounds_seconds": [seconds, seconds, 100 * seconds],  # one round was disturbed
        "allocator_obeys": True,
        "returned": returned if number == 0 else None,
        "error": None,
        "versions": {"torch": "2"},
        "hardware": {"cores": 2},
    }


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_fit_finds_the_exponent_and_the_factor(modules, exponent):
    pixels = [side**2 for side in SIDES]
    found = modules[1].fit(pixels, [3e-6 * p**exponent for p in pixels])
    assert found.exponent == pytest.approx(exponent)
    assert found.factor == pytest.approx(3e-6)


def test_summary_fits_time_and_memory_of_every_line_apart(modules):
    scaling = modules[1]
    lines = [scaling.Line("a", "A", "linear", SIDES, 224), scaling.Line("b", "B", "quadratic", SIDES, 224)]
    records = [
        _record(name, side, number, (1 + number / 10) * 1e-6 * side ** (2 * p), 1000 * side**2)
        for name, p in (("a", 1), ("b", 2))
        for side in SIDES
        for number in (2, 0, 1)
    ]
    result = scaling.summarise(lines, records, {"date": "today"})
    a, b = (line["fits"] for line in result["lines"])
    assert [f["time"]["exponent"] for f in (a, b)] == pytest.approx([1, 2])
    assert [f["memory"]["exponent"] for f in (a, b)] == pytest.approx([1, 1])
    assert b["time"]["exponent_per_pass"] == pytest.approx([2, 2, 2])
    assert a["time"]["sides"] == [224, 448, 896]
    point = result["lines"][0]["points"][0]
    assert point["seconds"] == pytest.approx(1.1e-6 * 112**2)  # of three passes the middle one, its disturbed round out
    assert point["spread"] == pytest.approx(0.2 / 1.1)
    assert point["returned_seconds"] == pytest.approx(2e-6 * 112**2)
    assert (point["rounds"], result["passes"]) == (9, 3)


def test_fixed_costs_below_the_fit_do_not_change_its_exponent(modules):
    scaling = modules[1]
    lines = [scaling.Line("a", "A", "linear", SIDES, 224)]
    records = [_record("a", side, 0, 1e-6 * side**2 if side >= 224 else 1.0, side**2) for side in SIDES]
    time = scaling.summarise(lines, records, {})["lines"][0]["fits"]["time"]
    assert time["exponent"] == pytest.approx(1)
    assert time["exponent_all_sides"] < 0.9


def test_a_fresh_process_measures_known_time_and_memory(modules):
    measure = modules[0]
    held = bytearray(300 * 2**20)  # a child must not take its parent's peak for its own
    record = measure.run("cases:known", {"mebibytes": 64, "seconds": 0.05}, check=True, budget=2, most_rounds=3)
    assert len(held) > 0
    assert record["returned"]["peak_bytes"] / 2**20 == pytest.approx(64, abs=2)
    assert 0.05 <= min(record["rounds_seconds"]) < 0.5
    assert 1 <= len(record["rounds_seconds"]) <= 3
    assert record["error"] == 0


def test_memory_is_only_measured_where_asked(modules):
    record = modules[0].run("cases:known", {"mebibytes": 1, "seconds": 0.0}, full=False, most_rounds=2)
    assert record["returned"] is None
    assert record["error"] is None
    assert len(record["rounds_seconds"]) == 2


def test_a_case_that_fails_says_why(modules):
    with pytest.raises(RuntimeError, match=r"(?s)cases:windowed .*unexpected keyword argument 'colour'"):
        modules[0].run("cases:windowed", {"colour": 3})


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_a_wrong_result_is_a_failure(modules, wrong):

    one, error = torch.ones(3), modules[0]._error
    assert error(lambda: one, lambda: one * (1 + 1e-6)) < 2e-6
    with pytest.raises(SystemExit, match="wrong result"):
        error(lambda: one * wrong, lambda: one)


@pytest.mark.parametrize("name", ["windowed", "global_bias", "global_plain", "swin_tiny"])
def test_every_case_gives_what_the_literal_implementation_gives(modules, name):
    measure, scaling, cases = modules
    assert name in {line.name for line in scaling.LINES}
    run, expected = getattr(cases, name)(side=56)
    assert measure._error(run, expected) <= measure.TOLERANCE


def test_only_the_windowed_pair_is_blind_to_far_tokens(modules):
    """The lines of the plot are what they say: one token's change reaches the whole map, or only its windows."""

    cases, x = modules[2], torch.randn(1, 28, 28, 96)
    changed = x.clone()
    changed[0, 0, 0].neg_()  # adding a number would do nothing: the norm takes it away
    for window, far in ((7, False), (28, True)):
        pair = cases._pair(window)
        difference = (cases._infer(pair, x) - cases._infer(pair, changed)).abs().amax(-1)[0]  # (28, 28)
        assert difference[0, 0] > 0
        assert bool(difference[-8, -8] > 0) is far


def test_the_sizes_are_those_promised(modules):
    lines = {line.name: line for line in modules[1].LINES}
    assert {112, 224, 448, 896, 1792} <= set(lines["windowed"].sides) & set(lines["swin_tiny"].sides)
    assert max(lines["global_bias"].sides) == max(lines["global_plain"].sides) == 448
    assert all(sum(side >= line.fit_from for side in line.sides) >= 3 for line in lines.values())


@pytest.mark.slow
def test_quick_run_writes_everything(quick):
    out, said = quick
    result = json.loads((out / "scaling.json").read_text())
    assert set(result["versions"]) == {"python", "torch", "swindow"}
    assert {"cpu", "cores", "threads", "memory_gib"} <= set(result["hardware"])
    assert result["command"] == "python benchmarks/scaling.py --quick"
    assert all(result[field] for field in ("commit", "date", "passes"))
    assert [line["name"] for line in result["lines"]] == ["windowed", "global_bias"]
    for line in result["lines"]:
        assert [p["side"] for p in line["points"]] == [56, 112]
        assert all(p["seconds"] > 0 and p["error"] <= 2e-5 for p in line["points"])
        assert line["points"][-1]["peak_bytes"] > 2**19  # of the smallest map the blocks are too small to be seen
        assert set(line["fits"]) == {"time", "time, memory returned", "memory"}
    assert len(result["processes"]) == 4
    assert "[ 4/4]" in said
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_page_shows_the_fitted_exponents_and_no_path(quick):
    out, _ = quick
    page, result = (out / "scaling.md").read_text(), json.loads((out / "scaling.json").read_text())
    for line in result["lines"]:
        assert f"| {line['title']} | 56 to 112 | **{line['fits']['time']['exponent']:.2f}**" in page
    assert result["commit"] in page
    assert "What is not shown" in page
    for text in (page, (out / "scaling.json").read_text()):
        assert str(out) not in text
        assert str(BENCHMARKS.parent) not in text


@pytest.mark.slow
def test_grad_checkpointing_writes_its_results(tmp_path):
    command = [
        sys.executable,
        str(BENCHMARKS / "grad_checkpointing.py"),
        "--quick",
        "--passes",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "grad_checkpointing.json").read_text())
    assert [case["stages"] for case in result["cases"]] == ["none", "all"]
    assert all(case["record"]["error"] == 0 for case in result["cases"])  # the same gradients
    rows = [
        row for row in (tmp_path / "grad_checkpointing.md").read_text().splitlines() if row.startswith("| swin_nano")
    ]
    assert "| none |" in rows[0]
    assert "| 1.00 | 1.00 (1.00 to 1.00) |" in rows[0]
    assert "| all |" in rows[1]


def test_the_page_on_loading_is_that_of_its_numbers(modules):
    import loading  # beside the others, on the path that ``modules`` has set

    results = BENCHMARKS / "results"
    assert loading.page(json.loads((results / "loading.json").read_text())) == (results / "loading.md").read_text()
