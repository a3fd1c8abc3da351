"""Pictures of how a model works, drawn from its own tensors, in image coordinates.

``explain`` writes them all, as PNGs or as one page; ``pictures`` yields them; each figure has a function of its own.
The arrays behind them: ``capture`` looks inside a running model, ``attention_maps``, ``rollout``, ``grad_cam`` and
``receptive_field`` say where it looks, for any number of axes; ``exactness`` and ``measure_cost`` measure. A figure's
label (``figure.get_label()``) is its alt text. Drawing needs matplotlib (the extra ``explain``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import ConfigError, OutputError
from ..models import SwinTransformer
from .attention import attention_maps, rollout
from .bias import log_spaced_figure, position_bias_figure, position_index_figure
from .capturing import BlockRecord, Capture, capture
from .cost import Costs, measure_cost
from .exact import Exactness, exactness
from .findings import Findings, pictures
from .geometry import Kind, Record, Stage, bias_pictures, kinds, record
from .gradients import grad_cam, receptive_field, reshape_transform
from .hierarchy import Level, hierarchy_figure, levels, merging_figure
from .looking import attention_figure, grad_cam_figure, overlay, receptive_field_figure, rollout_figure
from .measured import cost_figure, exact_figure
from .patches import patch_figure
from .report import page
from .shifted import mask_figure, shift_figure, window_figure
from .style import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BlockRecord",
    "Capture",
    "Costs",
    "Exactness",
    "Findings",
    "Kind",
    "Level",
    "Record",
    "Stage",
    "attention_figure",
    "attention_maps",
    "bias_pictures",
    "capture",
    "cost_figure",
    "exact_figure",
    "exactness",
    "explain",
    "grad_cam",
    "grad_cam_figure",
    "hierarchy_figure",
    "kinds",
    "levels",
    "log_spaced_figure",
    "mask_figure",
    "measure_cost",
    "merging_figure",
    "overlay",
    "page",
    "patch_figure",
    "pictures",
    "position_bias_figure",
    "position_index_figure",
    "receptive_field",
    "receptive_field_figure",
    "record",
    "reshape_transform",
    "rollout",
    "rollout_figure",
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
    pixel: Sequence[int] | None = None,
    target: int | None = None,
    png: bool = False,
    names: tuple[str, str] = ("this model", "this image"),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Writes the pictures of one model on one image: a page of HTML, or PNGs, 1400 pixels wide.

    The page is one file that needs no network. PNGs have their alt text as Description.

    Args:
        model: a model for images; it is handed back as it was.
        image: (in_chans, H, W) floating, prepared as the model takes it; any H and W from 1.
        display: (H, W, 3) uint8, the same pixels for showing.
        out: a file ending in ``.html``: the page; else a directory for the PNGs. Made where it is absent.
        trained: whether the weights have been trained; if not, pictures and page say so.
        pixel: row and column that attention and receptive fields are shown from; by default the middle.
        target: the class, from 0, that Grad-CAM explains; by default the likeliest.
        png: whether to write the PNGs too, beside the page, into a directory of its name.
        names: of the model and of the image, for people.
        on_progress: called with the name of every picture, how many are done with it, and how many there are.

    Returns:
        The paths, the page first; then the PNGs in the order of the chapters, ``01_hierarchy.png`` and so on.

    Raises:
        InputError: the model is not one for images, ``image`` or ``display`` has the wrong shape or type, or there is
            no such pixel or class.
        ConfigError: ``out`` ends like a single picture; matplotlib or jinja2 is not installed.
        OutputError: something could not be written.
    """
    out = Path(out)
    if out.suffix.lower() in (".png", ".jpg", ".jpeg", ".svg", ".pdf"):
        raise ConfigError(f"explain: got {str(out)!r}, expected a page (.html) or a folder, as there are many pictures")
    found = Findings(model, image, display, trained, pixel, target)
    total, done, paths = len(found.figures()), 0, []
    paged = out.suffix.lower() in (".html", ".htm")

    def drawn(name: str, figure: Figure) -> None:
        nonlocal done
        done += 1
        if png or not paged:
            paths.append(_write(_png(figure), (out.with_suffix("") if paged else out) / f"{name}.png"))
        if on_progress is not None:
            on_progress(name, done, total)

    if paged:
        text = page(found, *names, drawn)
        return [_write(text.encode(), out), *paths]
    for name, draw in found.figures().items():
        drawn(name, draw())
    return paths


def _png(figure: Figure) -> bytes:
    """A figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    title = " ".join(figure.get_suptitle().split())
    metadata = {"Title": title, "Description": figure.get_label()}
    # This is what savefig calls in the end, but savefig lays everything out twice.
    FigureCanvasAgg(figure).print_png(png, metadata=metadata)  # type: ignore[no-untyped-call]
    return png.getvalue()


def _write(data: bytes, path: Path) -> Path:
    """Writes a file; what stood there is replaced whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"explain: could not write {path}: {error.strerror or error}; try another place with --out"
        ) from error
    return path
