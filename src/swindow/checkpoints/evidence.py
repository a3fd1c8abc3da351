"""What is known of the model that some weights are of, by where it is known from; and how it is put together."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..card import ModelCard
from ..config import PerAxis
from ..errors import CheckpointError, ConfigError
from .parts import CHANGES

HEADER, TENSORS = "its header", "its tensors"  # the source of what they say
# What tensors tell beyond doubt: whoever says otherwise is wrong.
SURE = (
    "embed_dim", "depths", "num_heads", "patch_size", "in_chans", "num_classes", "patch_norm", "mlp_ratio", "qkv_bias",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one source says of a model. What it does not say is left empty.

    Attributes:
        source: what says it, for messages.
        fields: SwinConfig fields.
        window: the window that the model was built with, before its library shrank it to its maps: an int, one int per
            axis, or one entry per stage.
        windows: stage to the window of that stage, as it is in use.
        trained: stage to the window that a continuous position bias was trained with.
        input_size: pixels per axis.
        card: class names, preprocessing, ...
        certain: whether it belongs to the weights beyond doubt: then a contradiction is an error, else it is not used.
        assumed: what could not be used of it, for the report.
    """

    source: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    window: Any = None
    windows: Mapping[int, PerAxis] = dataclasses.field(default_factory=dict)
    trained: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    input_size: PerAxis | None = None
    card: ModelCard = ModelCard()  # noqa: RUF009  frozen
    certain: bool = True
    assumed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def merge(source: str, evidence: Sequence[Evidence]) -> tuple[dict[str, Any], list[Evidence], dict[str, str]]:
    """Puts together what is known of a model.

    Args:
        source: of the weights, for messages.
        evidence: what stands first counts more. The first is what the caller says, one is ``of_tensors``.

    Returns:
        the SwinConfig fields that are known; the evidence that does not contradict the tensors; what was not used, and
        why.

    Raises:
        ConfigError: the caller contradicts the tensors.
        CheckpointError: something else does that certainly belongs to them.
    """
    tensors = next(said.fields for said in evidence if said.source == TENSORS)
    fields: dict[str, Any] = {}
    kept, unused = [], {}
    for said in evidence:
        name = next((name for name in SURE if name in said.fields and _differs(name, said.fields[name], tensors)), None)
        if name is not None and said is evidence[0]:
            advice = f"; to change it, give {name}= as an argument of its own" if name in CHANGES else ""
            raise ConfigError(
                f"config: {name} {said.fields[name]!r} does not fit {source}, whose tensors have {tensors[name]!r}"
                + advice
            )
        if name is not None:
            why = f"its tensors have {name} {tensors[name]}, {said.source} says {said.fields[name]}"
            if said.certain:
                wrong = "the file is broken" if said.source == HEADER else "they are of different models"
                raise CheckpointError(f"{source}: {why}; {wrong}")
            unused[said.source] = f"not used, for {why}"
            continue
        kept.append(said)
        fields = {**said.fields, **fields}
    if isinstance(fields["patch_size"], int):
        fields["patch_size"] = tensors["patch_size"]
    return fields, kept, unused


def _differs(name: str, value: Any, tensors: Mapping[str, Any]) -> bool:
    """Whether a field's value, in any form that SwinConfig takes, is not that of the tensors."""
    told = tensors[name]
    if name == "mlp_ratio" and isinstance(value, (int, float)):  # hidden channels are rounded down to whole ones
        width = tensors["embed_dim"] << len(tensors["depths"]) - 1
        return not abs(width * value - width * told) < 2
    if name == "patch_size" and isinstance(value, int):
        value = (value,) * len(told)
    return (tuple(value) if isinstance(value, list) else value) != told


# --- tensors ----------------------------------------------------------------------------------------------------------


