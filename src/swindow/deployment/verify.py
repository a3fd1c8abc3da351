"""Is an exported file the model? It is opened in its runtime and compared at several sizes and batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..card import ModelCard
from ..errors import OutputError
from ..inference.exported import ExportInfo
from ..inference.file_runtimes import FileRuntime, open_file
from ..media import prepare
from .capture import trial_sizes
from .outputs import Outputs

# Largest difference allowed, over the largest output.
FP32, PROBABILITIES, PREPARED = 2e-5, 1e-4, 1e-2
INT8 = {"weights": 0.1, "dynamic": 0.3, "static": 10.0}  # noise lies outside the ranges met on images
HALF = {"fp16": 2e-2, "bf16": 1e-1}
PHOTOS = ((120, 160), (333, 217), (20, 31))  # height and width


class Trial(NamedTuple):
    """One comparison.

    Attributes:
        shape: of the input.
        difference: the largest, over the largest output.
    """

    shape: tuple[int, ...]
    difference: float


class Agreement(NamedTuple):
    """On how many images file and model name the same class."""

    images: int
    same: int

    @property
    def share(self) -> float:
        """The fraction."""
        return self.same / self.images


def verify(path: Path, runtime: str, model: torch.nn.Module, about: ExportInfo, card: ModelCard) -> list[Trial]:
    """Compares a file with the model it was made from.

    Args:
        path: the file.
        runtime: what opens it.
        model: the model, in fp32 and evaluation mode on the CPU.
        about, card: of the file.

    Raises:
        OutputError: the outputs differ by more than rounding explains, or are not finite.
    """
    opened, _ = open_file(path, runtime, trust=True)
    reference = Outputs(model, about.what, card.task == "multilabel")  # not eval(): see evaluation_twin
    random = torch.Generator().manual_seed(0)
    trials, limit = [], _limit(about)
    for batch in (1, 3) if about.batch is None else (about.batch,):
        for size in PHOTOS if about.photos else trial_sizes(about.config, about.size):
            given, plain = _inputs(about, card, batch, size, random)
            found = opened.outputs(given)
            with torch.inference_mode():
                outputs = reference(plain)
            expected = outputs if isinstance(outputs, list) else [outputs]
            trial = Trial(tuple(given.shape), max(_difference(*pair) for pair in zip(found, expected, strict=True)))
            if not trial.difference <= limit:
                raise OutputError(_refusal(path, about, trial, limit))
            trials.append(trial)
    return trials


def compare_answers(runtime: FileRuntime, model: torch.nn.Module, images: Sequence[tuple[Tensor, Tensor]]) -> Agreement:
    """Returns on how many images a file and its model name the same class.

    Args:
        runtime: of the file, which gives logits or probabilities.
        model: the model, in fp32 and evaluation mode on the CPU.
        images: each as the file takes it, and as the model does.
    """
    same = 0
    for given, prepared in images:
        with torch.inference_mode():
            expected = model(prepared[None]).argmax(-1)
        same += int((runtime.outputs(given[None])[0].argmax(-1) == expected).sum())
    return Agreement(len(images), same)


def _inputs(
    about: ExportInfo, card: ModelCard, batch: int, size: tuple[int, ...], random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random batch as the file takes it, and as the model takes it."""
    config = about.config
    if not about.photos:
        x = torch.randn(batch, config.in_chans, *size, generator=random)
        return x, x
    smooth = torch.rand(batch, config.in_chans, 8, 8, generator=random)  # as photos are, not noise in every pixel
    smooth = torch.nn.functional.interpolate(smooth, size, mode="bicubic").clamp(0, 1)
    photos = (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
    assert card.preprocess is not None
    plain = [prepare(_image(photo.numpy()), card.preprocess) for photo in photos]
    return photos, torch.stack(plain)


def _image(values: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    largest = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    return largest if math.isfinite(largest) else math.inf


def _limit(about: ExportInfo) -> float:
    limits = [FP32, HALF.get(about.precision, 0.0)]
    limits += [INT8.get(about.int8 or "", 0.0), PREPARED * about.photos]
    limits += [PROBABILITIES * (about.what == "probabilities")]
    return max(limits)


def _refusal(path: Path, about: ExportInfo, trial: Trial, limit: float) -> str:
    if math.isinf(trial.difference) and about.precision != "fp32":
        return (
            f"{path.name}: its outputs are not finite in {about.precision}, so nothing was written; try --bf16, whose "
            "numbers reach as far as those of fp32, or leave --half out"
        )
    return (
        f"{path.name}: its outputs for an input {trial.shape} differ from the model's by {trial.difference:.1e} of the "
        f"largest, expected at most {limit:.0e}, so nothing was written; please report this with the versions installed"
    )
