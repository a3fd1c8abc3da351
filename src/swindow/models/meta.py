"""Models without data: for weights that are about to come, and for counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import SwinConfig
from .simmim import build
from .swin import SwinTransformer

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


def meta_model(config: SwinConfig) -> SwinTransformer | Any:
    """Returns a model (see ``build``) on the meta device: its tensors have sizes, but no values, and take no memory."""
    with torch.device("meta"), SkipInit():
        return build(config)
