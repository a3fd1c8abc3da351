"""Why the cyclic shift is exact: the same attention computed over irregular windows, without shift and mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels, windows
from ..precision import wide
from .capturing import BlockRecord
from .geometry import bias_table


class Exactness(NamedTuple):
    """One block's attention, before the output projection, computed three ways; each (*grid, C).

    Attributes:
        shifted: as the model does: cyclic shift, regular windows, mask.
        irregular: over the irregular windows in place: no shift, no mask.
        unmasked: with the shift but without the mask, which is wrong.
    """

    shifted: Tensor
    irregular: Tensor
    unmasked: Tensor

    @property
    def error(self) -> float:
        """The largest difference between shifted and irregular, over the largest value: rounding, nothing else."""
        return _difference(self.shifted, self.irregular)

    @property
    def error_without_mask(self) -> float:
        """The same for unmasked: what the mask prevents."""
        return _difference(self.unmasked, self.irregular)


@torch.no_grad()
def exactness(record: BlockRecord, image: int = 0) -> Exactness:
    """Computes a block's attention as the model does, over irregular windows, and without a mask (Swin section 3.2).

    The irregular windows are cut in place: along an axis with shift s and window w they end before s, s + w, s + 2w
    and so on. Nothing of the model's masks, labels or shifted order is used for them.

    Args:
        record: a block that ``capture`` recorded; any number of axes.
        image: which image of the batch.
    """
    g, module = record.geometry, record.module
    y = record.tokens[[image]].to(module.proj.weight.dtype)
    bias = module.position_bias(g.window)
    shifted = kernels.attend(y, module.project, bias, g, module.similarity)[0]
    axes = torch.meshgrid([torch.arange(p, device=y.device) for p in g.padded], indexing="ij")
    place = torch.stack(axes, -1).flatten(0, -2)  # (padded tokens, axes)
    shift, window, padded = (place.new_tensor(v) for v in (g.shift, g.window, g.padded))
    cut = (place + window - shift) // window  # from 0 where an axis is shifted, else from 1
    if g.mask_padding:  # padding is a window of its own, of which nothing is kept
        cut[(place >= place.new_tensor(g.grid)).any(-1)] = -1
    irregular = _within(record, y, _numbered(cut), place)
    rolled = (place - shift) % padded
    unmasked = _within(record, y, _numbered(rolled // window), rolled)
    return Exactness(shifted, irregular, unmasked)


def _within(record: BlockRecord, y: Tensor, window: Tensor, place: Tensor) -> Tensor:
    """Attention among the tokens of equal number ``window``, their offsets taken from ``place``: (*grid, C)."""
    g, module = record.geometry, record.module
    x = windows.pad(y, g)[0].flatten(0, -2)  # (padded tokens, C)
    q, k, v = (
        module.project(x).unflatten(-1, (3, module.num_heads, -1)).permute(1, 2, 0, 3)
    )  # (h, padded tokens, d) each
    q, k = module.similarity(q, k)
    bias = module.position_bias(g.window)
    table = torch.from_numpy(bias_table(wide(bias).cpu(), g.window)).to(q)  # (h, 2M-1, 2M-1)
    result = torch.zeros_like(v)
    for number in window.unique():
        i = (window == number).nonzero().flatten()  # (n,)
        offset = place[i][:, None] - place[i][None]  # (n, n, axes) query minus key
        inside = (offset.abs() < offset.new_tensor(g.window)).all()  # masked padding fills more than a window
        if inside:
            index: tuple[slice | Tensor, ...] = (slice(None), *(offset + offset.new_tensor(g.window) - 1).unbind(-1))
            attention = (q[:, i] @ k[:, i].transpose(-2, -1) + table[index]).softmax(-1)  # (h, n, n)
            result[:, i] = attention @ v[:, i]
    return windows.crop(result.transpose(0, 1).reshape(1, *g.padded, -1), g)[0]  # (*grid, C)


def _numbered(cut: Tensor) -> Tensor:
    """One number for every row of several."""
    return cut.unique(dim=0, return_inverse=True)[1]


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
