"""``swindow evaluate``."""

from __future__ import annotations

from typing import Annotated

from .shared import Checkpoint, Data, Json, Output, Quiet, unset


def evaluate(
    checkpoint: Checkpoint,
    data: Data,
    batch_size: int = 64,
    all: bool = False,
    held_out: Annotated[float | None, unset("FRACTION", "the images held out from training")] = None,
    seed: Annotated[int | None, unset("INT")] = None,
    device: str = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure a trained model on images that it was not trained on.

    Where the data has a split of its own (val/ or test/), these are the images in it. Otherwise they are the images of
    this data that were held out when the model was trained. A checkpoint that records no split is measured on every
    image.

    Args:
        checkpoint: a file that swindow train wrote, or a classifier of any supported library (a file, a folder, or
            hf://org/name).
        data: digits (built in), or a folder with one sub-folder of images per class.
        batch_size: images per forward pass.
        all: measure on all images, those used for training included.
        held_out: measure on this fraction of the images of every class, drawn at random; needs --seed, and data
            without a split of its own.
        seed: the seed of that draw; needs --held-out.
        device: where to run, for instance cpu, cuda or cuda:1; auto takes a GPU if there is one.
    """
    from ..training import evaluate as measure

    output = Output(json, quiet)
    found = measure(checkpoint, data, batch_size, device, held_out, seed, all=all)
    output.result(f"accuracy {found.accuracy:.4f}, loss {found.loss:.4f} on {found.images} images: {found.measured_on}")
    for name, row, c in zip(found.classes, found.confusion, range(len(found.classes)), strict=True):
        wrong = {found.classes[j]: n for j, n in enumerate(row) if n and j != c}
        if wrong:
            output.result(
                f"  {name}: {row[c]} of {sum(row)} right; taken for "
                + ", ".join(f"{k} ({n})" for k, n in wrong.items())
            )
    output.put({"accuracy": found.accuracy, "loss": found.loss, "images": found.images})
    return 0
