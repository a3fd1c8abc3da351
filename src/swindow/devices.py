"""Devices by name."""

from __future__ import annotations

import torch

from .errors import ConfigError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Returns the device of a name; ``auto`` is this process's GPU if there is one, then Apple's, else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = f"cuda:{local_rank}"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's own way to say that it was built without CUDA
        raise ConfigError(f"device {name!r} is not available; try device='auto' or 'cpu'") from error
    return device
