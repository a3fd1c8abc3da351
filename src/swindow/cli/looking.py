"""``swindow predict`` and ``swindow explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..errors import ConfigError, DataError
from .shared import Checkpoint, complain, load_or_create, put_json, say


def predict(
    checkpoint: Checkpoint,
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    top: int = 5,
    json: bool = False,
) -> int:
    """Say what is in images. A broken image is reported and the others are still predicted; the exit status is then 1.

    Args:
        checkpoint: a file of swindow train, or a file or folder of any library with that head.
        images: image files.
        top: classes per image.
        json: print the result as one JSON object on the last line.
    """
    from ..checkpoints import load
    from ..prediction import predict as run

    if not images:
        raise ConfigError("predict: got no image; try swindow predict CHECKPOINT IMAGE")
    model, results, bad = load(checkpoint), [], 0
    for image in images:
        try:
            found = run(model, [image], top)[0]
        except DataError as error:
            complain(error)
            bad += 1
            continue
        pairs = list(zip(found.classes, found.probabilities, strict=True))
        say(f"{image}: " + ", ".join(f"{name} {p:.3f}" for name, p in pairs))
        results.append({"image": image, "predictions": [{"class": name, "probability": p} for name, p in pairs]})
    if json:
        put_json(results)
    return 1 if bad else 0


def explain(
    checkpoint: Checkpoint,
    image: Annotated[Positional[str], arg(metavar="IMAGE")],
    out: Path = Path("runs/explain"),
    size: int | None = None,
    json: bool = False,
) -> int:
    """Draw how shifted windows work on an image: patches, windows, the cyclic shift and its mask, relative positions.

    Args:
        checkpoint: a file of swindow train, or a file or folder of any library; a variant's name: then it is untrained.
        image: an image file.
        out: the folder for the pictures.
        size: side of the image in pixels; by default what the checkpoint was made for.
        json: print the result as one JSON object on the last line.
    """
    import dataclasses

    import numpy as np

    from .. import images
    from ..explain import explain as draw

    model, trained, side = load_or_create(checkpoint)
    how = images.Preprocess.of(model.metadata, side, model.config.in_chans)
    if size is not None:
        how = dataclasses.replace(how, size=(size, size))
    shown = images.fit(images.read(image), how)
    paths = draw(model, images.to_tensor(shown, how), np.asarray(shown.convert("RGB")), out, trained=trained)
    for path in paths:
        say(str(path))
    if json:
        put_json({"trained": trained, "pictures": [str(path) for path in paths]})
    return 0
