"""Every named variant as a literal table: a row holds only what differs from SwinConfig. Imports no torch."""

from __future__ import annotations

from typing import Any

from .config import SwinConfig
from .errors import ConfigError, nearest

_TINY: dict[str, Any] = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.2}
_SMALL: dict[str, Any] = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.3}
_BASE: dict[str, Any] = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "drop_path_rate": 0.5}
_LARGE: dict[str, Any] = {
    "embed_dim": 192,
    "depths": (2, 2, 18, 2),
    "num_heads": (6, 12, 24, 48),
    "drop_path_rate": 0.2,
}

# SwinV2 sections 3.2 and 3.3: what it changes.
_V2: dict[str, Any] = {
    "qkv_bias": "qv",
    "similarity": "cosine",
    "position_bias": "continuous",
    "norm_placement": "post",
    "merge_norm": "post",
}

# Video Swin (Liu et al. 2022) section 3.1: patches of 2x4x4, windows of 8x7x7; the official Kinetics-400 configs.
_VIDEO: dict[str, Any] = {
    "patch_size": (2, 4, 4),
    "window_size": ((8, 7, 7),) * 4,
    "num_classes": 400,
}

# Swin section 3.3: C = 96, 96, 128, 192; layer numbers; head dimension 32. Drop path: the official 1k training configs
# (T 0.2, S 0.3, B 0.5); large was only ever fine-tuned from 22k, at 0.2. Window 12 at 384 pixels: the official
# swin_{base,large}_patch4_window12_384 configs, fine-tuned at 0.2.
# nano and micro are our own: patch 2 and window 4 make three useful stages out of a 32-pixel image.
# Window 6 at 192 pixels: what SimMIM (Xie et al. 2022) pre-trains. S3 (Chen et al. 2021, "Searching the search space of
# vision transformers"): the published windows and depths; drop path as of the variants of the same depth.
# SwinV2's windows are the official configs', with the last stage's written out as its map allows.
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
    "swin_tiny": _TINY,
    "swin_small": _SMALL,
    "swin_base": _BASE,
    "swin_large": _LARGE,
    "swin_base_w12_384": {**_BASE, "window_size": 12, "drop_path_rate": 0.2},
    "swin_large_w12_384": {**_LARGE, "window_size": 12},
    "swin_base_w6_192": {**_BASE, "window_size": 6},
    "swin_s3_tiny": {**_TINY, "window_size": (7, 7, 14, 7)},
    "swin_s3_small": {**_SMALL, "window_size": (14, 14, 14, 7)},
    "swin_s3_base": {**_SMALL, "depths": (2, 2, 30, 2), "window_size": (7, 7, 14, 7)},
    "swinv2_tiny_w8": {**_V2, **_TINY, "window_size": 8},
    "swinv2_small_w8": {**_V2, **_SMALL, "window_size": 8},
    "swinv2_base_w8": {**_V2, **_BASE, "window_size": 8},
    "swinv2_tiny_w16": {**_V2, **_TINY, "window_size": (16, 16, 16, 8)},
    "swinv2_small_w16": {**_V2, **_SMALL, "window_size": (16, 16, 16, 8)},
    "swinv2_base_w16": {**_V2, **_BASE, "window_size": (16, 16, 16, 8)},
    "swinv2_base_w12_192": {**_V2, **_BASE, "window_size": (12, 12, 12, 6), "drop_path_rate": 0.2},
    "swinv2_large_w12_192": {**_V2, **_LARGE, "window_size": (12, 12, 12, 6)},
    "swinv2_base_w12to16": {
        **_V2,
        **_BASE,
        "window_size": (16, 16, 16, 8),
        "pretrained_window_size": (12, 12, 12, 6),
        "drop_path_rate": 0.2,
    },
    "swinv2_large_w12to16": {
        **_V2,
        **_LARGE,
        "window_size": (16, 16, 16, 8),
        "pretrained_window_size": (12, 12, 12, 6),
    },
    "swinv2_base_w12to24": {
        **_V2,
        **_BASE,
        "window_size": (24, 24, 24, 12),
        "pretrained_window_size": (12, 12, 12, 6),
        "drop_path_rate": 0.2,
    },
    "swinv2_large_w12to24": {
        **_V2,
        **_LARGE,
        "window_size": (24, 24, 24, 12),
        "pretrained_window_size": (12, 12, 12, 6),
    },
    "swin3d_tiny": {**_TINY, **_VIDEO, "drop_path_rate": 0.1},
    "swin3d_small": {**_SMALL, **_VIDEO, "drop_path_rate": 0.1},
    "swin3d_base": {**_BASE, **_VIDEO, "drop_path_rate": 0.3},
}

# With 1000 classes (video: 400); tiny to large as published.
PARAMETERS: dict[str, int] = {
    "swin_nano": 694_756,
    "swin_micro": 3_241_234,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "swin_large": 196_532_476,
    "swin_base_w12_384": 87_903_584,
    "swin_large_w12_384": 196_735_516,
    "swin_base_w6_192": 87_750_176,
    "swin_s3_tiny": 28_328_674,
    "swin_s3_small": 49_737_298,
    "swin_s3_base": 71_125_762,
    "swinv2_tiny_w8": 28_347_154,
    "swinv2_small_w8": 49_728_418,
    "swinv2_base_w8": 87_918_816,
    "swinv2_tiny_w16": 28_347_154,
    "swinv2_small_w16": 49_728_418,
    "swinv2_base_w16": 87_918_816,
    "swinv2_base_w12_192": 87_918_816,
    "swinv2_large_w12_192": 196_739_932,
    "swinv2_base_w12to16": 87_918_816,
    "swinv2_large_w12to16": 196_739_932,
    "swinv2_base_w12to24": 87_918_816,
    "swinv2_large_w12to24": 196_739_932,
    "swin3d_tiny": 28_158_070,
    "swin3d_small": 49_816_678,
    "swin3d_base": 88_048_984,
}

