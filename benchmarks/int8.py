"""What 8 and 16 bits cost and bring: size, speed and accuracy of exported files of trained models.

    python benchmarks/int8.py [--cifar10 DIR] [--out DIR] [--quick]

Writes int8.json and int8.md to benchmarks/results/. DIR holds CIFAR-10's train.parquet and test.parquet; without it,
only the digits are measured. About ten minutes on two cores.

The digits model is trained as ``make demo`` does; swin_nano.cifar10 comes with the package. Files are made by
``swindow.export``; int8 files are checked, and the static ones calibrated, on 256 training images.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import measure
import torch
import tyro

import swindow
from swindow import data, timing
from swindow.card import preprocessing
from swindow.data import Dataset
from swindow.inference.file_runtimes import open_file
from swindow.media import prepare
from swindow.training import TrainConfig, train

COMMAND = "python benchmarks/int8.py"
RESULTS = Path(__file__).resolve().parent / "results"
BOTH, OPENVINO = ("onnxruntime", "openvino"), ("openvino",)
WAYS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {  # suffix, what reads it, settings
    "fp32": (".onnx", BOTH, {}),
    "fp16": (".onnx", BOTH, {"half": True}),
    "int8, activations as they come": (".onnx", BOTH, {"int8": True}),
    "int8, ranges met on images": (".onnx", BOTH, {"int8": True, "static": True}),
    ".xml, weights in int8": (".xml", OPENVINO, {"int8": True}),
    ".xml, int8, ranges met on images": (".xml", OPENVINO, {"int8": True, "static": True}),
}
CALIBRATION = 256
HEAD = """# What 8 and 16 bits cost and bring

Files of `swindow.export` with an open batch, 32 images at a time; time over that of the fp32 file in the same runtime,
in the same rounds: the median, with quartiles. Files are .onnx where nothing else is said. OpenVINO computes in fp32
unless the file is in fp16 and the processor has a 16-bit type.
"""


def main(cifar10: Path | None = None, out: Path = RESULTS, quick: bool = False) -> None:
    """Measures both models.

    Args:
        cifar10: the folder with train.parquet and test.parquet.
        out: where the results go.
        quick: few images and one epoch, to see that it works.
    """
    result = measure.provenance(COMMAND + ("" if cifar10 is None else " --cifar10 CIFAR10"))
    with tempfile.TemporaryDirectory() as folder:
        run = train("digits", TrainConfig(epochs=1 if quick else 30, out=Path(folder) / "run", device="cpu"))
        digits = data.open("digits")
        assert digits.held_out is not None
        models = {"swin_nano on the digits": (swindow.load(run.out), digits.train, digits.held_out)}
        if cifar10 is not None:
            splits = data.open(str(cifar10))
            assert splits.held_out is not None
            models["swin_nano.cifar10"] = (swindow.load("swin_nano.cifar10"), splits.train, splits.held_out)
        result["models"] = {
            name: measured(*parts, Path(folder), 100 if quick else None) for name, parts in models.items()
        }
    result |= {"versions": measure.versions(), "hardware": measure.hardware()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "int8.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "int8.md").write_text(page(result))
    print(f"written to {out}")


def measured(
    model: swindow.SwinTransformer, training: Dataset, test: Dataset, folder: Path, limit: int | None
) -> dict[str, Any]:
    """Every way to write the model, in every runtime that reads ONNX files."""
    how = preprocessing(model.card, channels=model.config.in_chans)
    count = min(len(test), limit or len(test))
    x = torch.stack([prepare(test[i].media.decode(), how) for i in range(count)])
    truth = torch.tensor([int(test[i].target) for i in range(count)])
    images = calibration(training, folder)
    with torch.inference_mode():
        plain = torch.cat([model(part) for part in x.split(100)]).argmax(-1)
    rows: dict[str, Any] = {"PyTorch, fp32": {"right": right(plain, truth), "same": count}}
    calls: dict[str, Any] = {}
    for way, (suffix, runtimes, settings) in WAYS.items():
        path = folder / f"model{suffix}"
        extra = {"images": images, "agreement": 0.0} if settings.get("int8") else {}
        done = swindow.export(model, path, open_batch=True, **settings, **extra)
        for name in runtimes:
            runtime, _ = open_file(path, name)
            found = torch.cat([runtime.outputs(part)[0] for part in x.split(100)]).argmax(-1)
            rows[f"{name}, {way}"] = {
                "right": right(found, truth), "same": int((found == plain).sum()), "bytes": done.bytes,
                "agreement": None if done.agreement is None else done.agreement.share,
            }  # fmt: skip
            calls[f"{name}, {way}"] = lambda runtime=runtime: runtime.outputs(x[:32])
    seconds = timing.interleaved(calls, 15, pause=0.05)
    for name, times in seconds.items():
        base = seconds[name.split(",")[0] + ", fp32"]
        rows[name] |= {"seconds": statistics.median(times), "ratio": timing.ratio(times, base)._asdict()}
    return {"images": count, "rows": rows}


def calibration(training: Dataset, folder: Path) -> list[Path]:
    """Image files of some training samples, spread evenly."""
    paths = []
    for k in range(CALIBRATION):
        paths.append(folder / f"calibration{k}.png")
        training[k * len(training) // CALIBRATION].media.decode().save(paths[-1])
    return paths


def right(found: torch.Tensor, truth: torch.Tensor) -> int:
    """How many classes are right."""
    return int((found == truth).sum())


def page(result: dict[str, Any]) -> str:
    """The page of the results."""
    lines = [HEAD]
    for name, found in result["models"].items():
        lines += [f"## {name}", "", f"{found['images']} images that the model was not trained on:", ""]
        lines += ["| | right | same answer as PyTorch | MB | time |", "|---|---:|---:|---:|---|"]
        for way, row in found["rows"].items():
            share = row["right"] / found["images"]
            size = f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else ""
            p = row.get("ratio")
            took = f"{p['median']:.2f} ({p['low']:.2f} to {p['high']:.2f})" if p else ""
            lines.append(f"| {way} | {row['right']} ({share:.4f}) | {row['same']} | {size} | {took} |")
        lines.append("")
    vnni = any("vnni" in flag for flag in flags())
    lines += [f"This processor {'has' if vnni else 'has no'} VNNI, the instructions for products of 8 bits.", ""]
    return "\n".join([*lines, measure.about(result), ""])


def flags() -> list[str]:
    """The instructions that the processor has."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return next((line.split(":")[1].split() for line in text.splitlines() if line.startswith("flags")), [])


if __name__ == "__main__":
    tyro.cli(main)
