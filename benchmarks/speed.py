"""How fast is swindow on a CPU, beside the other implementations and beside its bare matrix products?

    make bench        or        python benchmarks/speed.py [--quick] [--rounds 8] [--out DIR]

Writes speed.json (everything), speed.md (tables) and speed.png (a chart) to benchmarks/results/. Takes about half an
hour on two cores; nothing else should run meanwhile. The peers are in peer_models.py; one that is not installed is left
out.

All libraries run with the same weights in one process, in turns, after their outputs were compared. The measure is time
over the time of the *matrix products*: the linear layers of the blocks alone, through ``F.linear``, at the same sizes,
in the same rounds. Some cases are measured again, with peak memory, in a process of its own for each library.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import measure
import peer_models
import speed_report
import torch
import tyro
from torch import Tensor, nn

import swindow
from swindow import timing
from swindow.inference.bench import matrix_products
from swindow.kernels import products

COMMAND = "make bench (python benchmarks/speed.py)"
RESULTS = Path(__file__).resolve().parent / "results"
HALF_TOLERANCE = 5e-2
TOLERANCE = 2e-5  # largest difference between the outputs of two libraries, over the largest output


class Case(NamedTuple):
    """A model, a batch, an image; ``rounds`` over the number asked for; ``half``: under autocast to bfloat16.

    ``drop_path``: stochastic depth of the last block, in training.
    """

    variant: str
    batch: int
    size: tuple[int, int]
    rounds: float = 1.0
    half: bool = False
    drop_path: float = 0.0

    def autocast(self) -> torch.autocast:
        """The context in which the libraries run."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)


INFERENCE = (
    Case("swin_tiny", 1, (224, 224)),
    Case("swin_tiny", 8, (224, 224), 0.6),
    Case("swin_tiny", 1, (768, 1024), 0.5),
    Case("swinv2_tiny_w8", 1, (256, 256)),
    Case("swinv2_tiny_w8", 8, (256, 256), 0.6),
    Case("swinv2_tiny_w8", 1, (768, 1024), 0.5),
)
HALF = (Case("swin_tiny", 1, (224, 224), 1, half=True), Case("swin_tiny", 8, (224, 224), 0.6, half=True))
TRAINING = (Case("swin_tiny", 8, (224, 224), 0.5), Case("swinv2_tiny_w8", 8, (256, 256), 0.4))
DROPPING = tuple(case._replace(drop_path=0.2) for case in TRAINING)  # as in the paper
HALF_TRAINING = tuple(case._replace(half=True) for case in TRAINING)
QUICK = (Case("swin_tiny", 1, (224, 224)),)
ALONE = (
    *((case, True) for case in (*TRAINING, *DROPPING)),
    (INFERENCE[1], False),
    (INFERENCE[4], False),
)  # case, training
HALF_ALONE = (*((case, True) for case in HALF_TRAINING), *((case, False) for case in HALF))
OURS, DEPLOYED, BFLOAT16 = "swindow", "swindow deploy", "swindow, weights in bfloat16"
HERE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"


def main(rounds: int = 8, out: Path = RESULTS, quick: bool = False) -> None:
    """Measures everything.

    Args:
        rounds: of every case; some have fewer.
        out: where the results go.
        quick: one small image, to see that it works.
    """
    result = measure.provenance(COMMAND)
    result["processor"] = products.description()
    bf16 = products.processor().bf16
    small = QUICK + tuple(case._replace(half=True) for case in QUICK if bf16)
    result["inference"] = [inference(case, rounds) for case in (small if quick else INFERENCE + HALF * bf16)]
    result["training"] = [
        training(case, rounds) for case in (small if quick else TRAINING + DROPPING + HALF_TRAINING * bf16)
    ]
    each = tuple((case, False) for case in small) if quick else ALONE + HALF_ALONE * bf16
    result["alone"] = [alone(case, training) for case, training in each]
    result["startup"] = startup(3 if quick else 9)
    result |= {"versions": versions(), "hardware": measure.hardware()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "speed.md").write_text(speed_report.page(result, measure.about(result)))
    speed_report.chart(result, out / "speed.png")
    print(f"written to {out}")


def inference(case: Case, rounds: int) -> dict[str, Any]:
    """Ours, plain and deployed, and every peer; the limit, and the same with prepacked weights."""
    model, x = build(case)
    calls: dict[str, nn.Module] = {OURS: model, BFLOAT16 if case.half else DEPLOYED: twin(model, case.half)}
    found, errors = installed(model, case.size), {}
    calls |= found
    with torch.no_grad():
        expected = model(x)
        with case.autocast():
            for name, call in calls.items():
                errors[name] = difference(call(x).float(), expected)
    accept(errors, case)
    cases: dict[str, timing.Call] = {"products": within(case, matrix_products(model, x))}
    if not case.half:
        cases["products, prepacked"] = matrix_products(model, x, prepacked=True)
    cases |= {name: within(case, inferring(call, x)) for name, call in calls.items()}
    return summary(case, cases, rounds, errors, list(found))


def training(case: Case, rounds: int) -> dict[str, Any]:
    """Forward and backward, without an optimiser."""
    model, x = build(case)
    found, errors = installed(model, case.size), {}
    calls: dict[str, nn.Module] = {OURS: model} | found
    steps = {name: step(call, x, case) for name, call in calls.items()}
    alone = within(case, matrix_products(model, x, training=True))
    return summary(case, {"products": alone} | steps, rounds, errors, list(found))


