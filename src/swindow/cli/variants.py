"""``swindow variants``."""

from __future__ import annotations

from .. import variants as variants_
from .shared import Json, Output, Quiet


def variants(json: Json = False, quiet: Quiet = False) -> int:
    """List the models that have names."""
    output, configs = Output(json, quiet), {name: variants_.variant_config(name) for name in variants_.list_variants()}
    rows = [("variant", "parameters", "pixels", "dim", "blocks", "heads", "window", "patch")]
    for name, c in configs.items():
        rows.append(
            (
                name,
                f"{variants_.PARAMETERS[name]:,}",
                str(variants_.image_size(name)),
                str(c.embed_dim),
                " ".join(map(str, c.depths)),
                " ".join(map(str, c.num_heads)),
                " ".join(dict.fromkeys(map(_side, c.window_size))),
                _side(c.patch_size),
            )
        )
    output.table(rows)
    output.say("parameters: with 1000 classes (video: 400); pixels: the image size it is meant for, others work too")
    output.put({name: config.to_dict() for name, config in configs.items()})
    return 0


def _side(size: tuple[int, ...]) -> str:
    """``7`` for (7, 7), ``8x7x7`` where the axes differ."""
    return str(size[0]) if len(set(size)) == 1 else "x".join(map(str, size))
