"""What must hold of a file's tensors before they become a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import CheckpointError

if TYPE_CHECKING:
    from .recognise import Reading


UNUSED = {"mask_token": "only SimMIM uses it, and the file has no decoder"}  # our keys that a file may have too many


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


def check_fits(source: str, reading: Reading, expected: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError where tensors are not exactly those of a model, or hold what no weight is."""
    tensors = reading.tensors
    for name, wanted in expected.items():
        if name not in tensors:
            if name.startswith("norm.") and reading.layout.norm_optional:
                continue
            raise CheckpointError(f"{source}: tensor {name} (swindow's name) is missing; the file is not a whole model")
        tensor, theirs = tensors[name], " and ".join(reading.origin[name])
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{source}: tensor {theirs} has shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)} "
                "from the others; the file is broken, or config= does not fit it"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"{source}: tensor {theirs} has type {tensor.dtype}, expected a floating type")
        tensor = tensor.float() if tensor.itemsize == 1 else tensor
        if not bool(torch.isfinite(tensor.sum(dtype=torch.float32))) and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{source}: tensor {theirs} holds NaN or infinite values; the file is damaged, or training failed"
            )
    unexpected = {name: keys for name, keys in reading.origin.items() if name not in expected}
    if reading.layout.out_norms:  # a backbone of transformers carries a final norm that it does not use
        for name in [name for name in unexpected if name.startswith("norm.")]:
            del tensors[name]
            reading.dropped |= dict.fromkeys(unexpected.pop(name), "the norm of the last stage takes its place")
    for name in [name for name in unexpected if name in UNUSED]:
        del tensors[name]
        reading.dropped |= dict.fromkeys(unexpected.pop(name), UNUSED[name])
    for name, keys in unexpected.items():
        raise CheckpointError(
            f"{source}: tensor {' and '.join(keys)} ({name} in swindow) has no place in the model of the others"
        )
