"""Does cost grow linearly with the image? Windowed attention from 112 to 1792 pixels, global attention to 448.

    make bench        or        python benchmarks/scaling.py [--quick] [--passes 3] [--out DIR]

Writes scaling.json (everything), scaling.md (tables and words) and scaling.png (the plot) to benchmarks/results/.
Takes about 6 minutes and 8 GB of memory on two cores; nothing else should run meanwhile.

Every case runs in processes of its own (see measure.py), in several passes over all cases, so that a slow minute of the
machine falls on one pass of many cases and not on all rounds of one. Then an exponent p is fitted to
cost = a * pixels^p: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measure
import scaling_report
import tyro

RESULTS = Path(__file__).resolve().parent / "results"


class Line(NamedTuple):
    """One line of the plot: a case at several sizes."""

    name: str
    title: str
    what: str
    sides: tuple[int, ...]  # pixels
    fit_from: int  # pixels; below, fixed costs (calls, threads, caches) are too large a part


# The sides are multiples of 28: with patch 4 and window 7, no map of the block pairs is padded.
LINES = (
    Line(
        "windowed",
        "windowed block pair",
        "W-MSA and SW-MSA of Swin-T's first stage (96 channels, 3 heads, patch 4), windows of 7 x 7 tokens",
        (112, 224, 448, 896, 1792),
        448,
    ),
    Line(
        "global_bias",
        "global block pair",
        "the same two blocks with a window that covers the map: relative position bias for every pair of tokens",
        (112, 224, 336, 448),
        224,
    ),
    Line(
        "global_plain",
        "global block pair, no bias",
        "the same two blocks with global attention and no position bias, as fast as PyTorch can do it",
        (112, 224, 336, 448),
        224,
    ),
    Line("swin_tiny", "whole Swin-T", "the whole network from pixels to logits", (112, 224, 448, 896, 1792), 448),
)
QUICK = (LINES[0]._replace(sides=(56, 112), fit_from=56), LINES[1]._replace(sides=(56, 112), fit_from=56))
CHECKED_UP_TO = 112  # pixels; where results are compared with the literal implementation, which is slow


class Fit(NamedTuple):
    """cost = factor * pixels^exponent."""

    exponent: float
    factor: float


def fit(pixels: Sequence[float], cost: Sequence[float]) -> Fit:
    """Fits the exponent by least squares on the logarithms."""
    slope, intercept = statistics.linear_regression([math.log(p) for p in pixels], [math.log(c) for c in cost])
    return Fit(slope, math.exp(intercept))


def main(out: Path = RESULTS, quick: bool = False, passes: int = 3) -> None:
    """Times windowed and global attention against the number of pixels, and fits how cost grows.

    Args:
        out: directory for scaling.json, scaling.md and scaling.png.
        quick: two tiny sizes of two lines in one pass, to see that it works; the numbers mean little.
        passes: how often every case is run.
    """
    lines, passes = (QUICK, 1) if quick else (LINES, passes)
    options = " --quick" if quick else f" --passes {passes}" if passes != 3 else ""
    about = measure.provenance("python benchmarks/scaling.py" + options)
    if about["load_average_before"] > 0.5:
        print(f"load average {about['load_average_before']}: something else runs here, so times will be too long")
    records = run_passes(lines, passes, budget=0.05 if quick else 0.7)
    result = summarise(lines, records, about)
    out.mkdir(parents=True, exist_ok=True)
    (out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "scaling.md").write_text(scaling_report.markdown(result))
    scaling_report.plot(result, out / "scaling.png")
    for line in result["lines"]:
        print(f"{line['title']}: " + ", ".join(f"{k} ~ pixels^{f['exponent']:.2f}" for k, f in line["fits"].items()))
    print(f"written: scaling.json, scaling.md and scaling.png in {out}")


def run_passes(lines: Sequence[Line], passes: int, budget: float) -> list[dict[str, Any]]:
    """Runs every case once per pass, each in a fresh process with ``budget`` seconds of rounds, and tells how it goes.

    The first pass also measures memory, and time with memory returned to the system; every second pass runs backwards.
    """
    records: list[dict[str, Any]] = []
    cases = [(line, side) for line in lines for side in line.sides]
    for i in range(passes):
        for line, side in reversed(cases) if i % 2 else cases:
            check = i == 0 and side <= CHECKED_UP_TO
            how = {"full": i == 0, "check": check, "budget": budget}
            record = measure.run(f"cases:{line.name}", {"side": side}, **how)
            records.append({"line": line.name, "side": side, "pass": i, **record})
            seconds, peak = statistics.median(record["rounds_seconds"]), record["returned"]
            memory = f", {peak['peak_bytes'] / 2**20:8.1f} MiB" if peak else ""
            counter = f"[{len(records):2}/{passes * len(cases)}]"
            print(f"{counter} {line.title:27} {side:4} pixels {seconds * 1e3:9.1f} ms{memory}", flush=True)
    return records


def summarise(lines: Sequence[Line], records: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Puts the processes' records together: one point per case, the fits per line."""
    result = {
        **about,
        "versions": records[0]["versions"],
        "hardware": records[0]["hardware"],
        "passes": 1 + max(r["pass"] for r in records),
        "allocator_obeys": all(r["allocator_obeys"] for r in records),
        "lines": [],
        "processes": [{k: v for k, v in r.items() if k not in ("versions", "hardware")} for r in records],
    }
    for line in lines:
        points = [
            _point(side, [r for r in records if (r["line"], r["side"]) == (line.name, side)]) for side in line.sides
        ]
        described = {"name": line.name, "title": line.title, "what": line.what}
        result["lines"].append({**described, "points": points, "fits": _fits(points, line.fit_from)})
    return result


def _point(side: int, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One case over its processes: the median of their medians, and how far apart these were."""
    medians = [statistics.median(r["rounds_seconds"]) for r in sorted(records, key=lambda r: r["pass"])]
    seconds = statistics.median(medians)
    returned = next(r["returned"] for r in records if r["returned"])
    return {
        "side": side,
        "pixels": side * side,
        "seconds": seconds,
        "seconds_per_pass": medians,
        "spread": (max(medians) - min(medians)) / seconds,  # fraction
        "rounds": sum(len(r["rounds_seconds"]) for r in records),
        "returned_seconds": statistics.median(returned["rounds_seconds"]),
        "peak_bytes": returned["peak_bytes"],
        "error": next((r["error"] for r in records if r["error"] is not None), None),
    }


def _fits(points: Sequence[dict[str, Any]], fit_from: int) -> dict[str, Any]:
    """The exponents of time, of time with memory returned to the system, and of memory."""
    upper = [p for p in points if p["side"] >= fit_from]
    pixels = [p["pixels"] for p in upper]
    fits: dict[str, Any] = {}
    for name, key in (("time", "seconds"), ("time, memory returned", "returned_seconds"), ("memory", "peak_bytes")):
        exponent, factor = fit(pixels, [p[key] for p in upper])
        every = fit([p["pixels"] for p in points], [p[key] for p in points]).exponent
        sides = [p["side"] for p in upper]
        fits[name] = {"exponent": exponent, "factor": factor, "sides": sides, "exponent_all_sides": every}
    per_pass = zip(*(p["seconds_per_pass"] for p in upper))
    fits["time"]["exponent_per_pass"] = [fit(pixels, seconds).exponent for seconds in per_pass]
    return fits


if __name__ == "__main__":
    tyro.cli(main)
