"""From what a user has (a model, a checkpoint, a name on a hub) to what runs, and a card that says how."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..card import ModelCard
from ..checkpoints import Parts, load_parts
from ..devices import pick_device
from ..models import SimMIM, SwinModel, SwinTransformer, require_swin
from ..models.assemble import assemble
from ..models.deployed import DeployedTransformer
from ..tasks import task_of
from .runtimes import ModelRuntime, deploying_pays, model_runtime


class Opened(NamedTuple):
    """What runs a model, its card, and what a user should know of how it was opened, one sentence each."""

    runtime: ModelRuntime
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
) -> Opened:
    """Returns what runs a model, and its card with everything that a task needs to know.

    The arguments are those of ``Predictor.open``.
    """
    live = isinstance(source, SwinTransformer | DeployedTransformer | SimMIM)
    model: Any = require_swin(source if live else model_of(load_parts(source)), "predict")
    card = task_of(model.card).card_of(model)
    assumed = {} if model.load_report is None else model.load_report.assumed
    notes = (f"class names: {assumed['class_names']}",) if "class_names" in assumed else ()
    place = None if device is None and live else pick_device(device or "auto")
    if runtime == "auto":
        runtime = "deploy" if not live and deploying_pays(model, place, precision) else "eager"
    return Opened(model_runtime(model, runtime, place, precision), card, notes)