# What torchvision, then timm, transformers and the official code (without "_patch4") call them, or how that begins; for
# suggestions only.
ELSEWHERE: dict[str, str] = {
    "swin_t": "swin_tiny",
    "swin_s": "swin_small",
    "swin_b": "swin_base",
    "swin_v2_t": "swinv2_tiny_w8",
    "swin_v2_s": "swinv2_small_w8",
    "swin_v2_b": "swinv2_base_w8",
    "swin3d_t": "swin3d_tiny",
    "swin3d_s": "swin3d_small",
    "swin3d_b": "swin3d_base",
    "swin_tiny_window7": "swin_tiny",
    "swin_small_window7": "swin_small",
    "swin_base_window7": "swin_base",
    "swin_large_window7": "swin_large",
    "swin_base_window12": "swin_base_w12_384",
    "swin_large_window12": "swin_large_w12_384",
    "swinv2_tiny_window8": "swinv2_tiny_w8",
    "swinv2_small_window8": "swinv2_small_w8",
    "swinv2_base_window8": "swinv2_base_w8",
    "swinv2_tiny_window16": "swinv2_tiny_w16",
    "swinv2_small_window16": "swinv2_small_w16",
    "swinv2_base_window16": "swinv2_base_w16",
    "swinv2_base_window12": "swinv2_base_w12_192",
    "swinv2_large_window12": "swinv2_large_w12_192",
    "swinv2_base_window12to16": "swinv2_base_w12to16",
    "swinv2_large_window12to16": "swinv2_large_w12to16",
    "swinv2_base_window12to24": "swinv2_base_w12to24",
    "swinv2_large_window12to24": "swinv2_large_w12to24",
    "swin_tiny_patch244": "swin3d_tiny",
    "swin_small_patch244": "swin3d_small",
    "swin_base_patch244": "swin3d_base",
}

# The side, in pixels, of the square image a variant is meant for; it fixes nothing, any size runs.
IMAGE_SIZE: dict[str, int] = {
    "swin_nano": 32,
    "swin_micro": 32,
    "swin_base_w12_384": 384,
    "swin_large_w12_384": 384,
    "swin_base_w6_192": 192,
    "swinv2_tiny_w8": 256,
    "swinv2_small_w8": 256,
    "swinv2_base_w8": 256,
    "swinv2_tiny_w16": 256,
    "swinv2_small_w16": 256,
    "swinv2_base_w16": 256,
    "swinv2_base_w12_192": 192,
    "swinv2_large_w12_192": 192,
    "swinv2_base_w12to16": 256,
    "swinv2_large_w12to16": 256,
    "swinv2_base_w12to24": 384,
    "swinv2_large_w12to24": 384,
}
DEFAULT_IMAGE_SIZE = 224
CLIP_FRAMES = 32  # of the clips that swin3d_* are meant for


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
        other = _elsewhere(str(name))
        meant = nearest(str(name), VARIANTS) if other is None else f" (did you mean {other!r}?)"
        raise ConfigError(f"unknown variant {name!r}{meant}; 'swindow variants' lists all {len(VARIANTS)}")
    return SwinConfig.from_dict({**VARIANTS[name], **fields})


def _elsewhere(name: str) -> str | None:
    """The variant that another library calls so; None: it is no such name."""
    plain = name.lower().rpartition("/")[2].partition(".")[0].replace("-", "_").replace("_patch4", "")
    return next((ours for start, ours in ELSEWHERE.items() if f"{plain}_".startswith(f"{start}_")), None)


def image_size(name: str) -> int:
    """Returns the side in pixels of the square image that the variant is meant for (any size runs)."""
    return IMAGE_SIZE.get(name, DEFAULT_IMAGE_SIZE)


def parameters(name: str, num_classes: int, decoder_stride: int = 0) -> int:
    """Returns how many parameters a variant has with so many classes, 0: without a head; or with SimMIM's decoder.

    Args:
        name: of the variant.
        num_classes: of its head.
        decoder_stride: pixels per side that a decoder draws for each token of the last map; 0: there is none.

    Raises:
        ConfigError: no variant has that name.

    Example:
        >>> parameters("swin_tiny", 1000), parameters("swin_tiny", 21_841), parameters("swin_tiny", 0)
        (28288354, 44315083, 27519354)
    """
    config = variant_config(name)
    width = config.width(config.num_stages - 1) + 1  # and a bias
    count = PARAMETERS[name] + (num_classes - config.num_classes) * width
    if decoder_stride:
        count += config.in_chans * decoder_stride**config.ndim * width + config.embed_dim  # and a mask token
    return count


def variant_of(config: SwinConfig) -> str | None:
    """Returns the variant that a config is of, whatever its heads, channels, rates and rules for sizes; None: of none.

    Example:
        >>> variant_of(variant_config("swin_base", num_classes=3, in_chans=1))
        'swin_base'
    """
    fields = ("embed_dim", "depths", "num_heads", "window_size", "patch_size", "mlp_ratio", "qkv_bias", "similarity")
    wanted = [getattr(config, f) for f in fields], config.pretrained_window_size or config.window_size
    for name in VARIANTS:
        known = variant_config(name)
        if ([getattr(known, f) for f in fields], known.pretrained_window_size or known.window_size) == wanted:
            return name
    return None
