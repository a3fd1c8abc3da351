"""What live models of other libraries know of themselves, and their tensors do not tell."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import CheckpointError
from ..evidence import Evidence
from . import LAYOUTS, monai, timm, transformers


def of_live(model: nn.Module, name: str) -> tuple[list[Evidence], str | None]:
    """Returns what a live model says of itself, and its layout where its keys do not tell that.

    Args:
        model: of a library.
        name: of the model, for messages.

    Raises:
        CheckpointError: it is built otherwise than any model of swindow.
    """
    try:
        settings = [transformers.live(model), timm.live(model)]
        said = [_built(model, name), *settings]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"adopt: the settings of {name} cannot be understood ({error})") from error
    return [one for one in said if one is not None], monai.live(model)


def _built(theirs: nn.Module, name: str) -> Evidence:
    """What its modules were built with: windows, the size of images, epsilon, stochastic depth."""
    input_size = None
    windows: dict[str, tuple[int, ...]] = {}
    trained: dict[str, tuple[int, ...]] = {}
    for key, module in theirs.named_modules():
        size: Any = getattr(module, "img_size", None)
        if key.endswith("patch_embed") and isinstance(size, (tuple, list)) and len(size) == 2:
            input_size = tuple(map(int, size))
        window = getattr(module, "window_size", None)
        if window is None or not hasattr(module, "num_heads") or not hasattr(module, "qkv"):
            continue
        windows[_stage(key)] = _axes(window)
        given = getattr(module, "pretrained_window_size", None)
        if given is not None and any(_axes(given)):
            trained[_stage(key)] = _axes(given)
    return Evidence(
        "its attributes",
        _settings(theirs, name),
        windows=dict(enumerate(windows.values())),
        trained={i: trained[stage] for i, stage in enumerate(windows) if stage in trained},
        input_size=input_size,
    )


def _stage(key: str) -> str:
    """What names a stage in the name of a block's attention: all but its last number and what follows."""
    parts = key.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1]]) if numbers else key


def _axes(window: Any) -> tuple[int, ...]:
    return (window, window) if isinstance(window, int) else tuple(window)


def _settings(theirs: nn.Module, name: str) -> dict[str, Any]:
    """Epsilon and stochastic depth, as SwinConfig fields."""
    keys = list(theirs.state_dict())
    inside = tuple({key[: -len(layout.anchor)] for layout in LAYOUTS for key in keys if key.endswith(layout.anchor)})
    norms = [m for key, m in theirs.named_modules() if isinstance(m, nn.LayerNorm) and key.startswith(inside)]
    epsilons = sorted({norm.eps for norm in norms})
    if len(epsilons) > 1:
        raise CheckpointError(f"adopt: {name} has norms with epsilons {epsilons}, expected one for all")
    rates = [0.0]
    for module in theirs.modules():
        rate = getattr(module, "p" if type(module).__name__ == "StochasticDepth" else "drop_prob", None)
        rates.append(float(rate) if isinstance(rate, (int, float)) else 0.0)
    return {"drop_path_rate": max(rates), **({"norm_eps": epsilons[0]} if epsilons else {})}
