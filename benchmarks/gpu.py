"""How fast is Swin on a GPU, beside the other implementations and beside what the GPU can do?

    make bench-gpu        or        python benchmarks/gpu.py [--quick] [--device cuda] [--rounds 20] [--out DIR]

Writes gpu.json and gpu.md to benchmarks/results/. Needs an NVIDIA GPU and Triton, and has not run on one yet; ``--quick
--device cpu`` only shows that the script works.

Swin-T and SwinV2-T in bf16 at batch 128: inference, and a training step under autocast, ours by kernel (``sdpa``, and
``triton``, which is fused), eager and compiled, in turns with the peers; outputs are compared first. Then the attention
kernels alone, stage by stage, beside the roofline: the time that their floating-point operations take at the speed of a
large matrix product, or their bytes at that of a copy, whichever is longer. Both speeds are measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import measure
import speed
import speed_report
import torch
import tyro
from torch import Tensor, nn

import swindow
from swindow import kernels, timing, windows
from swindow.models.attention import ScaledDotProduct

COMMAND = "make bench-gpu (python benchmarks/gpu.py)"
TOLERANCE = 0.1  # of bf16 logits from ours, over the largest


class Case(NamedTuple):
    variant: str
    batch: int
    size: tuple[int, int]


CASES = (Case("swin_tiny", 128, (224, 224)), Case("swinv2_tiny_w8", 128, (256, 256)))
QUICK = (Case("swin_tiny", 1, (224, 224)),)


def main(device: str = "cuda", rounds: int = 20, out: Path = speed.RESULTS, quick: bool = False) -> None:
    """Measures everything.

    Args:
        device: where to run.
        rounds: of every case.
        out: where the results go.
        quick: one image, nothing compiled, to see that it works.
    """
    result = measure.provenance(COMMAND) | {"device": name_of(device)}
    cases = QUICK if quick else CASES
    result["inference"] = [measured(case, device, rounds, False, not quick) for case in cases]
    result["training"] = [measured(case, device, rounds, True, not quick) for case in cases]
    result["roofline"] = roofline(cases[0], device, rounds)
    result |= {"versions": speed.versions(), "hardware": measure.hardware()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "gpu.md").write_text(page(result))
    print(f"written to {out}")


def measured(case: Case, device: str, rounds: int, training: bool, compiled: bool) -> dict[str, Any]:
    """Every library, eager and compiled, with time and peak memory."""
    model, x = speed.build(speed.Case(*case))
    dtype = torch.float32 if training else torch.bfloat16
    libraries = speed.installed(model, case.size)
    x, model = x.to(device, dtype), model.to(device, dtype)
    runs: dict[str, timing.Call] = {}
    for kernel in KERNELS if device == "cuda" else KERNELS[:1]:
        for name, module in versions_of(f"swindow, {kernel}", model, compiled):
            runs[name] = within(kernel, call(module, x, training))
    for library, peer in libraries.items():
        for name, module in versions_of(library, peer.to(device, dtype), compiled):
            runs[name] = call(module, x, training)
    errors, expected = {}, logits(model, x)
    for library, peer in libraries.items():
        errors[library] = speed.difference(logits(peer, x), expected)
        if not errors[library] <= TOLERANCE:
            raise RuntimeError(f"{case}: {library} differs by {errors[library]:.1e}")
    seconds = timing.interleaved(runs, rounds)
    base = min((n for n in runs if n.startswith("timm")), key=lambda n: statistics.median(seconds[n]), default=None)
    rows = {
        name: {
            "seconds": times,
            "timm": timing.ratio(seconds[base], times)._asdict() if base else None,
            "peak": peak(runs[name], device),
        }
        for name, times in seconds.items()
    }
    return case._asdict() | {"rows": rows, "errors": errors, "base": base}


KERNELS = ("sdpa", "triton")


def versions_of(name: str, module: nn.Module, compiled: bool) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    if compiled:
        yield f"{name}, compiled", torch.compile(module, dynamic=False)


def within(kernel: str, run: timing.Call) -> timing.Call:
    """The call with one of our kernels."""

    def inside() -> None:
        with kernels.using(kernel):
            run()

    return inside


def call(module: nn.Module, x: Tensor, training: bool) -> timing.Call:
    if not training:
        return lambda: torch.no_grad()(module.eval())(x)

    def step() -> None:
        module.train().zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16):
            y = module(x)
        y.float().square().mean().backward()

    return step


@torch.no_grad()
def logits(module: nn.Module, x: Tensor) -> Tensor:
    return module.eval()(x).float()


def peak(run: timing.Call, device: str) -> int | None:
    """Bytes of GPU memory at the most, above what stands there before."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@torch.no_grad()
