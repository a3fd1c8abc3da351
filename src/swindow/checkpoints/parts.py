"""What a checkpoint is made of, and what a caller asks for when it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..card import ModelCard
from ..config import SwinConfig, check_fields
from ..errors import ConfigError
from .report import LoadReport
from .resize import Resize, check_resize

# What can be changed of weights when they are loaded; all other fields say what they are.
CHANGES = ("num_classes", "in_chans", "window_size", "out_norms", "out_indices", "mask_token", "decoder_stride")


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a checkpoint is made of; ``assemble`` in ``models.assemble`` makes the model of its config and tensors.

    Attributes:
        config: of the model.
        tensors: all of the model's, by the names of ``named`` there.
        card: what travels with them.
        report: what became of the tensors of the source.
        origin: name of a tensor to the keys of the source that it was made of.
    """

    config: SwinConfig
    tensors: dict[str, Tensor]
    card: ModelCard
    report: LoadReport
    origin: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of ``swindow.load``, all but the source; ``config`` and ``fields`` as SwinConfig fields."""

    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layout: str | None = None
    input_size: int | tuple[int, ...] | None = None
    table_resize: Resize = "bicubic"
    part: str | None = None
    mmap: bool = False
    verify: bool = True
    dtype: torch.dtype | None = torch.float32
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_resize(self.table_resize)
        check_fields(self.config)
        check_fields(self.fields)
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ConfigError(f"dtype: got {self.dtype!r}, expected a floating type, such as torch.float32, or None")

    @property
    def known(self) -> dict[str, Any]:
        """What the caller says of the weights as they are."""
        return {**self.config, **{name: value for name, value in self.fields.items() if name not in CHANGES}}

    @property
    def changes(self) -> dict[str, Any]:
        """What is to be otherwise than in the source; None is no change."""
        return {name: value for name, value in self.fields.items() if name in CHANGES and value is not None}
