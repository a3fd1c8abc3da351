"""From a model to a file in any library's layout."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..card import ModelCard
from ..config import PerAxis, SwinConfig
from ..errors import CheckpointError, ConfigError, OutputError
from ..models import SwinModel
from ..models.assemble import named
from ..sizes import image_size
from ..variants import variant_of
from .buffers import BUFFERS, Block, maps
from .files import checked, reason, replacing
from .header import carried, check_names, header
from .layouts import OWN, Layout, layout_for, layouts_named

SUFFIXES = (".safetensors", ".pth")


def save(
    model: SwinModel,
    path: str | Path,
    layout: str = "swindow",
    input_size: int | tuple[int, ...] | None = None,
) -> dict[str, str]:
    """Writes a model in a library's layout; returns what that layout has no place for, and why it is left out.

    Beside the weights it writes what the library's strict loading wants: index tables, coordinates, masks. Files are
    written beside their place and moved there when they are whole.

    Args:
        model: it is not changed.
        path: what to write: ``.safetensors``, or ``.pth`` (``torch.save`` of a flat dict). ``"transformers"`` writes a
            folder (config.json, model.safetensors, preprocessor_config.json) and so does ``"timm"`` where the path has
            no suffix (for ``timm.create_model("local-dir:PATH")``). A .safetensors file carries ``model.card`` too,
            ours the config as well; a .pth file carries none of them.
        layout: one of ``swindow.list_layouts()``.
        input_size: the size of images, in pixels (an int, or one per axis), that what is written depends on: the masks
            in official files, config.json. By default what the weights were made for.

    Raises:
        CheckpointError: the path's suffix is another one, or the library has no such models; nothing is written.
        ConfigError: the card names another number of classes than the head has.
        OutputError: the file cannot be written; what stood there before is intact.
    """
    path, card = checked(path), model.card or ModelCard()
    check_suffix(path, layout)
    check_names(card, model.config)
    chosen = layout_for(layout, model.config)
    tensors, left_out = _translated(model, chosen)
    if chosen.folder is not None and chosen.is_folder(path):
        side = _side(model, chosen, input_size)
        _check_square(model.config, chosen)
        _write_folder(path, tensors, chosen.folder(model.config, card, side), carried(_untold(card)))
        return left_out
    tensors = _plus_buffers(model, chosen, tensors, input_size)
    about = {"format": "pt", **(header(model.config, card) if chosen.name == OWN.name else carried(card))}
    with replacing(path) as temporary:
        if path.suffix == ".pth":
            _torch_save(tensors, temporary)
        else:
            save_file(tensors, temporary, about)
    return left_out


def is_folder(path: Path, layout: str) -> bool:
    """Whether a layout is written as a folder there, not as a file."""
    return layouts_named(layout)[0].is_folder(path)


def check_suffix(path: Path, layout: str) -> None:
    """Raises CheckpointError where the name of a file has a suffix that nothing is written for."""
    if not is_folder(path, layout) and path.suffix not in SUFFIXES:
        either = layouts_named(layout)[0].folder is not None
        folder = f"; layout {layout!r} is a folder where the name has no suffix" if either else ""
        raise CheckpointError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}{folder}")


def _untold(card: ModelCard) -> ModelCard:
    """What of a card the JSON files of a folder do not say; they have no range of values."""
    ranged = card.preprocess is not None and card.preprocess.value_range is not None
    return card.replace(class_names=None, input_size=None, preprocess=card.preprocess if ranged else None)


def _torch_save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        # Copied, for torch.save writes all of the memory that a tensor is a part of: of a mapped file, the whole file.
        torch.save({name: tensor.clone() for name, tensor in tensors.items()}, path)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(f"torch.save failed ({' '.join(str(error).split())[:80]})") from error


def _translated(model: SwinModel, layout: Layout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The model's tensors under a library's names, and those it has no place for."""
    config = model.config
    _check_kind(config, layout)
    if layout.one_window and len(set(config.window_size)) > 1:
        raise CheckpointError(
            f"layout {layout.name!r} has one window for all stages, the model has {config.window_size}; "
            "try load(..., window_size=...), which resizes them, before saving"
        )
    if layout.needs_patch_norm and not config.patch_norm:
        raise CheckpointError(f"layout {layout.name!r} always has a norm after the patch embedding, the model has none")
    ours = {name: tensor.detach().cpu() for name, tensor in named(model).items()}
    ours = _norms_as(layout, config, ours)
    found = layout.table.write(ours)
    left_out = {}
    for name in found.unknown:
        why = next((why for start, why in layout.left_out.items() if name.startswith(start.rstrip("*"))), None)
        if why is None:
            raise CheckpointError(
                f"layout {layout.name!r} ({layout.title}) has no place for {name} of this model; try another layout"
            )
        left_out[name] = why
    if "norm.weight" in left_out and config.num_classes and "head.weight" not in left_out:
        raise CheckpointError(
            f"layout {layout.name!r}: the head needs the last stage's norm; {left_out['norm.weight']}"
        )
    tensors = {name: tensor.contiguous() for name, tensor in found.tensors.items()}
    if layout.bare == "always" or (layout.bare == "headless" and not config.num_classes and not config.decoder_stride):
        tensors = {name.removeprefix(layout.body): tensor for name, tensor in tensors.items()}
    return tensors, left_out


