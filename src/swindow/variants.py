"""Every named variant as a literal table: a row holds only what differs from SwinConfig. Imports no torch."""

from __future__ import annotations

from typing import Any

from .config import SwinConfig
from .errors import ConfigError, nearest

# Swin section 3.3: C = 96, 96, 128, 192; layer numbers; head dimension 32. Drop path: the official 1k training configs
# (T 0.2, S 0.3, B 0.5); large was only ever fine-tuned from 22k, at 0.2. Window 12 at 384 pixels: the official
# swin_{base,large}_patch4_window12_384 configs, fine-tuned at 0.2.
# nano and micro are our own: patch 2 and window 4 make three useful stages out of a 32-pixel image.
VARIANTS: dict[str, dict[str, Any]] = {
    "swin_nano": {
        "embed_dim": 32,
        "depths": (2, 2, 2),
        "num_heads": (2, 4, 8),
        "window_size": 4,
        "patch_size": 2,
        "drop_path_rate": 0.0,
    },
    "swin_micro": {"embed_dim": 48, "depths": (2, 2, 6), "num_heads": (3, 6, 12), "window_size": 4, "patch_size": 2},
    "swin_tiny": {"drop_path_rate": 0.2},
    "swin_small": {"depths": (2, 2, 18, 2), "drop_path_rate": 0.3},
    "swin_base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "drop_path_rate": 0.5},
    "swin_large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "drop_path_rate": 0.2},
    "swin_base_w12_384": {
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
        "window_size": 12,
        "drop_path_rate": 0.2,
    },
    "swin_large_w12_384": {
        "embed_dim": 192,
        "depths": (2, 2, 18, 2),
        "num_heads": (6, 12, 24, 48),
        "window_size": 12,
        "drop_path_rate": 0.2,
    },
}

# With 1000 classes; tiny to large as published.
PARAMETERS: dict[str, int] = {
    "swin_nano": 694_756,
    "swin_micro": 3_241_234,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "swin_large": 196_532_476,
    "swin_base_w12_384": 87_903_584,
    "swin_large_w12_384": 196_735_516,
}

# The side, in pixels, of the square image a variant is meant for; it fixes nothing, any size runs.
IMAGE_SIZE: dict[str, int] = {"swin_nano": 32, "swin_micro": 32, "swin_base_w12_384": 384, "swin_large_w12_384": 384}
DEFAULT_IMAGE_SIZE = 224


def list_variants() -> list[str]:
    """Returns the names that ``swindow.create`` knows, smallest first within a family.

    Example:
        >>> list_variants()[:3]
        ['swin_nano', 'swin_micro', 'swin_tiny']
    """
    return list(VARIANTS)


def variant_config(name: str, **fields: Any) -> SwinConfig:
    """Returns the SwinConfig of a named variant, with any of its fields changed.

    Raises:
        ConfigError: no variant or no field has that name (the nearest ones are named), or a value is out of range.

    Example:
        >>> variant_config("swin_tiny", num_classes=10).num_classes
        10
    """
    if name not in VARIANTS:
        raise ConfigError(
            f"unknown variant {name!r}{nearest(str(name), VARIANTS)}; 'swindow variants' lists all {len(VARIANTS)}"
        )
    return SwinConfig.from_dict({**VARIANTS[name], **fields})


def image_size(name: str) -> int:
    """Returns the side in pixels of the square image that the variant is meant for (any size runs)."""
    return IMAGE_SIZE.get(name, DEFAULT_IMAGE_SIZE)
