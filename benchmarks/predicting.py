"""How long answers take: the commands beside those of another commit, and the predictor beside a bare loop.

    git worktree add ../before 8a34208
    .venv/bin/python benchmarks/predicting.py PHOTOS --before ../before/src

PHOTOS is a folder of photos. Everything is timed in turns; results go to benchmarks/results/predicting.md and .json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import measure
import torch
import tyro
from tyro.conf import Positional

import swindow
from swindow.data import images_in
from swindow.media import prepare
from swindow.timing import interleaved, ratio

COMMAND = ".venv/bin/python benchmarks/predicting.py PHOTOS --before ../before/src"
RESULTS = Path(__file__).parent / "results"
NOW = Path(swindow.__file__).parent.parent
# Runs in both versions, whose cards differ: a model of two classes for photos of so many pixels.
MAKE = """
import sys, torch, swindow
torch.manual_seed(0)
model = swindow.create(sys.argv[1], num_classes=2)
side = int(sys.argv[2])
try:
    model.card = swindow.ModelCard(class_names=("ants", "bees"), preprocess=swindow.Preprocess((side, side)))
except AttributeError:
    model.metadata = {"class_names": ["ants", "bees"], "preprocess": {
        "size": [side, side], "fit": "crop", "crop_fraction": 0.875, "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
swindow.save(model, sys.argv[3])
"""


def main(
    photos: Positional[Path],
    before: Annotated[Path | None, tyro.conf.arg(help="the src folder of another commit")] = None,
    images: int = 200,
    rounds: int = 5,
    out: Path = RESULTS,
) -> None:
    """Times them and writes the results."""
    paths = images_in(photos)[:images]
    with tempfile.TemporaryDirectory() as folder:
        found = {"commands": commands(paths, before, rounds, Path(folder)), "loop": loop(paths, rounds, Path(folder))}
    record = {"images": len(paths), "rounds": rounds, **found, **measure.provenance(COMMAND)}
    record |= {"versions": measure.versions(), "hardware": measure.hardware()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "predicting.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "predicting.md").write_text(report(record))
    print((out / "predicting.md").read_text())


def commands(paths: list[str], before: Path | None, rounds: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds of whole processes, by command and version."""
    versions = {"now": NOW} if before is None else {"before": before, "now": NOW}
    for name, source in versions.items():
        environment = {**os.environ, "PYTHONPATH": str(source)}
        arguments = [sys.executable, "-c", MAKE, "swin_micro", "112", str(folder / f"{name}.safetensors")]
        subprocess.run(arguments, env=environment, check=True)

    def call(name: str, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(versions[name]), "PYTHONPYCACHEPREFIX": str(folder / name)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # bytecode is kept, as for a user
        command = [sys.executable, "-m", "swindow", *arguments]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    kinds = {
        f"predict, {len(paths)} photos, swin_micro at 112 pixels": paths,
        "predict, 1 photo, swin_micro at 112 pixels": paths[:1],
        "--help": None,
    }
    found = {}
    for kind, some in kinds.items():
        cases = {
            name: lambda name=name, some=some: call(
                name, *(["--help"] if some is None else ["predict", str(folder / f"{name}.safetensors"), *some])
            )
            for name in versions
        }
        found[kind] = interleaved(cases, rounds, warm=1)
    return found


def loop(paths: list[str], rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of the predictor and of the shortest loop that answers the same, swin_tiny at 224 pixels."""
    file = str(folder / "tiny.safetensors")
    subprocess.run([sys.executable, "-c", MAKE, "swin_tiny", "224", file], check=True)
    model = swindow.load(file)
    twin, predictor = model.deploy(), swindow.Predictor.open(file, device="cpu")

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, len(paths), 32):
                x = torch.stack([prepare(path, model.card.preprocess) for path in paths[start : start + 32]])
                twin(x).softmax(-1)

    return interleaved({"bare": bare, "predictor": lambda: list(predictor(paths, 32))}, rounds, warm=1)


def report(record: dict) -> str:
    """The results as Markdown."""
    rows = []
    for kind, times in record["commands"].items():
        seconds = {name: statistics.median(values) for name, values in times.items()}
        compared = "| | |"
        if "before" in times:
            r = ratio(times["before"], times["now"])
            compared = f"| {seconds['before']:.2f} | {r.median:.2f} ({r.low:.2f} to {r.high:.2f}) |"
        rows.append(f"| `swindow {kind}` | {seconds['now']:.2f} {compared}")
    r = ratio(record["loop"]["predictor"], record["loop"]["bare"])
    lines = [
        "# How long answers take",
        "",
        measure.about(record),
        f"- medians of {record['rounds']} rounds, in turns; ratios with quartiles; before: commit 8a34208",
        "",
        "Whole processes, with bytecode on disk:",
        "",
        "| command | now, s | before, s | before over now |",
        "|---|---:|---:|---:|",
        *rows,
        "",
        f"A `Predictor` of swin_tiny at 224 pixels took {r.median:.2f} ({r.low:.2f} to {r.high:.2f}) of the time of",
        f"the bare loop (decode, stack 32, `deploy()`, softmax) for {record['images']} photos.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)
