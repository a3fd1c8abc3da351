"""What a stopped run needs to go on exactly: one file, replaced as a whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints import replacing
from ..data import Source
from ..errors import CheckpointError, ConfigError

FILE = "state.pt"


@dataclasses.dataclass
class State:
    """How far a run has got.

    Attributes:
        epoch: epochs done.
        step: steps done of the epoch under way.
        sums: loss, right answers and images of those steps, over all processes.
        history: the metrics of every epoch done.
        confusion: confusion counts of the last evaluation.
    """

    epoch: int = 0
    step: int = 0
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    confusion: list[list[int]] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> dict[str, Any] | None:
        """The metrics of the best epoch: the highest accuracy, of equals the lowest loss."""
        return max(self.history, key=lambda m: (m["accuracy"], -m["loss"]), default=None)


def fingerprint(source: Source) -> str:
    """Returns a short text that changes when the images' names, labels or split do."""
    parts = [source.classes, source.train.names, source.train.labels, source.held_out.names, source.held_out.labels]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def save(out: Path, state: State, identity: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes the state of a run. Raises OutputError where it cannot; the state before stays."""
    whole = {
        "identity": json.dumps(identity),
        "state": json.dumps(dataclasses.asdict(state)),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with replacing(out / FILE) as temporary:
        try:
            torch.save(whole, temporary)
        except RuntimeError as error:  # torch's way to report a failed write
            raise OSError(0, "the write failed, perhaps the disk is full") from error


def resume(out: Path, identity: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Puts model and optimizer back to where a run stopped, if there is one in ``out``, and returns its state.

    Raises:
        ConfigError: the run in ``out`` has other settings or other data, or is no run that could go on.
        CheckpointError: the file is broken.
    """
    path = out / FILE
    if not path.exists():
        if (out / "model.safetensors").exists():
            raise ConfigError(f"{out} holds a model but no {FILE} to go on from; try another out, or overwrite it")
        return State()
    if not zipfile.is_zipfile(path):  # what torch.save writes; torch.load fails in many ways on other files
        raise CheckpointError(f"{path}: no state of a training run; try another out, or overwrite it")
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        before, state = json.loads(whole["identity"]), State(**json.loads(whole["state"]))
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: no state of a training run ({type(error).__name__}); try another out"
        ) from error
    identity = json.loads(json.dumps(identity))
    changed = [f"{k} {before.get(k)!r} is now {v!r}" for k, v in identity.items() if before.get(k) != v]
    if changed:
        raise ConfigError(
            f"{out} holds a run with other settings: {'; '.join(changed)}; try another out, or overwrite it"
        )
    model.load_state_dict(whole["model"])
    optimizer.load_state_dict(whole["optimizer"])
    state.sums = (state.sums[0], state.sums[1], state.sums[2])
    return state
