"""The libraries that tests compare with, imported when they are needed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from swindow.checkpoints.layouts import LAYOUTS

_declared: list[torch.library.Library] = []  # declarations last as long as this object does


def peer(name: str) -> ModuleType:
    """Imports a module of a peer; skips the test, with the reason, where it is not installed."""
    _mend_torchvision()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")


def _mend_torchvision() -> None:
    """Makes torchvision importable beside a torch that its compiled operators were not built for.

    There is no CPU build of it to be had for every CPU build of torch, and a broken torchvision also breaks timm and
    transformers. Two operators are declared, none is defined: what the tests use needs neither.
    """
    if _declared or "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


def under_our_names(title):
    """Returns a function that reads tensors (weights, or gradients) by the table of the layout of that title."""
    (layout,) = (layout for layout in LAYOUTS if layout.title == title)
    return lambda tensors: layout.table.read(tensors).tensors
