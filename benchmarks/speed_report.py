"""The page and the chart of speed.py."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

HEAD = """# Speed on a CPU

Time over the time of the *matrix products*: the linear layers of the blocks alone, through `F.linear`, at the same
sizes and in the same rounds; the median, with quartiles. All libraries have the same weights, run in turns in one
process, and gave the same outputs first (last column: largest difference over the largest output). fp32 unless it says
bfloat16 (autocast, against fp32), eager PyTorch, memory allocator as shipped. Without stochastic depth unless it is
named; where a sample drops a branch, swindow does not compute it.
"""


def page(result: dict[str, Any], about: str) -> str:
    lines = [HEAD]
    for title, key in (("Inference", "inference"), ("Training step (forward and backward)", "training")):
        lines += [f"## {title}", ""]
        for case in result[key]:
            lines += [*table(case), ""]
    lines += alone(result["alone"])
    lines += startup(result["startup"])
    v = result["versions"]
    others = ", ".join(f"{name} {v[name]}" for name in ("timm", "torchvision", "transformers") if name in v)
    products = [f"- products: {result['processor']}"] if "processor" in result else []
    return "\n".join((*lines, about, f"- compared with: {others}", *products, ""))


def table(case: dict[str, Any]) -> list[str]:
    size = "x".join(map(str, reversed(case["size"])))
    lines = [f"### {case['variant']}, batch {case['batch']}, {size} pixels{how(case)}", ""]
    lines += [
        "| | over the matrix products | over the fastest peer | median (s) | difference |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in case["rows"].items():
        error = "" if row["error"] is None else f"{row['error']:.0e}"
        cells = [
            name,
            spread(row["products"]),
            spread(row.get("fastest peer")),
            f"{statistics.median(row['seconds']):.3f}",
            error,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def alone(cases: list[dict[str, Any]]) -> list[str]:
    lines = ["## In a process of its own", ""]
    lines += ["Peak resident memory above that of the built model and the images; time as above.", ""]
    for case in cases:
        way = "training step" if case["training"] else "inference"
        lines += [
            f"### {case['variant']}, batch {case['batch']}, {way}{how(case)}",
            "",
            "| | peak (MB) | over the products |",
            "|---|---:|---:|",
        ]
        for name, row in case["rows"].items():
            each = [a / b for a, b in zip(row["seconds"], row["products"], strict=True)]
            lines.append(f"| {name} | {row['peak'] / 1e6:.0f} | {statistics.median(each):.2f} |")
        lines.append("")
    return lines


def startup(times: dict[str, Any]) -> list[str]:
    lines = ["## Start-up", "", "| | median (s) |", "|---|---:|"]
    lines += [f"| {name} | {row['median']:.3f} |" for name, row in times.items()]
    return [*lines, ""]


def how(case: dict[str, Any]) -> str:
    depth = case.get("drop_path", 0.0)
    return ", bfloat16" * bool(case.get("half")) + f", stochastic depth {depth}" * (depth > 0)


def spread(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def chart(result: dict[str, Any], path: Path) -> None:
    """Bars of every inference case: the ratio to the matrix products, with quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = [case for case in result["inference"] if not case.get("half")]
    names = [name for name in cases[0]["rows"] if not name.startswith("products")]
    colours = dict(zip(names, ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#999999")))  # Okabe and Ito
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    width = 0.8 / len(names)
    for i, case in enumerate(cases):
        for j, name in enumerate(names):
            if name in case["rows"]:
                r = case["rows"][name]["products"]
                error = [[r["median"] - r["low"]], [r["high"] - r["median"]]]
                label = name if i == 0 else None
                axes.bar(
                    i + (j - (len(names) - 1) / 2) * width,
                    r["median"],
                    width,
                    yerr=error,
                    color=colours[name],
                    label=label,
                )
    axes.axhline(1, color="black", linewidth=1, linestyle="--", label="the matrix products alone")
    labels = [f"{c['variant']}\nbatch {c['batch']}, {c['size'][1]}x{c['size'][0]}" for c in cases]
    axes.set_xticks(range(len(cases)), labels, fontsize=8)
    axes.set_ylabel("time over the matrix products")
    axes.set_title("Inference on a CPU, fp32, eager PyTorch (lower is better)")
    axes.legend(ncols=len(names) + 1, fontsize=8, loc="upper right")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    figure.savefig(path, dpi=130)
    plt.close(figure)
