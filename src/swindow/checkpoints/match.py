"""The second step of loading: which library wrote some tensors, told by their keys; what is left over is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from .layouts import Layout, layouts_named
from .layouts.strangers import stranger


class Buffer(NamedTuple):
    """What a library saves beside the weights of a block: its kind (``buffers.BUFFERS``), where it is, and its key."""

    kind: str
    stage: int
    block: int
    key: str
    tensor: Tensor


@dataclasses.dataclass(frozen=True)
class Match:
    """A file's tensors under our names.

    Attributes:
        layout: whose names they had.
        tensors: under our names.
        origin: the file's keys that each of them was made of.
        buffers: what the library saves beside weights.
        dropped: keys that are no part of the model, and why they are left out.
        problems: keys inside the model that this layout does not explain.
        outer: the prefix of the whole model in the file.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    origin: dict[str, tuple[str, ...]]
    buffers: tuple[Buffer, ...]
    dropped: dict[str, str]
    problems: tuple[str, ...]
    outer: str


def match(source: str, tensors: Mapping[str, Tensor], layout: str | None = None, any_head: bool = False) -> Match:
    """Returns tensors under our names, read in the layout that explains all of them.

    Args:
        source: for messages.
        tensors: as the file has them.
        layout: the name of the layout to read them in; None: whichever fits.
        any_head: whether a head of another kind than a linear layer is left out, where no layout explains it; else it
            is an error.

    Raises:
        CheckpointError: none fits (the nearest is named, with the keys that it does not explain), two models are in
            one file, or a tensor holds no plain numbers.
    """
    nearest: Match | None = None
    for headless in (False, True) if any_head else (False,):
        for one in layouts_named(layout):
            whole, near = _readings(source, tensors, one, layout is not None, headless)
            if len(whole) > 1:
                outers = [found.outer for found in whole]
                raise CheckpointError(
                    f"{source}: holds {len(whole)} models, under {' and '.join(map(repr, outers))}; try one of them: "
                    f"load({{k[{len(outers[0])}:]: v for k, v in weights.items() if k.startswith({outers[0]!r})}})"
                )
            if whole:
                return whole[0]
            for found in near:
                if nearest is None or len(found.tensors) > len(nearest.tensors):
                    nearest = found
    raise CheckpointError(f"{source}: {_why_none(tensors, layout, nearest)}")


def _readings(
    source: str, tensors: Mapping[str, Tensor], layout: Layout, asked_for: bool, any_head: bool
) -> tuple[list[Match], list[Match]]:
    """The models that a layout explains whole, and those that it does not."""
    whole: list[Match] = []
    near: list[Match] = []
    for prefix in _prefixes(tensors, layout):
        found = _read(source, tensors, layout, prefix, any_head)
        if found is not None:
            fits = not found.problems and (asked_for or layout.fits([*_keys(found, tensors)]))
            (whole if fits else near).append(found)
    return whole, near


def _why_none(tensors: Mapping[str, Tensor], layout: str | None, nearest: Match | None) -> str:
    """Why no layout explains all keys."""
    what = stranger(tensors)
    if what is not None:
        return f"is of {what}"
    if nearest is None:
        known = "a Swin Transformer" if layout is None else f"layout {layout!r}"
        return (
            f"holds no patch embedding of {known} (keys: {_some(tensors)}); expected weights of a Swin Transformer in "
            "a layout that swindow knows; try its state dict alone"
        )
    below = [_below_head(nearest.layout, key.removeprefix(nearest.outer)) for key in nearest.problems]
    advice = "; try num_classes=, which leaves out its head" if below and all(below) else ""
    return (
        f"looks like a file of {nearest.layout.title} (layout {nearest.layout.name!r}), but "
        f"{len(nearest.problems)} of its keys have no place, or do not go together with others: "
        f"{_some(nearest.problems)}; expected keys that this layout explains; nothing was loaded{advice}"
    )


def _keys(found: Match, tensors: Iterable[str]) -> Iterable[str]:
    """The file's keys as the layout writes them, with its body's prefix, and those outside."""
    for key in tensors:
        yield key[len(found.outer) :] if key.startswith(found.outer) else key


def _prefixes(tensors: Iterable[str], layout: Layout) -> list[str]:
    """What stands before the patch embedding's key."""
    anchor = layout.anchor
    return [key[: -len(anchor)] for key in tensors if key == anchor or key.endswith("." + anchor)]


def _read(source: str, tensors: Mapping[str, Tensor], layout: Layout, prefix: str, any_head: bool) -> Match | None:
    """The tensors in one layout; None where they cannot be that library's at all."""
    if tensors[prefix + layout.anchor].ndim - 2 not in layout.axes:
        return None
    cosine = any(key.startswith(prefix) and key.endswith("logit_scale") for key in tensors)
    if layout.cosine not in (None, cosine):
        return None
    keys, outer, dropped, twice = _inside(tensors, layout, prefix, any_head)
    inside = {name: tensors[key] for name, key in keys.items()}
    check_plain(source, {key: tensors[key] for key in keys.values()})
    found = layout.table.read(inside)
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
            buffers.append(Buffer(*kind, keys[name], inside[name]))
    return Match(layout, found.tensors, origin, tuple(buffers), dropped, tuple(problems), outer)


def _inside(
    tensors: Mapping[str, Tensor], layout: Layout, prefix: str, any_head: bool
) -> tuple[dict[str, str], str, dict[str, str], list[str]]:
    """The layout's names of the keys inside the model to the keys; the prefix of all; keys left out; keys met twice."""
    body, table = layout.body, layout.table
    bare = not prefix.endswith(body)
    outer = prefix if bare else prefix[: len(prefix) - len(body)]
    found: dict[str, str] = {}
    dropped: dict[str, str] = {}
    twice: list[str] = []
    for key in tensors:
        name = key[len(outer) :] if key.startswith(outer) else None
        known = name is not None and table.names(name)
        if name is not None and not known and name.startswith(layout.heads or ()):
            dropped[key] = "a head of pre-training"
            continue
        if name is not None and not known and any_head and _below_head(layout, name):
            dropped[key] = "num_classes was given"
            continue
        if name is not None and bare and not known and not name.startswith(body):
            name = body + name
        if name is None or not (known or name.startswith(body)):
            dropped[key] = f"outside {outer + ('' if bare else body)!r}, where the model is"
            continue
        if name in found:
            twice.append(key)
        found[name] = key
    return found, outer, dropped, twice


def _below_head(layout: Layout, name: str) -> bool:
    """Whether a key is below the head, or below another that stands beside it, such as ``head_dense``."""
    return layout.head != "" and name.startswith((f"{layout.head}.", f"{layout.head}_"))


def check_plain(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError for tensors that hold no plain numbers, before anything is made of them."""
    for key, tensor in tensors.items():
        if tensor.is_meta:
            what = "is on the meta device"
        elif tensor.layout is not torch.strided or tensor.is_quantized:
            what = "is sparse or quantized"
        elif 0 in tensor.shape:
            what = "is empty"
        elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            what = "is larger than what the file holds of it"
        else:
            continue
        raise CheckpointError(f"{source}: tensor {key} {what}; expected plain numbers")


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
