"""What tensors say of the model they are of, and what they leave open."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..config import PerAxis, PerStage, SwinConfig
from ..errors import CheckpointError, ConfigError
from ..variants import VARIANTS, variant_config
from .derived import BUFFERS, Block, Facts, facts, maps, mismatch, settled
from .neighbours import Hints
from .recognise import Reading

V2: dict[str, Any] = {"similarity": "cosine", "position_bias": "continuous", "norm_placement": "post"}


@dataclasses.dataclass
class Architecture:
    """A model as far as its file and the caller describe it.

    Attributes:
        config: its config.
        input_size: pixels per axis that its weights are for; None: not known.
        assumed: what was taken from a library's defaults, and what it was taken to be.
    """

    config: SwinConfig
    input_size: PerAxis | None
    assumed: dict[str, str]


def architecture(
    source: str, reading: Reading, hints: Hints, config: Mapping[str, Any], input_size: PerAxis | None
) -> Architecture:
    """Returns the architecture of tensors.

    Args:
        source: for messages.
        reading: the tensors under our names.
        hints: what lies beside the file.
        config: what the caller says: SwinConfig fields, above all else.
        input_size: what the caller says of the size, pixels per axis.

    Raises:
        CheckpointError: the tensors are not those of a Swin Transformer, or leave something open; the message names
            the argument that settles it.
    """
    fields = _shapes(source, reading.tensors)
    axes = len(fields["patch_size"])
    told = facts([(kind, stage, tensor) for kind, stage, _, _, tensor in reading.buffers], axes)
    assumed = dict(reading.layout.assumed)
    contradicts = _contradicts(hints, fields)
    if contradicts and hints.certain:
        raise CheckpointError(f"{source}: {contradicts}; they are of different models: correct {hints.source}")
    if contradicts:
        assumed[hints.source] = f"not used, for {contradicts}"
        hints = Hints()
    size = input_size or hints.input_size or _size(told, fields)
    _check_told(source, config, fields)
    merged = {**reading.layout.rule, **hints.fields, **fields, **config}
    if isinstance(config.get("window_size"), int) and size is None and reading.layout.settles:
        merged |= _published(merged, assumed)
    if "window_size" not in merged:
        merged["window_size"] = _windows(source, reading, told, hints, merged, size)
    elif input_size is not None and isinstance(merged["window_size"], int):
        merged["window_size"] = settle(reading, merged, (merged["window_size"],) * axes, input_size)
    if "pretrained_window_size" not in merged and fields.get("position_bias") == "continuous":
        merged["pretrained_window_size"] = _trained(told, hints, merged)
    grid = merged.pop("absolute_position_size", None)
    if "position_embed.embedding" in reading.tensors:
        merged["absolute_position_size"] = grid or _position_grid(source, reading, merged, size)
    try:
        found = SwinConfig.from_dict(merged)
    except ConfigError as error:
        raise CheckpointError(f"{source}: its tensors describe no model: {error}") from error
    _check_buffers(source, reading, found, size if not told.grids else _size(told, fields))
    return Architecture(found, size, assumed)


def _shapes(source: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The SwinConfig fields that keys and shapes tell."""
    blocks = sorted(
        {(int(m[1]), int(m[2])) for key in tensors if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key))}
    )
    stages = range(blocks[-1][0] + 1 if blocks and blocks[-1][0] < len(blocks) else 0)
    depths = tuple(sum(stage == i for stage, _ in blocks) for i in stages)
    if not depths or 0 in depths or blocks != [(i, j) for i, depth in enumerate(depths) for j in range(depth)]:
        raise CheckpointError(f"{source}: blocks are missing (found: {blocks[:3]}, ...); it is not a whole model")
    cosine = "stages.0.blocks.0.attn.similarity.logit_scale" in tensors
    bias = "attn.similarity.logit_scale" if cosine else "attn.position_bias.table"
    # The widest hidden layer tells the ratio best, where its product with the width is no whole number.
    needed = ["patch_embed.proj.weight", f"stages.{len(depths) - 1}.blocks.0.mlp.fc1.weight"]
    for key in (*needed, *(f"stages.{i}.blocks.0.{bias}" for i in stages)):
        if key not in tensors or tensors[key].ndim < 2 or 0 in tensors[key].shape:
            raise CheckpointError(f"{source}: tensor {key} (swindow's name) is missing or empty; not a whole model")
    proj = tensors["patch_embed.proj.weight"]
    norms = tuple(i for i in stages if f"out_norms.{i}.weight" in tensors)
    extra = [j for i, j in blocks if f"stages.{i}.blocks.{j}.norm3.weight" in tensors]
    first = "stages.0.blocks.0.attn.qkv"
    heads = tuple(tensors[f"stages.{i}.blocks.0.{bias}"].shape[0 if cosine else 1] for i in stages)
    head, decoder = tensors.get("head.weight"), tensors.get("decoder.proj.weight")
    drawn = 0 if decoder is None or decoder.ndim < 1 else decoder.shape[0] // proj.shape[1]
    fields: dict[str, Any] = {
        "embed_dim": proj.shape[0],
        "in_chans": proj.shape[1],
        "patch_size": tuple(proj.shape[2:]),
        "depths": depths,
        "num_heads": heads,
        "head_dim": _head_dim(tensors, heads, proj.shape[0]),
        "mlp_ratio": _ratio(tensors[needed[1]].shape[0], proj.shape[0] << len(depths) - 1),
        "num_classes": 0 if head is None or head.ndim != 2 else head.shape[0],
        "qkv_bias": "qv" if "stages.0.blocks.0.attn.q_bias" in tensors else f"{first}.bias" in tensors,
        "patch_norm": "patch_embed.norm.weight" in tensors,
        "extra_norm_period": min(extra) + 1 if extra else 0,
        "out_norms": bool(norms),
        "final_merge": f"stages.{len(depths) - 1}.merge.reduction.weight" in tensors,
        "decoder_stride": round(drawn ** (1 / (proj.ndim - 2))),
        **({"out_indices": norms} if norms else {}),
        **(V2 if cosine else {}),
    }
    reduction, norm = tensors.get("stages.0.merge.reduction.weight"), tensors.get("stages.0.merge.norm.weight")
    if reduction is not None and norm is not None and reduction.ndim == 2 and norm.ndim == 1:
        merged = max(1, (reduction.shape[1] // proj.shape[0]).bit_length() - 1)  # 4C: two axes, 8C: three
        fields["merge_axes"] = tuple(range(proj.ndim - 2))[-merged:]
        fields["merge_norm"] = "pre" if norm.shape[0] == reduction.shape[1] else "post"
    return fields


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


def _contradicts(hints: Hints, fields: Mapping[str, Any]) -> str:
    """What lies beside the file and says something else than its tensors; "" where nothing does."""
    for name, value in hints.fields.items():
        if name == "mlp_ratio" and isinstance(value, (int, float)) and abs(value - fields[name]) < 0.02:
            continue  # rounded down to whole channels
        if name in fields and name != "out_indices" and fields[name] != value:
            return f"its tensors have {name} {fields[name]}, {hints.source} beside it says {value}"
    return ""


def _check_told(source: str, config: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raises ConfigError where the caller says otherwise than the tensors do."""
    for name in ("embed_dim", "depths", "num_heads", "patch_size", "in_chans", "num_classes", "patch_norm"):
        if name not in config:
            continue
        given: Any = config[name]
        if name == "patch_size" and isinstance(given, int):
            given = (given,) * len(fields[name])
        if (tuple(given) if isinstance(given, list) else given) != fields[name]:
            raise ConfigError(f"config: {name} {given!r} does not fit {source}, whose tensors have {fields[name]!r}")


def _published(fields: Mapping[str, Any], assumed: dict[str, str]) -> dict[str, Any]:
    """The windows of the published SwinV2 that has these widths and this window; {} where there is none."""
    if fields.get("position_bias") != "continuous":
        return {}
    window = fields["window_size"]
    assumed["windows"] = f"{window} in every stage; if small maps shrank it when the model was built, give input_size="
    for name in VARIANTS:
        known = variant_config(name)
        same = all(
            getattr(known, field) == fields[field] for field in ("embed_dim", "depths", "num_heads", "similarity")
        )
        if same and known.window_size[0] == (window, window):
            trained = {"pretrained_window_size": known.pretrained_window_size}
            assumed["windows"] = f"those of {name}, published with these widths; if they are others, give input_size="
            return {"window_size": known.window_size, **(trained if "pretrained_window_size" not in fields else {})}
    return {}


def _size(told: Facts, fields: Mapping[str, Any]) -> PerAxis | None:
    """Pixels per axis, from a mask's map: exact, since the official code takes no other sizes."""
    for stage, grid in sorted(told.grids.items()):
        return tuple(g * 2**stage * patch for g, patch in zip(grid, fields["patch_size"]))
    return None


def settle(reading: Reading, fields: Mapping[str, Any], nominal: PerAxis, size: PerAxis) -> PerStage:
    """The windows of a model that its library builds for images of that size."""
    how = reading.layout.settles or ""
    config = SwinConfig.from_dict(
        {k: v for k, v in fields.items() if k != "absolute_position_size"} | {"window_size": 1}
    )
    grids = maps(config, size, rounds_down=how.endswith("_down"))
    for grid, real in zip(grids, maps(config, size)):
        if grid != real and min(grid) <= min(nominal):
            raise CheckpointError(
                f"images of {size} pixels make a map of {real} tokens, which the library takes for {grid}: its "
                "windows there are like no other library's; try input_size= with a multiple of the last stage's patch"
            )
    return tuple(settled(nominal, grids, how.removesuffix("_down") or None).values())


def _windows(
    source: str, reading: Reading, told: Facts, hints: Hints, fields: Mapping[str, Any], size: PerAxis | None
) -> PerStage:
    """The window of every stage: from buffers, from the sizes of tables, from config.json, or asked for."""
    stages, axes = len(fields["depths"]), len(fields["patch_size"])
    if len(told.windows) == stages:
        return tuple(told.windows[i] for i in range(stages))
    asked = hints.window
    if asked is not None and isinstance(asked, tuple) and any(isinstance(w, tuple) for w in asked):
        return asked
    if fields.get("position_bias") != "continuous":
        rows = [len(reading.tensors[f"stages.{i}.blocks.0.attn.position_bias.table"]) for i in range(stages)]
        found = _from_tables(reading, fields, rows, size)
        if found is not None:
            return found
        raise CheckpointError(
            f"{source}: its tables of {rows} rows leave the windows open, for they are not square; try "
            f"input_size= (pixels the weights are for), or config={{'window_size': ...}}, {axes} numbers per stage"
        )
    if asked is not None and size is not None:
        if isinstance(asked, tuple) and len(asked) == stages != axes:
            return tuple((w,) * axes for w in asked)
        return settle(reading, fields, (asked,) * axes if isinstance(asked, int) else tuple(asked), size)
    raise CheckpointError(
        f"{source}: SwinV2's tensors do not tell the window; try config={{'window_size': 8}} (or one entry per stage; "
        "on the command line first 'swindow convert --window-size 8'), and input_size= where the library shrank it"
    )


def _from_tables(reading: Reading, fields: Mapping[str, Any], rows: list[int], size: PerAxis | None) -> PerStage | None:
    """Windows from the rows of tables: square ones, or those that a library builds for a size; None: open."""
    axes = len(fields["patch_size"])
    sides = [round(count ** (1 / axes)) for count in rows]
    if all(side**axes == count and side % 2 for side, count in zip(sides, rows, strict=True)):
        return tuple(((side + 1) // 2,) * axes for side in sides)
    for nominal in range(1, 65) if size is not None else ():
        assert size is not None
        windows = settle(reading, fields, (nominal,) * axes, size)
        if [math.prod(2 * w - 1 for w in window) for window in windows] == rows:
            return windows
    return None


def _trained(told: Facts, hints: Hints, fields: Mapping[str, Any]) -> PerStage | None:
    """The windows that a continuous bias was trained with; None: those in use."""
    stages, axes = len(fields["depths"]), len(fields["patch_size"])
    windows: Any = fields["window_size"]
    if isinstance(windows, int):
        windows = (windows,) * stages
    windows = tuple((w,) * axes if isinstance(w, int) else tuple(w) for w in windows)
    given = dict(told.trained)
    if hints.trained is not None:
        for i, w in enumerate(hints.trained[:stages]):
            if w:
                given[i] = (w,) * axes if isinstance(w, int) else tuple(w)
    trained = tuple(given.get(i, windows[i]) for i in range(stages))
    return None if trained == windows else trained


def _position_grid(source: str, reading: Reading, fields: Mapping[str, Any], size: PerAxis | None) -> PerAxis:
    """The grid of an absolute position embedding, whose tensor is put into it."""
    embedding = reading.tensors["position_embed.embedding"]
    axes = len(fields["patch_size"])
    if embedding.ndim not in (2, axes + 1):
        raise CheckpointError(f"{source}: its absolute position embedding has an odd shape; the file is broken")
    if embedding.ndim == axes + 1:
        return tuple(embedding.shape[:-1])
    side = round(len(embedding) ** (1 / axes))
    grid = tuple(-(-s // p) for s, p in zip(size, fields["patch_size"])) if size is not None else (side,) * axes
    if len(embedding) == math.prod(grid) + 1:
        raise CheckpointError(f"{source}: its absolute position embedding has one token more than its map has places")
    if math.prod(grid) != len(embedding):
        raise CheckpointError(
            f"{source}: its absolute position embedding of {len(embedding)} tokens has another grid than {grid}; "
            "try input_size= with the height and width (pixels) that the weights are for"
        )
    reading.tensors["position_embed.embedding"] = embedding.view(*grid, -1)
    return grid


def _check_buffers(source: str, reading: Reading, config: SwinConfig, size: PerAxis | None) -> None:
    """Raises CheckpointError where a file's buffers are not those of the model that it describes."""
    grids = maps(config, size) if size is not None else [None] * config.num_stages
    expected: dict[tuple[str, int, bool], Tensor | None] = {}  # blocks of a stage differ in whether they are shifted
    for kind, stage, number, key, tensor in reading.buffers:
        if kind == "mask" and size is None:
            continue
        which = (kind, stage, number % 2 == 1)
        if which not in expected:
            expected[which] = BUFFERS[kind](Block(config, stage, number, grids[stage]))
        if mismatch(tensor, expected[which]):
            window = "x".join(map(str, config.window_size[stage]))
            raise CheckpointError(
                f"{source}: {key} is not that of a window of {window}; the file is broken, or config= or input_size= "
                "do not fit it"
            )
