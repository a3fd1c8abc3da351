"""What do large images cost, and the first image of a new size? Swin-T from 512 to 4096 pixels a side.

    make bench        or        python benchmarks/resolution.py [--quick] [--out DIR]

Writes resolution.json and resolution.md to benchmarks/results/. Takes about 10 minutes and 20 GB of memory on two
cores; nothing else should run meanwhile. Each side has a process of its own, in which the model and the bare matrix
products of its blocks (see speed.py) run in turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
import scaling
import torch
import tyro

import swindow
from swindow import timing
from swindow.inference.bench import matrix_products

COMMAND = "make bench (python benchmarks/resolution.py)"
SIDES = (512, 1024, 2048, 4096)  # pixels
PASSES = 5  # processes in which first calls are timed
NEW = ((256, 256), (200, 304), (384, 384), (500, 750), (768, 1024), (1000, 1400))  # sizes met for the first time

HEAD = """# Large images, and images of a new size

Swin-T, batch 1, fp32, inference in eager PyTorch on a CPU. The *matrix products* are the linear layers of the blocks
alone, through `F.linear`, at the same sizes and in turns with the model.
"""


def main(out: Path = scaling.RESULTS, quick: bool = False) -> None:
    """Measures every side, then first calls.

    Args:
        out: where the results go.
        quick: two small sides, to see that it works.
    """
    result = measure.provenance(COMMAND)
    result["sides"] = []
    for side in (64, 128) if quick else SIDES:
        record = alone("one", side)
        print(f"{side} pixels: {statistics.median(record['model']):.2f} s, {record['peak'] / 1e6:.0f} MB", flush=True)
        result["sides"].append(record)
    result["first"] = [alone("first", 1 if quick else len(NEW)) for _ in range(1 if quick else PASSES)]
    result |= {"versions": measure.versions(), "hardware": measure.hardware()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "resolution.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "resolution.md").write_text(page(result))
    print(f"written to {out}")


def alone(what: str, number: int) -> Any:
    """``one(side)`` or ``first(count)`` in a process of its own."""
    command = [sys.executable, __file__, what, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} {number}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@torch.no_grad()
def one(side: int) -> dict[str, Any]:
    """Seconds of model and products, and peak memory above that of the built model and the image."""
    model, x = swindow.create("swin_tiny").eval(), torch.randn(1, 3, side, side)
    model(x[..., :64, :64])
    measure._reset_peak()
    before = measure._peak()
    model(x)
    peak = measure._peak() - before
    cases = {"products": matrix_products(model, x), "model": lambda: model(x)}
    return {"side": side, "peak": peak} | timing.interleaved(cases, 2 if side > 2048 else 5, warm=0)


@torch.no_grad()
def first(count: int) -> list[dict[str, Any]]:
    """Seconds of five calls at sizes that the process has not met, though others."""
    rows = []
    for variant in ("swin_tiny", "swinv2_tiny_w8"):
        model = swindow.create(variant).eval()
        model(torch.randn(1, 3, 224, 224))
        for size in NEW[:count]:
            x, seconds = torch.randn(1, 3, *size), []
            for _ in range(5):
                start = time.perf_counter()
                model(x)
                seconds.append(time.perf_counter() - start)
            rows.append({"variant": variant, "size": size, "seconds": seconds})
    return rows


def page(result: dict[str, Any]) -> str:
    sides = result["sides"]
    pixels = [row["side"] ** 2 for row in sides]
    lines = [HEAD, "| side (pixels) | model (s) | over the products | peak memory (MB) |", "|---:|---:|---:|---:|"]
    for row in sides:
        seconds, ratio = statistics.median(row["model"]), timing.ratio(row["model"], row["products"]).median
        lines.append(f"| {row['side']} | {seconds:.2f} | {ratio:.2f} | {row['peak'] / 1e6:.0f} |")
    time_, bare = (scaling.fit(pixels, [min(row[what]) for row in sides]).exponent for what in ("model", "products"))
    memory = scaling.fit(pixels, [row["peak"] for row in sides]).exponent
    lines += ["", f"Growth as pixels^p, p fitted on the logarithms of the shortest times: model **{time_:.2f}**,"]
    lines += [f"matrix products {bare:.2f}; peak memory **{memory:.2f}**.", "", "## The first call at a new size", ""]
    lines += ["After calls at other sizes; over the median of the four calls that follow. Each in several processes:"]
    lines += ["the median, and all of them.", ""]
    lines += ["| | size (pixels) | first call (s) | over the later calls | in each process |"]
    lines += ["|---|---:|---:|---:|---|"]
    for rows in zip(*result["first"], strict=True):
        seconds = statistics.median(row["seconds"][0] for row in rows)
        ratios = sorted(row["seconds"][0] / statistics.median(row["seconds"][1:]) for row in rows)
        where = f"{rows[0]['variant']} | {'x'.join(map(str, reversed(rows[0]['size'])))}"
        each = ", ".join(f"{r:.2f}" for r in ratios)
        lines.append(f"| {where} | {seconds:.3f} | {statistics.median(ratios):.2f} | {each} |")
    return "\n".join((*lines, "", measure.about(result), ""))


if __name__ == "__main__":
    if sys.argv[1:2] in (["one"], ["first"]):
        print(json.dumps({"one": one, "first": first}[sys.argv[1]](int(sys.argv[2]))))
    else:
        tyro.cli(main)
