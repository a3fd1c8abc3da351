"""Our own names, for state dicts that come without swindow's description."""

from __future__ import annotations

from .layout import Layout
from .table import Table

NAMES = (
    "patch_embed.proj.*",
    "patch_embed.norm.*",
    "mask_token",
    "position_embed.embedding",
    "stages.{i}.blocks.{j}.norm1.*",
    "stages.{i}.blocks.{j}.attn.qkv.*",
    "stages.{i}.blocks.{j}.attn.q_bias",
    "stages.{i}.blocks.{j}.attn.v_bias",
    "stages.{i}.blocks.{j}.attn.similarity.logit_scale",
    "stages.{i}.blocks.{j}.attn.position_bias.table",
    "stages.{i}.blocks.{j}.attn.position_bias.mlp.0.*",
    "stages.{i}.blocks.{j}.attn.position_bias.mlp.2.weight",
    "stages.{i}.blocks.{j}.attn.proj.*",
    "stages.{i}.blocks.{j}.norm2.*",
    "stages.{i}.blocks.{j}.mlp.fc1.*",
    "stages.{i}.blocks.{j}.mlp.fc2.*",
    "stages.{i}.blocks.{j}.norm3.*",
    "stages.{i}.merge.norm.*",
    "stages.{i}.merge.reduction.weight",
    "out_norms.{i}.*",
    "norm.*",
    "head.*",
    "decoder.proj.*",
)

OWN = Layout("swindow", "swindow", Table({name: name for name in NAMES}), axes=(1, 2, 3))
