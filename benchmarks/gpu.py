"""Is the fused kernel right on a GPU, and how fast is Swin there, beside timm and beside what the GPU can do?

    PYTHONPATH=src python benchmarks/gpu.py --part proof --part tiles --part speed --part profile [--out DIR]

Needs an NVIDIA GPU with Triton; ``--device cpu --quick`` only shows that the script works (with TRITON_INTERPRET=1 the
kernel itself runs too). Every part writes PART.json as it goes, and PART.md, to ``--out``, by default
benchmarks/results/gpu/ (``tiles`` only the first, ``profile`` only the second). A part that was stopped goes on where
it stopped; ``--fresh`` starts it again.

- ``proof`` (3 minutes): the kernel in fp32 (without tf32), fp16 and bf16, forward and backward, against ``reference``
  in float64, on random inputs and outputs filled with NaN before; then 20 training steps beside ``sdpa``.
- ``tiles`` (1.5 minutes): the kernel alone by size of block, warps and stages.
- ``speed`` (4 minutes): Swin-T and SwinV2-T in bf16, batch 128: inference, and a training step under autocast with fp32
  weights; ours by kernel and timm, eager and compiled; peak memory.
- ``profile`` (1 minute): where the time goes, by kernel.
- ``more``: batch 1 as a CUDA graph, a large image, Swin-B, torchvision and transformers.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import copy
import datetime
import itertools
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import swindow
from swindow import kernels, windows
from swindow.models.attention import ScaledCosine, ScaledDotProduct

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"proof": 180, "tiles": 90, "speed": 240, "profile": 60, "more": 240}  # seconds
sys.path.insert(0, str(Path(__file__).parent))


# --- proof ------------------------------------------------------------------------------------------------------------


class Attention(NamedTuple):
    """One case: a map, its windows, heads of d channels."""

    grid: tuple[int, ...]
    window: tuple[int, ...]
    shifted: bool
    rule: windows.SizeRule
    heads: int
    d: int
    batch: int


MASKED, ATTENDED, FORKS = (
    windows.SizeRule(),
    windows.SizeRule(mask_padding=False),
    windows.SizeRule(mask_padding=False, shift_single=True),
)
PROOF = {
    "Swin-T stage 1, batch 8": Attention((56, 56), (7, 7), True, MASKED, 3, 32, 8),
    "Swin-T stage 1, not shifted": Attention((56, 56), (7, 7), False, MASKED, 3, 32, 2),
    "Swin-T stage 4, batch 256": Attention((7, 7), (7, 7), True, MASKED, 24, 32, 256),
    "stage 2, batch 1": Attention((28, 28), (7, 7), True, MASKED, 6, 32, 1),
    "padded": Attention((50, 33), (7, 7), True, MASKED, 3, 32, 3),
    "padded, padding attended to": Attention((50, 33), (7, 7), True, ATTENDED, 3, 32, 3),
    "one window, shifted": Attention((6, 11), (8, 8), True, FORKS, 2, 32, 5),
    "window 8": Attention((64, 64), (8, 8), True, MASKED, 3, 32, 4),
    "window 4, 16 channels": Attention((18, 19), (4, 4), True, ATTENDED, 5, 16, 9),
    "window 7, 64 channels": Attention((21, 20), (7, 7), True, ATTENDED, 2, 64, 3),
    "window 7, 24 channels": Attention((21, 20), (7, 7), True, MASKED, 2, 24, 3),
    "window 12": Attention((24, 25), (12, 12), True, MASKED, 4, 32, 3),
    "window 12, 64 channels": Attention((24, 25), (12, 12), True, ATTENDED, 2, 64, 2),
    "window 16": Attention((33, 32), (16, 16), True, ATTENDED, 3, 32, 2),
    "window 24": Attention((48, 47), (24, 24), True, MASKED, 4, 32, 2),
    "video, window 8 x 7 x 7": Attention((8, 15, 14), (8, 7, 7), True, MASKED, 3, 32, 2),
    "video, window 2 x 3 x 4": Attention((3, 5, 6), (2, 3, 4), True, FORKS, 3, 16, 4),
    "signal": Attention((130,), (16,), True, ATTENDED, 2, 32, 4),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ALLOWED = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 1.6e-2}  # largest ||a - b|| / ||b||
ALLOWED_SCALE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2}  # of the gradient of SwinV2's scale, a sum that cancels
WORSE = 1.5  # or so many times the error of ``reference`` in the same precision
NAMES = ("out", "d_tokens", "d_weight", "d_qkv_bias", "d_bias", "d_scale")


def prove(name: str, dtype: str, similarity: str, device: str) -> dict[str, Any]:
    """Errors of the kernel and of ``reference`` in the same precision, against ``reference`` in float64."""
    torch.backends.cuda.matmul.allow_tf32 = False
    seed = int.from_bytes(os.urandom(3), "big")
    torch.manual_seed(seed)
    grid, window, shifted, rule, heads, d, batch = PROOF[name]
    g = windows.resolve(grid, window, tuple(w // 2 if shifted else 0 for w in window), rule)
    n, dim = math.prod(g.window), heads * d
    exact = [
        torch.randn(batch, *grid, dim),
        torch.randn(3 * dim, dim) / math.sqrt(dim) * 1.5,
        torch.randn(3 * dim) * 0.5,
        torch.randn(heads, n, n),
        torch.rand(heads, 1, 1) * 2 + 1,
    ]
    cotangent = torch.randn(batch, *grid, dim)
    number = DTYPES[dtype]
    kept = [x.to(device, number) for x in exact[:3]] + [x.to(device) for x in exact[3:]]  # as rounded, for all three
    found = {
        key: attention(kernel, kept, cotangent.to(device, number), g, similarity, kind)
        for key, kernel, kind in (
            ("exact", "reference", torch.float64),
            ("reference", "reference", number),
            ("triton", "triton", number),
        )
    }
    errors = {
        key: {part: error(a, b) for part, a, b in zip(NAMES, found[key], found["exact"])}
        for key in ("triton", "reference")
    }
    return errors | {"seed": seed}


def attention(
    kernel: str, leaves: list[Tensor], cotangent: Tensor, g: windows.Geometry, similarity: str, kind: torch.dtype
) -> list[Tensor]:
    """Result and gradients of one kernel, in one precision (the bias and the scale in fp32 at least)."""
    wide = kind if kind == torch.float64 else torch.float32
    y, weight, qkv_bias, bias, scale = (
        x.detach().to(kind if i < 3 else wide).requires_grad_() for i, x in enumerate(leaves)
    )
    similar: Any = ScaledDotProduct(len(bias), len(weight) // 3 // len(bias))
    used = [y, weight, qkv_bias, bias]
    if similarity == "cosine":
        similar = ScaledCosine(len(bias), similar.head_dim).to(scale)
        similar.logit_scale = nn.Parameter(scale.detach())
        used.append(similar.logit_scale)
    with poisoned():
        out = kernels.attend(y, lambda x: nn.functional.linear(x, weight, qkv_bias), bias, g, similar, kernel=kernel)
        gradients = torch.autograd.grad(out, used, cotangent.to(kind))
    return [out.detach(), *gradients]


class poisoned:
    """Fills what ``torch.empty`` gives with NaN, so that an element that nobody writes is seen."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True

    def __exit__(self, *_: Any) -> None:
        torch.use_deterministic_algorithms(False)


