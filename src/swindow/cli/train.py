"""``swindow train``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from ..console import ConsoleProgress
from ..training.config import TrainConfig  # imports no torch; what does is imported inside the commands
from .shared import Data, Json, Output, Quiet, unset


@dataclasses.dataclass(frozen=True)
class Settings(TrainConfig):
    """The settings of a run, as the command line shows them."""

    variant: Annotated[str | None, unset("NAME", "one that suits the data")] = None
    weights: Annotated[Path | None, unset("CHECKPOINT", "random weights")] = None
    lr: Annotated[float | None, unset("FLOAT", "one that suits the data")] = None
    drop_path_rate: Annotated[float | None, unset("FRACTION", "that of the variant")] = None
    image_size: Annotated[int | None, unset("PIXELS", "one that suits the data and the variant")] = None
    value_range: Annotated[
        tuple[float, float] | None,
        unset("BLACK WHITE", "0 1 for floats, 0 and the largest value of the bit depth for integers"),
    ] = None
    workers: Annotated[
        int | None, unset("INT", "0 for data in memory, else 4, or the number of cores if that is less")
    ] = None
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
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Train a classifier on images, from scratch or from a checkpoint.

    A run that was stopped goes on when the same command is given again. For several processes or GPUs:
    torchrun --nproc_per_node 2 -m swindow train ...

    Args:
        data: digits (built in), or a folder with one sub-folder of images per class; it may contain train/ and val/.
        settings: how to train.
        overwrite: remove the files of an earlier run from the out folder and start from the beginning.
    """
    output = Output(json, quiet)
    progress = ConsoleProgress(output.console, settings.epochs)
    from ..training import train as run

    result = run(data, settings, overwrite=overwrite, progress=progress)
    best = result.best
    output.result(
        f"accuracy {result.accuracy:.4f} on {result.images} held-out images after the last epoch "
        f"(best {best['accuracy']:.4f}, epoch {best['epoch']})"
    )
    output.say(
        f"made in {result.out}: model.safetensors (last epoch), best.safetensors, metrics.jsonl, curves.png, "
        "confusion.png, state.pt"
    )
    output.say(f"next: swindow predict {result.out / 'model.safetensors'} IMAGE")
    output.put(
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
