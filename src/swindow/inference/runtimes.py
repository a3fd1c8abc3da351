"""What turns prepared inputs into outputs: our model as it is, or its frozen and faster twin."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..models import SwinTransformer
from ..models.deployed import DeployedTransformer
from ..models.twin import evaluation_twin

RUNTIMES = ("eager", "deploy")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Runtime(Protocol):
    """Maps inputs to outputs. It may be called from many threads at once."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    @property
    def takes_photos(self) -> bool:
        """Whether its input is photos (B, H, W, channels) as uint8, which it prepares itself."""
        ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """Returns the outputs for tensors on the CPU with a batch axis, by the names of the model's arguments."""
        ...


class ModelRuntime:
    """Runs a module where its weights lie, without gradients.

    Args:
        model: a module in evaluation mode that nobody switches to training: a twin of the caller's.
    """

    takes_photos = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """Returns the model's outputs on its device; floating inputs are converted to the type of its weights."""
        return self.model(**{name: self._moved(x) for name, x in inputs.items()})

    def _moved(self, x: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        return x.to(weight.device, weight.dtype if x.is_floating_point() else None)


def model_runtime(
    model: SwinTransformer | DeployedTransformer,
    runtime: str,
    device: torch.device | None = None,
    precision: str | None = None,
) -> ModelRuntime:
    """Returns a runtime of a model, which itself is not changed in any way, not even from training to evaluation mode.

    Args:
        model: the model; ``model.deploy()`` too.
        runtime: "eager": a twin in evaluation mode that shares the weights, and so follows their changes; where device
            or precision differ it holds a copy. "deploy": ``model.deploy()``, a copy that is faster on a CPU in fp32.
        device: where to run; None: where the model lies.
        precision: "fp32", "bf16" or "fp16"; None: as the model's weights.

    Raises:
        ConfigError: there is no such runtime or precision, or a deployed model is asked to move.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime: got {runtime!r}, expected one of auto, {', '.join(RUNTIMES)}")
    weight, wanted = next(model.parameters()), _wanted(model, device, precision)
    if isinstance(model, DeployedTransformer):
        if wanted != (weight.device, weight.dtype):
            raise ConfigError("a deployed model cannot be moved or converted; give the model that it was made from")
        return ModelRuntime(model)
    twin = evaluation_twin(model)
    if wanted != (weight.device, weight.dtype):
        twin = copy.deepcopy(twin).to(*wanted)
    if runtime == "eager":
        return ModelRuntime(twin)
    deployed = twin.deploy()
    deployed.forget_origin()  # nobody can export what is inside a runtime
    return ModelRuntime(deployed)


def deploying_pays(model: SwinTransformer, device: torch.device | None = None, precision: str | None = None) -> bool:
    """Returns whether ``model.deploy()`` is faster than the model itself: on a CPU, in fp32 or float64."""
    place, dtype = _wanted(model, device, precision)
    return place.type == "cpu" and dtype in (torch.float32, torch.float64)


def _wanted(model: nn.Module, device: torch.device | None, precision: str | None) -> tuple[torch.device, torch.dtype]:
    """Where to run, and in which type."""
    if precision is not None and precision not in PRECISIONS:
        raise ConfigError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    weight = next(model.parameters())
    return device or weight.device, weight.dtype if precision is None else PRECISIONS[precision]
