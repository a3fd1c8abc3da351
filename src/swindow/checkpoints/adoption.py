"""A live model of another library as ours, with the same weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..models import SwinTransformer
from .loading import Wanted, load_tensors
from .neighbours import Hints, hints
from .sources import Source

EXPECTED = "an instance of timm's, torchvision's, transformers', MONAI's or the official Swin Transformer"


def adopt(theirs: nn.Module) -> SwinTransformer:
    """Returns our model with the weights of a live model of another library, in the same mode and on the same device.

    Weights whose arrangement is the same in both share memory: training one changes the other. Windows, sizes, epsilon
    and stochastic depth are read off the model. ``model.load_report`` says which layout it was.

    Args:
        theirs: an instance of timm's, torchvision's, transformers', MONAI's or the official Swin Transformer; also a
            larger model with one in it, of which the rest is left.

    Raises:
        CheckpointError: it is none of these, or not finite.
    """
    if not isinstance(theirs, nn.Module):
        raise CheckpointError(f"adopt: got a {type(theirs).__name__}, expected {EXPECTED}")
    if isinstance(theirs, SwinTransformer):
        return theirs
    name = f"{type(theirs).__module__.split('.')[0]}'s {type(theirs).__name__}"
    about = _hints(theirs)
    model = load_tensors(Source(name, theirs.state_dict()), about, Wanted(_rates(theirs), dtype=None))
    return model.train(theirs.training)


def _hints(theirs: nn.Module) -> Hints:
    """What the model knows of itself and its tensors do not tell."""
    config: Any = getattr(theirs, "config", None)
    if hasattr(config, "to_dict"):
        found = hints({"config.json": config.to_dict()})
        found.source = "its config"
        return found
    found = Hints("its attributes")
    windows: dict[str, tuple[int, ...]] = {}
    trained: dict[str, tuple[int, ...]] = {}
    for key, module in theirs.named_modules():
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


def _rates(theirs: nn.Module) -> dict[str, Any]:
    """Epsilon and stochastic depth, as SwinConfig fields."""
    found: dict[str, Any] = {}
    norms = [module.eps for module in theirs.modules() if isinstance(module, nn.LayerNorm)]
    if norms:
        found["norm_eps"] = norms[0]
    rates = [0.0]
    for module in theirs.modules():
        rate = getattr(module, "drop_prob", None)
        if type(module).__name__ == "StochasticDepth":
            rate = getattr(module, "p", None)
        rates.append(float(rate) if isinstance(rate, (int, float)) else 0.0)
    found["drop_path_rate"] = max(rates)
    return found
