"""A live model of another library as ours, with the same weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..models import SimMIM, SwinTransformer
from .layouts import LAYOUTS
from .loading import Wanted, load_tensors
from .neighbours import Hints, hints
from .sources import Source

EXPECTED = "an instance of timm's, torchvision's, transformers', MONAI's or the official Swin Transformer"


def adopt(theirs: nn.Module) -> SwinTransformer | Any:
    """Returns our model with the weights of a live model of another library, in the same mode and on the same device.

    It is a SwinTransformer; a SimMIM for a model of pre-training, with a decoder. Weights whose arrangement is the same
    in both share memory: training one changes the other. Windows, sizes, epsilon and stochastic depth are read off the
    model; other dropout is not, and nothing is frozen. ``model.load_report`` says which layout it was.

    Args:
        theirs: an instance of timm's, torchvision's, transformers', MONAI's or the official Swin Transformer; also a
            larger model with one in it, of which the rest is left.

    Raises:
        CheckpointError: it is none of these, or not finite.
    """
    if not isinstance(theirs, nn.Module):
        raise CheckpointError(f"adopt: got a {type(theirs).__name__}, expected {EXPECTED}")
    if isinstance(theirs, (SwinTransformer, SimMIM)):
        return theirs
    name = f"{type(theirs).__module__.split('.')[0]}'s {type(theirs).__name__}"
    pooling = getattr(theirs, "global_pool", None)
    if isinstance(pooling, str) and pooling != "avg":
        raise CheckpointError(f"adopt: {name} has global_pool {pooling!r}, expected 'avg', the mean over the map")
    lexicographic = any(type(module).__name__ == "PatchMergingV2" and _is_monai(module) for module in theirs.modules())
    wanted = Wanted(_settings(theirs, name), "monai_v2" if lexicographic else None, dtype=None)
    model = load_tensors(Source(name, theirs.state_dict()), _hints(theirs), wanted)
    return model.train(theirs.training)


def _is_monai(module: nn.Module) -> bool:
    return type(module).__module__.startswith("monai.")


def _hints(theirs: nn.Module) -> Hints:
    """What the model knows of itself and its tensors do not tell."""
    for module in theirs.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "model_type", None) in ("swin", "swinv2"):
            found = hints({"config.json": config.to_dict()})
            found.source = "its config"
            return found
    found = Hints("its attributes")
    windows: dict[str, tuple[int, ...]] = {}
    trained: dict[str, tuple[int, ...]] = {}
    for key, module in theirs.named_modules():
        size: Any = getattr(module, "img_size", None)
        if key.endswith("patch_embed") and isinstance(size, (tuple, list)) and len(size) == 2:
            found.input_size = tuple(map(int, size))
        window = getattr(module, "window_size", None)
        if window is None or not hasattr(module, "num_heads") or not hasattr(module, "qkv"):
            continue
        windows[_stage(key)] = _axes(window)
        given = getattr(module, "pretrained_window_size", None)
        if given is not None and any(_axes(given)):
            trained[_stage(key)] = _axes(given)
    if windows:
        found.window = tuple(windows.values())
    if trained:
        found.trained = tuple(trained.get(stage, windows[stage]) for stage in windows)
    return found


def _stage(key: str) -> str:
    """What names a stage in the name of a block's attention: all but its last number and what follows."""
    parts = key.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1]]) if numbers else key


def _axes(window: Any) -> tuple[int, ...]:
    return (window, window) if isinstance(window, int) else tuple(window)


def _settings(theirs: nn.Module, name: str) -> dict[str, Any]:
    """Epsilon, stochastic depth and a rule for sizes of its own, as SwinConfig fields."""
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
    found: dict[str, Any] = {"drop_path_rate": max(rates), **({"norm_eps": epsilons[0]} if epsilons else {})}
    if any(getattr(module, "always_partition", False) is True for module in theirs.modules()):  # timm's setting
        found |= {"shrink": None, "shift_single": True}
    return found
