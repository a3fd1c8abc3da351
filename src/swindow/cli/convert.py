"""``swindow convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from .shared import InputSize, Json, Layout, Output, Part, Quiet, WindowSize, unset


def convert(
    source: Annotated[Positional[str], arg(metavar="IN")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    to: Annotated[str, arg(metavar="LAYOUT")] = "swindow",
    layout: Layout = None,
    part: Part = None,
    num_classes: Annotated[int | None, unset("INT", "the classes of IN")] = None,
    window_size: WindowSize = None,
    input_size: InputSize = None,
    overwrite: bool = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write a checkpoint in another library's layout and compare both models.

    What was written is read again, and both models are given the same random image: their outputs must be equal.

    Args:
        source: a file or folder of any supported library, hf://org/name, or the name of published weights.
        out: a name that ends in .safetensors or .pth; for transformers a folder, for timm a file or a folder.
        to: the layout to write: swindow, microsoft, simmim, forks, video, timm, torchvision, transformers,
            transformers_5, mmpretrain, mmdetection, monai, monai_v2.
        layout: the layout of IN, one of those that --to takes.
        part: the entry of IN to take where several hold weights, for instance state_dict_ema or student.
        num_classes: replace the head by a new one, with random weights, for so many classes; 0 removes it.
        window_size: side of a window, where IN does not say it (SwinV2 of timm).
        input_size: side of the images that both models are for, where IN does not say it.
        overwrite: replace OUT if it exists.
    """
    from ..api import convert as run

    output, config = Output(json, quiet), None if window_size is None else {"window_size": window_size}
    settings: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    done = run(source, out, to, overwrite, input_size, layout=layout, part=part, config=config, **settings)
    output.say(f"{source}: {done.model['layout']}, {done.model['variant'] or 'no published variant'}")
    for name, why in done.left_out.items():
        output.say(f"  {name} is left out: {why}")
    if done.lost:
        output.say(f"  a .pth file does not carry {', '.join(done.lost)}; a .safetensors file does")
    for name, (mine, other) in done.other_sizes.items():
        output.say(
            f"  where windows do not fit a map, {to} has {name}={other}, the source {mine}: outputs differ there"
        )
    difference = f"{done.difference:.1e}"
    output.result(f"wrote {out} ({to}); read again, its outputs are the same (largest difference {difference})")
    output.put({"out": str(out), "layout": to, "difference": done.difference, "left_out": done.left_out})
    return 0
