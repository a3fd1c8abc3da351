"""Accuracy of swin_nano on the digits over three seeds: `.venv/bin/python benchmarks/digits.py`, some 6 minutes.

It trains exactly as `swindow train digits --seed SEED` does and as `make demo` does with seed 0, and records the
held-out accuracy after the last epoch (no epoch is chosen by it) in benchmarks/results/digits.json and digits.md.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import measure

from swindow.data import digits
from swindow.training import Progress, TrainConfig, train
from swindow.training.choice import choose

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "results"
COMMAND = ".venv/bin/python benchmarks/digits.py"


class Printed(Progress):
    def epoch(self, metrics: dict[str, float]) -> None:
        print(f"  epoch {metrics['epoch']}: accuracy {metrics['accuracy']:.4f}", flush=True)


def run(seed: int, out: Path) -> dict[str, float]:
    print(f"seed {seed}", flush=True)
    settings = TrainConfig(seed=seed, out=out, device="cpu")
    started = time.monotonic()
    result = train("digits", settings, progress=Printed())
    return {
        "seed": seed,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "best_accuracy": result.best["accuracy"],
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(seed, Path(folder) / str(seed)) for seed in SEEDS]
    mean = statistics.mean(r["accuracy"] for r in runs)
    chosen = choose(TrainConfig(), digits().train, None).settings.identity()
    settings = {k: v for k, v in chosen.items() if k not in ("weights", "seed")}
    record = {"mean_accuracy": mean, "runs": runs, "settings": settings}
    record |= {"versions": measure.versions(), "hardware": measure.hardware()} | measure.provenance(COMMAND)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "digits.json").write_text(json.dumps(record, indent=1) + "\n")
    rows = [
        f"| {r['seed']} | {r['accuracy']:.4f} | {r['loss']:.4f} | {r['best_accuracy']:.4f} | {r['seconds']:.0f} |"
        for r in runs
    ]
    page = [
        "# swin_nano on the digits",
        "",
        f"Held-out accuracy after the last of {settings['epochs']} epochs on scikit-learn's 1,797 handwritten digits",
        f"(359 held out, a fixed stratified split). Mean of three seeds: **{mean:.4f}**.",
        "",
        "| seed | accuracy | loss (nats) | best epoch's accuracy | seconds |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "One image is 0.0028 of accuracy: differences between the seeds are within chance. The best epoch's accuracy",
        "is chosen on the held-out images themselves and is no fair estimate; the seconds depend on the load.",
        "",
        measure.about(record),
    ]
    (RESULTS / "digits.md").write_text("\n".join(page) + "\n")
    print(f"mean accuracy {mean:.4f}; written to {RESULTS / 'digits.md'}")


if __name__ == "__main__":
    main()
