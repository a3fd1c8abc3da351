"""Writes what scaling.py measured: a page in plain words, and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure

# Okabe and Ito's colours, told apart with every common colour vision; markers differ too, for print in grey.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#E69F00", "D"), ("#009E73", "^"))


def markdown(result: dict[str, Any]) -> str:
    """Returns the page: how it was made, the exponents, every point, and what the numbers do not show."""
    parts = [
        "# How cost grows with the image\n\n![time and memory against pixels](scaling.png)",
        measure.about(result),
        "## Exponents\n\n`cost = a * pixels^p`, fitted by least squares on the logarithms: p = 1 is linear, "
        "p = 2 quadratic.\n\n" + _exponents(result),
        _in_words(result),
        "## Every point\n\n" + _points(result),
        _definitions(result),
        _not_shown(result),
    ]
    return "\n\n".join(parts) + "\n"


def _exponents(result: dict[str, Any]) -> str:
    rows = []
    for line in result["lines"]:
        fits = line["fits"]
        per_pass = fits["time"]["exponent_per_pass"]
        rows.append(
            (
                line["title"],
                f"{min(fits['time']['sides'])} to {max(fits['time']['sides'])}",
                f"**{fits['time']['exponent']:.2f}** ({min(per_pass):.2f} to {max(per_pass):.2f})",
                f"{fits['time, memory returned']['exponent']:.2f}",
                f"**{fits['memory']['exponent']:.2f}**",
                f"{fits['time']['exponent_all_sides']:.2f} / {fits['memory']['exponent_all_sides']:.2f}",
            )
        )
    head = ("", "fitted from side (px)", "time (per pass)", "time, memory returned", "memory")
    return _table((*head, "all sides: time / memory"), rows)


def _points(result: dict[str, Any]) -> str:
    rows = [
        (
            line["title"],
            str(p["side"]),
            f"{p['seconds'] * 1e3:.1f}",
            f"{p['spread']:.0%}" if result["passes"] > 1 else "",
            str(p["rounds"]),
            f"{p['returned_seconds'] * 1e3:.1f}",
            f"{p['peak_bytes'] / 2**20:.0f}",
            "" if p["error"] is None else f"{p['error']:.0e}",
        )
        for line in result["lines"]
        for p in line["points"]
    ]
    head = (
        "",
        "side (px)",
        "time (ms)",
        "spread",
        "rounds",
        "memory returned (ms)",
        "peak memory (MiB)",
        "checked: error",
    )
    return _table(head, rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ("---", *("---:",) * (len(head) - 1)), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _in_words(result: dict[str, Any]) -> str:
    """What the first and the last size of each fit say, without logarithms."""
    sentences = []
    for line in result["lines"]:
        sides = line["fits"]["time"]["sides"]
        a, b = (next(p for p in line["points"] if p["side"] == side) for side in (min(sides), max(sides)))
        sentences.append(
            f"- {line['title']}: {b['pixels'] / a['pixels']:.0f} times the pixels ({a['side']} to {b['side']}) took "
            f"{b['seconds'] / a['seconds']:.1f} times the time and {b['peak_bytes'] / a['peak_bytes']:.1f} times the "
            "memory."
        )
    return "\n".join(("In words:\n", *sentences))


def _definitions(result: dict[str, Any]) -> str:
    lines = "\n".join(f"- **{line['title']}**: {line['what']}." for line in result["lines"])
    allocator = (
        "Time is taken with the allocator told to keep freed memory. Told to return it (first pass only), the system "
        "clears every page again at its next use, which is a cost of the system and not of the method. As shipped, "
        "glibc's malloc keeps small blocks and returns large ones, so that what a user sees lies between the two."
        if result["allocator_obeys"]
        else "This system's allocator cannot be told what to do with freed memory: both times are with it as it is."
    )
    return f"""## What was measured

{lines}

Inference, fp32, batch 1, random weights and input. One process per case and pass.
Passes over all cases: {result["passes"]}, every second one backwards.

Time: the median over passes of the median over rounds, after warm-up. Spread: the largest minus the smallest median
of a pass, over that time. {allocator}

Peak memory: the highest resident memory of the process during a call, minus that before it, with the allocator told
to return what is freed (first pass only). Weights, input, and what the first call leaves behind (threads, caches, for
global attention the index of its bias) are not counted.

Where an error is given, the result was compared, after measuring, with the literal implementation of the paper; it is
relative to the largest value."""


def _not_shown(result: dict[str, Any]) -> str:
    plain = (
        "Without a bias, PyTorch's fused attention never stores the N x N matrix, so the memory of global attention "
        "need not grow quadratically; its time does. With the relative position bias that Swin uses, both do. "
        if "global_plain" in {line["name"] for line in result["lines"]}
        else ""
    )
    return f"""## What is not shown

{plain}The block pairs contain the MLP and the projections, whose cost is linear everywhere, so the exponent of global
attention stays below 2 while they count. Only square images on a CPU: no GPU, no training, no larger batch, no half
precision. Sides are multiples of 28 pixels, so that the block pairs need no padding; other sizes cost up to one window
more per axis. And linear cost says nothing about quality: a window sees less than the whole map."""


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws time and memory against pixels, both axes logarithmic, with the fitted lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
    _panel(panels[0], result, "time", "seconds", 1e3, "time of one forward pass (ms)")
    _panel(panels[1], result, "memory", "peak_bytes", 2**-20, "peak memory (MiB)")
    h = result["hardware"]
    figure.suptitle(
        f"Cost against image size: {h['cpu']}, {h['threads']} threads, torch {result['versions']['torch']}, fp32, "
        "batch 1 (dashed: fit)",
        fontsize=11,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes: Any, result: dict[str, Any], fit: str, key: str, unit: float, label: str) -> None:
    """One plot: the points of every line, and its fit over the sides it was fitted on."""
    for line, (colour, marker) in zip(result["lines"], STYLES):
        points, fitted = line["points"], line["fits"][fit]
        legend = f"{line['title']}: pixels$^{{{fitted['exponent']:.2f}}}$"
        pixels, cost = [p["pixels"] for p in points], [p[key] * unit for p in points]
        hollow = {
            "markerfacecolor": "none",
            "markeredgewidth": 1.8,
            "markersize": 8,
        }  # points of two lines may coincide
        axes.plot(pixels, cost, marker, color=colour, label=legend, **hollow)
        ends = [side**2 for side in (min(fitted["sides"]), max(fitted["sides"]))]
        axes.plot(ends, [fitted["factor"] * p ** fitted["exponent"] * unit for p in ends], "--", color=colour)
    sides = sorted({p["side"] for line in result["lines"] for p in line["points"]})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
    axes.minorticks_off()
    axes.set_xlabel("pixels")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
