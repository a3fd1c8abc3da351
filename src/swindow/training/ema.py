"""An exponential moving average of the weights, by ``torch.optim.swa_utils``."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """The moving average of a model's weights.

    During the warm-up of the learning rate it is the weights themselves, as in torchvision's recipes: those of the
    first steps would stay in it for long.

    Args:
        model: the model; a copy of it holds the average.
        decay: how much of the average stays in a step (fraction).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights."""
        return self.averaged.module

    def update(self, model: nn.Module, warming_up: bool) -> None:
        """Takes in the weights after a step."""
        if warming_up:
            self.averaged.n_averaged.zero_()
        self.averaged.update_parameters(model)
