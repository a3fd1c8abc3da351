"""From a model to an exported program of PyTorch: which inputs it takes, which sizes stay open."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbols

from ..card import ModelCard
from ..config import SwinConfig
from ..errors import ConfigError
from ..inference.exported import LARGEST, LARGEST_PHOTO, MOST_IMAGES, SMALLEST, SMALLEST_PHOTO, ExportInfo
from .blocks import rewrite
from .outputs import Outputs, Photos

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Inputs(NamedTuple):
    """Which inputs the exported file takes.

    Attributes:
        name: of the input.
        example: one of them.
        shapes: the open axes, for ``torch.export.export``.
    """

    name: str
    example: Tensor
    shapes: Any


def module_of(
    model: nn.Module, about: ExportInfo, card: ModelCard, precision: str, rewritten: bool = False
) -> nn.Module:
    """Returns the module that is exported: a copy of the model in evaluation mode on the CPU, with its outputs.

    Args:
        model: the model.
        about: what the file is to be.
        card: the model's card.
        precision: of weights and activations; see ``TYPES``.
        rewritten: whether blocks are put into the form of ``ExportedBlock``, for other runtimes than PyTorch.
    """
    twin = copy.deepcopy(model).eval().requires_grad_(False).to("cpu", TYPES[precision])
    if rewritten:
        rewrite(twin)
    module: nn.Module = Outputs(twin, about.what, card.task == "multilabel")
    if about.photos:
        assert card.preprocess is not None
        module = Photos(module, card.preprocess)
    return module.eval()


def inputs_of(about: ExportInfo) -> Inputs:
    """Returns what a file takes."""
    config, batch = about.config, about.batch or 2
    shapes: dict[int, Any] = {} if about.batch else {0: Dim("batch", min=1, max=MOST_IMAGES)}
    if about.photos:
        for axis, name in ((1, "height"), (2, "width")):
            shapes[axis] = Dim(name, min=SMALLEST_PHOTO, max=LARGEST_PHOTO)
        example = torch.randint(0, 256, (batch, 60, 75, config.in_chans), dtype=torch.uint8)
        return Inputs("photos", example, (shapes,))
    size = about.size
    if size is None:
        names = ("frames", "height", "width")[-config.ndim :]
        smallest = 1 if config.ndim == 3 else SMALLEST
        for axis, name in enumerate(names):
            shapes[axis + 2] = Dim(name, min=smallest if name == "frames" else SMALLEST, max=LARGEST)
        size = tuple(s + 4 * i for i, s in enumerate(whole(config)))
    return Inputs("images", torch.randn(batch, config.in_chans, *size), (shapes,) if shapes else None)


def whole(config: SwinConfig) -> tuple[int, ...]:
    """Returns a size of images that is a multiple of everything: in the last stage, one window."""
    merges = config.num_stages - 1
    return tuple(
        patch * window * 2 ** (merges if axis in config.merge_axes else 0)
        for axis, (patch, window) in enumerate(zip(config.patch_size, config.window_size[-1]))
    )


def check_open(config: SwinConfig) -> None:
    """Raises ConfigError for a model whose rule for sizes has branches, so that no size can stay open."""
    odd = {name: getattr(config, name) for name in ("shrink", "shift_single", "mask_padding", "patch_remainder")}
    if (config.shrink, config.shift_single, config.mask_padding, config.patch_remainder) != (None, False, True, "pad"):
        shown = ", ".join(f"{name}={value!r}" for name, value in odd.items())
        raise ConfigError(
            f"export: sizes can stay open only by swindow's own rule for padding; the model has {shown}, as the "
            "library its weights are from; leave --open-size out, or load it with shrink=None, shift_single=False, "
            "mask_padding=True, patch_remainder='pad'"
        )


def capture(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Returns the exported program of a module."""
    with torch.no_grad(), symbols.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(module, (inputs.example,), dynamic_shapes=inputs.shapes)


def trial_sizes(config: SwinConfig, sizes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Returns the sizes at which a file is compared with its model.

    Of an open size: a multiple of everything, one that needs padding in every stage, and one smaller than a window.
    """
    if sizes is not None:
        return [tuple(sizes)]
    even = whole(config)
    odd = tuple(s + p + 1 + 2 * i for i, (s, p) in enumerate(zip(even, config.patch_size)))
    small = tuple(max(SMALLEST, p * (w - 1)) for p, w in zip(config.patch_size, config.window_size[0]))
    return [even, odd, small]
