"""transformers: the names in files of every version, and those of models in memory since version 5 (5.23 was read)."""

from __future__ import annotations

from .layout import Layout
from .official import BACKBONE_ONLY, MERGE
from .rearrange import FLAT_GRID, JOINED, VECTOR
from .table import Rows, Table, Via, under

BLOCK: Rows = {
    "norm1.*": "layernorm_before.*",
    "norm2.*": "layernorm_after.*",
    "attn.proj.*": "attention.output.dense.*",
    "mlp.fc1.*": "intermediate.dense.*",
    "mlp.fc2.*": "output.dense.*",
}
V1: Rows = {
    **BLOCK,
    "attn.qkv.*": Via(("attention.self.query.*", "attention.self.key.*", "attention.self.value.*"), JOINED),
    "attn.position_bias.table": "attention.self.relative_position_bias_table",
}
V2: Rows = {
    **BLOCK,
    "attn.qkv.weight": Via(
        ("attention.self.query.weight", "attention.self.key.weight", "attention.self.value.weight"), JOINED
    ),
    "attn.q_bias": "attention.self.query.bias",
    "attn.v_bias": "attention.self.value.bias",
    "attn.similarity.logit_scale": "attention.self.logit_scale",
    "attn.position_bias.mlp.0.*": "attention.self.continuous_position_bias_mlp.0.*",
    "attn.position_bias.mlp.2.weight": "attention.self.continuous_position_bias_mlp.2.weight",
}
V1_IN_MEMORY: Rows = {
    "norm1.*": "layernorm_before.*",
    "norm2.*": "layernorm_after.*",
    "attn.qkv.*": Via(("attention.q_proj.*", "attention.k_proj.*", "attention.v_proj.*"), JOINED),
    "attn.position_bias.table": "attention.relative_position_bias.relative_position_bias_table",
    "attn.proj.*": "attention.o_proj.*",
    "mlp.fc1.*": "mlp.fc1.*",
    "mlp.fc2.*": "mlp.fc2.*",
}


def _layout(name: str, title: str, body: str, block: Rows, cosine: bool = False, backbone: bool = False) -> Layout:
    rows: Rows = {
        "patch_embed.proj.*": f"{body}embeddings.patch_embeddings.projection.*",
        "patch_embed.norm.*": f"{body}embeddings.norm.*",
        "position_embed.embedding": Via(f"{body}embeddings.position_embeddings", FLAT_GRID),
        **under("stages.{i}.blocks.{j}.", f"{body}encoder.layers.{{i}}.blocks.{{j}}.", block),
        **under("stages.{i}.merge.", f"{body}encoder.layers.{{i}}.downsample.", MERGE),
        "norm.*": f"{body}layernorm.*",
    }
    heads: Rows = {
        "head.*": "classifier.*",
        "mask_token": Via(f"{body}embeddings.mask_token", VECTOR),
        "decoder.proj.*": "decoder.0.*",
    }
    norms: Rows = {"out_norms.{i}.*": "hidden_states_norms.stage{i+1}.*"}
    rows = {**rows, **(norms if backbone else heads)}
    in_memory = name == "transformers_5"  # where a backbone has its prefix; its files have none
    attention = "attention." if in_memory else "attention.self."
    bias = "relative_position_bias." if in_memory else ""
    return Layout(
        name,
        title,
        Table(rows),
        anchor="embeddings.patch_embeddings.projection.weight",
        body=body,
        bare="headless" if not backbone else "never" if in_memory else "always",
        inside=("hidden_states_norms.",),
        cosine=cosine,
        out_norms=None if cosine else backbone,
        # Its v1 backbone alone partitions always: no window is shrunk, and a single one is shifted.
        rule={"shrink": None if backbone else "min", "shift_single": backbone, "mask_padding": False},
        buffers={
            f"{attention}{bias}relative_position_index": "index",
            **({f"{attention}relative_coords_table": "coordinates"} if cosine else {}),
        },
        settles="min_down" if cosine else None,
        norm_optional=True,
        needs_patch_norm=True,
        left_out=BACKBONE_ONLY if backbone else {},
        preprocess={"fit": "squash"},
    )


TRANSFORMERS = (
    _layout("transformers", "transformers, Swin", "swin.", V1),
    _layout("transformers", "transformers, Swin as a backbone", "swin.", V1, backbone=True),
    _layout("transformers", "transformers, SwinV2", "swinv2.", V2, cosine=True),
    _layout("transformers_5", "state dicts of transformers 5, Swin", "swin.", V1_IN_MEMORY),
    _layout(
        "transformers_5", "state dicts of transformers 5, Swin as a backbone", "swin.", V1_IN_MEMORY, backbone=True
    ),
)