def error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b|| in float64; infinite where there is a NaN."""
    a, b = a.double(), b.double()
    value = float((a - b).norm() / b.norm().clamp(min=1e-30))
    return value if math.isfinite(value) else math.inf


def accepted(name: str, case: dict[str, Any]) -> bool:
    """Whether a case, named with its precision, is right."""
    if "triton" not in case or "largest difference" in case:
        return case.get("ok", False)
    dtype = name.split(", ")[-2]
    return all(
        ours <= max((ALLOWED_SCALE if part == "d_scale" else ALLOWED)[dtype], WORSE * case["reference"][part])
        for part, ours in case["triton"].items()
    )


def failure_of(done: concurrent.futures.Future[Any]) -> str | None:
    """Why a case failed in its process: it must not hide the others."""
    problem = done.exception()
    return None if problem is None else f"{type(problem).__name__}: {problem}"[:600]


def training_steps(device: str, half: bool, quick: bool) -> dict[str, Any]:
    """The losses of the same training with ``triton`` and with ``sdpa``."""
    losses: dict[str, list[float]] = {}
    steps, batch, size = (2, 1, (36, 40)) if quick else (20, 8, (100, 90))
    torch.manual_seed(0)
    start = swindow.create("swin_tiny", num_classes=10, depths=(2, 2), num_heads=(3, 6), drop_path_rate=0.0)
    x, labels = torch.randn(batch, 3, *size, device=device), torch.randint(0, 10, (batch,), device=device)
    for kernel in ("sdpa", "triton"):
        model = copy.deepcopy(start).to(device).train()
        model.set_kernel(kernel)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses[kernel] = []
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = nn.functional.cross_entropy(model(x).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[kernel].append(loss.item())
    largest = max(abs(a - b) for a, b in zip(losses["sdpa"], losses["triton"])) / losses["sdpa"][0]
    return losses | {"largest difference": largest, "ok": largest <= (5e-2 if half else 2e-3)}


def proof(run: Run) -> None:
    names = list(PROOF)[-2:] if run.quick else list(PROOF)
    jobs = [(n, t, s, run.device) for n in names for t in DTYPES for s in ("dot", "cosine")]
    if run.device == "cpu":
        jobs = [j for j in jobs if j[1] != "bf16"]  # the interpreter cuts digits off there
    jobs = [j for j in jobs if ", ".join(j[:3]) not in run.cases]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(run.jobs, spawn) as pool:
        started = {pool.submit(prove, *job): ", ".join(job[:3]) for job in jobs}
        for done in concurrent.futures.as_completed(started):
            problem = failure_of(done)
            run.add(started[done], {"failure": problem} if problem else done.result())
            if run.late():
                pool.shutdown(cancel_futures=True)
                break
    for half in (False, True):
        name = f"20 training steps, {'bf16 autocast' if half else 'fp32'}"
        if name not in run.cases:
            run.add(name, training_steps(run.device, half, run.quick))


def proof_page(cases: dict[str, Any]) -> Iterator[str]:
    bad = [name for name, case in cases.items() if not accepted(name, case)]
    yield f"{len(cases)} cases, {len(bad)} of them wrong{': ' + '; '.join(bad) if bad else ''}."
    yield f"Accepted: ||a - b|| / ||b|| of at most {ALLOWED},"
    yield f"of the gradient of SwinV2's scale, a sum that cancels, of at most {ALLOWED_SCALE},"
    yield f"or {WORSE} times what `reference` loses in that precision. Exact is `reference` in float64."
    yield ""
    yield "| case | largest error of the kernel | in | of `reference` there | |"
    yield "|---|---:|---|---:|---|"
    for name, case in cases.items():
        if "triton" in case and "failure" not in case and isinstance(case["triton"], dict):
            part = max(case["triton"], key=lambda p: case["triton"][p])
            row = f"{case['triton'][part]:.1e} | {part} | {case['reference'][part]:.1e}"
        elif "largest difference" in case:
            row = f"{case['largest difference']:.1e} | loss | "
        else:
            row = f"| {case.get('failure', '')} | "
        yield f"| {name} | {row} | {'ok' if accepted(name, case) else 'WRONG'} |"


# --- timing -----------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], Any], device: str, seconds: float = 0.4) -> list[float]:
    """Seconds of each of several calls, by device events on a GPU."""
    for _ in range(2):
        run()
    if device != "cuda":
        found = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
        return found
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    rounds = max(5, min(200, int(seconds / max(time.perf_counter() - start, 1e-5))))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(events)]


def median(values: list[float]) -> float:
    return statistics.median(values)


# --- tiles ------------------------------------------------------------------------------------------------------------

SHAPES = {
    "window 7 stage 1": ((56, 56), 7, 3, 32, 128, "dot"),
    "window 7 stage 3": ((14, 14), 7, 12, 32, 128, "dot"),
    "window 8 cosine stage 1": ((64, 64), 8, 3, 32, 128, "cosine"),
    "window 12 stage 1": ((96, 96), 12, 4, 32, 32, "dot"),
    "window 16 cosine stage 1": ((64, 64), 16, 3, 32, 64, "cosine"),
    "window 24 stage 1": ((96, 96), 24, 4, 32, 32, "dot"),
}
SMALL = ((64, 4, 3), (64, 4, 2), (64, 2, 2))  # block, warps, stages
LARGE = ((64, 4, 2), (64, 4, 3), (64, 8, 2), (32, 4, 2), (128, 8, 2))


def tile_jobs(quick: bool) -> list[tuple[str, int, int, int, int]]:
    """Windows, block, warps, stages, and the programs that are asked for at least."""
    jobs = []
    for name, shape in SHAPES.items():
        for cut in SMALL if shape[1] <= 8 else LARGE:
            jobs += [(name, *cut, programs) for programs in ((512, 1024, 2048) if shape[1] <= 8 else (1024,))]
    return jobs[:2] if quick else jobs


def tile(job: tuple[str, int, int, int, int], device: str, only_compile: bool) -> dict[str, float]:
    """Seconds of forward and of backward of the kernel alone."""
    from swindow.kernels import triton

    name, block, warps, stages, programs = job
    grid, side, heads, d, batch, similarity = SHAPES[name]
    batch = 1 if device == "cpu" else batch
    this = triton.Tile(block, warps, stages)
    triton._tile, triton.PROGRAMS = (lambda *_, **__: this), (programs, programs)
    g = windows.resolve(grid, (side,) * 2, (side // 2,) * 2)
    t = torch.randn(batch, *grid, 3 * heads * d, device=device, dtype=torch.bfloat16)
    bias, scale = (
        torch.randn(heads, side**2, -(-(side**2) // 16) * 16, device=device),
        torch.full((heads,), d**-0.5, device=device),
    )
    sizes = [list(v) for v in (g.grid, g.padded, g.window, g.shift)]
    rest = (t[0, 0, 0].clone(), bias, scale)
    forward = lambda: triton._attend(t, *rest, *sizes, True, similarity == "cosine")  # noqa: E731
    out, lse = forward()
    if only_compile:
        triton._backward(out, t, *rest, out, lse, *sizes, True, similarity == "cosine")
        return {}
    backward = lambda: triton._backward(out, t, *rest, out, lse, *sizes, True, similarity == "cosine")  # noqa: E731
    return {"forward": median(timed(forward, device, 0.03)), "backward": median(timed(backward, device, 0.06))}


def tiles(run: Run) -> None:
    jobs = [job for job in tile_jobs(run.quick) if ", ".join(map(str, job)) not in run.cases]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(run.jobs, spawn) as pool:  # compiled side by side, timed alone
        compiled = [pool.submit(tile, job, run.device, True) for job in jobs]
    problems = [failure_of(done) for done in compiled]
    run.hold()
    for job, problem in zip(jobs, problems):
        name = ", ".join(map(str, job))
        run.add(name, {"failure": problem} if problem else tile(job, run.device, only_compile=False), say=False)
        if run.late():
            break


def tiles_page(cases: dict[str, Any]) -> Iterator[str]:
    yield "Milliseconds of the kernel alone, in bf16; the projection is not part of it."
    yield ""
    yield "| windows | block | warps | stages | programs | forward | backward |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, case in cases.items():
        cells = [f"{case[k] * 1e3:.3f}" if k in case else case.get("failure", "")[:60] for k in ("forward", "backward")]
        yield f"| {' | '.join((*name.split(', '), *cells))} |"
    yield ""
    for shape in SHAPES:
        timed_ = {n: c for n, c in cases.items() if n.startswith(shape + ", ") and "backward" in c}
        if timed_:
            f, b = (min(timed_, key=lambda n: timed_[n][k]) for k in ("forward", "backward"))
            yield f"- {shape}: fastest forward {f[len(shape) + 2 :]} ({timed_[f]['forward'] * 1e3:.3f} ms), "
            yield f"  backward {b[len(shape) + 2 :]} ({timed_[b]['backward'] * 1e3:.3f} ms)"


# --- speed and profile ------------------------------------------------------------------------------------------------

MODELS = {"swin_tiny": (224, 128), "swinv2_tiny_w8": (256, 128), "swin_base": (224, 64)}  # pixels, batch


class Job(NamedTuple):
    """What one process measures: a library's model, in inference or training."""

    variant: str
    library: str  # swindow, timm
    training: bool
    device: str
    quick: bool

    @property
    def name(self) -> str:
        return f"{self.variant}, {'training' if self.training else 'inference'}, {self.library}"


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
    import peer_models

    side, batch = MODELS[job.variant]
    side, batch = (side, 2) if job.quick else (side, batch)
    ours = build(job.variant)
    model = ours if job.library == "swindow" else getattr(peer_models, job.library)(ours, (side, side))
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)).to(job.device)
    if not job.training:
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    model = model.to(job.device).train(job.training)
    calls: dict[str, Callable[[], Any]] = {}
    names = ["sdpa", "triton"] if job.library == "swindow" else [""]
    if job.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        names = names[:1]
    for kernel in names:
        calls[f"{kernel} eager".strip()] = call(model, x, job.training, kernel)
        if kernel == "sdpa" and "triton" in names:
            continue  # compiled, it was measured once: results/gpu/README.md
        compiled = torch.compile(model, dynamic=False) if not job.quick else model
        calls[f"{kernel} compiled".strip()] = call(compiled, x, job.training, kernel)
    answers = {}
    for name, run in calls.items():
        patiently(run)
        answers[name] = None if job.training else run()[:4].float().cpu().tolist()
        torch.cuda.empty_cache()
    pipe.send({"ready": True})
    found: dict[str, dict[str, Any]] = {}
    while pipe.recv() == "go":
        for name, run in calls.items():
            row = found.setdefault(name, {"seconds": []})
            row["seconds"] += timed(run, job.device, 0.6)
            if job.device == "cuda":
                row["peak"] = peak(run)
                torch.cuda.empty_cache()
        pipe.send(found)
    for name, run in calls.items():
        if job.device == "cuda" and "compiled" in name:
            found[name] |= by_kernel(run)
        if answers[name] is not None:
            found[name]["answer"] = answers[name]
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


