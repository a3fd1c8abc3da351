"""The rules of the house that a machine can check: arrows, and the names that users import."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import swindow

ROOT = Path(__file__).parents[1]


def test_arrows_point_one_way():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_public_names():
    """What users import; a change here is a change of the interface."""
    assert sorted(n for n in swindow.__all__ if n != "__version__") == [
        "CheckpointError", "ConfigError", "DataError", "InputError", "OutputError", "Preprocess", "SwinConfig",
        "SwinTransformer", "SwindowError", "TrainConfig", "TrainResult", "TrainingError", "adopt", "convert", "create",
        "evaluate", "inflate", "list_layouts", "list_variants", "load", "predict", "save", "train",
    ]  # fmt: skip
    for module in pkgutil.walk_packages(swindow.__path__, "swindow."):
        if (
            not module.name.endswith("__main__") and "adapters." not in module.name
        ):  # those need the libraries adapted to
            importlib.import_module(module.name)
    for name in swindow.__all__:  # no module of that name has come in between
        assert not isinstance(getattr(swindow, name), types.ModuleType)
    with pytest.raises(AttributeError):
        _ = swindow.nonsense
