"""The fourth step of loading: tensors that are exactly those of a model, and a report of what became of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ..config import SwinConfig
from ..errors import CheckpointError
from ..models.assemble import initial, shapes
from .infer import Inferred
from .match import Match
from .parts import Parts
from .read import Source
from .report import LoadReport
from .settle import EMBEDDING

# Our names of tensors that a file may have too many: their beginning, and why they are left out.
UNUSED = {"mask_token": "only SimMIM uses it, and the file has no decoder"}
OUT_NORM = {"norm.": "the norm of the last stage takes its place"}


def fill(
    found: Source,
    matched: Match,
    inferred: Inferred,
    dtype: torch.dtype | None = torch.float32,
    copy: bool = True,
) -> Parts:
    """Returns the tensors of a source as those of the model that they were inferred to be of.

    Args:
        found: the source.
        matched: its tensors under our names.
        inferred: what they are of.
        dtype: of the tensors; None: as they are.
        copy: whether they are not to share memory with those of the source.

    Raises:
        CheckpointError: they are not those of that model, or hold what no weight is.
    """
    source, layout, config = found.name, matched.layout, inferred.config
    expected = shapes_of(config)
    theirs = [found.tensors[key] for keys in matched.origin.values() for key in keys]
    shared = {tensor.untyped_storage().data_ptr() for tensor in theirs} if copy else set()
    tensors: dict[str, Tensor] = {}
    missing = []
    for name, wanted in expected.items():
        tensor = matched.tensors.get(name)
        if tensor is None and name.startswith("norm.") and layout.norm_optional:
            missing.append(name)
            continue
        if tensor is None:
            advice = (
                "; out_norms=True as an argument of its own makes new norms" if name.startswith("out_norms.") else ""
            )
            raise CheckpointError(
                f"{source}: tensor {name} (swindow's name) is missing; the file is not a whole model{advice}"
            )
        if name == EMBEDDING and tensor.ndim == 2 and tensor.numel() == wanted.numel():  # its grid is known by now
            tensor = tensor.reshape(wanted)
        _check(f"{source}: tensor {' and '.join(matched.origin[name])}", tensor, wanted)
        tensors[name] = tensor.to(dtype or tensor.dtype, copy=tensor.untyped_storage().data_ptr() in shared)
    tensors |= initial(config, missing, next(iter(tensors.values())))
    origin = {name: keys for name, keys in matched.origin.items() if name in expected}
    report = LoadReport(
        source,
        layout.name,
        len(tensors) - len(missing),
        _left_out(found, matched, expected),
        initialised=tuple(missing),
        assumed=inferred.assumed,
    )
    return Parts(config, tensors, inferred.card, report, origin)


def _left_out(found: Source, matched: Match, expected: Collection[str]) -> dict[str, str]:
    """The keys that are not taken, and why. Raises CheckpointError for a tensor that has no place, and no reason."""
    # A backbone may carry a final norm that it does not use.
    unused = {**UNUSED, **(OUT_NORM if matched.layout.out_norms else {})}
    buffers = {buffer.key: "worked out anew from sizes" for buffer in matched.buffers}
    dropped = {**found.left_out, **matched.dropped, **buffers}
    for name, keys in matched.origin.items():
        why = next((why for start, why in unused.items() if name.startswith(start)), None)
        if name not in expected and why is None:
            raise CheckpointError(
                f"{found.name}: tensor {' and '.join(keys)} ({name} in swindow) has no place in the model of the others"
            )
        if name not in expected:
            dropped |= dict.fromkeys(keys, str(why))
    return dropped


def shapes_of(config: SwinConfig) -> Mapping[str, torch.Size]:
    """Returns the shapes of the tensors of a model. Raises CheckpointError where no computer counts so far."""
    try:
        return shapes(config)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise CheckpointError(f"the model that is described is too large: {config}") from error


def _check(what: str, tensor: Tensor, wanted: torch.Size) -> None:
    """Raises CheckpointError for a tensor of another shape or type, or with values that no weight has."""
    if tensor.shape != wanted:
        raise CheckpointError(
            f"{what} has shape {tuple(tensor.shape)}, expected {tuple(wanted)} from the others; the file is "
            "broken, or config= does not fit it"
        )
    if not tensor.is_floating_point():
        raise CheckpointError(f"{what} has type {tensor.dtype}, expected a floating type")
    tensor = tensor.float() if tensor.itemsize == 1 else tensor
    if not bool(torch.isfinite(tensor.sum(dtype=torch.float32))) and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{what} holds NaN or infinite values; the file is damaged, or training failed")
