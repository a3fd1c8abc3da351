"""The page of backends.py."""

from __future__ import annotations

import statistics
from typing import Any

import speed_report

from swindow import timing

HEAD = """# Compiled and exported, on a CPU

Time over the time of the *matrix products*: the linear layers of the blocks alone, through PyTorch's `F.linear`, at the
same sizes and in the same rounds; the median, with quartiles. The last column but one is our time over that of the
fastest other library, round by round. Every library gave every backend the same weights; outputs agree to 2e-5 of the
largest (int8 apart). fp32 but for int8. Images and batch have fixed sizes. Every graph ran in a process of its own;
those of one backend took turns. In OpenVINO and ONNX Runtime all ran from an ONNX file. What int8 costs is on
[a page of its own](int8.md).
"""
LIBRARIES = ("swindow", "timm", "torchvision", "transformers", "official")


def page(result: dict[str, Any], about: str) -> str:
    lines = [HEAD]
    for case in result["cases"]:
        lines += [*table(case), ""]
    v = result["versions"]
    others = ", ".join(f"{name} {v[name]}" for name in (*LIBRARIES[1:], "openvino", "onnxruntime") if name in v)
    return "\n".join((*lines, about, f"- with: {others}", ""))


def table(case: dict[str, Any]) -> list[str]:
    rows = case["rows"]
    products = {name: row for name, row in rows.items() if name.startswith("products")}
    present = [name for name in LIBRARIES if any(row.startswith(f"{name}, ") for row in rows)]
    backends = list(dict.fromkeys(name.split(", ")[1] for name in rows if name not in products))
    size = "x".join(map(str, reversed(case["size"])))
    only = f", {backends[0]}" if len(case["backends"]) == 1 else ""
    lines = [f"## {case['variant']}, batch {case['batch']}, {size} pixels{only}", ""]
    columns = (*present, "swindow over the fastest other", "seconds until swindow's first answer")
    lines += [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for backend in backends:
        cells = [rows.get(f"{library}, {backend}") for library in present]
        shown = [speed_report.spread(cell and cell["products"]) for cell in cells]
        shown.append(speed_report.spread(against_the_fastest(cells)))
        lines.append(f"| {backend} | {' | '.join(shown)} | {cells[0]['build_seconds']:.1f} |")
    base = [statistics.median(row["seconds"]) for row in products.values()]
    lines += ["", f"The matrix products took {min(base):.3f} to {max(base):.3f} s, {len(cell_seconds(rows))} rounds."]
    lines += [f"Measured {case['date'][:10]} at commit {case['commit'][:10]}{case['commit'][40:]}."]
    if case["peers"]:
        lines += [f"Of the others only {', '.join(case['peers'])}: memory does not hold more graphs."]
    lines += [f"Not run: {name} ({reason})." for name, reason in case["failed"].items()]
    return lines


def against_the_fastest(cells: list[dict[str, Any] | None]) -> dict[str, float] | None:
    """The first row's times over those of the fastest of the others; None where there is none."""
    others = [cell for cell in cells[1:] if cell]
    if not others or cells[0] is None:
        return None
    fastest = min(others, key=lambda cell: statistics.median(cell["seconds"]))
    return timing.ratio(cells[0]["seconds"], fastest["seconds"])._asdict()


def cell_seconds(rows: dict[str, Any]) -> list[float]:
    """The times of one of the rows."""
    seconds: list[float] = next(iter(rows.values()))["seconds"]
    return seconds
