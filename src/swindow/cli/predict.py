"""``swindow predict``."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from ..errors import ConfigError, DataError
from . import complain
from .shared import Checkpoint, Json, Output, Quiet


def predict(
    checkpoint: Checkpoint,
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...", help_behavior_hint="(at least one)")],
    top: int = 5,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Predict the classes of images.

    A broken image is reported and the others are still predicted; the exit status is then 1.

    Args:
        checkpoint: a file that swindow train wrote, or a classifier of any supported library (a file, a folder, or
            hf://org/name).
        images: image files.
        top: how many classes to show per image, the most probable first.
    """
    from ..checkpoints import load
    from ..prediction import predict as run

    if not images:
        raise ConfigError("predict: got no image; try swindow predict CHECKPOINT IMAGE")
    output, model, results, bad = Output(json, quiet), load(checkpoint), [], 0
    for image in images:
        try:
            found = run(model, [image], top)[0]
        except DataError as error:
            complain(error)
            bad += 1
            continue
        pairs = list(zip(found.classes, found.probabilities, strict=True))
        output.result(f"{image}: " + ", ".join(f"{name} {p:.3f}" for name, p in pairs))
        results.append({"image": image, "predictions": [{"class": name, "probability": p} for name, p in pairs]})
    output.put(results)
    return 1 if bad else 0
