"""What runs exported files: ONNX Runtime, OpenVINO, torch.export's modules and AOTInductor's libraries.

The libraries are imported when a file is opened. All of them take and give tensors on the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, InputError
from .exported import EXTRA, LARGEST, MOST_IMAGES, SMALLEST, Description, ExportInfo, Format, describe, require, short
from .harmless import check_harmless

READERS: Mapping[Format, tuple[str, ...]] = {  # for every format what runs it, fastest first
    "onnx": ("openvino", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "aotinductor": ("aotinductor",),
}
Run = Callable[[np.ndarray], "list[np.ndarray]"]  # one batch as the file takes it


class Opener(Protocol):
    """Opens a file in a runtime."""

    def __call__(self, path: Path, about: ExportInfo, device: str, precision: str, threads: int) -> Run:
        """Returns what runs a batch."""
        ...


class FileRuntime:
    """Runs an exported file.

    Args:
        path: the file.
        run: runs a batch in the library that reads the file.
        about: what the file takes and gives.
        name: of the library.
        device: where it runs.
        several: whether an image may have several labels.

    Attributes:
        about: as given.
        name: as given.
        takes_photos: whether its input is photos (B, H, W, channels) as uint8.
    """

    def __init__(
        self, path: Path, run: Run, about: ExportInfo, name: str, device: str = "cpu", several: bool = False
    ) -> None:
        self.path, self.about, self.name, self.several = path, about, name, several
        self.takes_photos = about.photos
        self._run, self._device = run, torch.device("cuda" if device.startswith("cuda") else "cpu")

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """Returns the outputs for a batch of any size: logits for a file that gives probabilities."""
        (x,) = inputs.values()
        outputs = self.outputs(x)
        if self.about.what == "probabilities":
            return outputs[0].logit() if self.several else outputs[0].log()
        return outputs if self.about.what == "pyramid" else outputs[0]

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Returns the outputs of the file as they are, for a batch of any size.

        Raises:
            InputError: the input is of a size or type that the file does not take.
        """
        self._check(x)
        batch = np.ascontiguousarray(x.detach().cpu().numpy())
        size = self.about.batch or min(len(batch), MOST_IMAGES)
        parts = [self._part(batch[i : i + size], self.about.batch or 0) for i in range(0, len(batch), max(1, size))]
        if not parts:
            raise InputError(f"{self.path.name}: got a batch of no images, expected at least one")
        return [torch.from_numpy(np.concatenate(some)) for some in zip(*parts)]

    def _part(self, batch: np.ndarray, size: int) -> list[np.ndarray]:
        """The outputs of some images; a file of a fixed batch of ``size`` gets the last one several times."""
        count = len(batch)
        if count < size:
            batch = np.concatenate((batch, np.repeat(batch[-1:], size - count, 0)))
        return [np.array(y[:count]) for y in self._run(batch)]

    def _check(self, x: Tensor) -> None:
        about, config = self.about, self.about.config
        if about.photos:
            expected, right = f"(batch, height, width, {config.in_chans}) of uint8", x.dtype == torch.uint8
            right = right and x.ndim == 4 and x.shape[-1] == config.in_chans
        else:
            sizes = (f"{SMALLEST} to {LARGEST}",) * config.ndim if about.size is None else about.size
            expected = f"(batch, {config.in_chans}, {', '.join(map(str, sizes))}) of float32"
            right = x.dtype == torch.float32 and x.ndim == config.ndim + 2 and x.shape[1] == config.in_chans
            sides = tuple(x.shape[2:])
            right = right and (
                sides == about.size if about.size else SMALLEST <= min(sides[-2:]) <= max(sides) <= LARGEST
            )
        if not right:
            raise InputError(
                f"{self.path.name}: got an input {tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}, expected "
                f"{expected}; another size needs another export"
            )


