"""Memory and time of a training step with gradient checkpointing: `.venv/bin/python benchmarks/grad_checkpointing.py`.

Takes some 8 minutes and 4 GB of memory; writes benchmarks/results/grad_checkpointing.json and .md.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import measure
import tyro

RESULTS = Path(__file__).parent / "results"
COMMAND = ".venv/bin/python benchmarks/grad_checkpointing.py"
MODELS = (("swin_tiny", 224, 4), ("swinv2_tiny_w8", 256, 4), ("swin_base", 224, 2))  # variant, pixels, images
CHOICES: dict[str, list[int]] = {"none": [], "first stage": [0], "first two": [0, 1], "all": [0, 1, 2, 3]}


def main(passes: int = 2, out: Path = RESULTS, quick: bool = False) -> None:
    """Measures every choice of stages, in several passes over all.

    Args:
        passes: processes for every case.
        out: where the results go.
        quick: one small case only, to see that it works.
    """
    models = (("swin_nano", 32, 2),) if quick else MODELS
    choices = {"none": [], "all": [0, 1, 2]} if quick else CHOICES
    before = measure.provenance(COMMAND)
    cases: list[dict[str, Any]] = []
    for i in range(passes):
        for variant, side, batch in models:
            for name, stages in choices.items():
                arguments = {"variant": variant, "side": side, "batch": batch, "stages": stages}
                record = measure.run("cases:training_step", arguments, check=i == 0)
                cases.append({"variant": variant, "side": side, "batch": batch, "stages": name, "record": record})
                print(
                    f"pass {i + 1}: {variant}, {name}: {statistics.median(record['rounds_seconds']):.2f} s", flush=True
                )
    result = before | {"versions": measure.versions(), "hardware": measure.hardware(), "cases": cases}
    out.mkdir(parents=True, exist_ok=True)
    (out / "grad_checkpointing.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "grad_checkpointing.md").write_text(page(result))
    print(f"written to {out}")


def page(result: dict[str, Any]) -> str:
    """Returns the tables and words; peak memory is that of one step above the weights, the least of the passes."""
    lines = [
        "# Memory and time of a training step with gradient checkpointing",
        "",
        "`model.set_grad_checkpointing(stages)`: in these stages only the input of every block is kept for backward.",
        "Forward and backward in fp32. Memory is the peak of a step above what stands before it (weights, gradients,",
        "input); time is relative to the same model with nothing checkpointed, the median of the passes, with the",
        "range over them. Gradients were checked to be those without checkpointing. Memory repeats to the MiB; the",
        "times are of a shared machine: below 1 is noise, and recomputing costs one more forward, up to a third.",
        "",
        "| model | pixels | images | stages | peak memory (MiB) | memory | time |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    models = dict.fromkeys((c["variant"], c["side"], c["batch"]) for c in result["cases"])
    for model in models:
        mine = [c for c in result["cases"] if (c["variant"], c["side"], c["batch"]) == model]
        plain = [c["record"] for c in mine if c["stages"] == "none"]
        for name in dict.fromkeys(c["stages"] for c in mine):
            records = [c["record"] for c in mine if c["stages"] == name]
            memory, whole = (min(r["returned"]["peak_bytes"] for r in rs) for rs in (records, plain))
            ratios = [seconds(r) / seconds(p) for r, p in zip(records, plain, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            cells = [*map(str, model), name, f"{memory / 2**20:.0f}", f"{memory / whole:.2f}", spread]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join((*lines, "", measure.about(result), ""))


def seconds(record: dict[str, Any]) -> float:
    return statistics.median(record["rounds_seconds"])


if __name__ == "__main__":
    tyro.cli(main)
