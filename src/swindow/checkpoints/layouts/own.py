"""Our own names."""

from __future__ import annotations

from .layout import Layout
from .table import Rows, Table, under

SWIN = (
    "patch_embed.proj.*",
    "patch_embed.norm.*",
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
)
PRETRAINING = ("mask_token", "decoder.proj.*")


def _same(*names: str) -> Rows:
    return {name: name for name in names}


# Files of early versions may have a mask token without a decoder.
OWN = Layout("swindow", "swindow", Table(_same(*SWIN, "mask_token", "head.*")), axes=(1, 2, 3), decoder=False)
# Those of SimMIM models had no prefix then.
OWN_SIMMIM = Layout(
    "swindow",
    "swindow, SimMIM pre-training",
    Table({**under("", "backbone.", _same(*SWIN)), **_same(*PRETRAINING)}),
    body="backbone.",
    axes=(1, 2, 3),
    decoder=True,
)
