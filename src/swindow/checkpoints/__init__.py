"""Weights in files: our own layout, safetensors with the config, class names and preprocessing in its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import SwinConfig
from ..errors import CheckpointError, ConfigError
from ..models import SwinTransformer
from .files import reason, replacing
from .inflation import inflate
from .report import LoadReport
from .tensors import Resize, adapt, check_resize

__all__ = ["LoadReport", "describe", "inflate", "load", "replacing", "save"]

KEY = "swindow"  # our entry in the file's metadata


def save(model: SwinTransformer, path: str | Path) -> None:
    """Writes weights, config and ``model.metadata`` (class names, preprocessing) to one .safetensors file.

    The file is written beside its place and moved there when it is whole.

    Raises:
        CheckpointError: the path does not end in .safetensors.
        OutputError: the file cannot be written; what stood there before is intact.
    """
    if Path(path).suffix != ".safetensors":
        raise CheckpointError(f"save: got {path}, expected a name that ends in .safetensors")
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    about = json.dumps({"config": model.config.to_dict(), "metadata": model.metadata})
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": "pt", KEY: about})


def load(
    source: str | Path,
    num_classes: int | None = None,
    in_chans: int | None = None,
    window_size: Any = None,
    table_resize: Resize = "bicubic",
) -> SwinTransformer:
    """Returns the model that a file holds, in eval mode, fp32, on the CPU; ``model.load_report`` says what was done.

    Args:
        source: a .safetensors file written by ``swindow.save`` or ``swindow train``.
        num_classes: another number of classes: the head is replaced by a newly initialised one and the class names
            are dropped; 0 removes the head.
        in_chans: another number of input channels: the patch embedding is adapted, the sum over channels kept, and the
            preprocessing, made for the old number, is dropped.
        window_size: other windows, as in SwinConfig: tables of position biases are resized, a continuous bias keeps
            the windows that it was trained with.
        table_resize: how tables are resized: ``"bicubic"``, or ``"geometric"`` as in SimMIM (needs scipy).

    Raises:
        CheckpointError: the file is absent, broken, or of another kind, or its tensors do not fit its config.
        ConfigError: ``in_chans``, ``window_size`` or ``table_resize`` is wrong.

    Example:
        >>> import tempfile, swindow
        >>> path = tempfile.mkdtemp() + "/model.safetensors"
        >>> swindow.save(swindow.create("swin_nano", num_classes=10), path)
        >>> swindow.load(path, num_classes=3).load_report.initialised
        ('head.weight', 'head.bias')
    """
    check_resize(table_resize)
    about, tensors = _read(Path(source))
    try:
        config = SwinConfig.from_dict(about["config"])
    except ConfigError as error:
        raise CheckpointError(f"{source}: its config is not one this version knows: {error}") from error
    resized: dict[str, str] = {}
    with torch.device("meta"):  # no initialisation is paid for
        model = SwinTransformer(config)
    _check(source, tensors, model.state_dict())
    if in_chans is not None or window_size is not None:
        tensors, config, resized = adapt(tensors, config, in_chans, window_size, table_resize)
        with torch.device("meta"):
            model = SwinTransformer(config)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    model.metadata = about["metadata"]
    if "patch_embed.proj.weight" in resized:
        model.metadata.pop("preprocess", None)
    dropped: dict[str, str] = {}
    fresh: tuple[str, ...] = ()
    if num_classes is not None and num_classes != config.num_classes:
        dropped = {name: "num_classes was given" for name in tensors if name.startswith("head.")}
        fresh = _replace_head(model, num_classes)
    model.load_report = LoadReport(
        str(source), KEY, len(tensors) - len(dropped) - len(resized), dropped, resized, fresh
    )
    return model.eval()


def describe(model: SwinTransformer) -> dict[str, Any]:
    """Returns what a model is, as JSON values: load report, parameters, config, and what travels with the weights."""
    return {
        **({} if model.load_report is None else model.load_report.to_dict()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": model.config.to_dict(),
        **model.metadata,
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our entry in a file's metadata, and the file's tensors."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise CheckpointError(
            f"{path}: {what}; expected a .safetensors file written by 'swindow train' or swindow.save"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({reason(error)}); it is broken or of another kind"
        ) from error
    if about is None:
        first = ", ".join(list(tensors)[:2]) or "none"
        raise CheckpointError(
            f"{path}: got weights without swindow's own description (keys: {first}, ...); "
            "expected a file written by 'swindow train' or swindow.save"
        )
    try:
        found = json.loads(about)
        return {"config": dict(found["config"]), "metadata": dict(found["metadata"])}, tensors
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its description is broken; expected a file written by swindow.save") from error


def _check(source: str | Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises CheckpointError where a file's tensors are not exactly those of its config."""
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: tensor {name} is missing; the file does not fit its own config")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                f"expected {tuple(tensor.shape)} from its own config"
            )
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"{source}: tensor {name} has no place in the model of the file's own config")


def _replace_head(model: SwinTransformer, num_classes: int) -> tuple[str, ...]:
    """Gives the model a new, initialised head; returns the keys of its parameters."""
    model.config = model.config.replace(num_classes=num_classes)
    model.metadata = {key: value for key, value in model.metadata.items() if key != "class_names"}
    width = model.config.width(model.config.num_stages - 1)
    model.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
    for name, parameter in model.head.named_parameters():
        if name == "weight":
            nn.init.trunc_normal_(parameter, std=0.02)
        else:
            nn.init.zeros_(parameter)
    return tuple(f"head.{name}" for name, _ in model.head.named_parameters())