def call(module: nn.Module, x: Tensor, training: bool, kernel: str) -> Callable[[], Any]:
    def inference() -> Tensor:
        with torch.no_grad():
            return module(x)

    def step() -> None:
        module.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16):
            y = module(x)
        y.float().square().mean().backward()

    run = step if training else inference
    model: Any = getattr(module, "_orig_mod", module)

    def within() -> Any:
        if model.stages[0].blocks[0].kernel.attention != kernel:
            model.set_kernel(kernel)
        return run()

    return within if kernel else run


def peak(run: Callable[[], Any]) -> int:
    """Bytes of GPU memory at the most, above what stands there before."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def by_kernel(run: Callable[[], Any]) -> dict[str, Any]:
    """Microseconds of a call, by the kernel that ran."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as seen:
        for _ in range(3):
            run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            entry = found.setdefault(event.name[:110], [0.0, 0])
            entry[0] += event.time_range.elapsed_us() / 3
            entry[1] += 1 / 3
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    return {"total": sum(v[0] for v in found.values()), "kernels": dict(ranked[:25])}


def wave(run: Run, jobs: list[Job]) -> None:
    """Starts a process for every job at once; they compile side by side and are measured one at a time, twice over."""
    jobs = [job for job in jobs if job.name not in run.cases]
    spawn = multiprocessing.get_context("spawn")
    started = []
    for job in jobs:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=measure, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append((job, process, ours))

    def hear(pipe: Any, process: Any) -> dict[str, Any]:
        while not pipe.poll(1):
            if not process.is_alive():
                return {"failure": f"the process ended with {process.exitcode}"}
            if run.left() < -60:
                return {"failure": "no time left"}
        try:
            return pipe.recv()
        except EOFError:
            return {"failure": "the process ended"}

    ready = []
    for job, process, pipe in started:
        heard = hear(pipe, process)
        if "failure" in heard:
            run.add(job.name, heard)
        else:
            ready.append((job, process, pipe))
    run.hold()
    for _ in range(1 if run.quick else 2):
        for _, process, pipe in ready:
            pipe.send("go")
            hear(pipe, process)
    for job, process, pipe in ready:
        pipe.send("stop")
        heard = hear(pipe, process)
        answers = {name: row.pop("answer") for name, row in heard.items() if isinstance(row, dict) and "answer" in row}
        for name, answer in answers.items():
            first = run.answers.setdefault(job.variant, answer)
            heard[name]["difference"] = error(torch.tensor(answer), torch.tensor(first))
        run.add(job.name, heard)
        process.join(5)


