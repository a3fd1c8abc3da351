"""Part ``more`` of gpu.py, as time allows: CUDA graphs, other libraries, DDP and FSDP2, a training run.

- one image at a time: 224 and 768 x 1024 pixels, Swin-B, eager and as a CUDA graph;
- torchvision and transformers; Swin-B; training with ``torch.compile(mode="reduce-overhead")``;
- DDP and FSDP2 in a group of one process (NCCL on a GPU): gradients beside those of plain PyTorch;
- with ``--data FILE.npz``: ``swindow.train``, evaluation and prediction on a data set, on this device and on the CPU.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peer_models
import torch
import torch.distributed as dist
from gpu_run import Run, error, graphed, median, timed
from gpu_speed import MODELS, Job, build, call, groups, table, wave
from torch import Tensor, nn

import swindow
from swindow.data import DataInfo, Sample, Splits
from swindow.data.digits import ImageArray

LIMIT = 240  # seconds
EXPECTED = (RuntimeError, OSError, ImportError, ValueError, swindow.SwindowError)  # memory, NCCL, files, versions
GRAPHS = (("swin_tiny", (224, 224)), ("swin_tiny", (768, 1024)), ("swin_base", (224, 224)))


def run_part(run: Run) -> None:
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        f"one image, {variant}, {side[0]} x {side[1]}": lambda v=variant, s=side: graphs(v, s)
        for variant, side in (GRAPHS if run.device == "cuda" else ())
    }
    tasks["one process, DDP and FSDP2"] = lambda: distributed(run.device)
    if run.chosen.data is None:
        run.cases["training on a data set"] = {"skipped": "no --data"}
    else:
        tasks[f"training on {run.chosen.data.name}"] = lambda: trained(run)
    for name, task in tasks.items():
        if name not in run.cases:
            run.add(name, attempt(task) if run.left() > 0 else {"skipped": "no time left"})
    if run.left() > 30 or run.quick:
        wave(run, others(run))


def attempt(task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a task gives, or why it failed: the others are worth their minutes all the same."""
    try:
        return task()
    except EXPECTED as problem:
        return {"failure": f"{type(problem).__name__}: {problem}"[:600]}


def others(run: Run) -> list[Job]:
    """Whole models beside what ``speed`` measures."""
    rows = [("swin_tiny", library, False, None) for library in ("torchvision", "transformers")]
    if not run.quick:
        rows += [("swin_base", library, False, None) for library in ("swindow triton", "timm")]
        rows += [("swin_tiny", library, True, "reduce-overhead") for library in ("swindow triton", "timm")]
    return [Job(variant, lib, training, run.device, run.quick, mode) for variant, lib, training, mode in rows]


@torch.no_grad()
def graphs(variant: str, side: tuple[int, int]) -> dict[str, Any]:
    """Seconds of one image, eager and as a CUDA graph."""
    ours = build(variant)
    x = torch.randn(1, 3, *side, device="cuda", dtype=torch.bfloat16)
    found: dict[str, Any] = {}
    for name in ("sdpa", "triton", "timm"):
        model: Any = copy.deepcopy(ours) if name != "timm" else peer_models.timm(ours, side)
        if model is None:  # timm is not installed
            continue
        if name != "timm":
            model.set_kernel(name)
        run = call(model.to("cuda", torch.bfloat16).eval(), x, training=False)
        found[name] = {"eager": median(timed(run, "cuda", 0.3)), "graph": median(timed(graphed(run), "cuda", 0.3))}
    return found


