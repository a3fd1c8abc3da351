"""Which library wrote some tensors, told by their keys; what is left over is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor

from ..errors import CheckpointError
from .checks import check_plain
from .layouts import Layout, layouts_named

BLOCK = "stages.{}.blocks.{}.norm1.weight"  # our name, by which a block's other tensors are found


# Parts of keys by which others are known that have parts of a Swin Transformer, and are none, or not as a whole.
STRANGERS = {
    "meta_mlp": "timm's swinv2_cr, another architecture than SwinV2, which swindow does not have",
    "layers_0.": "timm's features_only models; try the weights of the model without features_only",
    "layers_up": "Swin-Unet; try its encoder's keys alone",
    "spatial_mlp": "Swin-MLP, which swindow does not have",
    "._moe_layer": "Swin-MoE, which swindow does not have",
    "hidden_states_norms.": "a transformers model whose maps are normed in another way than those of SwinBackbone",
}


@dataclasses.dataclass
class Reading:
    """A file's tensors under our names.

    Attributes:
        layout: whose names they had.
        tensors: under our names.
        origin: the file's keys that each of them was made of.
        buffers: (kind, stage, block, key, tensor) of what the library saves beside weights.
        dropped: keys outside the model, and why they are left out.
        problems: keys inside the model that this layout does not explain.
        outer: the prefix of the whole model in the file.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    origin: dict[str, tuple[str, ...]]
    buffers: list[tuple[str, int, int, str, Tensor]]
    dropped: dict[str, str]
    problems: tuple[str, ...]
    outer: str


def recognise(source: str, tensors: dict[str, Tensor], wanted: str | None) -> Reading:
    """Reads tensors in the layout that explains all of them.

    Args:
        source: for messages.
        tensors: as the file has them.
        wanted: the layout to read them in; None: whichever fits.

    Raises:
        CheckpointError: none fits (the nearest is named, with the keys that it does not explain), or two models are in
            one file.
    """
    nearest: Reading | None = None
    for layout in layouts_named(wanted):
        whole: list[Reading] = []
        for prefix in _prefixes(tensors, layout):
            reading = _read(source, tensors, layout, prefix)
            if reading is None:
                continue
            if not reading.problems and (wanted is not None or layout.fits([*_keys(reading, tensors)])):
                whole.append(reading)
            elif nearest is None or len(reading.tensors) > len(nearest.tensors):
                nearest = reading
        if len(whole) > 1:
            outers = [reading.outer for reading in whole]
            raise CheckpointError(
                f"{source}: holds {len(whole)} models, under {' and '.join(map(repr, outers))}; try one of them: "
                f"load({{k[{len(outers[0])}:]: v for k, v in weights.items() if k.startswith({outers[0]!r})}})"
            )
        if whole:
            return whole[0]
    if nearest is None:
        known = "a Swin Transformer" if wanted is None else f"layout {wanted!r}"
        raise CheckpointError(
            f"{source}: holds no patch embedding of {known} (keys: {_some(tensors)}); expected weights of a Swin "
            "Transformer in a layout that swindow knows; try its state dict alone"
        )
    for mark, what in STRANGERS.items():
        if any(mark in key for key in tensors):
            raise CheckpointError(f"{source}: is of {what}")
    raise CheckpointError(
        f"{source}: looks like a file of {nearest.layout.title} (layout {nearest.layout.name!r}), but "
        f"{len(nearest.problems)} of its keys have no place, or do not go together with others: "
        f"{_some(nearest.problems)}; expected keys that this layout explains; nothing was loaded"
    )


def _keys(reading: Reading, tensors: Iterable[str]) -> Iterable[str]:
    """The file's keys as the layout writes them, with its body's prefix, and those outside."""
    for key in tensors:
        yield key[len(reading.outer) :] if key.startswith(reading.outer) else key


def _prefixes(tensors: Iterable[str], layout: Layout) -> list[str]:
    """What stands before the patch embedding's key."""
    anchor = layout.anchor
    return [key[: -len(anchor)] for key in tensors if key == anchor or key.endswith("." + anchor)]


def _read(source: str, tensors: dict[str, Tensor], layout: Layout, prefix: str) -> Reading | None:
    """The tensors in one layout; None where they cannot be that library's at all."""
    if tensors[prefix + layout.anchor].ndim - 2 not in layout.axes:
        return None
    cosine = any(key.startswith(prefix) and key.endswith("logit_scale") for key in tensors)
    if layout.cosine not in (None, cosine):
        return None
    body, table = layout.body, layout.table
    bare = not prefix.endswith(body)
    outer = prefix if bare else prefix[: len(prefix) - len(body)]
    inside: dict[str, Tensor] = {}
    keys: dict[str, str] = {}  # the layout's name of a key to the file's
    dropped: dict[str, str] = {}
    twice: list[str] = []
    for key, tensor in tensors.items():
        name = key[len(outer) :] if key.startswith(outer) else None
        if name is not None and bare and not name.startswith(body) and not table.names(name):
            name = body + name
        if name is None or not (name.startswith(body) or table.names(name)):
            dropped[key] = f"outside {outer + ('' if bare else body)!r}, where the model is"
            continue
        if name in inside:
            twice.append(key)
        inside[name], keys[name] = tensor, key
    check_plain(source, {keys[name]: tensor for name, tensor in inside.items()})
    found = table.read(inside)
    if layout.decoder not in (None, "decoder.proj.weight" in found.tensors):
        return None
    origin = {ours: tuple(keys[name] for name in names) for ours, names in found.origin.items()}
    blocks = _blocks(found.origin)
    strays = [key for key in dropped if any(part in key for part in layout.inside)]
    buffers, problems = [], [*twice, *strays, *(keys[name] for name in found.incomplete)]
    for name in found.unknown:
        kind = _buffer(name, layout, blocks)
        if kind is None:
            problems.append(keys[name])
        else:
            buffers.append((*kind, keys[name], inside[name]))
    return Reading(layout, found.tensors, origin, buffers, dropped, tuple(problems), outer)


def _blocks(origin: dict[str, tuple[str, ...]]) -> dict[str, tuple[int, int]]:
    """What stands before the keys of each block, to its stage and number."""
    found = {}
    for ours, (theirs, *_) in origin.items():
        parts = ours.split(".")
        if parts[0] == "stages" and parts[2] == "blocks" and parts[4:] == ["norm1", "weight"]:
            found[theirs.rsplit(".", 2)[0]] = (int(parts[1]), int(parts[3]))
    return found


def _buffer(name: str, layout: Layout, blocks: dict[str, tuple[int, int]]) -> tuple[str, int, int] | None:
    """The kind, stage and block of a buffer of this layout; None where the key is none."""
    for ending, kind in layout.buffers.items():
        if name.endswith("." + ending) and name[: -len(ending) - 1] in blocks:
            return (kind, *blocks[name[: -len(ending) - 1]])
    return None


def _some(keys: Iterable[str]) -> str:
    """The first few keys."""
    found = list(keys)
    return ", ".join(found[:4]) + (", ..." if len(found) > 4 else "") or "none"