def of_tensors(source: str, tensors: Mapping[str, Tensor]) -> Evidence:
    """Returns what the names and shapes of tensors, under our names, say.

    Raises:
        CheckpointError: they are not those of a whole Swin Transformer.
    """
    depths = _depths(source, tensors)
    last, attention = len(depths) - 1, "stages.0.blocks.0.attn."
    cosine = f"{attention}similarity.logit_scale" in tensors
    continuous = cosine and f"{attention}position_bias.table" not in tensors
    heads_in = "similarity.logit_scale" if cosine else "position_bias.table"
    if not cosine and f"{attention}position_bias.mlp.2.weight" in tensors:
        heads_in, continuous = "position_bias.mlp.2.weight", True
    # The widest hidden layer tells the ratio best, where its product with the width is no whole number.
    hidden = f"stages.{last}.blocks.0.mlp.fc1.weight"
    of_heads = [f"stages.{i}.blocks.0.attn.{heads_in}" for i in range(last + 1)]
    for key in ("patch_embed.proj.weight", hidden, *of_heads):
        if key not in tensors or tensors[key].ndim < 2 or 0 in tensors[key].shape:
            raise CheckpointError(f"{source}: tensor {key} (swindow's name) is missing or empty; not a whole model")
    proj, head = tensors["patch_embed.proj.weight"], tensors.get("head.weight")
    heads = tuple(tensors[key].shape[1 if heads_in.endswith("table") else 0] for key in of_heads)
    extra = [
        j for i, depth in enumerate(depths) for j in range(depth) if f"stages.{i}.blocks.{j}.norm3.weight" in tensors
    ]
    fields = {
        "embed_dim": proj.shape[0],
        "in_chans": proj.shape[1],
        "patch_size": tuple(proj.shape[2:]),
        "depths": depths,
        "num_heads": heads,
        "head_dim": _head_dim(tensors, heads, proj.shape[0]),
        "mlp_ratio": _ratio(tensors[hidden].shape[0], proj.shape[0] << last),
        "num_classes": 0 if head is None or head.ndim != 2 else head.shape[0],
        "qkv_bias": "qv" if f"{attention}q_bias" in tensors else f"{attention}qkv.bias" in tensors,
        "patch_norm": "patch_embed.norm.weight" in tensors,
        "extra_norm_period": min(extra) + 1 if extra else 0,
        "similarity": "cosine" if cosine else "dot",
        "position_bias": "continuous" if continuous else "table",
        "norm_placement": "post" if cosine else "pre",
        **_ends(tensors, proj, last),
        **_merging(tensors, proj),
    }
    return Evidence(TENSORS, fields)


def _depths(source: str, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage."""
    blocks = sorted(
        {(int(m[1]), int(m[2])) for key in tensors if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key))}
    )
    stages = range(blocks[-1][0] + 1 if blocks and blocks[-1][0] < len(blocks) else 0)
    depths = tuple(sum(stage == i for stage, _ in blocks) for i in stages)
    if not depths or 0 in depths or blocks != [(i, j) for i, depth in enumerate(depths) for j in range(depth)]:
        raise CheckpointError(f"{source}: blocks are missing (found: {blocks[:3]}, ...); it is not a whole model")
    return depths


def _ends(tensors: Mapping[str, Tensor], proj: Tensor, last: int) -> dict[str, Any]:
    """What follows the last stage: norms of the maps, another merging, a decoder."""
    norms = tuple(i for i in range(last + 1) if f"out_norms.{i}.weight" in tensors)
    decoder = tensors.get("decoder.proj.weight")
    drawn = 0 if decoder is None or decoder.ndim < 1 else decoder.shape[0] // proj.shape[1]
    return {
        "out_norms": bool(norms),
        "final_merge": f"stages.{last}.merge.reduction.weight" in tensors,
        "decoder_stride": round(drawn ** (1 / (proj.ndim - 2))),
        **({"out_indices": norms} if norms else {}),
    }


def _merging(tensors: Mapping[str, Tensor], proj: Tensor) -> dict[str, Any]:
    """How patches are merged; {} where no merging is in the file."""
    reduction, norm = tensors.get("stages.0.merge.reduction.weight"), tensors.get("stages.0.merge.norm.weight")
    if reduction is None or norm is None or reduction.ndim != 2 or norm.ndim != 1:
        return {}
    merged = max(1, (reduction.shape[1] // proj.shape[0]).bit_length() - 1)  # 4C: two axes, 8C: three
    return {
        "merge_axes": tuple(range(proj.ndim - 2))[-merged:],
        "merge_norm": "pre" if norm.shape[0] == reduction.shape[1] else "post",
    }


def _head_dim(tensors: Mapping[str, Tensor], heads: Sequence[int], width: int) -> tuple[int, ...] | None:
    """Channels per head of every stage; None where they are the stage's channels over its heads, as published."""
    found = []
    for i, count in enumerate(heads):
        qkv = tensors.get(f"stages.{i}.blocks.0.attn.qkv.weight")
        channels = width << i if qkv is None or qkv.ndim != 2 else qkv.shape[0] // 3
        found.append(channels // max(1, count))
    usual = all(count * d == width << i for i, (count, d) in enumerate(zip(heads, found)))
    return None if usual or 0 in found else tuple(found)


def _ratio(hidden: int, width: int) -> float:
    """The ratio of which a width makes so many hidden channels, rounded down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
