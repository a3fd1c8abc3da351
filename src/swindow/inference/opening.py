"""From what a user has (a model, a checkpoint, a name on a hub) to what runs, and a card that says how."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..card import ModelCard
from ..checkpoints import Parts, load_parts
from ..devices import pick_device
from ..errors import ConfigError
from ..models import SimMIM, SwinModel, SwinTransformer, require_swin
from ..models.assemble import assemble
from ..models.deployed import DeployedTransformer
from ..tasks import task_of
from .exported import is_exported
from .file_runtimes import open_file
from .runtimes import RUNTIMES, Runtime, deploying_pays, model_runtime


class Opened(NamedTuple):
    """What runs a model, its card, and what a user should know of how it was opened, one sentence each."""

    runtime: Runtime
    card: ModelCard
    notes: tuple[str, ...]


def model_of(parts: Parts) -> SwinModel:
    """Returns the model of a checkpoint's parts, in eval mode on the CPU; it shares their tensors."""
    model = assemble(parts.config, parts.tensors)
    model.card = None if parts.card == ModelCard() else parts.card
    model.load_report = parts.report
    return model.eval()


def open_model(
    source: Any,
    device: str | None = None,
    precision: str | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    trust: bool = False,
) -> Opened:
    """Returns what runs a model, and its card with everything that a task needs to know.

    The arguments are those of ``Predictor.open``.
    """
    if is_exported(source):
        return _open_exported(source, device, precision, runtime, threads, trust)
    if threads is not None:
        raise ConfigError("threads: expected an exported file; for PyTorch, try torch.set_num_threads")
    live = isinstance(source, SwinTransformer | DeployedTransformer | SimMIM)
    model: Any = require_swin(source if live else model_of(load_parts(source)), "predict")
    card = task_of(model.card).card_of(model)
    assumed = {} if model.load_report is None else model.load_report.assumed
    notes = (f"class names: {assumed['class_names']}",) if "class_names" in assumed else ()
    place = None if device is None and live else pick_device(device or "auto")
    if runtime == "auto":
        runtime = "deploy" if not live and deploying_pays(model, place, precision) else "eager"
    return Opened(model_runtime(model, runtime, place, precision), card, notes)


def _open_exported(
    path: Any, device: str | None, precision: str | None, runtime: str, threads: int | None, trust: bool
) -> Opened:
    """Returns what runs an exported file. Raises ConfigError for one that gives no classes."""
    if runtime in RUNTIMES:
        raise ConfigError(f"runtime: got {runtime!r} for an exported file; try auto, or the checkpoint")
    opened, found = open_file(path, runtime, device, precision, threads, trust)
    if found.about.what not in ("logits", "probabilities"):
        raise ConfigError(f"{path}: gives {found.about.what}, expected logits or probabilities; export it with --what")
    how = f"{opened.path.name} runs in {opened.name}" + ("" if found.about.int8 is None else ", in int8")
    return Opened(opened, found.card, (how,))