def roofline(case: Case, device: str, rounds: int) -> dict[str, Any]:
    """The attention of a shifted block of every stage, alone: time, and what its operations and bytes would take."""
    config = swindow.create(case.variant).config
    flops, bandwidth = speeds(device)
    rows = []
    for stage, heads in enumerate(config.num_heads):
        grid = tuple(s // (4 * 2**stage) for s in case.size)
        window, chans = config.window_size[stage], config.width(stage)
        g = windows.resolve(grid, window, tuple(w // 2 for w in window), windows.SizeRule())
        places, n = grid[0] * grid[1], window[0] * window[1]
        y = torch.randn(case.batch, *grid, chans, device=device, dtype=torch.bfloat16)
        t = torch.randn(case.batch, places, 3 * chans, device=device, dtype=torch.bfloat16)
        bias = torch.randn(heads, n, n, device=device)
        work = 4 * case.batch * (g.padded[0] * g.padded[1]) * n * chans  # two products, two operations per pair
        moved = case.batch * places * 4 * chans * 2 + bias.numel() * 4  # q, k, v read, the result written, in bf16
        row: dict[str, Any] = {"stage": stage, "flops": work, "bytes": moved}
        row["limit"] = max(work / flops, moved / bandwidth)
        for kernel in KERNELS if device == "cuda" else KERNELS[:1]:
            run = within(kernel, attention(y, t, bias, g))
            row[kernel] = statistics.median(timing.interleaved({kernel: run}, rounds)[kernel])
        rows.append(row)
    return {"flops_per_second": flops, "bytes_per_second": bandwidth, "rows": rows}


def attention(y: Tensor, t: Tensor, bias: Tensor, g: windows.Geometry) -> timing.Call:
    """Attention whose projection is known: what stands in ``t`` (B, H*W, 3C), whose grid is not padded."""

    def qkv(x: Tensor) -> Tensor:
        return t[: len(x), : x.shape[1:-1].numel()].reshape(*x.shape[:-1], -1)

    return lambda: kernels.attend(y, qkv, bias, g, ScaledDotProduct())


def speeds(device: str, side: int = 8192, count: int = 2**29) -> tuple[float, float]:
    """Operations per second of a large bf16 product, and bytes per second of a copy (read and written)."""
    if device != "cuda":
        side, count = 512, 2**22
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    x = torch.zeros(count, device=device, dtype=torch.bfloat16)
    z = torch.empty_like(x)
    product: Callable[[], Any] = lambda: a @ a  # noqa: E731
    seconds = timing.interleaved({"product": product, "copy": lambda: z.copy_(x)}, 10)
    return 2 * side**3 / min(seconds["product"]), 4 * count / min(seconds["copy"])


def name_of(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def page(result: dict[str, Any]) -> str:
    lines = ["# Speed on a GPU", "", f"{result['device']}, bf16 (training under autocast, weights in fp32).", ""]
    for title, key in (("Inference", "inference"), ("Training step", "training")):
        for case in result[key]:
            lines += [f"## {title}: {case['variant']}, batch {case['batch']}", ""]
            lines += [f"| | median (ms) | times as fast as {case['base']} | peak memory (MB) |", "|---|---:|---:|---:|"]
            for name, row in case["rows"].items():
                memory = "" if row["peak"] is None else f"{row['peak'] / 1e6:.0f}"
                median = statistics.median(row["seconds"]) * 1e3
                lines.append(f"| {name} | {median:.2f} | {speed_report.spread(row['timm'])} | {memory} |")
            lines.append("")
    roof = result["roofline"]
    lines += ["## Attention alone, of a shifted block", ""]
    lines += [f"A large product: {roof['flops_per_second'] / 1e12:.1f} TFLOP/s; a copy: "]
    lines[-1] += f"{roof['bytes_per_second'] / 1e12:.2f} TB/s. Roofline: the longer of the two times."
    tried = [kernel for kernel in KERNELS if kernel in roof["rows"][0]]
    lines += ["", f"| stage | GFLOP | MB | roofline (ms) | {' (ms) | '.join(tried)} (ms) |"]
    lines += ["|---:" * (4 + len(tried)) + "|"]
    for row in roof["rows"]:
        cells = [f"{row['flops'] / 1e9:.2f}", f"{row['bytes'] / 1e6:.1f}", f"{row['limit'] * 1e3:.3f}"]
        cells += [f"{row[kernel] * 1e3:.3f}" for kernel in tried]
        lines.append(f"| {row['stage']} | {' | '.join(cells)} |")
    return "\n".join((*lines, "", measure.about(result), ""))


if __name__ == "__main__":
    tyro.cli(main)
