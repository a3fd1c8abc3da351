"""The page of growth.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import measure
import scaling

Part = Literal["batch", "window", "large", "sizes"]
PARTS: tuple[Part, ...] = ("batch", "window", "large", "sizes")
CHANS, HEADS = 96, 3  # of the blocks in ``window``
MIB = 2**20

HEAD = """# How time and memory grow: batch, window, one large image, many sizes

fp32, eager PyTorch on a CPU, every case in a process of its own. All libraries have the same weights. How cost grows
with the image: [scaling.md](scaling.md).

*Time* is the median over passes of the median over rounds; in brackets the smallest and the largest median of a pass.
*Peak memory* is the highest resident memory of the process during a call minus that before it: weights, input and
libraries are not counted. For batch and window it is from the first pass, with the allocator told to return what is
freed, and times are with the allocator told to keep it, as in scaling.md.
"""

Cases = dict[str, list[dict[str, Any]]]


def page(result: dict[str, Any]) -> str:
    """Returns the page: the parts that the result holds, each with what it was measured with."""
    lines = [HEAD]
    for part in PARTS:
        if part in result:
            found = result[part]
            lines += [*SECTIONS[part](found["cases"]), "", measure.about(found)]
            others = [f"{k} {v}" for k, v in found["versions"].items() if k in ("timm", "torchvision", "transformers")]
            lines += [f"- compared with: {', '.join(others) or 'no other library'}", ""]
    return "\n".join(lines)


def batch(cases: Cases) -> list[str]:
    """Time and memory per image against the batch."""
    libraries, numbers = axes(cases)
    lines = ["## Batch", "", "Swin-T, inference, 224 x 224 pixels. Time, ms per image:", ""]
    lines += table(cases, lambda library, n: time_cell(cases[f"{library}, {n}"], 1e3 / n))
    lines += ["", "Peak memory, MiB per image:", ""]
    lines += table(cases, lambda library, n: f"{peak(cases[f'{library}, {n}']) / MIB / n:.1f}")
    lines += ["", "Growth as batch^p, p fitted on the logarithms (1: in proportion to the batch):", ""]
    lines += ["| | time | memory |", "|---|---:|---:|"]
    for library in libraries:
        done = [(n, cases[f"{library}, {n}"]) for n in numbers if ran(cases.get(f"{library}, {n}", []))]
        if len(done) > 1:
            many = [n for n, _ in done]
            time, memory = (scaling.fit(many, [of(records) for _, records in done]).exponent for of in (seconds, peak))
            lines.append(f"| {library} | {time:.2f} | {memory:.2f} |")
    return [*lines, *failures(cases)]


def window(cases: Cases) -> list[str]:
    """Time and memory of two blocks against the window, with the terms that the paper expects."""
    _, windows = axes(cases)
    first, tokens = windows[0], next(iter(cases.values()))[0]["arguments"]["side"] ** 2
    linear = 12 * CHANS / (12 * CHANS + 2 * 49)

    def over(library: str, m: int) -> str:
        base = cases[f"{library}, {first}"]
        return f"{seconds(cases[f'{library}, {m}']) / seconds(base):.2f}" if ran(base) else ""

    lines = [
        "## Window",
        "",
        f"W-MSA and SW-MSA of Swin-T's first stage ({CHANS} channels, {HEADS} heads) on a map of {tokens:,}",
        "tokens, in windows of M x M tokens; nothing is padded. Per token, the linear layers of a block (q, k, v,",
        "output, MLP) take 12 C^2 multiply-adds whatever the window, and attention takes 2 M^2 C (equation 2 of the",
        f"paper). *Expected* is the sum over that for M = {first}, if all multiply-adds took equally long. Time, ms:",
        "",
        *table(cases, lambda library, m: time_cell(cases[f"{library}, {m}"], 1e3)),
        "",
        f"Time over that of M = {first}:",
        "",
        *table(cases, over, "expected", lambda m: f"{expected(m, first):.2f}"),
        "",
        "Peak memory, MiB. *One array* is the similarities of all windows of a block, h M^2 numbers per token, which a",
        "block needs at least once if it computes all windows at the same time:",
        "",
        *table(
            cases,
            lambda library, m: f"{peak(cases[f'{library}, {m}']) / MIB:.0f}",
            "one array",
            lambda m: f"{array(tokens, m) / MIB:.0f}",
        ),
        "",
        "The terms, fitted by least squares: time = a + b M^2 and memory = c + d M^2. If all multiply-adds took",
        f"equally long, the share a / (a + b M^2) would be {linear:.2f} at M = 7. The softmax, whose cost grows as M^2",
        "too, is not counted in that. The deviation is that of the fitted time, over the measured one.",
        "",
        "| | a (ms) | b (ms) | share of a at M = 7 | largest deviation | c (MiB) | d, in arrays |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    return [*lines, *fits(cases, tokens), *failures(cases)]


def fits(cases: Cases, tokens: int) -> list[str]:
    """Rows of the fitted terms of ``window``."""
    libraries, windows = axes(cases)
    lines = []
    for library in libraries:
        done = [(m, cases[f"{library}, {m}"]) for m in windows if ran(cases.get(f"{library}, {m}", []))]
        if len(done) > 1:
            squares = [m * m for m, _ in done]
            times, peaks = ([of(records) for _, records in done] for of in (seconds, peak))
            (b, a), (d, c) = (statistics.linear_regression(squares, values) for values in (times, peaks))
            off = max(abs(a + b * square - t) / t for square, t in zip(squares, times))
            cells = [f"{a * 1e3:.0f}", f"{b * 1e3:.3f}", f"{a / (a + 49 * b):.2f}", f"{off:.0%}", f"{c / MIB:.0f}"]
            lines.append(f"| {library} | {' | '.join(cells)} | {d / array(tokens, 1):.2f} |")
    return lines


def expected(m: int, first: int) -> float:
    """Multiply-adds of a block with windows of m x m, over those with the first window."""
    return (12 * CHANS + 2 * m * m) / (12 * CHANS + 2 * first * first)


def array(tokens: int, m: int) -> float:
    """Bytes of the similarities of a block."""
    return 4.0 * HEADS * tokens * m * m


def large(cases: Cases) -> list[str]:
    """One large image."""
    measured = {name: records for name, records in cases.items() if ran(records)}
    side = next(iter(cases.values()))[0]["arguments"]["side"]
    lines = [
        f"## One image of {side} x {side} pixels",
        "",
        "Swin-T, inference, the first call of a process, the memory allocator as shipped; medians, with the smallest",
        "and the largest of the passes. *Whole process* is the highest resident memory of the process, so it includes",
        "libraries, weights, image and what a library prepares for this size before the call. *Difference* is that of",
        "the first ten logits from swindow's, over the largest of these. timm rolls before it pads (timm#2438): where",
        "it pads, its results differ.",
        "",
        "| | time (s) | peak memory of the call (MiB) | whole process (MiB) | difference |",
        "|---|---:|---:|---:|---:|",
    ]
    reference = measured["swindow"][0]["logits"] if "swindow" in measured else None
    for name, records in measured.items():
        cells = [between([r["seconds"] for r in records], 1, 1)]
        cells += [between([r[key] for r in records], 1 / MIB, 0) for key in ("peak", "total")]
        cells.append("" if reference is None else f"{difference(records[0]['logits'], reference):.0e}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, *failures(cases)]


def difference(logits: Sequence[float], reference: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(logits, reference, strict=True)) / max(map(abs, reference))


def sizes(cases: Cases) -> list[str]:
    """Resident memory against the number of sizes met."""
    runs = {name: records[0] for name, records in cases.items() if ran(records)}
    every, count = (next(iter(cases.values()))[0]["arguments"][key] for key in ("every", "count"))
    marks = range(0, count + 1, every)
    lines = [
        f"## {count:,} image sizes in one process",
        "",
        "Swin-T, batch 1; every image has another size, of 32 to 256 pixels a side, in random order, the same for all.",
        "Resident memory (MiB) after two calls at 256 x 256 pixels (column 0), and after so many sizes more, the",
        "memory allocator as shipped. *Trimmed*: at the end, after the allocator was told to return what is free. One",
        "process each, so there is no spread.",
        "",
        f"| sizes | {' | '.join(map(str, marks))} | added by the second half | trimmed | seconds |",
        f"|---|{'---:|' * (len(marks) + 3)}",
    ]
    for name, run in runs.items():
        resident = [value / MIB for value in run["resident"]]
        late = resident[-1] - resident[len(resident) // 2]
        trimmed = "" if run["trimmed"] is None else f"{run['trimmed'] / MIB:.0f}"
        cells = [*(f"{value:.0f}" for value in resident), f"{late:+.0f}", trimmed, f"{run['seconds']:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "swindow keeps at most 64 entries in each of its caches for sizes. Below it, oneDNN keeps primitives by shape",
        "(1024 by default, ONEDNN_PRIMITIVE_CACHE_CAPACITY), PyTorch keeps what its calls of oneDNN prepared (1024 by",
        "default, LRU_CACHE_CAPACITY), and the allocator keeps freed blocks of many sizes.",
    ]
    return [*lines, *failures(cases)]


SECTIONS = {"batch": batch, "window": window, "large": large, "sizes": sizes}


def axes(cases: Cases) -> tuple[list[str], list[int]]:
    """The libraries and the numbers in names like "timm, 4"."""
    split = [name.rsplit(", ", 1) for name in cases]
    return list(dict.fromkeys(a for a, _ in split)), sorted({int(b) for _, b in split})


def ran(records: Sequence[dict[str, Any]]) -> bool:
    """Whether a case was measured in every pass that there was."""
    return bool(records) and not any("failed" in r for r in records)


def table(
    cases: Cases,
    cell: Callable[[str, int], str],
    more: str = "",
    extra: Callable[[int], str] | None = None,
) -> list[str]:
    """A row per number and a column per library, of what ``cell`` returns for both; ``extra`` fills a last column."""
    libraries, numbers = axes(cases)
    lines = [f"| | {' | '.join([*libraries, more] if extra else libraries)} |"]
    lines.append(f"|---:|{'---:|' * (len(libraries) + bool(extra))}")
    for n in numbers:
        cells = [cell(name, n) if ran(cases.get(f"{name}, {n}", [])) else "not run" for name in libraries]
        lines.append(f"| {n} | {' | '.join([*cells, extra(n)] if extra else cells)} |")
    return lines


def medians(records: Sequence[dict[str, Any]]) -> list[float]:
    return [statistics.median(r["rounds_seconds"]) for r in records]


def seconds(records: Sequence[dict[str, Any]]) -> float:
    return statistics.median(medians(records))


def peak(records: Sequence[dict[str, Any]]) -> float:
    return float(next(r["returned"] for r in records if r["returned"])["peak_bytes"])


def time_cell(records: Sequence[dict[str, Any]], factor: float) -> str:
    return between(medians(records), factor, 1)


def between(values: Sequence[float], factor: float, digits: int) -> str:
    low, middle, high = (f"{v * factor:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def failures(cases: Cases) -> list[str]:
    """Names what did not run, and why."""
    failed = {
        name: next(r["failed"] for r in records if "failed" in r) for name, records in cases.items() if not ran(records)
    }
    return ["", *(f"- {name}: not run: {reason}" for name, reason in failed.items())] if failed else []
