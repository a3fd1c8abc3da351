"""Part ``proof`` of gpu.py: the fused kernel against ``reference`` in float64, and training beside ``sdpa``."""

from __future__ import annotations

import concurrent.futures
import copy
import math
import multiprocessing
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from gpu_run import Run, error
from torch import Tensor, nn

import swindow
from swindow import kernels, windows
from swindow.models.attention import ScaledCosine, ScaledDotProduct

LIMIT = 180  # seconds


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
    seed = zlib.crc32(f"{name}, {dtype}, {similarity}".encode())  # the same numbers in every run
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


def run_part(run: Run) -> None:
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
            case = {"failure": problem} if problem else done.result()
            run.add(started[done], case, say=not accepted(started[done], case))
            if run.left() < 0:
                pool.shutdown(cancel_futures=True)
                break
    for half in (False, True):
        name = f"20 training steps, {'bf16 autocast' if half else 'fp32'}"
        if name not in run.cases:
            run.add(name, training_steps(run.device, half, run.quick))


def page(cases: dict[str, Any]) -> Iterator[str]:
    yield from summary(cases)
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


def summary(cases: dict[str, Any]) -> Iterator[str]:
    bad = [name for name, case in cases.items() if not accepted(name, case)]
    yield f"{len(cases)} cases, {len(bad)} of them wrong{': ' + '; '.join(bad) if bad else ''}."
