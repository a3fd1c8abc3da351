"""How fast is Swin on a CPU when something other than eager PyTorch runs it: compiled, or exported to a runtime?

    make bench-backends        or        python benchmarks/backends.py [--quick] [--rounds 12] [--out DIR]

Writes backends.json and backends.md to benchmarks/results/. Takes about 20 minutes on two cores, most of them for
exporting and compiling; nothing else should run meanwhile. A peer that a backend cannot take is named with the reason.

The same backend gets the same weights from every library, outputs are compared, and all are called in turns, in fp32.
The measure is that of speed.py: time over the time of the matrix products. At the end, int8: how fast, and how many of
the held-out digits a trained model still recognises.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable
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
from swindow.card import preprocessing
from swindow.data import digits
from swindow.inference.bench import matrix_products
from swindow.media import prepare
from swindow.training import TrainConfig, train

COMMAND = "make bench-backends (python benchmarks/backends.py)"
Run = Callable[[], Any]  # returns the logits, as a tensor or an array


def eager(model: nn.Module, x: Tensor) -> Run:
    return lambda: torch.no_grad()(model)(x)


def deploy(model: swindow.SwinTransformer, x: Tensor) -> Run:
    return eager(model.deploy(), x)


def inductor(model: nn.Module, x: Tensor) -> Run:
    """torch.compile, told that weights stay as they are, which it prepacks then."""
    compiled = torch.compile(model, dynamic=False, options={"freezing": True})
    return eager(compiled, x)


def aotinductor(model: nn.Module, x: Tensor) -> Run:
    """A library of machine code made from the exported graph, weights prepacked."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        package = torch._inductor.aoti_compile_and_package(
            torch.export.export(model, (x,)),
            package_path=f"{folder}/model.pt2",
            inductor_configs={"freezing": True},
        )
        return eager(torch._inductor.aoti_load_package(package), x)


def openvino(model: nn.Module, x: Tensor) -> Run:
    import openvino as ov

    with torch.no_grad():
        graph = ov.convert_model(torch.export.export(model, (x,)))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    settings["INFERENCE_PRECISION_HINT"] = "f32"  # else it takes bf16 where the processor has it
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    images = x.numpy()

    def run() -> np.ndarray:
        request.infer({0: images}, share_inputs=True, share_outputs=True)
        return request.get_output_tensor(0).data

    return run


def onnxruntime(model: nn.Module, x: Tensor) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        return session(onnx(model, x, Path(folder)), x)


