"""Few photos, with and without pretrained weights: `.venv/bin/python benchmarks/hymenoptera.py --data HYMENOPTERA`.

HYMENOPTERA is PyTorch's tutorial data: 244 photos of ants and bees to train on, 153 held out, as class folders. It
trains as these commands do, for seeds 0, 1 and 2, and writes benchmarks/results/hymenoptera.md and .json:

    swindow train HYMENOPTERA --weights swin_nano.cifar10 --recipe finetune-small --image-size 64 --seed SEED
    swindow train HYMENOPTERA --variant swin_nano --recipe scratch-small --image-size 64 --seed SEED [--epochs 20]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import measure

import swindow
from swindow import TrainConfig
from swindow.training.recipes import RECIPES

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "results"
COMMAND = ".venv/bin/python benchmarks/hymenoptera.py --data HYMENOPTERA"
WAYS: dict[str, dict[str, Any]] = {
    "from swin_nano.cifar10, recipe finetune-small": {"weights": "swin_nano.cifar10", "recipe": "finetune-small"},
    "from scratch, recipe scratch-small, the same number of epochs": {
        "variant": "swin_nano",
        "recipe": "scratch-small",
        "epochs": RECIPES["finetune-small"].epochs,
    },
    "from scratch, recipe scratch-small": {"variant": "swin_nano", "recipe": "scratch-small"},
}
PAGE = """\
# 244 photos of ants and bees, with and without pretrained weights

Accuracy on the 153 held-out photos after the last epoch; swin_nano, 64 x 64 pixels. One photo is 0.0065 of accuracy.
The standard error of an accuracy of 0.75 on 153 photos is 0.035: only differences well above that mean anything.

{table}

The weights learned ten classes of 32 x 32 pixels, neither ants nor bees among them ([CIFAR-10](cifar10.md)). For
photos, weights of ImageNet such as `swin_tiny.ms_in1k` should be far better; they could not be downloaded where this
was run. PyTorch's [tutorial](https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html) gives about 0.95
for a ResNet-18 of ImageNet on these photos.

{about}
"""


def run(data: Path, way: dict[str, Any], seed: int, out: Path) -> dict[str, Any]:
    started = time.monotonic()
    result = swindow.train(data, TrainConfig(seed=seed, out=out, image_size=64, device="cpu", **way))
    found = {"seed": seed, "accuracy": result.accuracy, "loss": result.loss, "epochs": len(result.history)}
    print(f"{way} seed {seed}: {found['accuracy']:.4f}", flush=True)
    return found | {"seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/, each of class folders")
    data = parser.parse_args().data
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, way) in enumerate(WAYS.items()):
            runs[name] = [run(data, way, seed, Path(folder) / f"{number}_{seed}") for seed in SEEDS]
    record = {"runs": runs, "versions": measure.versions(), "hardware": measure.hardware()}
    record |= measure.provenance(COMMAND)
    (RESULTS / "hymenoptera.json").write_text(json.dumps(record, indent=1) + "\n")
    rows = [
        "| training | epochs | seed 0 | seed 1 | seed 2 | mean | minutes per run |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        each = " | ".join(f"{one['accuracy']:.3f}" for one in found)
        mean = statistics.mean(one["accuracy"] for one in found)
        minutes = statistics.mean(one["seconds"] for one in found) / 60
        rows.append(f"| {name} | {found[0]['epochs']} | {each} | **{mean:.3f}** | {minutes:.1f} |")
    page = PAGE.format(table="\n".join(rows), about=measure.about(record))
    (RESULTS / "hymenoptera.md").write_text(page)
    print(f"written to {RESULTS / 'hymenoptera.md'}")


if __name__ == "__main__":
    main()
