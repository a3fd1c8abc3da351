"""``swindow inspect``."""

from __future__ import annotations

from pathlib import Path

from .. import variants as variants_
from .shared import Checkpoint, InputSize, Json, Layout, Output, Part, Quiet, WindowSize, checked_name, load_or_create


def inspect(
    checkpoint: Checkpoint,
    layout: Layout = None,
    part: Part = None,
    window_size: WindowSize = None,
    input_size: InputSize = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show what a checkpoint holds and what became of each of its tensors.

    Args:
        checkpoint: a file or folder of any supported library, hf://org/name, the name of published weights or
            of a variant, or a file that swindow export wrote.
        layout: the library whose names for tensors the checkpoint uses, one of those that the help of convert lists.
        part: the entry of the file to take where several hold weights, for instance state_dict_ema or student.
        window_size: side of a window, where the file does not say it (SwinV2 of timm).
        input_size: side of the images that the weights were trained on, where the file does not say it.
    """
    from ..api import load
    from ..checkpoints import describe
    from ..console import report
    from ..inference.exported import is_exported

    output = Output(json, quiet)
    if is_exported(checkpoint):
        return _show_exported(Path(checkpoint), output)
    if checkpoint in variants_.VARIANTS:
        model, _ = load_or_create(checkpoint, output)
    else:
        checked_name(checkpoint)
        config = None if window_size is None else {"window_size": window_size}
        model = load(checkpoint, layout, config, input_size=input_size, part=part)
    found = describe(model)
    for line in report(found):
        output.result(line)
    output.put(found)
    return 0


def _show_exported(path: Path, output: Output) -> int:
    """Shows what an exported file takes and gives, and its card."""
    from ..inference.exported import describe

    kind, (card, about) = describe(path)
    fields = {name: value for name, value in vars(about).items() if name != "config"}
    found = {"source": str(path), "format": kind, **fields, "card": card.to_dict(), "config": about.config.to_dict()}
    sizes = "any size" if about.size is None else f"{'x'.join(map(str, about.size))} pixels"
    lines = {
        "source": str(path),
        "format": kind,
        "outputs": about.what,
        "input": "photos of any size, in 8 bits" if about.photos else sizes,
        "batch": "any" if about.batch is None else str(about.batch),
        "weights": about.precision if about.int8 is None else f"int8, {about.int8}",
        "classes": ", ".join(card.class_names or ()),
        "data": card.data or "",
        "licence": card.licence or "",
        "description": card.description or "",
        "written by": f"swindow {about.version}",
    }
    output.table([(name, text) for name, text in lines.items() if text])
    output.put(found)
    return 0
