"""From one library's file to another's, with the proof that both hold the same model."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..card import ModelCard
from ..checkpoints import describe, save
from ..checkpoints.files import checked, reason
from ..checkpoints.saving import check_suffix, is_folder
from ..errors import CheckpointError, OutputError
from ..models import SimMIM, SwinModel, SwinTransformer
from .models import load

NEAR = 2e-5  # largest difference over largest value, fp32
RULES = ("shrink", "shift_single", "mask_padding", "patch_remainder")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        out: the file or folder that was written.
        layout: whose layout it is.
        difference: largest difference over largest value, of the outputs of the source's model and of what was written,
            read again, for a random image.
        left_out: our keys that the layout has no place for, and why.
        lost: what travelled with the source's weights, and a .pth file does not carry.
        other_sizes: SwinConfig fields by which the target's library takes sizes otherwise than the source's: (source's,
            target's).
        model: ``describe`` of the source's model.
    """

    out: Path
    layout: str
    difference: float
    left_out: dict[str, str]
    lost: tuple[str, ...]
    other_sizes: dict[str, tuple[Any, Any]]
    model: dict[str, Any]


def convert(
    source: str | Path,
    out: str | Path,
    to: str = "swindow",
    overwrite: bool = False,
    input_size: int | tuple[int, ...] | None = None,
    **settings: Any,
) -> Conversion:
    """Writes a checkpoint in another library's layout, reads it again, and compares the two models' outputs.

    Args:
        source: as for ``swindow.load``.
        out: as for ``swindow.save``; the source itself is refused.
        to: the layout to write, one of ``swindow.list_layouts()``.
        overwrite: whether a file that is there may be replaced.
        input_size: the size of images that both are for, pixels.
        **settings: other arguments of ``swindow.load``, for instance ``layout``, ``config`` or ``num_classes``.

    Raises:
        CheckpointError: as ``load`` and ``save``; or the outputs differ, then nothing stays at ``out``.
        OutputError: it cannot be written.
    """
    out = checked(out)
    check_suffix(out, to)
    _check_place(source, out, to, overwrite)
    model = load(source, input_size=input_size, **settings)
    trial = out.with_name(f".{uuid.uuid4().hex[:12]}-{out.name[-100:]}")  # of the same suffix
    try:
        left_out = save(model, trial, to, input_size)
        rules = {name: getattr(model.config, name) for name in RULES}
        silent = out.suffix != "" and (to, out.suffix) != ("swindow", ".safetensors")  # some tell no windows
        told = {name: getattr(model.config, name) for name in ("window_size", "pretrained_window_size") if silent}
        again, plain = (load(trial, to, config={**told, **fields}) for fields in (rules, {}))
        found = difference(model, again)
        if not found <= NEAR:
            raise CheckpointError(
                f"{out}: what was written gives other outputs (difference {found:.1e}); it was removed"
            )
        _put(trial, out)
    finally:
        _remove(trial)
    other = {name: (getattr(model.config, name), getattr(plain.config, name)) for name in RULES}
    return Conversion(
        out,
        to,
        found,
        left_out,
        _lost(model.card, out),
        {name: pair for name, pair in other.items() if pair[0] != pair[1]},
        describe(model),
    )


def _lost(card: ModelCard | None, out: Path) -> tuple[str, ...]:
    """The fields of a card that a .pth file has no place for; the size of images is told by some of its tensors."""
    if card is None or out.suffix != ".pth":
        return ()
    return tuple(name for name in card.to_dict() if name not in ("input_size", "format"))


@torch.inference_mode()
def difference(one: SwinModel, other: SwinModel) -> float:
    """Returns the largest difference over the largest value, of all that both give for one random image.

    That is every stage's map, and the logits where both have heads of the same classes; what they draw, where both are
    SimMIMs.
    """
    config = one.config
    side = [8 * patch * max(w[axis] for w in config.window_size) for axis, patch in enumerate(config.patch_size)]
    side = [min(s, 16) if axis < config.ndim - 2 else min(s, 224) for axis, s in enumerate(side)]
    x = torch.randn(1, config.in_chans, *side, generator=torch.Generator().manual_seed(0))
    mine, theirs = (model.backbone if isinstance(model, SimMIM) else model for model in (one, other))
    pairs = list(zip(_maps(mine, x), _maps(theirs, x), strict=True))
    if isinstance(one, SimMIM) and isinstance(other, SimMIM):
        grid = pairs[0][0].shape[:-1]
        mask = torch.arange(math.prod(grid)).view(grid) % 2  # (B, *grid)
        pairs.append((one(x, mask), other(x, mask)))
    elif config.num_classes == other.config.num_classes:
        pairs.append((mine(x), theirs(x)))
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


def _maps(model: SwinTransformer, x: Tensor) -> list[Tensor]:
    """The map of every stage, before any norm that only some layouts have."""
    x, found = model.position_embed(model.patch_embed(x)), []
    for stage in model.stages:
        y, x = stage(x)
        found.append(y)
    return found


def _check_place(source: str | Path, out: Path, to: str, overwrite: bool) -> None:
    """Raises where what is written cannot stand at ``out``."""
    try:
        if not out.exists():
            return
        if not overwrite:
            raise CheckpointError(f"{out}: is there already; try another name, or overwrite")
        here = Path(source).expanduser()
        if here.exists() and os.path.samefile(out, here):
            raise CheckpointError(f"{out}: is the source itself; try another name")
    except (OSError, ValueError) as error:
        raise OutputError(f"could not write {str(out)[:80]!r}: {error}; try another name") from error
    if out.is_dir() != is_folder(out, to):
        raise OutputError(f"{out}: is a {'folder' if out.is_dir() else 'file'}, layout {to!r} is not; try another name")


def _put(trial: Path, out: Path) -> None:
    try:
        if trial.is_dir():
            out.mkdir(parents=True, exist_ok=True)
            for file in trial.iterdir():
                file.replace(out / file.name)
        else:
            trial.replace(out)
    except OSError as error:
        raise OutputError(f"could not write {out}: {reason(error)}; try another place") from error


def _remove(trial: Path) -> None:
    if trial.is_dir():
        shutil.rmtree(trial, ignore_errors=True)
    elif trial.exists():
        trial.unlink()