def speed(run: Run) -> None:
    variants = ("swin_tiny",) if run.quick else ("swin_tiny", "swinv2_tiny_w8")
    if "ceilings" not in run.cases and run.device == "cuda":
        run.add("ceilings", ceilings())
    every = [Job(v, lib, t, run.device, run.quick) for t in (False, True) for v in variants for lib in LIBRARIES]
    wave(run, every)


def profile(run: Run) -> None:
    """What ``speed`` has seen, where it ran; else the same of Swin-T alone."""
    seen = run.out / "speed.json"
    if seen.exists():
        run.cases |= {k: v for k, v in json.loads(seen.read_text())["cases"].items() if k.count(", ") == 2}
    wave(run, [Job("swin_tiny", lib, t, run.device, run.quick) for t in (False, True) for lib in LIBRARIES])
    for rows in run.cases.values():
        for row in rows.values():
            for key in ("seconds", "peak", "difference"):
                row.pop(key, None) if isinstance(row, dict) else None


LIBRARIES = ("swindow", "timm")


def ceilings(side: int = 8192, count: int = 2**29) -> dict[str, float]:
    """Operations per second of a large bf16 product, and bytes per second of a copy (read and written)."""
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(count, device="cuda", dtype=torch.bfloat16)
    z = torch.empty_like(x)
    product, copied = median(timed(lambda: a @ a, "cuda")), median(timed(lambda: z.copy_(x), "cuda"))
    return {"flops_per_second": 2 * side**3 / product, "bytes_per_second": 4 * count / copied}


