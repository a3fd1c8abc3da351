"""Pictures of how a model works, drawn from its own tensors: patches, shifted windows, masks, position bias.

``explain`` writes them all; ``pictures`` yields them; each figure has a function of its own, and the arrays that the
figures show come from ``swindow.explain.geometry``. A figure's label (``figure.get_label()``) is its alt text.
Drawing needs matplotlib (the extra ``explain``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor

from ..errors import InputError, OutputError
from ..models import SwinBlock, SwinStage, SwinTransformer
from .bias import position_bias_figure, position_index_figure
from .geometry import Kind, Record, Stage, bias_pictures, kinds, record
from .patches import patch_figure
from .shifted import shift_figure, window_figure
from .style import Pixels, check_display

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Kind",
    "Record",
    "Stage",
    "bias_pictures",
    "explain",
    "kinds",
    "patch_figure",
    "pictures",
    "position_bias_figure",
    "position_index_figure",
    "record",
    "shift_figure",
    "window_figure",
]


def explain(
    model: SwinTransformer,
    image: Tensor,
    display: Pixels,
    out: str | Path,
    *,
    trained: bool,
    on_progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Writes the pictures of one model on one image as PNGs, 1400 pixels wide, with alt text as their Description.

    Args:
        model: a model for images; it is handed back as it was.
        image: (in_chans, H, W) floating, prepared as the model takes it; any H and W from 1.
        display: (H, W, 3) uint8, the same pixels for showing.
        out: directory to write into; made where it is absent.
        trained: whether the weights have been trained; if not, the picture of the position bias says so.
        on_progress: called with the file name of every picture once it is written.

    Returns:
        The paths, in order: ``01_patches.png``, ``02_windows_stage1.png`` (one per stage), ``03_cyclic_shift.png``,
        ``04_relative_position_index.png``, ``05_relative_position_bias.png``.

    Raises:
        InputError: the model is not one for images, or ``image`` or ``display`` has the wrong shape or type.
        ConfigError: matplotlib is not installed.
        OutputError: a picture could not be written.
    """
    paths = []
    for name, figure in pictures(model, image, display, trained=trained):
        paths.append(_write(figure, Path(out), f"{name}.png"))
        if on_progress is not None:
            on_progress(paths[-1].name)
    return paths


def pictures(model: SwinTransformer, image: Tensor, display: Pixels, *, trained: bool) -> Iterator[tuple[str, Figure]]:
    """Yields the name (without ending) and the Figure of every picture; arguments and errors are those of ``explain``.

    The model runs once, before the first picture. The shift, the index and the bias are those of the first stage that
    shifts its windows, or of the first stage where none does.
    """
    check_display(display)
    if tuple(image.shape[1:]) != display.shape[:2]:
        raise InputError(
            f"explain: got an image of shape {tuple(image.shape)} and a display of {display.shape}, "
            "expected the same height and width"
        )
    seen = record(model, image)
    yield "01_patches", patch_figure(seen, display)
    for stage in seen.stages:
        yield f"02_windows_stage{stage.number}", window_figure(stage, display)
    stage = next((s for s in seen.stages if s.shifted), seen.stages[0])
    yield "03_cyclic_shift", shift_figure(stage, display)
    number = 1 if stage.sw_msa is None else 2
    block = cast(SwinBlock, cast(SwinStage, model.stages[stage.number - 1]).blocks[number - 1])
    used = stage.w_msa if stage.sw_msa is None else stage.sw_msa
    yield "04_relative_position_index", position_index_figure(used.window, block.window)
    where = f"stage {stage.number}, block {number}"
    yield "05_relative_position_bias", position_bias_figure(bias_pictures(block), where, trained)


def _write(figure: Figure, out: Path, name: str) -> Path:
    """Writes a figure as a PNG; what stood there is replaced whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    title = " ".join(figure.get_suptitle().split())
    metadata = {"Title": title, "Description": figure.get_label()}
    # This is what savefig calls in the end, but savefig lays everything out twice.
    FigureCanvasAgg(figure).print_png(png, metadata=metadata)  # type: ignore[no-untyped-call]
    path = out / name
    part = out / f".{name}.part"
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(png.getvalue())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"explain: could not write {path}: {error.strerror or error}; try another directory with --out"
        ) from error
    return path
