"""Measures one case in a fresh process: time, peak memory, and what it ran on. Every benchmark here is built on it.

    record = measure.run("cases:windowed", {"side": 224}, check=True)

A case is a function in a module beside this file. It builds what is measured and returns two functions without
arguments: ``run``, which is timed, and ``expected``, which works out the same result in another way, or None. To add a
case, write such a function; nothing here changes.

The process goes through two parts, which differ in what the memory allocator (glibc's malloc) is told:

1. *Memory returned*: to give freed blocks back to the system at once. After a first call, several rounds give time and
   peak memory: the highest resident memory minus that before them. Weights, input, libraries, threads and caches are
   there by then and are not counted.
2. *Memory kept*: to keep what is freed, as PyTorch's GPU allocator always does. Two calls fill it, then several rounds
   give the time. This is the method's own time: in part 1 the system clears every page again, again and again, which
   can take as long as the arithmetic.

As shipped, malloc keeps small blocks and returns large ones (above 32 MiB all), so its time lies between the two.

This file imports nothing heavy until it runs as the child: a child must not inherit its parent's memory.
"""

from __future__ import annotations

import ctypes
import datetime
import importlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # the numbers of these parameters in glibc's malloc.h
TOLERANCE = 2e-5  # largest relative difference from the expected result in fp32


def run(
    case: str,
    arguments: dict[str, Any],
    *,
    full: bool = True,
    check: bool = False,
    budget: float = 0.7,
    most_rounds: int = 20,
) -> dict[str, Any]:
    """Runs one case in a fresh process and returns its record.

    Args:
        case: ``"module:function"``, the module beside this file or on PYTHONPATH.
        arguments: the function's keyword arguments (JSON values).
        full: whether to go through part 1 too; without it only part 2's time is measured.
        check: whether to compare the result with the expected one, after all measuring.
        budget: seconds; rounds are repeated until they took this long together (there is always one).
        most_rounds: rounds at most.

    Returns:
        A dict with ``case``, ``arguments``, ``returned`` (part 1: None, or ``first_call_seconds``, ``rounds_seconds``,
        ``baseline_bytes`` and ``peak_bytes``), ``rounds_seconds`` (part 2), ``allocator_obeys`` (whether it could be
        told anything; if not, both parts are as it is), ``error`` (relative, or None), ``versions``, ``hardware``.

    Raises:
        RuntimeError: the process failed; its own words are in the message.
    """
    spec = {"case": case, "arguments": arguments, "full": full, "check": check}
    spec |= {"budget": budget, "most_rounds": most_rounds}
    command = [sys.executable, __file__, json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        killed = done.returncode == -9
        hint = "killed by the system, most likely for want of memory; " if killed else ""
        raise RuntimeError(f"{case} {arguments}: {hint}exit status {done.returncode}\n{done.stderr[-2000:]}")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def provenance(command: str) -> dict[str, Any]:
    """Returns what a result file says about its making, besides versions and hardware: command, commit, date, load."""
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def about(result: dict[str, Any]) -> str:
    """Returns the lines of a result page that say how, when and on what it was made."""
    h, v = result["hardware"], result["versions"]
    return "\n".join(
        (
            f"- command: `{result['command']}`",
            f"- date: {result['date']}, commit: {result['commit']}",
            f"- versions: swindow {v['swindow']}, torch {v['torch']}, Python {v['python']}",
            f"- hardware: {h['cpu']} ({h['instructions']}), {h['cores']} cores, {h['threads']} threads, "
            f"{h['memory_gib']} GiB memory, {h['system']}; load average before: {result['load_average_before']}",
        )
    )


def _commit() -> str:
    """The commit measured, and whether the code differs from it; result files do not count."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results")
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"


def _measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Goes through both parts in this process."""
    module, function = spec["case"].split(":")
    build = getattr(importlib.import_module(module), function)
    run, expected = build(**spec["arguments"])
    effort = spec["budget"], spec["most_rounds"]
    returned = _returned(run, *effort) if spec["full"] else None
    obeys = _mallopt(MMAP_MAX, 0) and _mallopt(TRIM_THRESHOLD, -1)
    for _ in range(2):  # after one call the heap of a deep model has not reached its final size
        run()
    return {
        "case": spec["case"],
        "arguments": spec["arguments"],
        "returned": returned,
        "rounds_seconds": _rounds(run, *effort),
        "allocator_obeys": obeys,
        "error": _error(run, expected) if spec["check"] and expected else None,
        "versions": versions(),
        "hardware": hardware(),
    }


def _returned(run: Callable[[], Any], budget: float, most_rounds: int) -> dict[str, Any]:
    """Part 1: the time of calls that give their memory back, and their peak above what was resident before them."""
    _mallopt(MMAP_THRESHOLD, 2**17)
    first = _rounds(run, 0, 1)[0]
    _trim()
    _reset_peak()
    baseline = _peak()
    rounds = _rounds(run, budget, most_rounds)
    return {
        "first_call_seconds": first,
        "rounds_seconds": rounds,
        "baseline_bytes": baseline,
        "peak_bytes": max(_peak() - baseline, 1),  # 0 has no logarithm to fit
    }


def _rounds(run: Callable[[], Any], budget: float, most_rounds: int) -> list[float]:
    """Seconds of each of several calls: at least one, until ``budget`` seconds or ``most_rounds`` are reached."""
    seconds: list[float] = []
    while not seconds or (sum(seconds) < budget and len(seconds) < most_rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def _error(run: Callable[[], Any], expected: Callable[[], Any]) -> float:
    """The largest difference from the expected result, relative to its largest value; too large is a failure."""
    a, b = run(), expected()
    error = float((a - b).abs().max() / b.abs().max())
    if a.shape != b.shape or not error <= TOLERANCE:  # written so that NaN fails
        raise SystemExit(f"wrong result: relative error {error:.1e}, expected at most {TOLERANCE:.0e}")
    return error


def _peak() -> int:
    """The highest resident memory of this process in bytes.

    Linux's ``ru_maxrss`` starts at the *parent's* peak, so its own source, VmHWM, is read instead.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def _reset_peak() -> None:
    """Lowers the peak to what is resident now, where Linux lets us; else earlier peaks may hide the smallest cases."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _mallopt(parameter: int, value: int) -> bool:
    """Sets a parameter of glibc's malloc; returns whether it did (other systems have no such switch)."""
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (OSError, AttributeError):
        return False


def _trim() -> bool:
    """Returns all free memory to the system, which calls would fill again unseen; False where malloc is not glibc's."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def versions() -> dict[str, str]:
    import torch

    import swindow

    return {"python": platform.python_version(), "torch": torch.__version__, "swindow": swindow.__version__}


def hardware() -> dict[str, Any]:
    """The machine without its name: CPU, cores, threads, memory."""
    import torch

    try:
        cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1]  # type: ignore[index]
    except (OSError, TypeError):
        cpu = platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu.strip(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.argv[1]))))
