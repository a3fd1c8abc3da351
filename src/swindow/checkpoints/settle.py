"""The size of images and the windows that weights are for: decided here, of all that is known of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..config import PerAxis, PerStage, SwinConfig
from ..errors import CheckpointError
from ..variants import VARIANTS, variant_config
from .buffers import maps
from .evidence import Evidence
from .layouts import Layout

EMBEDDING = "position_embed.embedding"


class Settled(NamedTuple):
    """What depends on the size of images.

    Attributes:
        size: pixels per axis that the weights are for; None: not known.
        fields: SwinConfig fields: windows, those that a continuous bias was trained with, the grid of an absolute
            position embedding.
        assumed: what was taken for granted, for the report.
    """

    size: PerAxis | None
    fields: dict[str, Any]
    assumed: dict[str, str]


def settle(
    source: str,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    fields: Mapping[str, Any],
    evidence: Sequence[Evidence],
) -> Settled:
    """Returns the size and the windows of a model.

    Args:
        source: for messages.
        layout: of the file.
        tensors: under our names.
        fields: the SwinConfig fields that are known.
        evidence: what is known beside the tensors, the most important first.

    Raises:
        CheckpointError: they are open; the message names the argument that settles them.
    """
    sizes = (said.input_size for said in evidence if said.input_size is not None)
    size = next((size for size in sizes if len(size) == len(fields["patch_size"])), None)
    found, assumed = dict(fields), {}
    window = fields.get("window_size")
    if isinstance(window, int) and layout.settles and size is None and fields.get("position_bias") == "continuous":
        published, assumed["windows"] = _published(fields)
        found = {**found, **published}
    elif isinstance(window, int) and size is not None:
        found["window_size"] = built(layout, fields, (window,) * len(fields["patch_size"]), size)
    elif window is None:
        found["window_size"] = _windows(source, layout, tensors, fields, evidence, size)
    if "pretrained_window_size" not in found and fields.get("position_bias") == "continuous":
        found["pretrained_window_size"] = _trained(found, evidence)
    if EMBEDDING in tensors:
        grid = fields.get("absolute_position_size") or _grid(source, tensors[EMBEDDING], fields["patch_size"], size)
        found["absolute_position_size"] = grid
    return Settled(size, found, assumed)


def built(layout: Layout, fields: Mapping[str, Any], nominal: PerAxis, size: PerAxis) -> PerStage:
    """Returns the windows of a model that a library builds with one window for images of a size.

    Args:
        layout: of the library.
        fields: of the model's config.
        nominal: the window that is asked for, tokens per axis.
        size: pixels per axis.

    Raises:
        CheckpointError: the library counts the tokens of such images wrongly.
    """
    how = layout.settles or ""
    plain = {name: value for name, value in fields.items() if name != "absolute_position_size"}
    config = SwinConfig.from_dict({**plain, "window_size": 1})
    grids = maps(config, size, rounds_down=how.endswith("_down"))
    for grid, real in zip(grids, maps(config, size)):
        if grid != real and min(grid) <= min(nominal):
            raise CheckpointError(
                f"images of {size} pixels make a map of {real} tokens, which the library takes for {grid}: its "
                "windows there are like no other library's; try input_size= with a multiple of the last stage's patch"
            )
    return tuple(_shrunk(nominal, grid, how.removesuffix("_down")) for grid in grids)


def rebuilt(layout: Layout, config: SwinConfig, window_size: Any, size: PerAxis) -> Any:
    """Returns the windows that a library would give a model for images of another size; None: as they are.

    Args:
        layout: of the library.
        config: of the model.
        window_size: one window for all stages; None: the largest of the model's. Others are returned as they are.
        size: pixels per axis.
    """
    if layout.settles is None or not (window_size is None or isinstance(window_size, int)):
        return window_size
    if window_size is None and list(config.window_size) != sorted(config.window_size, reverse=True):
        return None  # every stage has a window of its own
    nominal = tuple(window_size or max(w[axis] for w in config.window_size) for axis in range(config.ndim))
    return built(layout, config.to_dict(), nominal, size)


def _shrunk(window: PerAxis, grid: PerAxis, how: str) -> PerAxis:
    """The window of a stage whose map has this size."""
    if how == "axis":
        return tuple(min(w, g) for w, g in zip(window, grid))
    if how == "min" and min(grid) <= min(window):
        return (min(grid),) * len(grid)
    return window


def _windows(
    source: str,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    fields: Mapping[str, Any],
    evidence: Sequence[Evidence],
    size: PerAxis | None,
) -> PerStage:
    """The window of every stage: known by stage, told by the sizes of tables, or as a library builds them."""
    stages, axes = len(fields["depths"]), len(fields["patch_size"])
    known = next((said.windows for said in evidence if len(said.windows) == stages), None)
    if known is not None:
        return tuple(known[i] for i in range(stages))
    if fields.get("position_bias") != "continuous":
        tables = [tensors.get(f"stages.{i}.blocks.0.attn.position_bias.table") for i in range(stages)]
        rows = [len(table) for table in tables if table is not None and table.ndim]
        if len(rows) < stages:
            raise CheckpointError(f"{source}: tables of position biases are missing; it is not a whole model")
        found = _of_tables(layout, fields, rows, size)
        if found is not None:
            return found
        raise CheckpointError(
            f"{source}: its tables of {rows} rows leave the windows open, for they are not square; try "
            f"input_size= (pixels the weights are for), or config={{'window_size': ...}}, {axes} numbers per stage"
        )
    asked = next((said.window for said in evidence if said.window is not None), None)
    if asked is not None and size is not None:
        if isinstance(asked, tuple) and len(asked) == stages != axes:
            return tuple((w,) * axes if isinstance(w, int) else tuple(w) for w in asked)
        return built(layout, fields, (asked,) * axes if isinstance(asked, int) else tuple(asked), size)
    raise CheckpointError(
        f"{source}: SwinV2's tensors do not tell the window; try config={{'window_size': 8}} (or one entry per stage; "
        "on the command line first 'swindow convert --window-size 8'), and input_size= where the library shrank it"
    )


def _of_tables(layout: Layout, fields: Mapping[str, Any], rows: list[int], size: PerAxis | None) -> PerStage | None:
    """Windows from the rows of tables: square ones, or those that a library builds for a size; None: open."""
    axes = len(fields["patch_size"])
    sides = [round(count ** (1 / axes)) for count in rows]
    if all(side**axes == count and side % 2 for side, count in zip(sides, rows, strict=True)):
        return tuple(((side + 1) // 2,) * axes for side in sides)
    for nominal in range(1, 65) if size is not None else ():
        assert size is not None
        windows = built(layout, fields, (nominal,) * axes, size)
        if [math.prod(2 * w - 1 for w in window) for window in windows] == rows:
            return windows
    return None


def _published(fields: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The windows of the published SwinV2 that has these widths and this window; {} where there is none; and a note."""
    window = fields["window_size"]
    for name in VARIANTS:
        known = variant_config(name)
        same = all(
            getattr(known, field) == fields[field] for field in ("embed_dim", "depths", "num_heads", "similarity")
        )
        if same and known.window_size[0] == (window, window):
            trained = {"pretrained_window_size": known.pretrained_window_size}
            return (
                {"window_size": known.window_size, **(trained if "pretrained_window_size" not in fields else {})},
                f"those of {name}, published with these widths; if they are others, give input_size=",
            )
    return {}, f"{window} in every stage; if small maps shrank it when the model was built, give input_size="


