"""Predicting with a model, a checkpoint or a predictor."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, overload

from PIL import Image

from ..errors import ConfigError
from ..inference import Failure, Predictor
from ..models import SwinTransformer
from ..tasks import Prediction

Model = Predictor | SwinTransformer | str | Path
Images = str | Path | Image.Image | Iterable[str | Path | Image.Image]


@overload
def predict(
    model: Model,
    images: Images,
    top: int = ...,
    batch_size: int = ...,
    device: str | None = ...,
    precision: str | None = ...,
    errors: Literal["raise"] = ...,
) -> list[Prediction]: ...


@overload
def predict(
    model: Model,
    images: Images,
    top: int = ...,
    batch_size: int = ...,
    device: str | None = ...,
    precision: str | None = ...,
    *,
    errors: Literal["return"],
) -> list[Prediction | Failure]: ...


def predict(
    model: Model,
    images: Images,
    top: int = 5,
    batch_size: int = 32,
    device: str | None = None,
    precision: str | None = None,
    errors: str = "raise",
) -> Any:
    """Returns the likeliest classes of every image.

    Args:
        model: a model, the path of a checkpoint, or a ``Predictor``, which saves opening it again. A model is not
            changed, not even from training to evaluation mode. Preprocessing and class names are those of its card; a
            model without them gets ImageNet's preprocessing and numbers for names.
        images: a path or a PIL image, or several of them.
        top: classes per image.
        batch_size: images per forward pass.
        device, precision: as in ``Predictor.open``.
        errors: "raise": the first broken image is an error; "return": it is a ``Failure`` in the list.

    Raises:
        CheckpointError: as ``swindow.load``.
        ConfigError: an argument is wrong.
        DataError: an image is absent or broken, where ``errors`` is "raise".
        InputError: the model has no head or takes no images, or something is neither a path nor a PIL image.

    Example:
        >>> import swindow
        >>> from PIL import Image
        >>> model = swindow.create("swin_nano", num_classes=3)
        >>> [prediction] = swindow.predict(model, Image.new("RGB", (80, 60)), top=2)
        >>> len(prediction.classes)
        2
    """
    if errors not in ("raise", "return"):
        raise ConfigError(f"errors: got {errors!r}, expected 'raise' or 'return'")
    if isinstance(images, (str, os.PathLike, Image.Image)):
        images = [images]
    if isinstance(model, Predictor):
        if device is not None or precision is not None:
            raise ConfigError("predict: a Predictor has its device and precision; give them to Predictor.open")
        predictor = model
    else:
        predictor = Predictor.open(model, device=device, precision=precision)
    found = []
    for answer in predictor(images, batch_size, top):
        if isinstance(answer, Failure) and errors == "raise":
            raise answer.error
        found.append(answer)
    return found
