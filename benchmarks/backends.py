"""How fast is Swin on a CPU when something other than eager PyTorch runs it: compiled, or exported to a runtime?

    make bench-backends        or        python benchmarks/backends.py [--cases 0 1 ...] [--rounds 12] [--out DIR]

Writes backends.json and backends.md to benchmarks/results/. Takes more than an hour on two cores; nothing else should
run meanwhile. With some of the cases, the results of the others stay, if they are of the same versions and hardware. A
peer that a backend cannot take is named with the reason.

The same backend gets the same weights from every library, in fp32 but for int8, and outputs are compared. Every graph
is in a process of its own; those of one backend take turns with the bare matrix products, and all others are not there.
The measure is that of speed.py: time over the time of the matrix products.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import backends_report
import measure
import numpy as np
import speed
import torch
import tyro
from torch import Tensor, nn

import swindow
from swindow import timing

COMMAND = "make bench-backends (python benchmarks/backends.py)"
PROCESS = Path(__file__).with_name("backend_process.py")
MODULES = ("eager", "deploy", "inductor")  # that need no file
EXPORTED = ("onnxruntime", "openvino")
OURS_ONLY = ("deploy", "inductor", "aotinductor", "int8")
PAUSE = 0.05  # seconds before each call, in which the threads of the one before fall asleep


class Case(NamedTuple):
    """A model, a batch, an image, and what runs them; ``rounds`` over the number asked for; the peers, None for all."""

    variant: str
    batch: int
    size: tuple[int, int]
    backends: tuple[str, ...] = EXPORTED
    rounds: float = 1.0
    peers: tuple[str, ...] | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from the others."""
        return (self.variant, self.batch, *self.size, *self.backends)


LARGE = (768, 1024)
CASES = (
    Case("swin_tiny", 1, (224, 224), ("eager", *EXPORTED, "deploy", "inductor", "aotinductor", "int8"), 2),
    Case("swin_tiny", 8, (224, 224), (*EXPORTED, "int8")),
    Case("swinv2_tiny_w8", 1, (256, 256), EXPORTED, 2),
    Case("swinv2_tiny_w8", 8, (256, 256)),
    Case("swin_tiny", 1, LARGE),
    Case("swinv2_tiny_w8", 1, LARGE),
    Case("swin_tiny", 8, LARGE, ("openvino",), 0.4),
    Case("swinv2_tiny_w8", 8, LARGE, ("openvino",), 0.4),
    Case("swin_tiny", 8, LARGE, ("onnxruntime",), 0.4, ("transformers",)),  # 8 GB per graph: no more in 24 GB
    Case("swinv2_tiny_w8", 8, LARGE, ("onnxruntime",), 0.4, ("transformers",)),
)
QUICK = (Case("swin_tiny", 1, (224, 224), ("eager", "openvino")),)


def main(
    rounds: int = 12, out: Path = speed.RESULTS, quick: bool = False, cases: tuple[int, ...] = tuple(range(len(CASES)))
) -> None:
    """Measures everything.

    Args:
        rounds: of every case; some have more or fewer.
        out: where the results go.
        quick: one small case, to see that it works.
        cases: which of CASES, from 0; what the results say of others stays.
    """
    warnings.filterwarnings("ignore", category=UserWarning)  # of exporters, about themselves
    result = measure.provenance(COMMAND)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "backends.json"
    here = {"versions": versions(), "hardware": measure.hardware()}
    before = json.loads(file.read_text()) if file.exists() and not quick else {}
    kept = before["cases"] if all(before.get(name) == value for name, value in here.items()) else []
    found = {Case(*(_tuple(old[field]) for field in Case._fields)).key: old for old in kept}
    for case in QUICK if quick else [CASES[i] for i in cases]:
        found[case.key] = measured(case, rounds) | {"commit": result["commit"], "date": result["date"]}
        result["cases"] = [found[case.key] for case in (QUICK if quick else CASES) if case.key in found]
        result |= here
        file.write_text(json.dumps(result, indent=1) + "\n")
        (out / "backends.md").write_text(backends_report.page(result, measure.about(result)))
    print(f"written to {out}")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Every library in every backend of a case."""
    model, x = speed.build(speed.Case(case.variant, case.batch, case.size))
    peers = speed.installed(model, case.size)
    libraries = {speed.OURS: model} | {k: peer for k, peer in peers.items() if case.peers is None or k in case.peers}
    with torch.no_grad():
        expected = model(x)
    rows: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "images.npy", x.numpy())
        for backend in case.backends:
            chosen = {speed.OURS: model} if backend in OURS_ONLY else libraries
            runs = {}
            for library, module in chosen.items():
                try:
                    runs[f"{library}, {backend}"] = prepared(library, module, backend, case, x, folder)
                except RuntimeError as error:  # exporters' errors are: a peer that cannot be exported is reported
                    if library == speed.OURS:
                        raise
                    failed[f"{library}, {backend}"] = reason(error)
            rows |= in_turns(runs, case, expected, max(3, round(rounds * case.rounds)), folder, failed)
    return case._asdict() | {"rows": rows, "failed": failed}


def prepared(library: str, module: nn.Module, backend: str, case: Case, x: Tensor, folder: Path) -> dict[str, Any]:
    """What a process needs to know of a graph; files are written here."""
    begun = time.perf_counter()
    runs_in = {"int8": "onnxruntime"}.get(backend, backend)
    spec: dict[str, Any] = {"backend": runs_in, "file": "", "variant": case.variant, "seconds": 0.0}
    if backend in MODULES and library == speed.OURS:
        return spec
    if backend in MODULES:
        return spec | {"library": library}
    path = folder / f"{library}.{'pt2' if backend == 'aotinductor' else 'onnx'}"
    if library == speed.OURS:
        path = folder / f"{backend}{path.suffix}"
        kind = "aotinductor" if backend == "aotinductor" else "onnx"
        swindow.export(module, path, kind, size=case.size, batch=case.batch, int8=backend == "int8")  # type: ignore[arg-type]
    elif not path.exists():
        peer_onnx(module, x, path)
    return spec | {"file": str(path), "seconds": time.perf_counter() - begun}


def peer_onnx(module: nn.Module, x: Tensor, path: Path) -> None:
    """Another library's model as an ONNX file."""
    inner = getattr(module, "model", None)
    if inner is not None:  # of transformers: its scaled dot-product attention cannot be exported
        inner.set_attn_implementation("eager")
    with torch.no_grad():
        torch.onnx.export(module, (x,), dynamo=True, verbose=False).save(path)  # type: ignore[union-attr]
    if inner is not None:
        inner.set_attn_implementation("sdpa")


