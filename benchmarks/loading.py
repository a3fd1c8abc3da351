"""Time and memory of loading checkpoints: `.venv/bin/python benchmarks/loading.py`.

Takes about a minute and 6 GB of disk in the temporary folder; writes benchmarks/results/loading.json and .md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import tyro

RESULTS = Path(__file__).parent / "results"
COMMAND = ".venv/bin/python benchmarks/loading.py"
LIMIT = 1.5, 0.2  # times a bare load_file, copied or not as we do, plus seconds
LARGE = {"embed_dim": 256, "num_heads": (8, 16, 32, 64)}  # a swin_large made wider, of more than 1 GB
LARGE_FILES = (("swindow", ".safetensors"), ("timm", ".safetensors"), ("timm", ".pth"), ("swindow", ".pth"))
LAYOUTS = ("swindow", "microsoft", "timm", "transformers")

TIMES = """
import json, sys, time
import swindow
from safetensors.torch import load_file

WAYS = {
    "bare": load_file,
    "mapped": lambda path: swindow.load(path, mmap=True),
    "bare, copied": lambda path: {name: tensor.clone() for name, tensor in load_file(path).items()},
    "copied": swindow.load,
}

def seconds(call, path):
    start = time.perf_counter()
    kept = call(path)
    return time.perf_counter() - start

files, rounds = json.loads(sys.argv[1]), int(sys.argv[2])
found = {name: {way: [] for way in WAYS} for name in files}
for _ in range(rounds + 1):
    for name, path in files.items():
        for way, call in WAYS.items():
            bare = path + "/model.safetensors" if name == "transformers" and way.startswith("bare") else path
            found[name][way].append(seconds(call, bare))
print(json.dumps({name: {way: t[1:] for way, t in times.items()} for name, times in found.items()}))
"""

MEMORY = """
import json, sys
sys.path.insert(0, sys.argv[3])
import measure, swindow, torch
swindow.load(swindow.create("swin_nano").state_dict())  # what loading imports is imported before memory is looked at

def plainly(path):
    model = swindow.create("swin_large", **json.loads(sys.argv[4]))
    model.load_state_dict(torch.load(path, weights_only=True))
    return model

measure._reset_peak()
before = measure._peak()
ways = {"swindow.load": swindow.load, "create, torch.load, load_state_dict": plainly}
ways["swindow.load, mmap=True"] = lambda path: swindow.load(path, mmap=True)
model = ways[sys.argv[2]](sys.argv[1])
print(measure._peak() - before)
"""


def main(rounds: int = 15, out: Path = RESULTS, quick: bool = False) -> None:
    """Measures both.

    Args:
        rounds: of every file, interleaved; a first one is not counted.
        out: where the results go.
        quick: a small model, to see that it works.
    """
    import swindow

    result = measure.provenance(COMMAND)
    with tempfile.TemporaryDirectory() as folder:
        model = swindow.create("swin_nano" if quick else "swin_base")
        files = {name: f"{folder}/{name}{'' if name == 'transformers' else '.safetensors'}" for name in LAYOUTS}
        for name, path in files.items():
            swindow.save(model, path, name)
        result["times"] = json.loads(child(TIMES, json.dumps(files), str(1 if quick else rounds)))
        large = {"embed_dim": 24, "num_heads": (1, 2, 4, 8)} if quick else LARGE
        model = swindow.create("swin_large", **large)
        result["memory"] = memory(model, folder, large)
    result |= {"versions": measure.versions(), "hardware": measure.hardware()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "loading.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "loading.md").write_text(page(result))
    print(f"written to {out}")


def memory(model: Any, folder: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Peak memory of loading a large file, in a process for each way."""
    import swindow

    found = []
    for layout, suffix in LARGE_FILES:
        path = Path(f"{folder}/large{suffix}")
        swindow.save(model, path, layout)
        ways = ["swindow.load", "swindow.load, mmap=True"]
        if (layout, suffix) == ("swindow", ".pth"):
            ways.append("create, torch.load, load_state_dict")
        for way in ways:
            time.sleep(0.1)
            peak = int(child(MEMORY, str(path), way, str(Path(__file__).parent), json.dumps(fields)))
            found.append({"layout": layout, "suffix": suffix, "way": way, "file": path.stat().st_size, "peak": peak})
            print(f"{layout}{suffix}, {way}: {peak / path.stat().st_size:.2f} of the file", flush=True)
        path.unlink()
    return found


def child(script: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()[-1]


def page(result: dict[str, Any]) -> str:
    times, allowed = LIMIT
    lines = [
        "# Loading checkpoints",
        "",
        "Swin-B (88 million parameters, 351 MB) from a .safetensors file in the system's file cache: recognised,",
        "checked to the last key and number, and put into a model. Beside it a bare `safetensors.torch.load_file`,",
        "which maps the file and reads nothing, and the same with a copy of every tensor. One process, rounds of all",
        f"files in turn; medians in seconds, with quartiles. The limit: {times} times the bare load plus {allowed} s.",
        "transformers keeps queries, keys and values apart: joining them copies a quarter of the weights.",
        "",
        "| layout | load_file | load, mmap=True | limit | load_file, copied | load | limit | within |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, found in result["times"].items():
        cells, within = [name], True
        for bare, ours in (("bare", "mapped"), ("bare, copied", "copied")):
            limit = times * statistics.median(found[bare]) + allowed
            within = within and statistics.median(found[ours]) <= limit
            cells += [spread(found[bare]), spread(found[ours]), f"{limit:.3f}"]
        lines.append(f"| {' | '.join([*cells, 'yes' if within else 'no'])} |")
    lines += [
        "",
        "Peak resident memory of loading a file of more than 1 GB, in a process for each way, over the file's size.",
        "While weights are copied, the pages of the file are resident too; the system may take these back.",
        "",
        "| file | way | size (MB) | peak over size |",
        "|---|---|---:|---:|",
    ]
    for row in result["memory"]:
        cells = [f"{row['layout']}, {row['suffix']}", row["way"], f"{row['file'] / 1e6:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {row['peak'] / row['file']:.2f} |")
    return "\n".join((*lines, "", measure.about(result), ""))


def spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    tyro.cli(main)
