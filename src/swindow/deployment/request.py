"""What a user asks for of an exported file, checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..card import ModelCard
from ..checkpoints.files import checked
from ..errors import CheckpointError, ConfigError, nearest
from ..inference.exported import SUFFIXES, ExportInfo, Format
from ..inference.file_runtimes import READERS
from ..models import SwinTransformer
from ..sizes import image_size
from .capture import check_open

WHAT = ("logits", "probabilities", "features", "pyramid")
CLASSES = WHAT[:2]


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of ``swindow.export`` that decide what a file takes and gives."""

    what: Any
    size: int | Sequence[int] | None
    batch: int
    open_size: bool
    open_batch: bool
    half: bool
    bf16: bool
    int8: bool
    static: bool
    agreement: float
    with_preprocessing: bool

    def about(self, model: SwinTransformer, card: ModelCard, kind: Format) -> ExportInfo:
        """Returns what the file takes and gives.

        Raises:
            ConfigError: an argument is wrong, or two do not go together.
        """
        self._check_outputs(model)
        self._check_types(kind)
        if self.with_preprocessing:
            self._check_preprocessing(model, card)
        if self.batch < 1:
            raise ConfigError(f"batch: got {self.batch}, expected at least 1")
        if self.open_size and self.size is not None:
            raise ConfigError("export: got a size and open_size, expected one of them")
        if self.open_size:
            check_open(model.config)
        return ExportInfo(
            what=self.what,
            size=None if self.open_size else self._sides(model, card),
            batch=None if self.open_batch else self.batch,
            photos=self.with_preprocessing,
            precision="fp16" if self.half else "bf16" if self.bf16 else "fp32",
            int8=None if not self.int8 else "static" if self.static else "dynamic" if kind == "onnx" else "weights",
            config=model.config,
            version=metadata.version("swindow"),
        )

    def _check_outputs(self, model: SwinTransformer) -> None:
        if self.what not in WHAT:
            raise ConfigError(
                f"what: got {self.what!r}{nearest(str(self.what), WHAT)}, expected one of {', '.join(WHAT)}"
            )
        if self.what in CLASSES and not model.config.num_classes:
            raise ConfigError(f"what: got {self.what!r} for a model without a head; try 'features' or 'pyramid'")
        if self.int8 and self.what not in CLASSES:
            raise ConfigError(f"int8: got what {self.what!r}, expected logits or probabilities")

    def _check_types(self, kind: Format) -> None:
        """Checks the types of numbers."""
        if self.half and self.bf16:
            raise ConfigError("export: got half and bf16, expected one of them")
        if self.int8 and (self.half or self.bf16):
            raise ConfigError("export: got int8 and half or bf16, expected one of them")
        if self.int8 and kind not in ("onnx", "openvino"):
            raise ConfigError("int8: expected a name that ends in .onnx or .xml")
        if self.static and not self.int8:
            raise ConfigError("static: expected int8 and images, by which the ranges are found")
        if not 0 <= self.agreement <= 1:
            raise ConfigError(f"agreement: got {self.agreement}, expected a fraction from 0 to 1")
        if self.bf16 and kind in ("onnx", "openvino"):
            raise ConfigError(
                "bf16: ONNX Runtime does not compute in it on a CPU, where files are verified; try half, with which "
                "OpenVINO takes it where the processor has it"
            )

    def _check_preprocessing(self, model: SwinTransformer, card: ModelCard) -> None:
        if card.preprocess is None or model.config.ndim != 2:
            raise ConfigError("with_preprocessing: expected a model of images whose card says how they are prepared")
        if self.open_size or self.size is not None:
            raise ConfigError(
                "with_preprocessing: photos of any size are resized to the card's; leave size and open_size out"
            )
        if card.preprocess.value_range is not None:
            raise ConfigError("with_preprocessing: the card has a value_range, for images of more than 8 bits")
        if self.static:
            raise ConfigError("with_preprocessing: got static too; without it activations are quantised as they come")

    def _sides(self, model: SwinTransformer, card: ModelCard) -> tuple[int, ...]:
        """The size of images, in pixels per axis."""
        size, axes = self.size, model.config.ndim
        sides = size if isinstance(size, Sequence) else image_size(model.config, card)
        if isinstance(size, int):  # of clips, height and width
            sides = (*sides[:-2], *(size,) * min(axes, 2))
        if len(sides) != axes or any(type(side) is not int or side < 1 for side in sides):
            raise ConfigError(
                f"size: got {size!r}, expected pixels, {axes} numbers above 0, or one for height and width"
            )
        return tuple(sides)


def destination(path: str | Path, format: str | None) -> tuple[Format, Path]:
    """Returns the format that is to be written, and where.

    Raises:
        CheckpointError: the path's suffix is another one.
        ConfigError: there is no such format, or it does not fit the suffix.
    """
    path = checked(path)
    by_suffix = SUFFIXES.get(path.suffix.lower())
    if by_suffix is None:
        raise CheckpointError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    weights = path.with_suffix(".bin")
    if by_suffix == "openvino" and weights.exists() and not path.exists():
        raise ConfigError(f"{path}: {weights.name} stands beside it, which would be replaced; try another name")
    if format is None:
        return by_suffix, path
    if format not in READERS:
        raise ConfigError(f"format: got {format!r}{nearest(format, READERS)}, expected one of {', '.join(READERS)}")
    suffix = ".pt2" if format == "aotinductor" else next(s for s, f in SUFFIXES.items() if f == format)
    if path.suffix.lower() != suffix:
        raise ConfigError(f"format: got {format!r} for {path.name}, expected a name that ends in {suffix}")
    found: Any = format
    return found, path