def alone(case: Case, training: bool) -> dict[str, Any]:
    """A process for each library: time as shipped, and peak memory above what is built."""
    rows = {}
    for name in (OURS, *([] if training or case.half else [DEPLOYED]), *peer_models.PEERS):
        command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), name, json.dumps([*case, training])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        row = json.loads(done.stdout.splitlines()[-1])
        if row is not None:
            rows[name] = row
            print(f"alone, {name}: {statistics.median(row['seconds']):.2f} s, {row['peak'] / 1e6:.0f} MB", flush=True)
    return case._asdict() | {"training": training, "rows": rows}


PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import measure, speed
from swindow import timing
from swindow.inference.bench import matrix_products
*fields, training = json.loads(sys.argv[3])
case = speed.Case(*fields)
model, x = speed.build(case)
library = speed.library(sys.argv[2], model, case.size)
if library is None:
    print("null")
else:
    products = speed.within(case, matrix_products(model, x, training=training))
    if library is not model:
        del model
    run = speed.step(library, x, case) if training else speed.within(case, speed.inferring(library, x))
    measure._trim()
    measure._reset_peak()
    before = measure._peak()
    for _ in range(3):
        run()
    peak = measure._peak() - before
    seconds = timing.interleaved({"products": products, "run": run}, 6, 1)
    print(json.dumps({"peak": peak, "seconds": seconds["run"], "products": seconds["products"]}))
"""


def build(case: Case) -> tuple[swindow.SwinTransformer, Tensor]:
    """Our model with every parameter random, and images. Padding is attended to, as in the peers."""
    torch.manual_seed(0)
    model = swindow.create(case.variant, mask_padding=False, drop_path_rate=case.drop_path).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model, torch.randn(case.batch, 3, *case.size)


def library(name: str, model: swindow.SwinTransformer, size: tuple[int, int]) -> nn.Module | None:
    """One of those compared, or None where it is not installed."""
    if name in (OURS, DEPLOYED):
        return model if name == OURS else model.deploy()
    return peer_models.PEERS[name](model, size)


def installed(model: swindow.SwinTransformer, size: tuple[int, int]) -> dict[str, nn.Module]:
    made = {name: make(model, size) for name, make in peer_models.PEERS.items()}
    return {name: peer for name, peer in made.items() if peer is not None}


def inferring(model: nn.Module, x: Tensor) -> timing.Call:
    return lambda: torch.no_grad()(model)(x)


def step(model: nn.Module, x: Tensor, case: Case) -> timing.Call:
    model.train()

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with case.autocast():
            y = model(x)
        y.float().square().mean().backward()

    return run


def within(case: Case, run: timing.Call) -> timing.Call:
    def call() -> Any:
        with case.autocast():
            return run()

    return call


def twin(model: swindow.SwinTransformer, half: bool) -> nn.Module:
    """The deployed twin, or the model with its weights in bfloat16."""
    return Half(copy.deepcopy(model).bfloat16()) if half else model.deploy()


class Half(nn.Module):
    """A model in bfloat16 that takes images in fp32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.model(x.bfloat16())


def summary(
    case: Case, cases: dict[str, timing.Call], rounds: int, errors: dict[str, float], found: list[str]
) -> dict[str, Any]:
    seconds = timing.interleaved(cases, max(3, round(rounds * case.rounds)))
    rows = {
        name: {
            "seconds": times,
            "products": timing.ratio(times, seconds["products"])._asdict(),
            "error": errors.get(name),
        }
        for name, times in seconds.items()
    }
    fastest = min(found, key=lambda name: rows[name]["products"]["median"]) if found else None
    for name in rows if fastest else ():
        rows[name]["fastest peer"] = timing.ratio(seconds[name], seconds[fastest])._asdict()
    shown = ", ".join(f"{name} {row['products']['median']:.2f}" for name, row in rows.items())
    how = ", bfloat16" * case.half + f", stochastic depth {case.drop_path}" * (case.drop_path > 0)
    print(f"{case.variant}, batch {case.batch}, {case.size}{how}: {shown}", flush=True)
    return case._asdict() | {"rows": rows, "fastest_peer": fastest}


def accept(errors: dict[str, float], case: Case) -> None:
    """Stops where a library gives something else; timm does so where it pads: it rolls first (timm#2438)."""
    whole = 32 * (8 if "v2" in case.variant else 7)  # pixels of a window in the last stage
    pads = any(side % whole for side in case.size)
    for name, error in errors.items():
        if not error <= (HALF_TOLERANCE if case.half else TOLERANCE) and not (name == "timm" and pads):
            raise RuntimeError(f"{case}: {name} differs by {error:.1e}")


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def startup(rounds: int) -> dict[str, Any]:
    """Seconds of whole processes and of building a model, in turns."""
    scripts = {
        "python": "",
        "import torch": "import torch",
        "import torch, swindow": "import torch, swindow",
        "import torch, timm": f"{HERE}; import peer_models; peer_models._import('timm')",
        "swindow --help": None,
        "swindow variants": None,
    }
    seconds: dict[str, list[float]] = {name: [] for name in scripts}
    for _ in range(rounds):
        for name, script in scripts.items():
            command = name.split() if script is None else ["-c", script]
            command = [sys.executable, "-m", *command] if script is None else [sys.executable, *command]
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    model = swindow.create("swin_tiny")

    def fill() -> None:
        for parameter in model.parameters():
            nn.init.normal_(torch.empty_like(parameter), std=0.02)

    seconds |= timing.interleaved({"create": lambda: swindow.create("swin_tiny"), "fill": fill}, rounds)
    return {name: {"median": statistics.median(times), "seconds": times} for name, times in seconds.items()}


def versions() -> dict[str, str]:
    from importlib import metadata

    found = measure.versions()
    for name in ("timm", "torchvision", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    tyro.cli(main)
