"""Tables of position biases for another window, and patch embeddings for another number of channels."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import PerAxis
from ..errors import ConfigError

Resize = Literal["bicubic", "geometric"]  # ways to resize a table of position biases


def check_resize(how: str) -> None:
    """Raises ConfigError where ``how`` is no way to resize a table."""
    if how not in get_args(Resize):
        raise ConfigError(f"table_resize: got {how!r}, expected 'bicubic' or 'geometric'")


def resize_table(table: Tensor, window: PerAxis, new: PerAxis, how: Resize = "bicubic") -> Tensor:
    """Returns a relative position bias table for another window.

    Args:
        table: ((2M-1)(2M-1)..., h) for ``window``.
        window, new: tokens per axis of the window it was made for, and of the one it is wanted for.
        how: ``"bicubic"`` stretches the old offsets over the new ones, as the official code does for fine-tuning (with
            one or three axes, for which there is no bicubic, linear and trilinear). ``"geometric"`` keeps the offsets
            near 0 where they are and spreads the others by a growing step, through cubic splines, as SimMIM does.

    Returns:
        The table for ``new``, in the same type.

    Raises:
        ConfigError: ``how`` is neither, or needs scipy and it is not installed.
    """
    check_resize(how)
    if window == new:
        return table
    if how == "geometric":
        return _geometric(table, window, new)
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(window)]
    x = table.T.reshape(1, -1, *(2 * w - 1 for w in window)).float()  # (1, h, 2M-1, 2M-1)
    x = F.interpolate(x, tuple(2 * w - 1 for w in new), mode=mode, align_corners=False)
    return x.flatten(2)[0].T.to(table.dtype)


def _geometric(table: Tensor, window: PerAxis, new: PerAxis) -> Tensor:
    """SimMIM's way, with its numbers: the old offsets lie at 0, 1, 1 + q, 1 + q + q^2, ... among the new ones."""
    try:
        from scipy.interpolate import make_interp_spline
    except ImportError as error:
        raise ConfigError("table_resize='geometric' needs scipy; try pip install 'swindow[train]'") from error
    values = table.detach().double().cpu().view(*(2 * w - 1 for w in window), -1).numpy()  # (2M-1, 2M-1, h)
    for axis, (old, wanted) in enumerate(zip(window, new)):
        if old == 1 or old == wanted:
            values = values.repeat(2 * wanted - 1, axis) if old == 1 else values
            continue
        side = np.cumsum(_ratio(old - 1, wanted - 1) ** np.arange(old - 1))
        at = np.concatenate((-side[::-1], [0], side))  # (2M-1,)
        spline = make_interp_spline(at, values, k=min(3, len(at) - 1), axis=axis)
        values = spline(np.clip(np.arange(1 - wanted, wanted), at[0], at[-1]))
    return torch.from_numpy(values).flatten(0, -2).to(table)


def _ratio(steps: int, length: int) -> float:
    """The q, from 1.01 to 1.5, for which 1 + q + ... (that many steps) is nearest to a length."""
    low, high, q = 1.01, 1.5, 1.01
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**steps) / (1 - q) > length else (q, high)
    return q


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Returns the patch embedding's weight for another number of input channels, the sum over them kept.

    An input that is the same in every channel gives the same tokens as before. Fewer channels each take an equal share
    of the sum; more take the old ones in turn, each divided among its copies.

    Args:
        weight: (C, in_chans, *patch).
        channels: the number wanted.

    Example:
        >>> adapt_channels(torch.tensor([[[1.0], [2.0], [3.0]]]), 4).flatten().tolist()
        [0.5, 2.0, 3.0, 0.5]
    """
    old = weight.shape[1]
    if channels < old:
        return weight.sum(1, keepdim=True).repeat_interleave(channels, 1) / channels
    turn = torch.arange(channels) % old
    copies = turn.bincount(minlength=old)[turn].to(weight)  # (channels,)
    return weight[:, turn] / copies.view(-1, *(1,) * (weight.ndim - 2))