def speed_page(cases: dict[str, Any]) -> Iterator[str]:
    if "ceilings" in cases:
        c = cases["ceilings"]
        yield f"A large product: {c['flops_per_second'] / 1e12:.0f} TFLOP/s; a copy: "
        yield f"{c['bytes_per_second'] / 1e12:.2f} TB/s. Ratios are to timm compiled."
    groups: dict[str, dict[str, Any]] = {}
    for name, rows in cases.items():
        if name.count(", ") == 2:
            variant, what, library = name.split(", ")
            group = groups.setdefault(f"{variant}, {what}", {})
            if "failure" in rows:
                group[library] = rows
            else:
                group |= {f"{library} {way}": row for way, row in rows.items()}
    for title, group in groups.items():
        side, batch = MODELS[title.split(", ")[0]]
        base = group.get("timm compiled", {}).get("seconds")
        yield ""
        yield f"## {title}, {side} pixels, batch {batch}"
        yield ""
        yield "| | median (ms) | quartiles | images/s | times as fast | peak memory (GB) | differs from the first by |"
        yield "|---|---:|---|---:|---:|---:|---:|"
        for name, row in group.items():
            if "failure" in row:
                yield f"| {name} | {row['failure']} | | | | | |"
                continue
            m = median(row["seconds"])
            low, _, high = statistics.quantiles(row["seconds"], n=4, method="inclusive")
            ratio = f"{median(base) / m:.2f}" if base else ""
            memory = f"{row['peak'] / 1e9:.2f}" if "peak" in row else ""
            differs = f"{row['difference']:.1e}" if "difference" in row else ""
            spread = f"{low * 1e3:.2f} to {high * 1e3:.2f}"
            yield f"| {name} | {m * 1e3:.2f} | {spread} | {batch / m:.0f} | {ratio} | {memory} | {differs} |"


