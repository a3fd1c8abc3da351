"""Part ``profile`` of gpu.py: where the time of a model goes, by the kernel that runs on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpu_run import Run
from gpu_speed import Job, groups, libraries, wave

LIMIT = 60  # seconds


def run_part(run: Run) -> None:
    """Takes what ``speed`` has seen, where it ran; else Swin-T alone."""
    run.cases |= {name: case for name, case in run.kept(run.out / "speed.json").items() if name.count(", ") >= 2}
    wave(run, [Job("swin_tiny", lib, t, run.device, run.quick) for t in (False, True) for lib in libraries(run)])
    for rows in run.cases.values():
        for row in rows.values():
            for key in ("seconds", "peak", "difference"):
                row.pop(key, None) if isinstance(row, dict) else None


def page(cases: dict[str, Any]) -> Iterator[str]:
    for title, name, found in _profiles(cases):
        yield ""
        yield f"## {title}, {name}: {found['total'] / 1e3:.2f} ms"
        yield ""
        yield "| kernel | ms | calls |"
        yield "|---|---:|---:|"
        for kernel, (micros, calls) in found["kernels"].items():
            yield f"| `{kernel}` | {micros / 1e3:.3f} | {calls:.0f} |"


def summary(cases: dict[str, Any]) -> Iterator[str]:
    for title, name, found in _profiles(cases):
        first = ", ".join(
            f"{kernel[:40]} {micros / 1e3:.2f}" for kernel, (micros, _) in list(found["kernels"].items())[:3]
        )
        yield f"{title}, {name}: {found['total'] / 1e3:.2f} ms in kernels, most in {first}"


def _profiles(cases: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for title, group in groups(cases).items():
        yield from ((title, name, row) for name, row in group.items() if "kernels" in row)
