"""The public functions that join a model, a checkpoint or a predictor with data and images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, overload

from PIL import Image

from .checkpoints import load
from .errors import ConfigError
from .inference import Failure, Predictor
from .models import SwinTransformer
from .models import create as untrained
from .models.init import SeededInit
from .tasks import Prediction
from .variants import variant_config
from .weights import PUBLISHED, default_of

Model = Predictor | SwinTransformer | str | Path
Images = str | Path | Image.Image | Iterable[str | Path | Image.Image]


def create(
    variant: str, pretrained: bool | str = False, *, seed: int | None = None, **fields: Any
) -> SwinTransformer | Any:
    """Returns a model of a named variant, in training mode: untrained, or with published weights.

    It is a SwinTransformer; a SimMIM where ``decoder_stride`` is above 0.

    Args:
        variant: a name from ``swindow.list_variants()``.
        pretrained: whether to take published weights, downloaded once; True: the best of the variant on ImageNet-1k by
            those who trained it first, or a tag, for instance ``"ms_in22k"`` (``swindow weights`` lists them).
        seed: of random weights, from 0 to 2**63 - 1: all of an untrained model, a new head of a pretrained one. They
            are drawn from a generator of their own: PyTorch's global one keeps its state, and the same seed gives the
            same weights, also in several threads at once. None: from the global generator.
        **fields: any field of SwinConfig, for instance ``num_classes=10``, ``in_chans=1`` or ``window_size=8``; of a
            pretrained model, those that ``swindow.load`` takes.

    Raises:
        ConfigError: no variant, field or tag has that name (the nearest are named), or a value is out of range.
        CheckpointError: the weights cannot be downloaded.

    Example:
        >>> sum(p.numel() for p in create("swin_tiny").parameters())
        28288354
    """
    if pretrained is False:
        return untrained(variant, seed=seed, **fields)
    fields = {"drop_path_rate": variant_config(variant).drop_path_rate, **fields}
    row = default_of(variant)
    if pretrained is not True:
        known = [other for other in PUBLISHED if other.variant == variant]
        tags = [other.tag for other in known]
        if pretrained not in tags:
            raise ConfigError(f"pretrained: got {pretrained!r}, expected True or, for {variant}, {' or '.join(tags)}")
        row = known[tags.index(pretrained)]
    with nullcontext() if seed is None else SeededInit(seed):
        return load(row.name, **fields).train()


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