def open_file(
    path: str | Path,
    runtime: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> tuple[FileRuntime, Description]:
    """Returns what runs an exported file, and what the file says of itself.

    Args:
        path: the file.
        runtime: "onnxruntime", "openvino", "torch" or "aotinductor"; "auto": the fastest that is installed.
        device: "cpu" (also None and "auto"), "cuda" for ONNX Runtime built for it; "gpu" or "npu" for OpenVINO.
        precision: "fp32", "bf16" or "fp16", in which OpenVINO computes; None: fp32, for a file of 16-bit weights
            their type.
        threads: of the CPU; None: as many as PyTorch uses.
        trust: whether files that hold code are loaded.

    Raises:
        CheckpointError: there is no such file, it is broken, or holds code and is not trusted.
        ConfigError: an argument is wrong, or what runs the file is not installed.
    """
    path = Path(path).expanduser()
    kind, found = describe(path)
    readers = READERS[kind]
    place = "cpu" if device in (None, "auto") else str(device)
    if runtime == "auto":
        # OpenVINO is slower with our .onnx files in int8, and answers otherwise (benchmarks/results/int8.md).
        first = kind == "onnx" and (place.startswith("cuda") or found.about.int8 is not None)
        runtime = "onnxruntime" if first else _fastest(readers)
    if runtime not in readers:
        raise ConfigError(f"runtime: got {runtime!r} for {path.name}, expected one of auto, {', '.join(readers)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads: got {threads}, expected at least 1")
    if not trust and kind in ("torch", "aotinductor"):
        check_harmless(path, compiled=kind == "aotinductor")
    chosen = precision or found.about.precision
    if runtime != "openvino" and chosen != found.about.precision:
        raise ConfigError(
            f"precision: got {chosen!r} for {path.name}, which computes in {found.about.precision}; export it anew"
        )
    if threads is not None and runtime in ("torch", "aotinductor"):
        raise ConfigError(f"threads: {path.name} runs in PyTorch; try torch.set_num_threads, or OMP_NUM_THREADS")
    run = OPENERS[runtime](path, found.about, place, chosen, threads or torch.get_num_threads())
    return FileRuntime(path, run, found.about, runtime, place, found.card.task == "multilabel"), found


def _fastest(readers: Sequence[str]) -> str:
    """The first of some runtimes that is installed."""
    from importlib.util import find_spec

    for name in readers:
        if name in ("torch", "aotinductor") or find_spec(name) is not None:
            return name
    raise ConfigError(f"none of {', '.join(readers)} is installed; try {EXTRA}")


def _onnxruntime(path: Path, about: ExportInfo, device: str, precision: str, threads: int) -> Run:
    ort = require("onnxruntime")
    kind, _, number = device.partition(":")
    provider: Any = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind)
    if provider not in ort.get_available_providers():
        raise ConfigError(f"device: got {device!r}, which this onnxruntime does not have; try 'cpu'")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    provider = (provider, {"device_id": number}) if number else provider
    try:
        session = ort.InferenceSession(path, options, providers=[provider])
    except _errors(ort) as error:
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it ({short(error)})") from error
    if session.get_providers()[0] != f"{kind.upper()}ExecutionProvider":
        raise ConfigError(f"device: got {device!r}, which ONNX Runtime cannot use here ({session.get_providers()[0]})")
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def _errors(ort: Any) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes of its own, which have no common one."""
    own = vars(ort.capi.onnxruntime_pybind11_state).values()
    return (*(kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception)), RuntimeError, ValueError)


def _openvino(path: Path, about: ExportInfo, device: str, precision: str, threads: int) -> Run:
    ov = require("openvino")
    hint = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}.get(precision)
    if hint is None:
        raise ConfigError(f"precision: got {precision!r}, expected one of fp32, fp16, bf16")
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    core = ov.Core()
    place = device.upper()
    if place.partition(".")[0].partition(":")[0] not in ("CPU", "GPU", "NPU", "AUTO"):
        raise ConfigError(f"device: got {device!r}, expected cpu, gpu or npu for OpenVINO")
    if place == "CPU":  # left alone it computes in bf16 on processors that have it
        hint = "f32" if hint == "f32" else next(iter(_halves(core, hint)), "f32")
        settings["INFERENCE_NUM_THREADS"] = threads
    if place != "NPU":
        settings["INFERENCE_PRECISION_HINT"] = hint
    try:
        compiled = core.compile_model(path, place, settings)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: OpenVINO cannot load it ({short(error)})") from error

    requests = threading.local()  # a request serves one thread

    def run(batch: np.ndarray) -> list[np.ndarray]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        found = requests.own.infer({0: batch}, share_inputs=True, share_outputs=True)
        return [found[i] for i in range(len(compiled.outputs))]

    return run


def _halves(core: Any, first: str) -> list[str]:
    """The 16-bit types in which OpenVINO computes on this CPU, the one asked for first."""
    known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    halves = [hint for hint, name in (("bf16", "BF16"), ("f16", "FP16")) if name in known]
    return sorted(halves, key=lambda hint: hint != first)


def _torch(path: Path, about: ExportInfo, device: str, precision: str, threads: int) -> Run:
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # whatever a broken archive makes it raise
        raise CheckpointError(f"{path}: broken, or of another version of PyTorch ({short(error)})") from error
    return _module(module, device)


def _aotinductor(path: Path, about: ExportInfo, device: str, precision: str, threads: int) -> Run:
    try:
        library = torch._inductor.aoti_load_package(path)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: its library cannot be loaded here ({short(error)}); export it here") from error
    return _module(library, device)


def _module(module: Any, device: str) -> Run:
    """Runs a module of PyTorch, where its weights lie."""
    if device != "cpu":
        raise ConfigError(f"device: got {device!r}, expected cpu: the file was exported on it")

    @torch.inference_mode()
    def run(batch: np.ndarray) -> list[np.ndarray]:
        outputs = module(torch.from_numpy(batch))
        return [y.numpy() for y in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]

    return run


OPENERS: Mapping[str, Opener] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "aotinductor": _aotinductor,
}
