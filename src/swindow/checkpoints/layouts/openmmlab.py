"""mmdetection 3.3 and mmsegmentation 1.2, mmpretrain (ee7f2e8): merging with nn.Unfold, norms by stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .layout import Layout
from .official import ATTENTION, BACKBONE_ONLY
from .rearrange import CHANNELS_FIRST, FLAT_GRID, UNFOLDED, VECTOR
from .table import Rows, Table, Via, under

BLOCK: Rows = {
    "norm1.*": "norm1.*",
    **under("attn.", "attn.w_msa.", ATTENTION),
    "norm2.*": "norm2.*",
    "mlp.fc1.*": "ffn.layers.0.0.*",
    "mlp.fc2.*": "ffn.layers.1.*",
}
REDUCTION: Rows = {"reduction.weight": Via("reduction.weight", UNFOLDED)}
MERGE: Rows = {**REDUCTION, "norm.*": Via("norm.*", UNFOLDED)}
MERGE_V2: Rows = {**REDUCTION, "norm.*": "norm.*"}  # its norm comes after the reduction

BUFFERS = {"attn.w_msa.relative_position_index": "index", "attn.w_msa.relative_coords_table": "coordinates"}
CLASSIFIER: Rows = {
    "mask_token": Via("backbone.mask_token", VECTOR),
    "position_embed.embedding": Via("backbone.absolute_pos_embed", FLAT_GRID),
    "head.*": "head.fc.*",
}
DENSE = ("neck.", "rpn_head.", "roi_head.", "bbox_head.", "mask_head.", "decode_head.", "auxiliary_head.", "panoptic")
SIZES = {"shrink": "min", "mask_padding": False}
UNUSED_NORM = {"norm.*": "norms follow the stages of out_indices only, and the last is none of them"}
LEFT_OUT = {**UNUSED_NORM, "mask_token": BACKBONE_ONLY["mask_token"], "decoder.*": BACKBONE_ONLY["decoder.*"]}


def _body(block: Rows, merge: str, merging: Rows) -> Rows:
    return {
        **under(
            "",
            "backbone.",
            {
                "patch_embed.proj.*": "patch_embed.projection.*",
                "patch_embed.norm.*": "patch_embed.norm.*",
                "out_norms.{i}.*": "norm{i}.*",
            },
        ),
        **under("stages.{i}.blocks.{j}.", "backbone.stages.{i}.blocks.{j}.", block),
        **under("stages.{i}.merge.", f"backbone.stages.{merge}.downsample.", merging),
    }


def _classifies(keys: Collection[str]) -> bool:
    """Whether a file is of mmpretrain: it has its head, or no sign of a detector and only one norm after a stage."""
    norms = sum(key.endswith(tuple(f"backbone.norm{i}.weight" for i in range(9))) for key in keys)
    return "head.fc.weight" in keys or (norms <= 1 and not any(key.startswith(DENSE) for key in keys))


def class_names(beside: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the names of classes that lie beside the weights in a file of a training run; None where none do."""
    about = beside.get("meta")
    if not isinstance(about, Mapping):
        return None
    data = about.get("dataset_meta")
    for names in (about.get("CLASSES"), data.get("classes") if isinstance(data, Mapping) else None):
        if isinstance(names, (list, tuple)) and names:
            return tuple(map(str, names))
    return None


OPENMMLAB = (
    Layout(
        "mmpretrain",
        "mmpretrain, Swin",
        Table({**_body(BLOCK, "{i}", MERGE), **CLASSIFIER}),
        anchor="patch_embed.projection.weight",
        body="backbone.",
        cosine=False,
        rule=SIZES,
        buffers=BUFFERS,
        norm_optional=True,
        stage_norms=True,
        left_out=LEFT_OUT,
        fits=_classifies,
        assumed={
            "small maps": "pad_small_map is off, mmpretrain's default",
            "library": "mmpretrain, for its head or only norm; mmdetection shifts single windows: layout='mmdetection'",
        },
    ),
    Layout(
        "mmpretrain",
        "mmpretrain, SwinV2",
        Table({**_body({**BLOCK, "norm3.*": "norm3.*"}, "{i+1}", MERGE_V2), **CLASSIFIER}),
        anchor="patch_embed.projection.weight",
        body="backbone.",
        cosine=True,
        rule=SIZES,
        buffers=BUFFERS,
        norm_optional=True,
        stage_norms=True,
        left_out=LEFT_OUT,
        assumed={"small maps": "pad_small_map is off, mmpretrain's default"},
    ),
    Layout(
        "mmdetection",
        "mmdetection and mmsegmentation",
        Table(
            {
                **_body(BLOCK, "{i}", MERGE),
                "position_embed.embedding": Via("backbone.absolute_pos_embed", CHANNELS_FIRST),
            }
        ),
        anchor="patch_embed.projection.weight",
        body="backbone.",
        cosine=False,
        rule={"shift_single": True, "mask_padding": False},
        buffers=BUFFERS,
        norm_optional=True,
        stage_norms=True,
        one_window=True,
        left_out={**BACKBONE_ONLY, **UNUSED_NORM},
        fits=lambda keys: not _classifies(keys),
        assumed={
            "library": "mmdetection, for its norms per map; mmpretrain shifts no single window: layout='mmpretrain'"
        },
    ),
)
