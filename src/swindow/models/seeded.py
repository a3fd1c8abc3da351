"""Initial weights from a random generator of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import ConfigError
from .meta import DRAWS


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
