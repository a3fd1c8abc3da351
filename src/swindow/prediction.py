"""What a model says about images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .card import preprocessing
from .checkpoints import load
from .errors import InputError
from .media import prepare
from .models import SwinTransformer


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, likeliest first: names, and probabilities (fractions)."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@torch.inference_mode()
def predict(
    model: SwinTransformer | str | Path, images: Sequence[str | Path | Image.Image], top: int = 5, batch_size: int = 32
) -> list[Prediction]:
    """Returns the likeliest classes of every image.

    Args:
        model: a model, or the path of a checkpoint. Preprocessing and class names are those of its card; a model
            without them gets ImageNet's preprocessing and numbers for names.
        images: paths or PIL images.
        top: classes per image.
        batch_size: images per forward pass.

    Raises:
        CheckpointError: as ``swindow.load``.
        DataError: an image is absent or broken.
        InputError: the model has no head.
    """
    if not isinstance(model, SwinTransformer):
        model = load(model)
    if not model.config.num_classes:
        raise InputError(
            "predict: the model has no head (num_classes is 0); try load(..., num_classes=...) and train it"
        )
    how = preprocessing(model.card, channels=model.config.in_chans)
    names = model.card.class_names if model.card else None
    names = names or tuple(str(i) for i in range(model.config.num_classes))
    device, training = next(model.parameters()).device, model.training
    found = []
    model.eval()
    try:
        for start in range(0, len(images), batch_size):
            x = torch.stack([prepare(image, how) for image in images[start : start + batch_size]])  # (B, C, H, W)
            p, index = model(x.to(device)).float().softmax(-1).topk(min(top, model.config.num_classes))  # (B, top) each
            found += [
                Prediction(tuple(names[i] for i in row), tuple(values))
                for row, values in zip(index.tolist(), p.tolist(), strict=True)
            ]
    finally:
        model.train(training)
    return found
