"""``swindow train`` and ``swindow evaluate``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from ..console import ConsoleProgress
from ..training.config import TrainConfig  # imports no torch; what does is imported inside the commands
from .shared import Checkpoint, Data, console, put_json, say


@dataclasses.dataclass(frozen=True)
class Settings(TrainConfig):
    """The settings of a run, as the command line shows them."""

    verify: Annotated[  # its flag is --no-verify
        bool,
        arg(
            help="do not decode every image before training: a broken one ends the run when it is met",
            help_behavior_hint="(by default they are decoded, and broken ones reported and skipped)",
        ),
    ] = True


def train(
    data: Data,
    settings: OmitArgPrefixes[Settings] = Settings(),
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Train a classifier on images, from scratch or from a checkpoint.

    A run that was stopped, however hard, goes on when the same command is given again. Several processes:
    torchrun --nproc_per_node 2 -m swindow train ...

    Args:
        data: digits (built in), or a folder with one sub-folder of images per class; train/ and val/ may be inside.
        settings: the settings of the run.
        overwrite: remove the run that is in the out folder and start afresh.
        json: print the result as one JSON object on the last line.
    """
    from ..training import train as run

    result = run(data, settings, overwrite=overwrite, progress=ConsoleProgress(console(), settings.epochs))
    best = result.best
    say(
        f"accuracy {result.accuracy:.4f} on {result.images} held-out images after the last epoch "
        f"(best {best['accuracy']:.4f}, epoch {best['epoch']})"
    )
    say(
        f"made in {result.out}: model.safetensors (last epoch), best.safetensors, metrics.jsonl, curves.png, "
        "confusion.png, state.pt"
    )
    say(f"next: swindow predict {result.out / 'model.safetensors'} IMAGE")
    if json:
        put_json(
            {
                "accuracy": result.accuracy,
                "loss": result.loss,
                "images": result.images,
                "best": best,
                "out": str(result.out),
                "skipped": list(result.skipped),
            }
        )
    return 0


def evaluate(
    checkpoint: Checkpoint,
    data: Data,
    batch_size: int = 64,
    all: bool = False,
    held_out: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Measure a trained model on images that it was not trained on.

    These are the held-out images of data with a split of its own (val/, test/), else those that training held out from
    this data. A checkpoint that records no split is measured on every image.

    Args:
        checkpoint: a file of swindow train, or a file or folder of any library with that head.
        data: digits, or a folder of class folders.
        batch_size: images per forward pass.
        all: measure on every image.
        held_out: with seed: measure on this share of every class (fraction), where the data has no split of its own.
        seed: with held_out: decides which images these are.
        device: where to run.
        json: print the result as one JSON object on the last line.
    """
    from ..training import evaluate as measure

    found = measure(checkpoint, data, batch_size, device, held_out, seed, all=all)
    say(f"accuracy {found.accuracy:.4f}, loss {found.loss:.4f} on {found.images} images: {found.measured_on}")
    for name, row, c in zip(found.classes, found.confusion, range(len(found.classes)), strict=True):
        wrong = {found.classes[j]: n for j, n in enumerate(row) if n and j != c}
        if wrong:
            say(
                f"  {name}: {row[c]} of {sum(row)} right; taken for "
                + ", ".join(f"{k} ({n})" for k, n in wrong.items())
            )
    if json:
        put_json({"accuracy": found.accuracy, "loss": found.loss, "images": found.images})
    return 0
