"""``swindow inspect``."""

from __future__ import annotations

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
        checkpoint: a file or folder of any supported library, hf://org/name, or the name of published weights or
            of a variant.
        layout: the library whose names for tensors the checkpoint uses, one of those that the help of convert lists.
        part: the entry of the file to take where several hold weights, for instance state_dict_ema or student.
        window_size: side of a window, where the file does not say it (SwinV2 of timm).
        input_size: side of the images that the weights were trained on, where the file does not say it.
    """
    from ..api import load
    from ..checkpoints import describe
    from ..console import report

    output = Output(json, quiet)
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
