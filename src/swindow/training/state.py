"""What a stopped run needs to go on exactly: one file, replaced as a whole."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from .. import checkpoints
from ..card import ModelCard
from ..checkpoints.header import carried
from ..errors import CheckpointError, ConfigError
from ..models import SimMIM, SwinTransformer
from .config import CHANGEABLE

FILE = "state.pt"
FORMAT = 3  # of the file; a run that another version of swindow began with another format cannot go on


@dataclasses.dataclass
class State:
    """How far a run has got.

    Attributes:
        epoch: epochs done.
        step: steps done of the epoch under way.
        sums: what those steps add up to, over all processes: of every loss its sum and the number of its units.
        history: the figures of every epoch done.
        tables: what the last evaluation gave besides figures.
        processors: what computed the epoch under way, one after the other, each in one line; the last is that of the
            last step.
        changes: what was set otherwise since the last epoch, in words.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tables: dict[str, Any] = dataclasses.field(default_factory=dict)
    processors: list[str] = dataclasses.field(default_factory=list)
    changes: list[str] = dataclasses.field(default_factory=list)

    def moved_to(self, processor: str) -> str | None:
        """Takes note of what computes from here on; returns what computed before, where that was another.

        Args:
            processor: in one line.
        """
        before = self.processors[-1] if self.processors else None
        if self.step == 0:
            self.processors = [processor]
        elif before != processor:
            self.processors.append(processor)
        return None if before == processor else before

    def means(self) -> dict[str, float]:
        """Returns the mean of every loss over the steps done of this epoch."""
        return {name: value / (units or 1.0) for name, (value, units) in self.sums.items()}


def best_epoch(history: Sequence[dict[str, Any]], by: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Returns the figures of the best epoch, the first of equals; None is worse than any number.

    Args:
        history: the figures of every epoch.
        by: the figures that decide, each with "high" or "low", the first first.
    """

    def rank(figures: dict[str, Any]) -> list[float]:
        values = [(figures[name], way) for name, way in by]
        return [-math.inf if v is None else v if way == "high" else -v for v, way in values]

    return max(history, key=rank)


def save(out: Path, state: State, identity: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Writes the state of a run. Raises OutputError where it cannot; the state before stays.

    Args:
        out: the folder of the run.
        state: how far it has got.
        identity: what decides its result, as JSON values.
        weights: the state of model and optimizer.
    """
    about = {"format": FORMAT, "identity": json.dumps(identity), "state": json.dumps(dataclasses.asdict(state))}
    with checkpoints.replacing(out / FILE) as temporary:
        try:
            torch.save({**about, **weights}, temporary)
        except RuntimeError as error:  # torch's way to report a failed write
            raise OSError(0, "the write failed, perhaps the disk is full") from error


def save_weights(model: nn.Module, card: ModelCard, path: Path) -> None:
    """Writes a model's weights and its card; our models' architecture too. Raises OutputError.

    What was frozen in this run is not frozen in the file.
    """
    if isinstance(model, (SwinTransformer, SimMIM)):
        model.card, config = card, model.config
        model.config = config.replace(frozen_stages=-1)
        try:
            checkpoints.save(model, path)
        finally:
            model.config = config
        return
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with checkpoints.replacing(path) as temporary:
        save_file(tensors, temporary, {"format": "pt", **carried(card)})


def resume(
    out: Path, identity: Mapping[str, Any], changeable: Sequence[str] = ()
) -> tuple[State, dict[str, Any], list[str]]:
    """Returns where the run in ``out`` stopped, the state of model and optimizer, and what is set otherwise now.

    A new run has none of these.

    Args:
        out: the folder of the run.
        identity: what decides the result.
        changeable: the settings that may differ from those before.

    Raises:
        ConfigError: the run in ``out`` has other settings or other data, or is no run that could go on.
        CheckpointError: the file is broken.
    """
    path, instead = out / FILE, "try another --out, or --overwrite to start afresh (in Python: overwrite=True)"
    if not path.exists():
        if (out / "model.safetensors").exists():
            raise ConfigError(f"{out} holds a model but no {FILE} to go on from; {instead}")
        return State(), {}, []
    if not zipfile.is_zipfile(path):  # what torch.save writes; torch.load fails in many ways on other files
        raise CheckpointError(f"{path}: no state of a training run; {instead}")
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        number = whole.get("format", 1)
        if number != FORMAT:
            raise ConfigError(
                f"{path}: begun by another version of swindow (format {number}, this one has {FORMAT}); {instead}"
            )
        before, state = json.loads(whole["identity"]), State(**json.loads(whole["state"]))
        weights = {name: value for name, value in whole.items() if name not in ("format", "identity", "state")}
        if not weights.keys() >= {"model", "optimizer", "scaler"}:
            raise LookupError("weights")
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise CheckpointError(f"{path}: no state of a training run ({type(error).__name__}); {instead}") from error
    now = json.loads(json.dumps(identity))
    changed = differences(before, now)
    refused = [name for name in changed if name not in changeable]
    if refused:
        if all(name in CHANGEABLE for name in changed):
            instead += ", or --allow-changes to go on with the new settings (allow_changes=True)"
        raise ConfigError(f"{out} holds a run with other settings: {'; '.join(changed.values())}; {instead}")
    state.sums = {name: (value, units) for name, (value, units) in state.sums.items()}
    return state, weights, list(changed.values())


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Returns what two identities of a run differ in, by name, each in words.

    The task's settings are compared one by one; where the run has a setting of the same name and value, as one.
    """

    def flat(identity: Mapping[str, Any]) -> dict[str, Any]:
        task = {**identity.get("task", {})}
        own = task.pop("settings", {})
        more = {name if identity.get(name) == value else f"task {name}": value for name, value in own.items()}
        return {**more, **identity, "task": task}

    old, new = flat(before), flat(now)
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return {name: f"{name} {old.get(name)!r} is now {new.get(name)!r}" for name in names}