def profile_page(cases: dict[str, Any]) -> Iterator[str]:
    for name, rows in cases.items():
        for way, found in rows.items():
            if "kernels" not in found:
                continue
            yield ""
            yield f"## {name}, {way}: {found['total'] / 1e3:.2f} ms"
            yield ""
            yield "| kernel | ms | calls |"
            yield "|---|---:|---:|"
            for kernel, (micros, calls) in found["kernels"].items():
                yield f"| `{kernel}` | {micros / 1e3:.3f} | {calls:.0f} |"


# --- more -------------------------------------------------------------------------------------------------------------


def more(run: Run) -> None:
    """What is left, as time allows."""
    for variant, side in (("swin_tiny", (224, 224)), ("swin_tiny", (768, 1024)), ("swin_base", (224, 224))):
        name = f"{variant}, batch 1, {side[0]} x {side[1]}, as a CUDA graph"
        if name in run.cases or run.late() or run.device != "cuda":
            continue
        run.add(name, graphs(variant, side))


@torch.no_grad()
def graphs(variant: str, side: tuple[int, int]) -> dict[str, Any]:
    import peer_models

    ours = build(variant)
    found: dict[str, Any] = {}
    models = {"sdpa": ours, "triton": ours}
    if variant == "swin_tiny":
        models["timm"] = peer_models.timm(ours, side)
    x = torch.randn(1, 3, *side, device="cuda", dtype=torch.bfloat16)
    for name, model in models.items():
        model = copy.deepcopy(model).to("cuda", torch.bfloat16).eval()
        run = call(model, x, False, "" if name == "timm" else name)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        found[name] = {"eager": median(timed(run, "cuda", 0.3)), "graph": median(timed(graph.replay, "cuda", 0.3))}
    return found


