"""How layers start: linear layers as published, or anything without random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
