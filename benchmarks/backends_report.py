"""The page of backends.py."""

from __future__ import annotations

import statistics
from typing import Any

import speed_report

HEAD = """# Compiled and exported, on a CPU

Time over the time of the *matrix products*: the linear layers of the blocks alone, through `F.linear`, at the same
sizes and in the same rounds; the median, with quartiles. Every library gave every backend the same weights; outputs
agree to 2e-5 of the largest (int8 apart). fp32 but for int8. Images and batch have fixed sizes.
"""
LIBRARIES = ("swindow", "timm", "torchvision", "transformers", "official")


def page(result: dict[str, Any], about: str) -> str:
    lines = [HEAD]
    for case in result["cases"]:
        lines += [*table(case), ""]
    lines += accuracy(result["accuracy"])
    v = result["versions"]
    others = ", ".join(f"{name} {v[name]}" for name in (*LIBRARIES[1:], "openvino", "onnxruntime") if name in v)
    return "\n".join((*lines, about, f"- with: {others}", ""))


def table(case: dict[str, Any]) -> list[str]:
    rows = case["rows"]
    products = {name: row for name, row in rows.items() if ", " not in name or name.startswith("products")}
    present = [name for name in LIBRARIES if any(row.startswith(f"{name}, ") for row in rows)]
    backends = list(dict.fromkeys(name.split(", ")[1] for name in rows if name not in products))
    size = "x".join(map(str, reversed(case["size"])))
    lines = [f"## {case['variant']}, batch {case['batch']}, {size} pixels", ""]
    lines += [f"| | {' | '.join(present)} | seconds until swindow's first answer |", "|---" * (len(present) + 2) + "|"]
    for name, row in products.items():
        lines.append(f"| {name} | {speed_report.spread(row['products'])} |{' |' * len(present)}")
    for backend in backends:
        cells = [rows.get(f"{library}, {backend}") for library in present]
        shown = [speed_report.spread(cell and cell["products"]) for cell in cells]
        lines.append(f"| {backend} | {' | '.join(shown)} | {cells[0]['build_seconds']:.1f} |")
    base = statistics.median(rows["products"]["seconds"])
    lines += ["", f"The matrix products took {base:.3f} s."]
    lines += [f"Not run: {name} ({reason})." for name, reason in case["failed"].items()]
    return lines


def accuracy(found: dict[str, Any]) -> list[str]:
    lines = ["## What int8 costs", ""]
    lines += [f"swin_nano trained on the digits, {found['images']} images held out:", ""]
    lines += ["| | recognised | same answer as eager PyTorch |", "|---|---:|---:|"]
    for name, right in found["right"].items():
        share, same = right / found["images"], found["same_as_eager"][name]
        lines.append(f"| {name} | {right} ({share:.4f}) | {same} |")
    return [*lines, ""]
