"""The size of the images that a model is for. Imports no torch."""

from __future__ import annotations

from . import variants
from .card import ModelCard
from .config import PerAxis, SwinConfig


def image_size(config: SwinConfig, card: ModelCard | None = None) -> PerAxis:
    """Returns the size that a model's images should have, in pixels per axis (of clips: frames, height, width).

    It is that of the card's preprocessing; else that of the images that the weights were trained on; else, where the
    config is that of a published variant, what the variant is for; else one window in the last stage. Any size runs.

    Example:
        >>> image_size(variants.variant_config("swin_base_w12_384"))
        (384, 384)
        >>> image_size(variants.variant_config("swin3d_tiny"))
        (32, 224, 224)
    """
    if card is not None:
        for size in (card.preprocess.size if card.preprocess else None, card.input_size):
            if size is not None and len(size) == config.ndim:
                return size
    variant = variants.variant_of(config)
    if variant is not None:
        side = variants.image_size(variant)
        return (variants.CLIP_FRAMES, side, side)[-config.ndim :]
    return tuple(
        patch * window * 2 ** (config.num_stages - 1 if axis in config.merge_axes else 0)
        for axis, (patch, window) in enumerate(zip(config.patch_size, config.window_size[-1]))
    )
