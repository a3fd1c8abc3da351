"""timm from 0.8 on (1.0.31 was read): official names, merging at the start of the next stage, no buffers."""

from __future__ import annotations

from .layout import Layout
from .official import BLOCK, EMBEDDING, MERGE, NO_PRETRAINING
from .table import Table, under

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
    ),
)
