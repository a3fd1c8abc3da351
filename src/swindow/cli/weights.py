"""``swindow weights``."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from .. import variants as variants_
from .. import weights as weights_
from ..errors import ConfigError
from .shared import Json, Output, Quiet


def weights(
    filter: Annotated[Positional[str], arg(metavar="FILTER")] = "", json: Json = False, quiet: Quiet = False
) -> int:
    """List the published weights that can be loaded by name.

    Args:
        filter: a text in the name, in another library's name, or in the training data, for instance swinv2 or 22k.
    """
    output, found = Output(json, quiet), weights_.find(filter)
    if not found:
        raise ConfigError(f"no published weights have {filter!r} in their name or data; 'swindow weights' lists all")
    counts = {row.name: variants_.parameters(row.variant, row.classes, row.decoder_stride) for row in found}
    rows = [("name", "pixels", "trained on", "top-1", "parameters", "licence", "checked by", "source")]
    for row in found:
        rows.append(
            (
                row.name + (" *" if row.default else ""),
                str(row.pixels),
                row.data,
                "" if row.top1 is None else f"{row.top1:.1f}",
                f"{counts[row.name] / 1e6:.1f} M",
                row.licence,
                row.checked,
                row.sources[0],
            )
        )
    output.table(rows)
    output.say(
        "*: what pretrained=True takes; top-1: percent of ImageNet-1k's validation images (video: Kinetics-400), as "
        "published (CIFAR-10: of its test images, measured by us); parameters: with the head or decoder that they have"
    )
    output.put(
        {row.name: {"pixels": row.pixels, "data": row.data, "top1": row.top1, "classes": row.classes,
                    "parameters": counts[row.name], "licence": row.licence, "default": row.default,
                    "checked": row.checked, "sources": list(row.sources)} for row in found}
    )  # fmt: skip
    return 0
