"""The layouts of other libraries' files: one two-way table of names each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...card import ModelCard
from ...config import SwinConfig
from ...errors import CheckpointError, nearest
from ..evidence import Evidence
from ..sidecar import Sidecars
from . import openmmlab, timm, transformers
from .layout import Layout
from .monai import MONAI_LAYOUTS
from .official import OFFICIAL
from .openmmlab import OPENMMLAB
from .own import OWN, OWN_SIMMIM
from .table import Table, Translation
from .timm import TIMM
from .torchvision import TORCHVISION
from .transformers import TRANSFORMERS

__all__ = [
    "LAYOUTS",
    "OWN",
    "SIDECARS",
    "Layout",
    "Table",
    "Translation",
    "layout_for",
    "layouts_named",
    "names",
    "of_extra",
    "of_sidecars",
]

# In this order: where a file fits several, the first is taken.
LAYOUTS: tuple[Layout, ...] = (
    OWN_SIMMIM,
    OWN,
    *TIMM,
    *OFFICIAL,
    *TORCHVISION,
    *TRANSFORMERS,
    *OPENMMLAB,
    *MONAI_LAYOUTS,
)


def names() -> list[str]:
    """What ``load(layout=...)`` and ``save(layout=...)`` take."""
    return list(dict.fromkeys(layout.name for layout in LAYOUTS))


def layouts_named(name: str | None) -> tuple[Layout, ...]:
    """The layouts of that name; all for None. Raises CheckpointError for an unknown name."""
    if name is not None and name not in names():
        raise CheckpointError(
            f"layout: got {name!r}{nearest(str(name), names())}, expected one of {', '.join(names())}"
        )
    return tuple(layout for layout in LAYOUTS if name in (None, layout.name))


def layout_for(name: str, config: SwinConfig) -> Layout:
    """The layout of that name for models like this one. Raises CheckpointError where the library has none."""
    cosine = config.similarity == "cosine"
    known = layouts_named(name)
    for layout in known:
        fits = config.ndim in layout.axes and layout.cosine in (None, cosine)
        fits = fits and layout.decoder in (None, config.decoder_stride > 0)
        if fits and layout.out_norms in (None, config.out_norms):
            return layout
    what = f"{'SwinV2' if cosine else 'Swin'} with {config.ndim} axes{', a norm per map' if config.out_norms else ''}"
    raise CheckpointError(
        f"layout {name!r} has no models like this one ({what}); it has {' | '.join(layout.title for layout in known)}"
    )


SIDECARS = (transformers.CONFIG, transformers.PROCESSOR)  # names of JSON files that say more of a model


def of_sidecars(files: Sidecars) -> Evidence | None:
    """Returns what the JSON files beside some weights say; None where they are of no library that is known here.

    Raises:
        CheckpointError: they make no sense, or describe a model that swindow does not have.
    """
    try:
        return transformers.sidecar(files) or timm.sidecar(files)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"config.json: cannot be understood ({error}); correct it or give config=") from error


def of_extra(beside: Mapping[str, Any]) -> Evidence | None:
    """Returns what the values beside the weights in a file say; None: nothing."""
    names = openmmlab.class_names(beside)
    return None if names is None else Evidence("what lies beside the weights", card=ModelCard(class_names=names))