def onnxruntime_int8(model: nn.Module, x: Tensor) -> Run:
    """Linear layers in int8: weights per channel, of 7 bits (AVX2 adds pairs up in 16), activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        settings = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
        constant = {"MatMulConstBOnly": True}  # attention stays in fp32
        quantize_dynamic(onnx(model, x, Path(folder)), path, **settings, extra_options=constant)
        return session(path, x)


def onnx(model: nn.Module, x: Tensor, folder: Path) -> Path:
    if hasattr(model, "model"):  # of transformers: its scaled dot-product attention cannot be exported
        model.model.set_attn_implementation("eager")
    with torch.no_grad():
        torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(folder / "fp32.onnx")
    if hasattr(model, "model"):
        model.model.set_attn_implementation("sdpa")
    return folder / "fp32.onnx"


def session(path: Path, x: Tensor) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else it takes time from who comes next
    made = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = {made.get_inputs()[0].name: x.numpy()}
    return lambda: made.run(None, images)[0]


BACKENDS = {f.__name__: f for f in (eager, deploy, inductor, aotinductor, openvino, onnxruntime)}
INT8 = "onnxruntime int8"
RUNTIMES = ("eager", "deploy", "openvino", "onnxruntime")


class Case(NamedTuple):
    """A model and a batch at 224 or 256 pixels, and what runs it."""

    variant: str
    batch: int
    size: tuple[int, int]
    backends: tuple[str, ...]
    rounds: float = 1.0


CASES = (
    Case("swin_tiny", 1, (224, 224), tuple(BACKENDS)),
    Case("swin_tiny", 8, (224, 224), RUNTIMES, 0.5),
    Case("swinv2_tiny_w8", 1, (256, 256), RUNTIMES),
    Case("swinv2_tiny_w8", 8, (256, 256), RUNTIMES, 0.5),
)
QUICK = (Case("swin_tiny", 1, (224, 224), ("eager", "openvino")),)


def main(rounds: int = 12, out: Path = speed.RESULTS, quick: bool = False) -> None:
    """Measures everything.

    Args:
        rounds: of every case; batches of 8 have half.
        out: where the results go.
        quick: one small model, to see that it works.
    """
    warnings.filterwarnings("ignore", category=UserWarning)  # of exporters, about themselves
    result = measure.provenance(COMMAND)
    result["cases"] = [measured(case, rounds) for case in (QUICK if quick else CASES)]
    result["accuracy"] = accuracy(1 if quick else 30)
    result |= {"versions": versions(), "hardware": measure.hardware()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "backends.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "backends.md").write_text(backends_report.page(result, measure.about(result)))
    print(f"written to {out}")


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Every library in every backend, in turns."""
    model, x = speed.build(speed.Case(case.variant, case.batch, case.size))
    libraries = {speed.OURS: model} | speed.installed(model, case.size)
    with torch.no_grad():
        expected = model(x)
    runs: dict[str, Run] = {"products": matrix_products(model, x)}
    runs["products, prepacked"] = matrix_products(model, x, prepacked=True)
    rows, failed = {}, {}
    for backend in case.backends:
        for library, module in libraries.items():
            if backend == "deploy" and library != speed.OURS:
                continue
            name = f"{library}, {backend}"
            try:
                runs[name], rows[name] = built(BACKENDS[backend], module, x, expected)
            except RuntimeError as error:
                if library == speed.OURS:
                    raise
                failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    name = f"{speed.OURS}, {INT8}"
    runs[name], rows[name] = built(onnxruntime_int8, model, x, expected, tolerance=0.2)
    seconds = timing.interleaved(runs, max(3, round(rounds * case.rounds)), pause=0.05)
    for name, times in seconds.items():
        rows.setdefault(name, {})
        rows[name] |= {"seconds": times, "products": timing.ratio(times, seconds["products"])._asdict()}
        print(f"{case.variant}, batch {case.batch}, {name}: {rows[name]['products']['median']:.2f}", flush=True)
    return case._asdict() | {"rows": rows, "failed": failed}


def built(
    make: Callable[[nn.Module, Tensor], Run], model: nn.Module, x: Tensor, expected: Tensor, tolerance: float = 2e-5
) -> tuple[Run, dict[str, float]]:
    """A backend's function, the seconds until its first answer, and how far that is from the expected one."""
    start = time.perf_counter()
    run = make(model.eval(), x)
    answer = torch.as_tensor(run()).clone()
    seconds = time.perf_counter() - start
    error = speed.difference(answer, expected)
    if not error <= tolerance:
        raise RuntimeError(f"outputs differ by {error:.1e}")
    print(f"{make.__name__}: built in {seconds:.1f} s, differs by {error:.0e}", flush=True)
    return run, {"build_seconds": seconds, "error": error}


def accuracy(epochs: int) -> dict[str, Any]:
    """A model trained on the digits, as `make demo` does: how many of those held out it recognises, fp32 and int8."""
    with tempfile.TemporaryDirectory() as folder:
        run = train("digits", TrainConfig(epochs=epochs, out=Path(folder) / "run", device="cpu"))
        model = swindow.load(run.out)
    held_out, how = digits().held_out, preprocessing(model.card, channels=1)
    x = torch.stack([prepare(held_out[i].media.decode(), how) for i in range(len(held_out))])
    truth = torch.from_numpy(held_out.labels())
    found = {name: torch.as_tensor(make(model, x)()).argmax(-1) for name, make in TRAINED.items()}
    return {
        "images": len(truth),
        "right": {name: int((classes == truth).sum()) for name, classes in found.items()},
        "same_as_eager": {name: int((classes == found["eager"]).sum()) for name, classes in found.items()},
    }


TRAINED = {"eager": eager, "onnxruntime": onnxruntime, INT8: onnxruntime_int8}


def versions() -> dict[str, str]:
    from importlib import metadata

    return speed.versions() | {name: metadata.version(name) for name in ("openvino", "onnxruntime", "onnxscript")}


if __name__ == "__main__":
    tyro.cli(main)