def _trained(fields: Mapping[str, Any], evidence: Sequence[Evidence]) -> PerStage | None:
    """The windows that a continuous bias was trained with; None: those in use."""
    stages, axes = len(fields["depths"]), len(fields["patch_size"])
    windows: Any = fields["window_size"]
    if isinstance(windows, int):
        windows = (windows,) * stages
    windows = tuple((w,) * axes if isinstance(w, int) else tuple(w) for w in windows)
    given: dict[int, Any] = {}
    for said in reversed(evidence):
        given |= said.trained
    trained = (given.get(i, windows[i]) for i in range(stages))
    found = tuple((w,) * axes if isinstance(w, int) else tuple(w) for w in trained)
    return None if found == windows else found


def _grid(source: str, embedding: Tensor, patch_size: PerAxis, size: PerAxis | None) -> PerAxis:
    """The grid of an absolute position embedding, tokens per axis."""
    axes = len(patch_size)
    if embedding.ndim not in (2, axes + 1):
        raise CheckpointError(f"{source}: its absolute position embedding has an odd shape; the file is broken")
    if embedding.ndim == axes + 1:
        return tuple(embedding.shape[:-1])
    side = round(len(embedding) ** (1 / axes))
    grid = tuple(-(-s // p) for s, p in zip(size, patch_size)) if size is not None else (side,) * axes
    if len(embedding) == math.prod(grid) + 1:
        raise CheckpointError(f"{source}: its absolute position embedding has one token more than its map has places")
    if math.prod(grid) != len(embedding):
        raise CheckpointError(
            f"{source}: its absolute position embedding of {len(embedding)} tokens has another grid than {grid}; "
            "try input_size= with the height and width (pixels) that the weights are for"
        )
    return grid