def in_turns(
    runs: dict[str, dict[str, Any]],
    case: Case,
    expected: Tensor,
    rounds: int,
    folder: Path,
    failed: dict[str, str],
) -> dict[str, Any]:
    """Opens the processes of a backend, compares their answers, and calls them in turns with the matrix products."""
    specs = {"products": {"backend": "products", "file": "", "variant": case.variant, "seconds": 0.0}} | runs
    processes: dict[str, Process] = {}
    rows: dict[str, Any] = {}
    try:
        for name, spec in specs.items():
            process = Process(spec, folder)
            try:
                rows[name] = {"build_seconds": spec["seconds"] + process.ready()}
                if name != "products":
                    rows[name]["error"] = checked(name, process.answer(), expected)
            except RuntimeError as error:
                process.close()
                if name.startswith((speed.OURS, "products")):
                    raise
                failed[name] = reason(error)
                rows.pop(name, None)
            else:
                processes[name] = process
        return timed(processes, rows, case, rounds)
    finally:
        for process in processes.values():
            process.close()


def checked(name: str, answer: Tensor, expected: Tensor) -> float:
    """How far an answer is from the expected one. Raises RuntimeError where that is too far."""
    error = speed.difference(answer, expected)
    if not error <= (0.2 if name.endswith("int8") else speed.TOLERANCE):
        raise RuntimeError(f"{name}: outputs differ by {error:.1e}")
    return error


def timed(processes: dict[str, Process], rows: dict[str, Any], case: Case, rounds: int) -> dict[str, Any]:
    """Calls the processes of a backend in turns; returns their rows with the times."""
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            time.sleep(PAUSE)
            seconds[name].append(process.call())
    for name in processes:
        rows[name] |= {"seconds": seconds[name], "products": timing.ratio(seconds[name], seconds["products"])._asdict()}
        print(f"{case.variant}, batch {case.batch}, {name}: {rows[name]['products']['median']:.2f}", flush=True)
    backend = next(name for name in rows if name != "products").split(", ")[1]
    return {f"products, beside {backend}" if name == "products" else name: row for name, row in rows.items()}


class Process:
    """A graph in a process of its own."""

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        self.file = Path(tempfile.mkdtemp(dir=folder)) / "answer.npy"
        spec = spec | {"images": str(folder / "images.npy"), "answer": str(self.file)}
        spec["threads"] = torch.get_num_threads()
        command = [sys.executable, str(PROCESS), json.dumps(spec)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ready(self) -> float:
        """Waits; returns the seconds that loading and the first answer took."""
        return self._line()

    def answer(self) -> Tensor:
        """Its first answer."""
        return torch.from_numpy(np.load(self.file))

    def call(self) -> float:
        """Calls it once; returns the seconds."""
        assert self.child.stdin is not None
        self.child.stdin.write("go\n")
        self.child.stdin.flush()
        return self._line()

    def close(self) -> None:
        """Ends it."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()

    def _line(self) -> float:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended with status {self.child.wait()}")
        return float(line)


def reason(error: Exception) -> str:
    """Why a peer was not run, in one line."""
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}"


def versions() -> dict[str, str]:
    """Of the libraries that ran."""
    return speed.versions() | {name: metadata.version(name) for name in ("openvino", "onnxruntime", "onnxscript")}


if __name__ == "__main__":
    tyro.cli(main)