def _check_kind(config: SwinConfig, layout: Layout) -> None:
    """Raises CheckpointError for what no key of a file tells and the library does otherwise."""
    if layout.name == OWN.name:
        return
    v2 = config.similarity == "cosine"
    implied: dict[str, Any] = {
        "position_bias": "continuous" if v2 else "table",
        "norm_placement": "post" if v2 else "pre",
        "merge_norm": "post" if v2 else "pre",
        "merge_axes": tuple(range(config.ndim))[0 if layout.merges_all else -2 :],
        "final_merge": layout.merges_all,
        "norm_eps": 1e-5,
    }
    for field, value in implied.items():
        found = getattr(config, field)
        if found != value and not (field.startswith("merge") and config.num_stages == 1):
            raise CheckpointError(
                f"layout {layout.name!r} has {field} {value!r} in such models, this one has {found!r}"
            )
    usual = all(h * d == config.width(i) for i, (h, d) in enumerate(zip(config.num_heads, config.head_dims)))
    if not usual and (v2 or not layout.head_dims):
        raise CheckpointError(
            f"layout {layout.name!r} has the stage's channels over its heads as head_dim in such models, this one has "
            f"{config.head_dims} for {config.num_heads} heads; try layout 'swindow'"
        )
    if config.qkv_bias not in (("qv", False) if v2 else (True, False)):
        raise CheckpointError(f"layout {layout.name!r} has no qkv_bias {config.qkv_bias!r} in such models")


def _norms_as(layout: Layout, config: SwinConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The final norm as that of the last stage, or the other way round, as a library has it."""
    last = f"out_norms.{config.num_stages - 1}."
    if layout.stage_norms and not config.out_norms:
        return {name.replace("norm.", last, 1) if name.startswith("norm.") else name: t for name, t in ours.items()}
    single = config.out_norms and config.out_stages == (config.num_stages - 1,)
    has_stage_norms = layout.table.write({f"{last}weight": ours.get(f"{last}weight", torch.empty(0))}).tensors
    if single and not has_stage_norms:
        return {name.replace(last, "norm.", 1) if name.startswith(last) else name: t for name, t in ours.items()}
    if layout.out_norms and f"{last}weight" in ours:  # it wants a final norm too, which it does not use
        return {**ours, **{f"norm.{kind}": ours[f"{last}{kind}"].clone() for kind in ("weight", "bias")}}
    return ours


def _plus_buffers(
    model: SwinModel, layout: Layout, tensors: dict[str, Tensor], input_size: int | tuple[int, ...] | None
) -> dict[str, Tensor]:
    """The tensors and what the library saves beside them."""
    if not layout.writes_buffers:
        return tensors
    config = model.config
    grids: list[Any] = [None] * config.num_stages
    if layout.needs_size:
        size = _size(model, layout, input_size)
        grids = maps(config, size)
        if any(g % w for grid, window in zip(grids, config.window_size) for g, w in zip(grid, window) if g > w):
            raise ConfigError(f"input_size: got {size}, expected one whose maps {grids} are made of whole windows")
    found = dict(tensors)
    for i, depth in enumerate(config.depths):
        for j in range(depth):
            key = f"stages.{i}.blocks.{j}.norm1.weight"
            block = next(iter(layout.table.write({key: torch.empty(0)}).tensors)).rsplit(".", 2)[0]
            for ending, kind in layout.buffers.items():
                if kind == "coordinates" and config.position_bias != "continuous":
                    continue
                buffer = BUFFERS[kind](Block(config, i, j, grids[i]))
                if buffer is not None:
                    found[f"{block}.{ending}"] = buffer
    return found


def _size(model: SwinModel, layout: Layout, input_size: int | tuple[int, ...] | None) -> PerAxis:
    """The size of images, in pixels per axis, that a file is written for."""
    config, card = model.config, model.card or ModelCard()
    size: Any = input_size or card.pixels(config.ndim)
    if size is None and layout.needs_size and variant_of(config) is None:
        raise CheckpointError(
            f"layout {layout.name!r} is written for one size of images, and the model knows none; try input_size=224"
        )
    size = size or image_size(config, card)
    size = (size,) * config.ndim if isinstance(size, int) else tuple(size)
    if len(size) != config.ndim or not all(isinstance(s, int) and s > 0 for s in size):
        raise ConfigError(
            f"input_size: got {size}, expected pixels above 0: an int, or one for each of {config.ndim} axes"
        )
    return size


def _side(model: SwinModel, layout: Layout, input_size: int | tuple[int, ...] | None) -> int:
    """The same, for files that know square images only."""
    size = _size(model, layout, input_size)
    if len(set(size)) > 1:
        raise CheckpointError(f"layout {layout.name!r} describes square images, got {size}; try input_size={max(size)}")
    return size[0]


def _check_square(config: SwinConfig, layout: Layout) -> None:
    """Raises CheckpointError for patches and windows that config.json cannot say."""
    if len(set(config.patch_size)) > 1 or any(len(set(w)) > 1 for w in config.window_size):
        raise CheckpointError(f"layout {layout.name!r} knows square patches and windows only")
    if layout.folder_only and layout.settles is None and len(set(config.window_size)) > 1:
        raise CheckpointError(
            f"layout {layout.name!r} has one window for all stages, the model has {config.window_size}; "
            "try load(..., window_size=...), which resizes them, before saving"
        )


def _write_folder(path: Path, tensors: dict[str, Tensor], texts: Mapping[str, Any], about: dict[str, str]) -> None:
    """Writes a folder whole: beside its place, then moved there. A folder that is there keeps its other files."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing.", dir=path))
    except OSError as error:
        raise OutputError(f"could not write {path}: {reason(error)}; try another place") from error
    try:
        for name, content in texts.items():
            with replacing(temporary / name) as file:
                file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        with replacing(temporary / "model.safetensors") as file:
            save_file(tensors, file, {"format": "pt", **about})
        for file in sorted(temporary.iterdir()):
            file.replace(path / file.name)
    except OSError as error:
        raise OutputError(f"could not write {path}: {reason(error)}; try another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
