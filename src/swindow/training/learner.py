"""A model and what makes it learn: optimizer, learning rates, mixed precision, the moving average of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .config import RunSettings
from .ema import Average
from .optimizer import optimizer_of, parameter_groups
from .parallel import Parallel, World
from .schedule import learning_rate

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 2.0**-10  # of the gradients in fp16: where it has fallen to that, they are not finite at any scale


class Learner:
    """A model that learns, in one process or in several.

    Args:
        model: it lies on the device of this process.
        settings: of the run.
        steps: of the whole run.
        warmup: steps of the warm-up.
        here: this process.

    Attributes:
        precision: "fp32", "bf16" or "fp16".
        parallel: the model, its gradients summed over all processes.
        average: the moving average of its weights, or None.
        lr: the highest learning rate.
    """

    def __init__(self, model: nn.Module, settings: RunSettings, steps: int, warmup: int, here: World) -> None:
        s, self.here, self.steps, self.warmup, self.clip = settings, here, steps, warmup, settings.clip
        scale = s.batch_size / s.lr_base_size if s.lr_base_size else 1.0
        self.lr, self.min_lr, self.warmup_lr = (scale * lr for lr in (s.lr, s.min_lr, s.warmup_lr))
        head = None if s.head_lr is None else s.head_lr / s.lr
        groups = parameter_groups(model, s.weight_decay, s.layer_decay, head)
        if not any(group["params"] for group in groups):
            raise ConfigError("no parameter is left to train; try fewer frozen_stages")
        self.optimizer = optimizer_of(s.optimizer, model, groups, s.optimizer_options or {})
        bf16_here = here.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.precision = ("bf16" if bf16_here else "fp32") if s.precision == "auto" else s.precision
        self.scaler = torch.amp.GradScaler(here.device.type, enabled=self.precision == "fp16")
        self.average = Average(model, s.ema) if s.ema else None
        self.model = model

    def begin(self, weights: Mapping[str, Any]) -> None:
        """Goes back to a saved state, where there is one, and makes the processes one group.

        Args:
            weights: what ``state`` returned; empty at the start of a run.
        """
        if weights:
            self.model.load_state_dict(weights["model"])
            now = [{key: group[key] for key in ("weight_decay", "lr_scale")} for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(weights["optimizer"])
            for group, settings in zip(self.optimizer.param_groups, now, strict=True):
                group.update(settings)  # a run that goes on may have been given others
            self.scaler.load_state_dict(weights["scaler"])
            if self.average is not None:
                self.average.averaged.load_state_dict(weights["average"])
        self.parallel = Parallel(self.model, self.here)

    def state(self) -> dict[str, Any]:
        """Returns what ``begin`` needs. Every process calls it: parts may lie with each of them."""
        average = {} if self.average is None else {"average": self.average.averaged.state_dict()}
        return {**self.parallel.state(self.optimizer), "scaler": self.scaler.state_dict(), **average}

    def models(self) -> list[nn.Module]:
        """Returns the model and, where there is one, that with the averaged weights."""
        return [self.model] if self.average is None else [self.model, self.average.model]

    def start_step(self, step: int) -> None:
        """Sets the learning rates of a step (from 0, over all epochs)."""
        lr = learning_rate(step, self.steps, self.warmup, self.lr, self.min_lr, self.warmup_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

    @property
    def rate(self) -> float:
        """The learning rate of the last step, of the layers that learn at the full rate."""
        group = self.optimizer.param_groups[0]
        return group["lr"] / group["lr_scale"]

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context of the model's forward."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.here.device.type, dtype, enabled=dtype is not torch.float32)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of this process's share of a loss."""
        self.parallel.backward(self.scaler.scale(loss))

    def may_leave_out(self) -> bool:
        """Whether a step may be left out as its gradient is not finite: in fp16, while the scale is not yet tiny."""
        return self.precision == "fp16" and self.scaler.get_scale() > LEAST_SCALE

    def end_step(self, step: int) -> Tensor:
        """Clips the gradient and takes the step; returns the norm of the gradient, a tensor on the device.

        In fp16 a step whose gradient is not finite is left out, and the next ones are scaled down.
        """
        self.scaler.unscale_(self.optimizer)
        norm = self.parallel.clip(self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model, step < self.warmup)
        return norm
