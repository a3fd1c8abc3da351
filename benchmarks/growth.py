"""How do time and memory grow with the batch, the window, a large image and many sizes, beside other libraries?

    make bench        or        python benchmarks/growth.py [--part batch ...] [--quick] [--fresh] [--out DIR]

Writes growth.json as it goes, and growth.md, to benchmarks/results/. Takes about an hour on two cores; nothing else
should run meanwhile. A part that was stopped goes on where it stopped if the commit is still the same; ``--fresh``
starts it again. The parts:

- ``batch``: Swin-T at 224 pixels, batches of 1 to 64.
- ``window``: two blocks of Swin-T's first stage on one map, windows of 7 to 32 tokens a side.
- ``large``: Swin-T on one image of 4096 x 4096 pixels.
- ``sizes``: resident memory of one process that meets a thousand image sizes.

Every case has a process of its own. A process may take the memory that is available when it starts, less a reserve; a
library that needs more, or refuses the size, is named with the reason. How cost grows with the image: scaling.py.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cases
import growth_report
import measure
import peer_models
import speed
import torch
import tyro
from torch import Tensor, nn

import swindow

COMMAND = "make bench (python benchmarks/growth.py)"
RESULTS = Path(__file__).resolve().parent / "results"
LIBRARIES = (speed.OURS, speed.DEPLOYED, "timm", "torchvision", "transformers")
PAIRS = (speed.OURS, "timm", "torchvision")  # whose blocks can be built by themselves
BATCHES = (1, 4, 16, 64)
WINDOWS = (7, 8, 14, 16, 28, 32)  # tokens; they divide MAP, so that nothing is padded
MAP = 224  # tokens a side: an image of 896 pixels
LARGE = 4096  # pixels
WAYS = (speed.OURS, speed.DEPLOYED, "swindow, training", "timm", "timm, training")
SIZES, EVERY = 1000, 100
QUICK = (speed.OURS, "timm", "timm, training")
GRIDS = range(8, 65)  # tokens a side of the images in ``sizes``: 32 to 256 pixels
RESERVE = 2 * 2**30  # bytes that are left to the system
NAMES = {  # of a block's parameters: ours, timm's, torchvision's
    "attn.position_bias.table": ("attn.relative_position_bias_table",) * 2,
    "mlp.fc1.": ("mlp.fc1.", "mlp.0."),
    "mlp.fc2.": ("mlp.fc2.", "mlp.3."),
}


class Case(NamedTuple):
    """One process: a function of this module and its arguments; ``library`` is who is measured."""

    name: str
    function: str
    arguments: dict[str, Any]
    check: bool = False  # whether to compare the result with that of the literal implementation

    @property
    def library(self) -> str:
        return self.arguments["library"]


def main(
    part: tuple[growth_report.Part, ...] = growth_report.PARTS,
    passes: int = 3,
    out: Path = RESULTS,
    quick: bool = False,
    fresh: bool = False,
) -> None:
    """Measures the parts asked for; the page shows all that growth.json holds.

    Args:
        part: which parts.
        passes: how often every case is run; ``sizes`` has one pass.
        out: where the results go.
        quick: tiny sizes in one pass, to see that it works.
        fresh: starts parts again instead of going on.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / "growth.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in part:
        before = result.get(name, {})
        about = measure.provenance(COMMAND + (" --quick" if quick else ""))
        result[name] = about | {"versions": speed.versions(), "hardware": measure.hardware(), "cases": {}}
        if not fresh and (before.get("commit"), before.get("command")) == (about["commit"], about["command"]):
            result[name] = before
        for case, number in turns(cases_of(name, quick), 1 if quick or name == "sizes" else passes):
            records = result[name]["cases"].setdefault(case.name, [])
            if number < len(records):
                continue
            start = time.perf_counter()
            records.append(record(name, case, number == 0, quick))
            file.write_text(json.dumps(result, indent=1) + "\n")
            reason = records[-1].get("failed", "")
            print(f"[{name}, pass {number + 1}] {case.name}: {time.perf_counter() - start:.0f} s {reason}", flush=True)
    (out / "growth.md").write_text(growth_report.page(result))
    print(f"written: growth.json and growth.md in {out}")