def more_page(cases: dict[str, Any]) -> Iterator[str]:
    yield "| | | eager (ms) | graph (ms) |"
    yield "|---|---|---:|---:|"
    for name, rows in cases.items():
        for library, row in rows.items():
            yield f"| {name} | {library} | {row['eager'] * 1e3:.2f} | {row['graph'] * 1e3:.2f} |"


# --- running ----------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[[Run], None], Callable[[dict[str, Any]], Iterator[str]]]] = {
    "proof": (proof, proof_page),
    "tiles": (tiles, tiles_page),
    "speed": (speed, speed_page),
    "profile": (profile, profile_page),
    "more": (more, more_page),
}


class Run:
    """One part under way: its cases, written as they come."""

    def __init__(
        self, part: str, out: Path, device: str, quick: bool, jobs: int, fresh: bool, busy: Path | None
    ) -> None:
        self.part, self.out, self.device, self.quick, self.jobs = part, out, device, quick, jobs
        self.busy = busy
        self.started, self.file = time.monotonic(), out / f"{part}.json"
        self.answers: dict[str, list[list[float]]] = {}
        self.cases: dict[str, Any] = {}
        if self.file.exists() and not fresh:
            self.cases = json.loads(self.file.read_text())["cases"]
        self.about = about(part, device)

    def left(self) -> float:
        return LIMITS[self.part] - (time.monotonic() - self.started)

    def late(self) -> bool:
        return self.left() < 0

    def hold(self) -> None:
        """Waits until nothing else runs that would disturb a timing."""
        while self.busy is not None and self.busy.exists() and self.left() > -60:
            time.sleep(0.5)

    def add(self, name: str, case: dict[str, Any], say: bool = True) -> None:
        self.cases[name] = case
        self.write()
        if say and not (self.part == "proof" and accepted(name, case)):
            print(f"[{self.part} {time.monotonic() - self.started:.0f} s] {name}: {str(case)[:300]}", flush=True)

    def write(self) -> None:
        if self.part == "profile":  # its figures are in speed.json
            return
        self.file.write_text(json.dumps({"about": self.about, "cases": self.cases}, indent=1, default=str) + "\n")

    def page(self) -> str:
        lines = [f"# {self.part.capitalize()} on a GPU", "", *PARTS[self.part][1](self.cases), ""]
        lines += [f"- {key}: {value}" for key, value in self.about.items()]
        return "\n".join(lines) + "\n"


def about(part: str, device: str) -> dict[str, Any]:
    """What a result says of its making."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    import importlib.metadata as metadata

    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "swindow": swindow.__version__}
    for name in ("triton", "timm", "torchvision", "transformers"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": f"PYTHONPATH=src python benchmarks/gpu.py --part {part}",
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "commit": os.environ.get("COMMIT") or git("rev-parse", "HEAD") or "unknown",
        "versions": versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few cases, small batches, nothing compiled")
    parser.add_argument("--fresh", action="store_true", help="start parts again instead of going on")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that compile")
    parser.add_argument("--busy", type=Path, help="a file: nothing is timed while it exists")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    pages = []
    for part in chosen.part:
        run = Run(part, chosen.out, chosen.device, chosen.quick, chosen.jobs, chosen.fresh, chosen.busy)
        PARTS[part][0](run)
        run.write()
        pages.append(run.page())
        if part != "tiles":
            (chosen.out / f"{part}.md").write_text(pages[-1])
        print(f"[{part}] {time.monotonic() - run.started:.0f} s", flush=True)
    print("\n".join(pages))


if __name__ == "__main__":
    main()
