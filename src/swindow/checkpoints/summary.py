"""What a model is, counted and said."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..card import ModelCard
from ..config import PerAxis
from ..models import SimMIM, SwinModel
from ..models.meta import meta_model
from ..sizes import image_size
from ..variants import variant_of


def describe(model: SwinModel) -> dict[str, Any]:
    """Returns what a model is, as JSON values: load report, variant, size, cost, config, what travels with the weights.

    ``gmacs`` is billions of multiplications and additions, in pairs, of one image of ``input_size`` pixels: matrix
    products and convolutions, those of attention included.
    """
    config = model.config
    variant = variant_of(config)
    card = model.card or ModelCard()
    size = card.pixels(config.ndim)
    if size is None and (config.ndim == 2 or variant is not None):  # of other clips the frames are not known
        size = image_size(config)
    return {
        **({} if model.load_report is None else model.load_report.to_dict()),
        "variant": variant,
        "parameters": sum(p.numel() for p in model.parameters()),
        **{name: value for name, value in card.to_dict().items() if name != "format"},
        "input_size": None if size is None else list(size),
        "gmacs": None if size is None else round(count_macs(model, size) / 1e9, 3),
        "config": config.to_dict(),
    }


def count_macs(model: SwinModel, input_size: PerAxis) -> int:
    """Returns the multiply-accumulate operations of one image (an int): matrix products and convolutions.

    Counted from outside, on tensors without data; it neither changes the model nor needs its memory.

    Example:
        >>> import swindow
        >>> round(count_macs(swindow.create("swin_tiny"), (224, 224)) / 1e9, 1)
        4.5
    """
    empty = meta_model(model.config).eval()
    x = torch.empty(1, model.config.in_chans, *input_size, device="meta")
    empty.set_kernel("reference")
    grid = [-(-size // patch) for size, patch in zip(input_size, model.config.patch_size, strict=True)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty(x, torch.empty(1, *grid, device="meta")) if isinstance(empty, SimMIM) else empty(x)
    return counter.get_total_flops() // 2
