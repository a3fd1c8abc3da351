"""The libraries that tests compare with, imported when they are needed, and small models of theirs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from swindow import SwinConfig
from swindow.checkpoints.layouts import LAYOUTS

from .definition import V2

NARROW = SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=7, num_classes=5, drop_path_rate=0.0)
NARROW_V2 = NARROW.replace(**V2, window_size=8)
CLIP = NARROW.replace(patch_size=(2, 4, 4), window_size=((4, 3, 3),) * 2, merge_axes=(1, 2))

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


def torchvision_arguments(config):
    return {
        "patch_size": list(config.patch_size),
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": list(config.window_size[0]),
        "stochastic_depth_prob": 0.0,
        "num_classes": config.num_classes,
    }


def torchvision_2d(config):
    tv = peer("torchvision.models.swin_transformer")
    v2 = {"block": tv.SwinTransformerBlockV2, "downsample_layer": tv.PatchMergingV2}
    return tv.SwinTransformer(
        **torchvision_arguments(config),
        **(v2 if config.similarity == "cosine" else {}),
    )


def torchvision_3d(config):
    return peer("torchvision.models.video.swin_transformer").SwinTransformer3d(**torchvision_arguments(config))


def timm_model(config, size):
    v2 = config.similarity == "cosine"
    module = peer("timm.models.swin_transformer" + ("_v2" if v2 else ""))
    return (module.SwinTransformerV2 if v2 else module.SwinTransformer)(
        img_size=size,
        patch_size=config.patch_size[0],
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size[0][0],
        num_classes=config.num_classes,
        drop_path_rate=0.0,
    )


def transformers_v2(size, window):
    transformers = peer("transformers")
    return transformers.Swinv2ForImageClassification(
        transformers.Swinv2Config(
            image_size=size,
            patch_size=4,
            embed_dim=8,
            depths=[2, 2],
            num_heads=[1, 2],
            window_size=window,
            num_labels=5,
            drop_path_rate=0.0,
        )
    )


def our_maps(model, x):
    """The maps that MONAI's encoder returns, of our model, each through a LayerNorm without parameters."""
    x = model.patch_embed(x)
    maps = [x]
    for stage in model.stages:
        _, x = stage(x)
        maps.append(x)
    return [F.layer_norm(m, m.shape[-1:]).movedim(-1, 1) for m in maps]
