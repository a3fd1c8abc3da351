"""From what a user has (a model, a checkpoint, a name on a hub) to what runs, and a card that says how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..card import ModelCard
from ..checkpoints import load
from ..devices import pick_device
from ..errors import ConfigError
from ..models import SwinTransformer
from ..tasks import Classify
from .runtimes import ModelRuntime, deploying_pays, model_runtime


def open_model(
    source: Any,
    device: str | None = None,
    precision: str | None = None,
    runtime: str = "auto",
    names: Sequence[str] | None = None,
) -> tuple[ModelRuntime, ModelCard]:
    """Returns what runs a model, and its card with everything that a task needs to know.

    The arguments are those of ``Predictor.open``.
    """
    live = isinstance(source, SwinTransformer)
    model: SwinTransformer = source if live else load(source)
    card = Classify.card_of(model)
    if names is not None:
        if len(names) != model.config.num_classes:
            raise ConfigError(f"names: got {len(names)}, expected {model.config.num_classes}, one per class")
        card = card.replace(class_names=tuple(names))
    place = None if device is None and live else pick_device(device or "auto")
    if runtime == "auto":
        runtime = "deploy" if not live and deploying_pays(model, place, precision) else "eager"
    return model_runtime(model, runtime, place, precision), card
