"""``swindow inspect``, ``swindow convert`` and ``swindow variants``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import Positional, arg

from .. import variants as variants_
from .shared import Checkpoint, checked_name, console, load_or_create, put_json, say


def inspect(
    checkpoint: Checkpoint,
    layout: str | None = None,
    window_size: int | None = None,
    input_size: int | None = None,
    json: bool = False,
) -> int:
    """Say what a checkpoint holds and what became of each of its tensors.

    Args:
        checkpoint: a file or folder of any library, hf://org/name, or a variant's name.
        layout: whose layout it is; by default it is recognised.
        window_size: the window, where the file does not tell it (SwinV2 of timm).
        input_size: the side in pixels of the images that the weights are for, where the file does not tell it.
        json: print the result as one JSON object on the last line.
    """
    from ..checkpoints import describe, load
    from ..console import report

    if checkpoint in variants_.VARIANTS:
        model, _, _ = load_or_create(checkpoint)
    else:
        checked_name(checkpoint)
        model = load(checkpoint, layout, _config(window_size), input_size=input_size)
    found = describe(model)
    for line in report(found):
        say(line)
    if json:
        put_json(found)
    return 0


def convert(
    source: Annotated[Positional[str], arg(metavar="IN")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    to: str = "swindow",
    layout: str | None = None,
    num_classes: int | None = None,
    window_size: int | None = None,
    input_size: int | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Write a checkpoint in another library's layout, read it again, and compare both models on a random image.

    Args:
        source: a file or folder of any library, or hf://org/name.
        out: a .safetensors or .pth file; for transformers a folder, for timm either.
        to: the layout to write: swindow, microsoft, simmim, forks, video, timm, torchvision, transformers,
            transformers_5, mmpretrain, mmdetection, monai, monai_v2.
        layout: the layout of IN; by default it is recognised.
        num_classes: another number of classes: a new head; 0: none.
        window_size: the window, where IN does not tell it (SwinV2 of timm).
        input_size: the side in pixels of the images that both are for, where IN does not tell it.
        overwrite: replace what is at OUT.
        json: print the result as one JSON object on the last line.
    """
    from ..checkpoints import convert as run

    done = run(
        source, out, to, overwrite, input_size, layout=layout, config=_config(window_size), num_classes=num_classes
    )
    say(f"{source}: {done.model['layout']}, {done.model['variant'] or 'no published variant'}")
    for name, why in done.left_out.items():
        say(f"  {name} is left out: {why}")
    if done.lost:
        say(f"  a .pth file does not carry {', '.join(done.lost)}; a .safetensors file does")
    for name, (mine, other) in done.other_sizes.items():
        say(f"  where windows do not fit a map, {to} has {name}={other}, the source {mine}: outputs differ there")
    say(f"wrote {out} ({to}); read again, its outputs are the same (largest difference {done.difference:.1e})")
    if json:
        put_json({"out": str(out), "layout": to, "difference": done.difference, "left_out": done.left_out})
    return 0


def variants(json: bool = False) -> int:
    """List the models that have names.

    Args:
        json: print the result as one JSON object on the last line.
    """
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in ("variant", "parameters", "pixels", "dim", "blocks", "heads", "window", "patch"):
        table.add_column(column, no_wrap=True)
    for name in variants_.list_variants():
        c = variants_.variant_config(name)
        table.add_row(
            name,
            f"{variants_.PARAMETERS[name]:,}",
            str(variants_.image_size(name)),
            str(c.embed_dim),
            " ".join(map(str, c.depths)),
            " ".join(map(str, c.num_heads)),
            " ".join(dict.fromkeys(map(_side, c.window_size))),
            _side(c.patch_size),
        )
    console().print(table)
    say("parameters: with 1000 classes (video 400); pixels: the side of the images it is meant for, any size runs")
    if json:
        put_json({name: variants_.variant_config(name).to_dict() for name in variants_.list_variants()})
    return 0


def _config(window_size: int | None) -> dict[str, Any] | None:
    return None if window_size is None else {"window_size": window_size}


def _side(size: tuple[int, ...]) -> str:
    """``7`` for (7, 7), ``8x7x7`` where the axes differ."""
    return str(size[0]) if len(set(size)) == 1 else "x".join(map(str, size))