def cases_of(part: growth_report.Part, quick: bool = False) -> list[Case]:
    """Returns the cases of a part; libraries that are not installed have none."""
    if part == "batch":
        sweep = [
            Case(f"{library}, {batch}", "whole", {"library": library, "batch": batch, "side": 224}, batch <= 4)
            for batch in ((1, 2) if quick else BATCHES)
            for library in LIBRARIES
        ]
    elif part == "window":
        sweep = [
            Case(f"{library}, {m}", "pair", {"library": library, "window": m, "side": 28 if quick else MAP}, True)
            for m in ((7, 14) if quick else WINDOWS)
            for library in PAIRS
        ]
    elif part == "large":
        side = 224 if quick else LARGE
        sweep = [Case(library, "large", {"library": library, "side": side}) for library in LIBRARIES]
    else:
        count, every = (4, 2) if quick else (SIZES, EVERY)
        sweep = [Case(way, "sizes", {"library": way, "count": count, "every": every}) for way in WAYS]
    return [case for case in sweep if is_installed(case.library) and (not quick or case.library in QUICK)]


def is_installed(library: str) -> bool:
    name = library.split(",")[0]
    return name.startswith(speed.OURS) or importlib.util.find_spec(name) is not None


def turns(sweep: Sequence[Case], passes: int) -> list[tuple[Case, int]]:
    """Returns every case once per pass, every second pass backwards."""
    return [(case, i) for i in range(passes) for case in (sweep[::-1] if i % 2 else sweep)]


def record(part: growth_report.Part, case: Case, first: bool, quick: bool = False) -> dict[str, Any]:
    """Runs a case; where another library fails, the record is the reason.

    Raises:
        RuntimeError: swindow failed.
    """
    asked = {"arguments": case.arguments}
    try:
        if part in ("large", "sizes"):
            return asked | alone(case)
        how = {"full": first, "check": first and case.check, "budget": 0.05 if quick else 0.7}
        found = measure.run(f"growth:{case.function}", case.arguments, **how)
        return asked | {key: found[key] for key in ("returned", "rounds_seconds", "error")}
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        if case.library.startswith(speed.OURS):
            raise
        return asked | {"failed": why(str(error))}


