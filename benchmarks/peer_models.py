"""The other implementations that a user could pick instead, with the weights of a model of ours.

Each function returns the peer's own module in evaluation mode, built for images of that size, or None where it is not
installed or has no such model.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

import swindow
from swindow import SwinTransformer

_declared: list[torch.library.Library] = []  # declarations last as long as this object does


def timm(model: SwinTransformer, size: tuple[int, int]) -> nn.Module | None:
    library, v2 = _import("timm"), model.config.similarity == "cosine"
    if library is None:
        return None
    size_name = "base" if model.config.embed_dim == 128 else "tiny"
    name = f"swinv2_{size_name}_window8_256" if v2 else f"swin_{size_name}_patch4_window7_224"
    rate = model.config.drop_path_rate
    peer = library.create_model(name, img_size=size, pretrained=False, drop_path_rate=rate).eval()
    return _filled(peer, model, "timm")


def torchvision(model: SwinTransformer, size: tuple[int, int]) -> nn.Module | None:
    library = _import("torchvision.models")
    if library is None:
        return None
    peer = (library.swin_v2_t if model.config.similarity == "cosine" else library.swin_t)(weights=None).eval()
    depths = [part for part in peer.modules() if type(part).__name__ == "StochasticDepth"]
    for i, part in enumerate(depths):
        part.p = model.config.drop_path_rate * i / (len(depths) - 1)  # as an argument it is refused
    return _filled(peer, model, "torchvision")


def transformers(model: SwinTransformer, size: tuple[int, int]) -> nn.Module | None:
    library = _import("transformers")
    if library is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        swindow.save(model, folder, "transformers")
        return Logits(library.AutoModelForImageClassification.from_pretrained(folder, image_size=size)).eval()


def official(model: SwinTransformer, size: tuple[int, int]) -> nn.Module | None:
    """The authors' code, where SWIN_OFFICIAL names a checkout of it."""
    checkout, v2 = os.environ.get("SWIN_OFFICIAL"), model.config.similarity == "cosine"
    if not checkout:
        return None
    sys.path.insert(0, str(Path(checkout) / "models"))
    if v2:
        peer = importlib.import_module("swin_transformer_v2").SwinTransformerV2(img_size=size, window_size=8).eval()
    else:
        peer = importlib.import_module("swin_transformer").SwinTransformer(img_size=size).eval()
    return _filled(peer, model, "microsoft")


PEERS = {"timm": timm, "torchvision": torchvision, "transformers": transformers, "official": official}


class Logits(nn.Module):
    """A model of transformers that returns its logits alone, as all others do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


def _filled(peer: nn.Module, model: SwinTransformer, layout: str) -> nn.Module:
    """The peer with our weights; buffers that follow from its sizes stay its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        swindow.save(model, path, layout)
        weights = torch.load(path, weights_only=True)
    peer.load_state_dict(peer.state_dict() | {name: weights[name] for name, _ in peer.named_parameters()})
    return peer


def _import(name: str) -> ModuleType | None:
    """A module of a peer, or None where it is not installed."""
    _mend_torchvision()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def _mend_torchvision() -> None:
    """Makes torchvision importable beside a torch it was not built for, as tests/helpers/peers.py does."""
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
