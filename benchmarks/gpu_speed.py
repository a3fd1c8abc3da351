"""Part ``speed`` of gpu.py: whole models in bf16, ours by kernel beside timm, eager and compiled.

A case is a process: all of them build and compile side by side, and are measured one at a time, twice over.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import peer_models
import torch
from gpu_run import Run, by_kernel, error, median, peak, timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import swindow

LIMIT = 240  # seconds
MODELS = {"swin_tiny": (224, 128), "swinv2_tiny_w8": (256, 128), "swin_base": (224, 64)}  # pixels, batch
# Bytes through memory of a block in inference, in units of its tokens in bf16: results/gpu/README.md says how.
TRAFFIC = {"compiled, as it is": 36, "at least": 11}


class Job(NamedTuple):
    """What one process measures: a library's model, in inference or training."""

    variant: str
    library: str  # timm, or ours with a kernel: "swindow triton"
    training: bool
    device: str
    quick: bool
    mode: str | None = None  # of torch.compile

    @property
    def name(self) -> str:
        how = "training" if self.training else "inference"
        return f"{self.variant}, {how}, {self.library}{f', {self.mode}' if self.mode else ''}"


def libraries(run: Run) -> tuple[str, ...]:
    fused = ("swindow triton",) if run.device == "cuda" or os.environ.get("TRITON_INTERPRET") == "1" else ()
    return ("swindow sdpa", *fused, "timm")


def build(variant: str) -> swindow.SwinTransformer:
    """Our model with every parameter random. Padding is attended to, as in timm."""
    torch.manual_seed(0)
    model = swindow.create(variant, mask_padding=False, drop_path_rate=0.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def measure(job: Job, pipe: Any) -> None:
    """Builds and compiles, says that it is ready, then measures whenever it is told to."""
    side, batch = MODELS[job.variant]
    side, batch = (side, 2) if job.quick else (side, batch)
    model: Any = build(job.variant)
    library, _, kernel = job.library.partition(" ")
    if kernel:
        model.set_kernel(kernel)
    else:
        model = getattr(peer_models, library)(model, (side, side))
    if model is None:
        pipe.send({"skipped": f"{library} is not installed, or has no such model"})
        return
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)).to(job.device)
    if not job.training and job.device == "cuda":  # a processor without bf16 takes 15 s for a training step in it
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    model = model.to(job.device).train(job.training)
    compiled = model if job.quick else torch.compile(model, dynamic=False, mode=job.mode)
    calls = {} if job.mode else {"eager": call(model, x, job.training)}
    calls["compiled"] = call(compiled, x, job.training)
    answers = {}
    for way, run in calls.items():
        patiently(run)
        answers[way] = None if job.training else run()[:4].float().cpu().tolist()
        torch.cuda.empty_cache()
    pipe.send({"ready": True})
    found: dict[str, dict[str, Any]] = {}
    while pipe.recv() == "go":
        for way, run in calls.items():
            row = found.setdefault(way, {"seconds": []})
            row["seconds"] += timed(run, job.device, 0.6)
            if job.device == "cuda":
                row["peak"] = peak(run)
                torch.cuda.empty_cache()
        pipe.send(found)
    for way, run in calls.items():
        if job.device == "cuda" and way == "compiled":
            found[way] |= by_kernel(run)
        if answers[way] is not None:
            found[way]["answer"] = answers[way]
    pipe.send(found)


def patiently(run: Callable[[], Any], tries: int = 5) -> None:
    """Runs for the first time, again where other processes hold the memory at the moment."""
    for _ in range(tries):
        try:
            run()
            return
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            time.sleep(5)
    run()


def call(module: nn.Module, x: Tensor, training: bool) -> Callable[[], Any]:
    def inference() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            return module(x)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        module.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            y = module(x)
        y.float().square().mean().backward()

    return step if training else inference


def wave(run: Run, jobs: list[Job]) -> None:
    """Starts a process for every job at once; they compile side by side and are measured one at a time, twice over."""
    started = [(job, *start(job)) for job in jobs if job.name not in run.cases]
    ready = []
    for job, process, pipe in started:
        heard = hear(run, process, pipe)
        if "ready" in heard:
            ready.append((job, process, pipe))
        else:
            run.add(job.name, heard)
    run.hold()
    for _ in range(1 if run.quick else 2):
        for entry in list(ready):
            job, process, pipe = entry
            pipe.send("go")
            heard = hear(run, process, pipe)
            if "failure" in heard:
                run.add(job.name, heard)
                ready.remove(entry)
    first: dict[str, Any] = {}  # answer of each variant
    for job, process, pipe in ready:
        pipe.send("stop")
        heard = hear(run, process, pipe)
        for row in heard.values():
            if isinstance(row, dict) and "answer" in row:
                answer = torch.tensor(row.pop("answer"))
                row["difference"] = error(answer, first.setdefault(job.variant, answer))
        run.add(job.name, heard)
        process.join(5)


