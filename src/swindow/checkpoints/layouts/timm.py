"""timm from 0.8 on (1.0.31 was read): official names, merging at the start of the next stage, no buffers."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...card import ModelCard, Preprocess
from ...config import SwinConfig
from ...errors import CheckpointError
from ...variants import variant_config, variant_of
from ..evidence import Evidence
from ..sidecar import Sidecars, pair, prepared, windows
from .layout import Layout
from .official import BLOCK, EMBEDDING, MERGE, NO_PRETRAINING
from .table import Table, under

# Its names of published SwinV2 models, whose windows no tensor tells.
VARIANTS = {
    "swinv2_tiny_window8_256": "swinv2_tiny_w8",
    "swinv2_tiny_window16_256": "swinv2_tiny_w16",
    "swinv2_small_window8_256": "swinv2_small_w8",
    "swinv2_small_window16_256": "swinv2_small_w16",
    "swinv2_base_window8_256": "swinv2_base_w8",
    "swinv2_base_window16_256": "swinv2_base_w16",
    "swinv2_base_window12_192": "swinv2_base_w12_192",
    "swinv2_base_window12to16_192to256": "swinv2_base_w12to16",
    "swinv2_base_window12to24_192to384": "swinv2_base_w12to24",
    "swinv2_large_window12_192": "swinv2_large_w12_192",
    "swinv2_large_window12to16_192to256": "swinv2_large_w12to16",
    "swinv2_large_window12to24_192to384": "swinv2_large_w12to24",
}


def sidecar(files: Sidecars) -> Evidence | None:
    """Returns what config.json says; None where it is of another library."""
    about = files.get("config.json", {})
    if "architecture" not in about or not isinstance(about.get("pretrained_cfg"), dict):
        return None
    how, arguments = about["pretrained_cfg"], about.get("model_args") or {}
    window, trained = None, {}
    if about["architecture"] in VARIANTS:
        variant = variant_config(VARIANTS[about["architecture"]])
        window, trained = variant.window_size[0], dict(enumerate(variant.pretrained_window_size or ()))
    if "window_size" in arguments:
        window = windows(arguments["window_size"])
    if "pretrained_window_sizes" in arguments:
        trained = {i: w for i, w in enumerate(windows(arguments["pretrained_window_sizes"])) if w}
    size = pair(how["input_size"][1:]) if "input_size" in how else None
    input_size = pair(arguments["img_size"]) if "img_size" in arguments else size
    card = ModelCard()
    assumed: dict[str, str] = {}
    if size is not None:
        card, assumed = prepared(
            "config.json",
            size=input_size,
            fit="squash" if how.get("crop_mode") == "squash" else "crop",
            crop_fraction=float(how.get("crop_pct") or 0.9),
            interpolation=how.get("interpolation", "bicubic"),
            **{key: tuple(how[key]) for key in ("mean", "std") if key in how},
        )
    names = about.get("label_names") or how.get("label_names")
    if names:
        card = card.replace(class_names=tuple(map(str, names)))
    return Evidence("config.json", window=window, trained=trained, input_size=input_size, card=card, assumed=assumed)


def live(model: nn.Module) -> Evidence | None:
    """Returns a live model's own rule for sizes; None where it has the usual one.

    Raises:
        CheckpointError: it pools otherwise than swindow does.
    """
    pooling = getattr(model, "global_pool", None)
    if isinstance(pooling, str) and pooling != "avg":
        raise CheckpointError(f"adopt: got a model with global_pool {pooling!r}, expected 'avg', the mean over the map")
    if any(getattr(module, "always_partition", False) is True for module in model.modules()):
        return Evidence("its settings", {"shrink": None, "shift_single": True})
    return None


def files_of(config: SwinConfig, card: ModelCard, side: int) -> dict[str, dict[str, Any]]:
    """Returns the config.json with which ``timm.create_model("local-dir:FOLDER")`` builds and fills the model."""
    v2, how = config.similarity == "cosine", card.preprocess or Preprocess(crop_fraction=0.9)
    variant = variant_of(config)
    published = {ours: theirs for theirs, ours in VARIANTS.items()}
    default = "swinv2_tiny_window8_256" if v2 else "swin_tiny_patch4_window7_224"
    windows = [max(w) for w in config.window_size]
    trained = [w[0] for w in config.pretrained_window_size or ()]
    return {
        "config.json": {
            "architecture": published.get(variant or "", default),
            "num_classes": config.num_classes,
            "num_features": config.width(config.num_stages - 1),
            "global_pool": "avg",
            "pretrained_cfg": {
                "input_size": [config.in_chans, side, side],
                "fixed_input_size": True,
                "interpolation": how.interpolation,
                "crop_pct": how.crop_fraction,
                "crop_mode": "squash" if how.fit == "squash" else "center",
                "mean": how.mean,
                "std": how.std,
                "num_classes": config.num_classes,
                "first_conv": "patch_embed.proj",
                "classifier": "head.fc",
                **({"label_names": card.class_names} if card.class_names else {}),
            },
            "model_args": {
                "img_size": side,
                "patch_size": config.patch_size[0],
                "embed_dim": config.embed_dim,
                "depths": config.depths,
                "num_heads": config.num_heads,
                "mlp_ratio": config.mlp_ratio,
                "window_size": max(windows) if v2 or len(set(windows)) == 1 else windows,
                **({"pretrained_window_sizes": trained} if trained else {}),
                **({"head_dim": config.head_dim} if config.head_dim and not v2 else {}),
            },
        }
    }


TIMM = (
    Layout(
        "timm",
        "timm, from 0.8 on (Swin, SwinV2 and S3)",
        Table(
            {
                **EMBEDDING,
                **under("stages.{i}.blocks.{j}.", "layers.{i}.blocks.{j}.", BLOCK),
                **under("stages.{i}.merge.", "layers.{i+1}.downsample.", MERGE),
                "norm.*": "norm.*",
                "head.*": "head.fc.*",
            }
        ),
        rule={"mask_padding": False},
        settles="axis",
        needs_patch_norm=True,
        head_dims=True,
        left_out=NO_PRETRAINING,
        preprocess={"crop_fraction": 0.9},
        preprocess_large={"crop_fraction": 1.0},
        folder=files_of,
    ),
)
