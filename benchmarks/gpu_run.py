"""What the parts of gpu.py share: a part under way, written as it goes, and how time and memory are measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import swindow

ROOT = Path(__file__).resolve().parent.parent


class Run:
    """One part under way: its cases, written to a file as they come.

    A part that was stopped goes on where it was, on the same device, with the same code and versions; what had failed
    or was skipped is tried again.

    Args:
        part: its name.
        limit: seconds that it may take.
        chosen: the command line, see gpu.py.
        page: makes the lines of its page of its cases.
        kept: the files that it writes, by suffix.
    """

    def __init__(
        self,
        part: str,
        limit: float,
        chosen: Any,
        page: Callable[[dict[str, Any]], Iterable[str]],
        kept: tuple[str, ...] = ("json", "md"),
    ) -> None:
        self.part, self.limit, self.chosen, self.page, self.kept_files = part, limit, chosen, page, kept
        self.device, self.quick, self.jobs, self.out = chosen.device, chosen.quick, chosen.jobs, chosen.out
        self.started, self.file = time.monotonic(), chosen.out / f"{part}.json"
        self.about = about(part, self.device)
        self.cases = {} if chosen.fresh else self.kept(self.file)

    def kept(self, file: Path) -> dict[str, Any]:
        """The cases of an earlier run of a part that are of this device, code and versions."""
        if not file.exists():
            return {}
        found = json.loads(file.read_text())
        if any(found["about"][key] != self.about[key] for key in ("device", "commit", "versions")):
            return {}
        return {name: case for name, case in found["cases"].items() if not {"failure", "skipped"} & set(case)}

    def left(self) -> float:
        return self.limit - (time.monotonic() - self.started)

    def hold(self) -> None:
        """Waits until nothing else runs that would disturb a timing."""
        while self.chosen.busy is not None and self.chosen.busy.exists() and self.left() > -60:
            time.sleep(0.5)

    def add(self, name: str, case: dict[str, Any], say: bool = True) -> None:
        self.cases[name] = case
        self.write()
        if say:
            print(f"[{self.part} {time.monotonic() - self.started:.0f} s] {name}: {str(case)[:300]}", flush=True)

    def write(self) -> None:
        if "json" in self.kept_files:
            self.file.write_text(json.dumps({"about": self.about, "cases": self.cases}, indent=1, default=str) + "\n")
        if "md" in self.kept_files:
            about = [f"- {key}: {value}" for key, value in self.about.items()]
            lines = [f"# {self.part.capitalize()} on a GPU", "", *self.page(self.cases), "", *about]
            self.file.with_suffix(".md").write_text("\n".join(lines) + "\n")


def about(part: str, device: str) -> dict[str, Any]:
    """What a result says of its making."""
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "swindow": swindow.__version__}
    for name in ("triton", "timm", "torchvision", "transformers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": f"PYTHONPATH=src python benchmarks/gpu.py --part {part}",
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "commit": os.environ.get("COMMIT") or commit or "unknown",
        "versions": versions,
    }


def error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b|| in float64; infinite where there is a NaN."""
    a, b = a.double(), b.double()
    value = float((a - b).norm() / b.norm().clamp(min=1e-30))
    return value if value < float("inf") else float("inf")  # NaN is not smaller


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


def graphed(run: Callable[[], Any]) -> Callable[[], None]:
    """A CUDA graph of a call: what it costs without Python, which takes as long as a small kernel."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def median(values: list[float]) -> float:
    return statistics.median(values)


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