def alone(case: Case) -> dict[str, Any]:
    """Runs a function in a process of its own, as it is: the memory allocator as shipped."""
    command = [sys.executable, __file__, "alone", case.function, json.dumps(case.arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        killed = done.returncode == -9
        reason = "killed by the system, most likely for want of memory" if killed else done.stderr[-2000:]
        raise RuntimeError(f"{case.name}: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def why(message: str) -> str:
    """Returns the line of an error message that says the reason: the last that names an error, else the last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return (named or lines)[-1][:300]


def whole(library: str, batch: int, side: int) -> cases.Built:
    """Swin-T of one library."""
    limit_memory()
    model, x = speed.build(speed.Case("swin_tiny", batch, (side, side)))
    called = the(library, model, side)
    return cases.Built(lambda: cases._infer(called, x), cases._against_reference(model, x).expected)


def pair(library: str, window: int, side: int) -> cases.Built:
    """W-MSA and SW-MSA of Swin-T's first stage on a map of ``side`` x ``side`` tokens, of one library."""
    limit_memory()
    torch.manual_seed(0)
    ours, x = cases._pair(window), torch.randn(1, side, side, 96)
    with torch.no_grad():
        for parameter in ours.parameters():  # as initialised, the branches are too small to be seen beside their input
            parameter.add_(torch.randn_like(parameter) * 0.1)
    called = ours if library == speed.OURS else nn.Sequential(*pair_of(library, ours, window, side)).eval()
    return cases.Built(lambda: cases._infer(called, x), cases._against_reference(ours, x).expected)


def pair_of(library: str, ours: nn.Sequential, window: int, side: int) -> list[nn.Module]:
    """The two blocks of another library, with the weights of ours."""
    module = peer_models._import(f"{library}.models.swin_transformer")
    made: list[nn.Module] = []
    for block, shift in zip(ours, (0, window // 2)):
        if library == "timm":
            peer = module.SwinTransformerBlock(96, (side, side), num_heads=3, window_size=window, shift_size=shift)
        else:
            peer = module.SwinTransformerBlock(96, 3, [window, window], [shift, shift])
        weights = {}
        for name, weight in block.state_dict().items():
            for mine, theirs in NAMES.items():
                name = name.replace(mine, theirs[PAIRS.index(library) - 1])
            weights[name] = weight
        peer.load_state_dict(peer.state_dict() | weights)
        made.append(peer)
    return made


@torch.no_grad()
def large(library: str, side: int) -> dict[str, Any]:
    """The first call on one large image: its seconds, peak memory, and the first logits for comparison."""
    limit_memory()
    model, x = speed.build(speed.Case("swin_tiny", 1, (side, side)))
    called = the(library, model, side)
    if called is not model:
        del model
    measure._trim()
    measure._reset_peak()
    before = measure._peak()
    start = time.perf_counter()
    y = called(x)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak": measure._peak() - before,
        "total": measure._peak(),
        "logits": y[0, :10].tolist(),
    }


def the(library: str, model: swindow.SwinTransformer, side: int) -> nn.Module:
    """A library's model with our weights."""
    called = speed.library(library, model, (side, side))
    if called is None:
        raise RuntimeError(f"{library} is not installed")
    return called


def sizes(library: str, count: int, every: int) -> dict[str, Any]:
    """Resident memory (bytes) after the largest size, after every so many different ones, and trimmed at the end."""
    limit_memory()
    torch.manual_seed(0)
    name, _, how = library.partition(", ")
    call = caller(flexible(name), how == "training")
    for _ in range(2):
        call(torch.randn(1, 3, 4 * GRIDS[-1], 4 * GRIDS[-1]))
    resident, start = [resident_bytes()], time.perf_counter()
    for number, (height, width) in enumerate(grids(count), start=1):
        call(torch.randn(1, 3, 4 * height, 4 * width))
        if number % every == 0:
            resident.append(resident_bytes())
    seconds = time.perf_counter() - start
    return {"resident": resident, "trimmed": resident_bytes() if measure._trim() else None, "seconds": seconds}


def grids(count: int) -> list[tuple[int, int]]:
    """Returns so many different maps (rows and columns of tokens), the same ones every time."""
    return random.Random(0).sample([(height, width) for height in GRIDS for width in GRIDS], count)


def flexible(name: str) -> nn.Module:
    """Swin-T of a library, for images of any size."""
    if name.startswith(speed.OURS):
        model = swindow.create("swin_tiny").eval()
        return model.deploy() if name == speed.DEPLOYED else model
    timm = peer_models._import("timm")
    return timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, dynamic_img_size=True).eval()


def caller(model: nn.Module, training: bool) -> Callable[[Tensor], Any]:
    """What is done with an image: inference, or forward and backward."""
    if training:
        return lambda x: speed.step(model, x, speed.Case("swin_tiny", len(x), tuple(x.shape[2:])))()
    return lambda x: speed.inferring(model, x)()


def resident_bytes() -> int:
    """Resident memory of this process now; where the system does not tell, its highest."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return measure._peak()
    return int(re.search(r"VmRSS:\s*(\d+) kB", status)[1]) * 1024


def limit_memory(reserve: int = RESERVE) -> None:
    """Limits this process to the memory that is available now, less a reserve: allocations fail before memory is out.

    On systems without /proc/meminfo nothing is limited.

    Raises:
        RuntimeError: less than the reserve is available.
    """
    try:
        available = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return
    limit = int(available[1]) * 1024 - reserve
    if limit <= 0:
        raise RuntimeError(f"got {limit + reserve} bytes of available memory, expected more than {reserve}; end others")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:
        print(json.dumps({"large": large, "sizes": sizes}[sys.argv[2]](**json.loads(sys.argv[3]))))
    else:
        tyro.cli(main)
