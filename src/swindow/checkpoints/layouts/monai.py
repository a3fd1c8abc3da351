"""MONAI's Swin encoder, as in SwinUNETR (1.6.1 was read): merging over all axes, after the last stage too."""

from __future__ import annotations

from torch import nn

from .layout import Layout
from .official import ATTENTION, EMBEDDING, NO_PRETRAINING
from .rearrange import LEXICOGRAPHIC, MONAI, SAME, Rearrangement
from .table import Rows, Table, Via, under

BLOCK: Rows = {
    "norm1.*": "norm1.*",
    **under("attn.", "attn.", ATTENTION),
    "norm2.*": "norm2.*",
    "mlp.fc1.*": "mlp.linear1.*",
    "mlp.fc2.*": "mlp.linear2.*",
}
PRETRAINED: Rows = {**BLOCK, "mlp.fc1.*": "mlp.fc1.*", "mlp.fc2.*": "mlp.fc2.*"}
HEADS = ("rotation_head.", "contrastive_head.", "conv.", "convTrans3d.")  # of pre-training; the last two draw volumes


def _layout(name: str, title: str, axes: int, order: Rearrangement, assumed: str, block: Rows = BLOCK) -> Layout:
    merge: Rows = {"norm.*": Via("norm.*", order), "reduction.weight": Via("reduction.weight", order)}
    return Layout(
        name,
        title,
        Table(
            {
                **under("", "swinViT.", EMBEDDING),
                **under("stages.{i}.blocks.{j}.", "swinViT.layers{i+1}.0.blocks.{j}.", block),
                **under("stages.{i}.merge.", "swinViT.layers{i+1}.0.downsample.", merge),
            }
        ),
        body="swinViT.",
        heads=HEADS,
        axes=(axes,),
        cosine=False,
        rule={"shrink": "axis", "mask_padding": False},
        buffers={"attn.relative_position_index": "index"},
        norm_optional=True,
        one_window=True,
        merges_all=True,
        left_out={
            "norm.*": "MONAI normalises its maps without weights",
            "head.*": "an encoder has no head",
            **NO_PRETRAINING,
        },
        assumed={"merging": assumed} if assumed else {},
    )


def live(model: nn.Module) -> str | None:
    """Returns the layout of a live model whose keys do not tell how it merges patches; None where they do."""
    known = any(
        type(module).__name__ == "PatchMergingV2" and type(module).__module__.startswith("monai.")
        for module in model.modules()
    )
    return "monai_v2" if known else None


SINCE = "volumes merge as MONAI does since January 2025 (its PR 8285)"
MERGING = f"downsample='merging', the default; {SINCE}"
MONAI_LAYOUTS = (
    _layout("monai", "MONAI, SwinUNETR's encoder", 3, MONAI, MERGING),
    _layout("monai", "MONAI, SwinUNETR's encoder after self-supervised training", 3, MONAI, MERGING, PRETRAINED),
    _layout("monai", "MONAI, SwinUNETR's encoder for images", 2, SAME, ""),
    _layout("monai_v2", "MONAI, SwinUNETR's encoder with downsample='mergingv2'", 3, LEXICOGRAPHIC, ""),
    _layout("monai_v2", "MONAI, the same for images", 2, SAME, ""),
)
