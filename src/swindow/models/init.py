"""How layers start: linear layers as published, from a generator of their own on request, or without any numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import ConfigError

DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)


class SkipInit(TorchFunctionMode):
    """Leaves tensors as they are instead of filling them with random numbers.

    On the meta device there is nothing to fill, yet the first such call takes torch seconds: it loads its compiler.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs everything but what draws."""
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class SeededInit(TorchFunctionMode):
    """Inside the ``with`` block, this thread draws initial weights as after ``torch.manual_seed(seed)``.

    The numbers come from a generator of its own: the global one keeps its state, and other threads are not affected.

    Args:
        seed: from 0 to 2**63 - 1.

    Raises:
        ConfigError: the seed is no such int.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise ConfigError(f"seed: got {seed!r}, expected an int from 0 to 2**63 - 1")
        device = torch.get_default_device()
        self.generator = torch.Generator("cpu" if device.type == "meta" else device).manual_seed(seed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Passes the generator to what draws."""
        kwargs = kwargs or {}
        if func in DRAWS:
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


def linear(dim: int, out: int, bias: bool = True, **where: Any) -> nn.Linear:
    """Returns x W^T + b, initialised as published; ``where``: device and dtype."""
    with SkipInit():
        layer = nn.Linear(dim, out, bias, **where)
    reset_linear(layer)
    return layer


def reset_linear(layer: nn.Linear) -> None:
    """Draws weights from a normal distribution of standard deviation 0.02 (truncated at 2: nowhere); biases are 0."""
    nn.init.normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def fan_in_(model: nn.Module) -> None:
    """Draws the weights of all linear layers again, with standard deviation 1 / sqrt(inputs), in place.

    The published 0.02 is about that for hundreds of inputs. In narrow models it is far less, so that attention and MLP
    begin almost without effect, and training is slow at first.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
