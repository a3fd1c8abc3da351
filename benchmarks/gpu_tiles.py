"""Part ``tiles`` of gpu.py: the kernel alone by size of block, warps, stages and number of programs."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_proof import failure_of
from gpu_run import Run, graphed, median, timed

from swindow import windows

LIMIT = 90  # seconds

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
    """Seconds of forward and of backward of the kernel alone: on a GPU as a CUDA graph, without the time in Python."""
    from swindow.kernels import triton

    name, block, warps, stages, programs = job
    grid, side, heads, d, batch, similarity = SHAPES[name]
    if device == "cpu":  # the interpreter takes its time
        grid, heads, batch = (2 * side, 2 * side), 1, 1
    this = triton.Tile(block, warps, stages)
    triton._tile, triton.PROGRAMS = (lambda *_: this), (programs, programs)
    g = windows.resolve(grid, (side,) * 2, (side // 2,) * 2)
    t = torch.randn(batch, *grid, 3 * heads * d, device=device, dtype=torch.bfloat16)
    bias = torch.randn(heads, side**2, -(-(side**2) // 16) * 16, device=device)
    inputs = (t, t[0, 0, 0].clone(), bias, torch.full((heads,), d**-0.5, device=device))
    sizes = [*(list(v) for v in (g.grid, g.padded, g.window, g.shift)), True, similarity == "cosine"]
    out, lse = triton._attend(*inputs, *sizes)
    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: triton._attend(*inputs, *sizes),
        "backward": lambda: triton._backward(out, *inputs, out, lse, *sizes),
    }
    if only_compile:
        calls["backward"]()
        return {}
    if device == "cuda":
        calls = {which: graphed(call) for which, call in calls.items()}
    return {which: median(timed(call, device, 0.05)) for which, call in calls.items()}


def run_part(run: Run) -> None:
    jobs = [job for job in tile_jobs(run.quick) if ", ".join(map(str, job)) not in run.cases]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(run.jobs, spawn) as pool:  # compiled side by side, timed alone
        compiled = [pool.submit(tile, job, run.device, True) for job in jobs]
    problems = [failure_of(done) for done in compiled]
    run.hold()
    for job, problem in zip(jobs, problems):
        name = ", ".join(map(str, job))
        run.add(name, {"failure": problem} if problem else tile(job, run.device, only_compile=False), say=False)
        if run.left() < 0:
            break


def page(cases: dict[str, Any]) -> Iterator[str]:
    yield "Milliseconds of the kernel alone, in bf16; the projection is not part of it."
    yield ""
    yield "| windows | block | warps | stages | programs | forward | backward |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, case in cases.items():
        cells = [f"{case[k] * 1e3:.3f}" if k in case else case.get("failure", "")[:60] for k in ("forward", "backward")]
        yield f"| {' | '.join((*name.split(', '), *cells))} |"
    yield ""
    yield from summary(cases)


def summary(cases: dict[str, Any]) -> Iterator[str]:
    for shape in SHAPES:
        timed_ = {n: c for n, c in cases.items() if n.startswith(shape + ", ") and "backward" in c}
        if timed_:
            f, b = (min(timed_, key=lambda n: timed_[n][k]) for k in ("forward", "backward"))
            yield f"- {shape}: fastest forward {f[len(shape) + 2 :]} ({timed_[f]['forward'] * 1e3:.3f} ms), "
            yield f"  backward {b[len(shape) + 2 :]} ({timed_[b]['backward'] * 1e3:.3f} ms)"
