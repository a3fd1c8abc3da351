"""torchvision (0.28 was read): embedding, stages and mergings in one row of ``features``, a fused bias in v2."""

from __future__ import annotations

from .layout import Layout
from .official import ATTENTION, EMBEDDING, MERGE, NO_PRETRAINING
from .rearrange import WITHOUT_KEYS
from .table import Rows, Table, Via, under

BLOCK: Rows = {
    "norm1.*": "norm1.*",
    "norm2.*": "norm2.*",
    "mlp.fc1.*": "mlp.0.*",
    "mlp.fc2.*": "mlp.3.*",
}
FIRST: Rows = {"patch_embed.proj.*": "features.0.0.*", "patch_embed.norm.*": "features.0.2.*"}
LAST: Rows = {"norm.*": "norm.*", "head.*": "head.*"}
ATTENTION_V2: Rows = {
    **{ours: theirs for ours, theirs in ATTENTION.items() if ours not in ("qkv.*", "q_bias", "v_bias")},
    "qkv.weight": "qkv.weight",
    ("q_bias", "v_bias"): Via("qkv.bias", WITHOUT_KEYS),
}


def _layout(title: str, attention: Rows, axes: int, cosine: bool) -> Layout:
    first = 1 if axes == 2 else 0  # the embedding of images is features.0
    block = {**BLOCK, **under("attn.", "attn.", attention)}
    rows = {
        **(FIRST if first else EMBEDDING),
        **under("stages.{i}.blocks.{j}.", f"features.{{2i+{first}}}.{{j}}.", block),
        **under("stages.{i}.merge.", f"features.{{2i+{first + 1}}}.", MERGE),
        **LAST,
    }
    image = {"mask_padding": False, "patch_remainder": "drop"}
    return Layout(
        "torchvision",
        title,
        Table(rows),
        anchor="features.0.0.weight" if first else "patch_embed.proj.weight",
        axes=(axes,),
        cosine=cosine,
        rule=image if first else {"shrink": "axis", "mask_padding": False},
        buffers={
            "attn.relative_position_index": "flat_index" if first else "index",
            **({"attn.relative_coords_table": "coordinates"} if cosine else {}),
        },
        one_window=True,
        needs_patch_norm=True,
        left_out=NO_PRETRAINING,
        preprocess={"crop_fraction": 256 / 260 if cosine else 224 / 232},
    )


TORCHVISION = (
    _layout("torchvision, Swin", ATTENTION, 2, cosine=False),
    _layout("torchvision, SwinV2", ATTENTION_V2, 2, cosine=True),
    _layout("torchvision, Swin for video", ATTENTION, 3, cosine=False),
)