def start(job: Job) -> tuple[Any, Any]:
    """A process that measures a job, and the pipe to it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=measure, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def hear(run: Run, process: Any, pipe: Any) -> dict[str, Any]:
    """The next message of a process, or why there is none."""
    while not pipe.poll(1):
        if not process.is_alive():
            return {"failure": f"the process ended with {process.exitcode}"}
        if run.left() < -60:
            return {"failure": "no time left"}
    try:
        return pipe.recv()
    except EOFError:
        return {"failure": "the process ended"}


def run_part(run: Run) -> None:
    variants = ("swin_tiny",) if run.quick else ("swin_tiny", "swinv2_tiny_w8")
    if "ceilings" not in run.cases and run.device == "cuda":
        run.add("ceilings", ceilings())
    for variant in variants:
        run.cases.setdefault(f"work of {variant}", work(variant))
    wave(
        run, [Job(v, lib, t, run.device, run.quick) for t in (False, True) for v in variants for lib in libraries(run)]
    )


def ceilings(side: int = 8192, count: int = 2**29) -> dict[str, float]:
    """Operations per second of a large bf16 product, and bytes per second of a copy (read and written)."""
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(count, device="cuda", dtype=torch.bfloat16)
    z = torch.empty_like(x)
    product, copied = median(timed(lambda: a @ a, "cuda")), median(timed(lambda: z.copy_(x), "cuda"))
    return {"flops_per_second": 2 * side**3 / product, "bytes_per_second": 4 * count / copied}


def work(variant: str) -> dict[str, float]:
    """What one image takes in inference: operations, counted, and bytes through memory by ``TRAFFIC``."""
    model, (side, _) = build(variant), MODELS[variant]
    model.set_kernel("reference")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    config = model.config
    rows = math.ceil(side / config.patch_size[0])
    numbers = sum(
        depth * math.ceil(rows / 2**i) ** 2 * config.embed_dim * 2**i for i, depth in enumerate(config.depths)
    )
    return {"flops": counter.get_total_flops(), **{name: 2 * units * numbers for name, units in TRAFFIC.items()}}


def groups(cases: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows that belong together: of a variant, in inference or training, by library and way."""
    found: dict[str, dict[str, Any]] = {}
    for name, rows in cases.items():
        variant, what, library = (*name.split(", ", 2), "", "")[:3]
        if variant not in MODELS or what not in ("inference", "training"):
            continue
        group = found.setdefault(f"{variant}, {what}", {})
        if "failure" in rows or "skipped" in rows:
            group[library] = rows
        else:
            group |= {f"{library} {way}": row for way, row in rows.items()}
    return found


def page(cases: dict[str, Any]) -> Iterator[str]:
    limits = cases.get("ceilings")
    if limits:
        yield f"A large product: {limits['flops_per_second'] / 1e12:.0f} TFLOP/s; a copy: "
        yield f"{limits['bytes_per_second'] / 1e12:.2f} TB/s. Ratios are to timm compiled."
    for title, group in groups(cases).items():
        variant = title.split(", ")[0]
        side, batch = MODELS[variant]
        yield ""
        yield f"## {title}, {side} pixels, batch {batch}"
        yield ""
        if limits and f"work of {variant}" in cases:
            yield floor(cases[f"work of {variant}"], limits, batch, "training" in title)
            yield ""
        yield "| | median (ms) | quartiles | images/s | times as fast | peak memory (GB) | differs from the first by |"
        yield "|---|---:|---|---:|---:|---:|---:|"
        yield from table(group, batch)


def floor(found: dict[str, float], limits: dict[str, float], batch: int, training: bool) -> str:
    """What operations and bytes would take at the speeds of a large product and a copy (the roofline)."""
    flops = found["flops"] * batch * (3 if training else 1)  # backward: two products for each of forward
    text = f"Operations: {flops / 1e12:.2f} T, {flops / limits['flops_per_second'] * 1e3:.1f} ms"
    for name in () if training else TRAFFIC:
        size = found[name] * batch
        text += f"; bytes of the blocks, {name}: {size / 1e9:.1f} G, {size / limits['bytes_per_second'] * 1e3:.1f} ms"
    return text + "."


def timm_compiled(group: dict[str, Any]) -> list[float] | None:
    """The seconds that ratios are to."""
    named = (row for name, row in group.items() if name.startswith("timm") and name.endswith("compiled"))
    return next(named, {}).get("seconds")


def table(group: dict[str, Any], batch: int) -> Iterator[str]:
    base = timm_compiled(group)
    for name, row in group.items():
        if "seconds" not in row:
            yield f"| {name} | {row.get('failure') or row['skipped']} | | | | | |"
            continue
        m = median(row["seconds"])
        low, _, high = statistics.quantiles(row["seconds"], n=4, method="inclusive")
        ratio = f"{median(base) / m:.2f}" if base else ""
        memory = f"{row['peak'] / 1e9:.2f}" if "peak" in row else ""
        differs = f"{row['difference']:.1e}" if "difference" in row else ""
        spread = f"{low * 1e3:.2f} to {high * 1e3:.2f}"
        yield f"| {name} | {m * 1e3:.2f} | {spread} | {batch / m:.0f} | {ratio} | {memory} | {differs} |"


def summary(cases: dict[str, Any]) -> Iterator[str]:
    for title, group in groups(cases).items():
        base = timm_compiled(group)
        for name, row in group.items():
            figures = f"{median(row['seconds']) * 1e3:8.2f} ms" if "seconds" in row else str(row)
            ratio = (
                f"  {median(base) / median(row['seconds']):.2f} times timm compiled"
                if base and "seconds" in row
                else ""
            )
            yield f"{title}, {name}: {figures}{ratio}"
