"""swindow: the Swin Transformer family (shifted-window vision transformers) in PyTorch.

    model = swindow.create("swin_tiny", num_classes=10)     # untrained
    model = swindow.load("runs/demo/model.safetensors")     # trained
    logits = model(images)                                  # (B, 3, H, W), any H and W

The public names are imported when they are first used, so that ``import swindow`` and ``swindow --help`` are fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_HOME = {
    "ConfigError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "InputError": "errors",
    "OutputError": "errors",
    "SwindowError": "errors",
    "TrainingError": "errors",
    "SwinConfig": "config",
    "list_variants": "variants",
    "SwinTransformer": "models",
    "create": "api",
    "adopt": "api",
    "convert": "api",
    "deploy": "deployment",
    "export": "deployment",
    "inflate": "api",
    "list_layouts": "checkpoints",
    "load": "api",
    "save": "checkpoints",
    "ModelCard": "card",
    "Preprocess": "card",
    "Evaluation": "inference",
    "Failure": "inference",
    "Predictor": "inference",
    "evaluate": "inference",
    "Prediction": "tasks",
    "predict": "api",
    "TrainConfig": "training",
    "TrainResult": "training",
    "parameter_groups": "training",
    "train": "training",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .api import adopt as adopt
    from .api import convert as convert
    from .api import create as create
    from .api import inflate as inflate
    from .api import load as load
    from .api import predict as predict
    from .card import ModelCard as ModelCard
    from .card import Preprocess as Preprocess
    from .checkpoints import list_layouts as list_layouts
    from .checkpoints import save as save
    from .config import SwinConfig as SwinConfig
    from .deployment import deploy as deploy
    from .deployment import export as export
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import InputError as InputError
    from .errors import OutputError as OutputError
    from .errors import SwindowError as SwindowError
    from .errors import TrainingError as TrainingError
    from .inference import Evaluation as Evaluation
    from .inference import Failure as Failure
    from .inference import Predictor as Predictor
    from .inference import evaluate as evaluate
    from .models import SwinTransformer as SwinTransformer
    from .tasks import Prediction as Prediction
    from .training import TrainConfig as TrainConfig
    from .training import TrainResult as TrainResult
    from .training import parameter_groups as parameter_groups
    from .training import train as train
    from .variants import list_variants as list_variants


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