def distributed(device: str) -> dict[str, Any]:
    """How far gradients under DDP and FSDP2 are from those of the plain model, in a group of one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    plain = swindow.create("swin_nano", num_classes=10, drop_path_rate=0.0).to(device).train()
    x = torch.randn(4, 3, 64, 64, device=device)
    backend = "nccl" if device == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            expected = gradients(plain, plain, x)
            copied = copy.deepcopy(plain)
            ddp = gradients(nn.parallel.DistributedDataParallel(copied), copied, x)
            sharded, mesh = copy.deepcopy(plain), init_device_mesh(device, (1,))
            for part in (*sharded.stages, sharded):
                fully_shard(part, mesh=mesh)
            fsdp = [g.full_tensor() for g in gradients(sharded, sharded, x)]
        finally:
            dist.destroy_process_group()
    worst = {name: max(map(error, found, expected)) for name, found in (("DDP", ddp), ("FSDP2", fsdp))}
    return {"backend": backend, "difference": worst, "ok": max(worst.values()) <= 1e-5}


def gradients(called: nn.Module, model: nn.Module, x: Tensor) -> list[Any]:
    model.zero_grad()
    called(x).square().mean().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


class Pictures:
    """Small RGB images in memory, from arrays: images (N, H, W, 3) uint8, labels (N,).

    Args:
        file: of ``np.savez``, with images, labels, test_images, test_labels.
        prefix: "" or "test_".
    """

    def __init__(self, file: Path, prefix: str) -> None:
        with np.load(file) as arrays:
            self.images, self.classes = arrays[f"{prefix}images"], arrays[f"{prefix}labels"].astype(np.int64)
        names = tuple(f"class {i}" for i in range(int(self.classes.max()) + 1))
        self.info = DataInfo(file.stem, class_names=names, in_memory=True)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Sample:
        return Sample(ImageArray(self.images[i]), int(self.classes[i]), f"{i:06d}")

    def labels(self) -> np.ndarray:
        return self.classes

    def fingerprint(self) -> str:
        return hashlib.sha256(self.images.tobytes() + self.classes.tobytes()).hexdigest()


def trained(run: Run) -> dict[str, Any]:
    """Trains a small model with ``swindow.train``; then the same answers on this device and on the CPU."""
    data = Splits(Pictures(run.chosen.data, ""), Pictures(run.chosen.data, "test_"))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        settings = swindow.TrainConfig(
            variant="swin_nano",
            out=Path(folder),
            epochs=1 if run.quick else 12,
            batch_size=128,
            lr=1e-3,
            image_size=int(data.train.images.shape[1]),
            device=run.device,
            workers=0 if run.quick else 12,
            verify=False,
        )
        result = swindow.train(data, settings)
        seconds = time.perf_counter() - start
        model = swindow.load(result.out / "best.safetensors")
    images = [data.held_out[i].media.decode() for i in range(min(64, len(data.held_out)))]
    here, there = (
        [p.classes[0] for p in swindow.predict(model, images, device=device)] for device in (run.device, "cpu")
    )
    return {
        "images": len(data.train),
        "epochs": settings.epochs,
        "seconds": seconds,
        "loss": result.loss,
        "accuracy": result.best["accuracy"],
        "same answers as on the CPU": sum(a == b for a, b in zip(here, there)) / len(here),
    }


def page(cases: dict[str, Any]) -> Iterator[str]:
    yield "| one image | | eager (ms) | as a CUDA graph (ms) |"
    yield "|---|---|---:|---:|"
    for name, rows in cases.items():
        for library, row in rows.items():
            if isinstance(row, dict) and "graph" in row:
                yield f"| {name} | {library} | {row['eager'] * 1e3:.2f} | {row['graph'] * 1e3:.2f} |"
    for title, group in groups(cases).items():
        side, batch = MODELS[title.split(", ")[0]]
        yield ""
        yield f"## {title}, {side} pixels, batch {batch}"
        yield ""
        yield "| | median (ms) | quartiles | images/s | times as fast | peak memory (GB) | differs from the first by |"
        yield "|---|---:|---|---:|---:|---:|---:|"
        yield from table(group, batch)
    yield ""
    yield from _rest(cases)


def summary(cases: dict[str, Any]) -> Iterator[str]:
    for line in page(cases):
        if line.startswith(("| one image", "| swin", "| timm", "| torchvision", "| transformers", "- ", "##")):
            yield line


def _rest(cases: dict[str, Any]) -> Iterator[str]:
    """Cases that are in no table."""
    for name, found in cases.items():
        if name.startswith(("one process", "training on")) or {"skipped", "failure"} & set(found):
            yield f"- {name}: {', '.join(f'{key} {value}' for key, value in found.items())}"
