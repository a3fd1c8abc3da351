"""The official code (microsoft/Swin-Transformer f82860b), SimMIM, its detection and segmentation forks, Video-Swin."""

from __future__ import annotations

from .layout import Layout
from .rearrange import CHANNELS_FIRST, FLAT_GRID, VECTOR
from .table import Rows, Table, Via, under

ATTENTION: Rows = {
    "qkv.*": "qkv.*",
    "q_bias": "q_bias",
    "v_bias": "v_bias",
    "similarity.logit_scale": "logit_scale",
    "position_bias.table": "relative_position_bias_table",
    "position_bias.mlp.0.*": "cpb_mlp.0.*",
    "position_bias.mlp.2.weight": "cpb_mlp.2.weight",
    "proj.*": "proj.*",
}
BLOCK: Rows = {
    "norm1.*": "norm1.*",
    **under("attn.", "attn.", ATTENTION),
    "norm2.*": "norm2.*",
    "mlp.fc1.*": "mlp.fc1.*",
    "mlp.fc2.*": "mlp.fc2.*",
}
MERGE: Rows = {"norm.*": "norm.*", "reduction.weight": "reduction.weight"}
EMBEDDING: Rows = {"patch_embed.proj.*": "patch_embed.proj.*", "patch_embed.norm.*": "patch_embed.norm.*"}
BODY: Rows = {
    **EMBEDDING,
    **under("stages.{i}.blocks.{j}.", "layers.{i}.blocks.{j}.", BLOCK),
    **under("stages.{i}.merge.", "layers.{i}.downsample.", MERGE),
}

INDEX = {"attn.relative_position_index": "index"}
BUFFERS = {**INDEX, "attn.relative_coords_table": "coordinates", "attn_mask": "mask"}
SIZES = {"shrink": "min", "mask_padding": False}
BACKBONE_ONLY = {
    "head.*": "a backbone has no head",
    "mask_token": "only pre-training has a mask token",
    "decoder.*": "only pre-training has a decoder",
}
NO_PRETRAINING = {key: reason for key, reason in BACKBONE_ONLY.items() if key != "head.*"}

OFFICIAL = (
    Layout(
        "microsoft",
        "the official code (Swin and SwinV2; SimMIM after fine-tuning; timm up to 0.6)",
        Table(
            {
                **BODY,
                "position_embed.embedding": Via("absolute_pos_embed", FLAT_GRID),
                "norm.*": "norm.*",
                "head.*": "head.*",
            }
        ),
        rule=SIZES,
        buffers=BUFFERS,
        settles="min",
        needs_size=True,
        left_out=NO_PRETRAINING,
    ),
    Layout(
        "simmim",
        "the official code's SimMIM pre-training (Swin and SwinV2)",
        Table(
            {
                **under("", "encoder.", BODY),
                "mask_token": Via("encoder.mask_token", VECTOR),
                "position_embed.embedding": Via("encoder.absolute_pos_embed", FLAT_GRID),
                "norm.*": "encoder.norm.*",
                "decoder.proj.*": "decoder.0.*",
            }
        ),
        body="encoder.",
        rule=SIZES,
        buffers=BUFFERS,
        settles="min",
        needs_size=True,
        left_out={"head.*": "pre-training has no head"},
    ),
    Layout(
        "forks",
        "the official detection and segmentation forks",
        Table(
            {
                **under("", "backbone.", BODY),
                "position_embed.embedding": Via("backbone.absolute_pos_embed", CHANNELS_FIRST),
                "out_norms.{i}.*": "backbone.norm{i}.*",
            }
        ),
        body="backbone.",
        cosine=False,
        rule={"shift_single": True, "mask_padding": False},
        buffers=INDEX,
        norm_optional=True,
        stage_norms=True,
        one_window=True,
        left_out={
            **BACKBONE_ONLY,
            "norm.*": "norms follow the stages of out_indices only, and the last is none of them",
        },
    ),
    Layout(
        "video",
        "Video-Swin and mmaction2",
        Table({**under("", "backbone.", BODY), "norm.*": "backbone.norm.*", "head.*": "cls_head.fc_cls.*"}),
        body="backbone.",
        axes=(3,),
        cosine=False,
        rule={"shrink": "axis", "mask_padding": False},
        buffers=INDEX,
        one_window=True,
        left_out=NO_PRETRAINING,
    ),
)
