"""What travels inside an exported file, and how it is read: the model's card, and what the file takes and gives."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..card import ModelCard
from ..config import SwinConfig
from ..errors import CheckpointError, ConfigError

Format = Literal["onnx", "openvino", "torch", "aotinductor"]
What = Literal["logits", "features", "pyramid", "probabilities"]
SUFFIXES: Mapping[str, Format] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
EXTRA = "pip install 'swindow[export]'"
MOST_IMAGES = 1024  # of an open batch
SMALLEST, LARGEST = 8, 2048  # height and width of an open size, in pixels
SMALLEST_PHOTO, LARGEST_PHOTO = 2, 16384  # height and width of a photo that the file prepares itself, in pixels
CARD, ABOUT = "swindow.card", "swindow.export"  # the names of the two entries in a file


@dataclasses.dataclass(frozen=True)
class ExportInfo:
    """What an exported file takes and gives.

    Attributes:
        what: its outputs: "logits" (B, classes), "probabilities" (B, classes), "features" (B, D), or "pyramid", one
            map (B, C_i, *grid_i) per stage.
        size: the size of its inputs, in pixels per axis; None: any size.
        batch: images at a time; None: any number.
        photos: whether it takes photos (B, H, W, channels) of any size as uint8, and prepares them itself.
        precision: the type of its weights: "fp32", "fp16" or "bf16".
        int8: what of its linear layers is in 8 bits: "weights"; "dynamic": activations as they come too; "static":
            activations by ranges found beforehand; None: nothing.
        config: of the model that was exported.
        version: of swindow, which wrote the file.
    """

    what: What
    size: tuple[int, ...] | None
    batch: int | None
    photos: bool
    precision: str
    int8: str | None
    config: SwinConfig
    version: str


class Description(NamedTuple):
    """The two entries of a file."""

    card: ModelCard
    about: ExportInfo


def entries(card: ModelCard, about: ExportInfo) -> dict[str, str]:
    """Returns what is written into a file, by name: JSON texts."""
    fields = {**vars(about), "config": about.config.to_dict()}
    return {CARD: json.dumps(card.to_dict()), ABOUT: json.dumps(fields)}


def described(path: Path, texts: Mapping[str, str]) -> Description:
    """Returns what the entries of a file say.

    Raises:
        CheckpointError: they are absent or broken, or of a later version.
    """
    if ABOUT not in texts:
        raise CheckpointError(
            f"{path}: not written by swindow, so what it takes and gives is unknown; try swindow export"
        )
    try:
        about = json.loads(texts[ABOUT])
        about["size"] = None if about["size"] is None else tuple(about["size"])
        about["config"] = SwinConfig.from_dict(about["config"])
        return Description(ModelCard.from_dict(json.loads(texts.get(CARD, "{}"))), ExportInfo(**about))
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: its description is broken or of a later version ({error}); "
            "try a newer swindow, or export it again"
        ) from error


def is_exported(source: object) -> bool:
    """Returns whether a source is the path of an exported file, by its suffix."""
    return isinstance(source, (str, Path)) and Path(source).suffix.lower() in SUFFIXES


def describe(path: Path) -> tuple[Format, Description]:
    """Returns the format of an exported file and what it says of itself; nothing of it is run.

    Raises:
        CheckpointError: there is no such file, it is broken, or was not written by swindow.
        ConfigError: what reads it is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, expected a file' if path.is_dir() else 'there is no such file'}")
    kind = SUFFIXES[path.suffix.lower()]
    if kind == "torch" and compiled(path):
        kind = "aotinductor"
    return kind, described(path, _TEXTS[kind](path))


def compiled(path: Path) -> bool:
    """Returns whether a .pt2 file holds a compiled library."""
    return any("aotinductor/" in name or name.endswith((".so", ".pyd", ".dll")) for name in _zip_names(path))


def require(module: str, package: str | None = None, install: str = EXTRA) -> Any:
    """Returns an optional module. Raises ConfigError where it is not installed, with what to install."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{package or module} is not installed; try {install}") from error


def _zip_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path}: broken, or no file of torch.export ({error})") from error


def _onnx_texts(path: Path) -> dict[str, str]:
    onnx, protobuf = require("onnx"), require("google.protobuf.message", "protobuf")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (protobuf.DecodeError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: broken, or no ONNX file ({short(error)})") from error
    return {entry.key: entry.value for entry in proto.metadata_props}


def _openvino_texts(path: Path) -> dict[str, str]:
    import xml.etree.ElementTree as ET

    try:
        info = ET.parse(path).getroot().find("rt_info")
    except (ET.ParseError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: broken, or no file of OpenVINO ({short(error)})") from error
    group = None if info is None else info.find("swindow")
    return {} if group is None else {f"swindow.{entry.tag}": entry.get("value", "") for entry in group}


def _pt2_texts(path: Path) -> dict[str, str]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            entry = name.rpartition("/extra/")[2]
            if entry in (CARD, ABOUT):
                found[entry] = archive.read(name).decode(errors="replace")
    return found


_TEXTS: Mapping[str, Callable[[Path], dict[str, str]]] = {
    "onnx": _onnx_texts,
    "openvino": _openvino_texts,
    "torch": _pt2_texts,
    "aotinductor": _pt2_texts,
}


def short(error: Exception) -> str:
    """Returns what an error of a library says, on one line."""
    return " ".join(str(error).split())[:160]
