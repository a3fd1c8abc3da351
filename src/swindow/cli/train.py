"""``swindow train``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from ..console import ConsoleProgress
from ..training.config import TrainConfig  # imports no torch; what does is imported inside the commands
from .shared import Data, Json, Output, Quiet, unset

STATE = "state.pt"  # training.state.FILE; importing that module may be what was interrupted


@dataclasses.dataclass(frozen=True)
class Settings(TrainConfig):
    """The settings of a run, as the command line shows them."""

    image_column: Annotated[str | None, unset("NAME", "guessed by its name")] = None
    label_column: Annotated[str | None, unset("NAME", "guessed by its name")] = None
    variant: Annotated[str | None, unset("NAME")] = None
    weights: Annotated[Path | None, unset("CHECKPOINT")] = None
    lr: Annotated[float | None, unset("FLOAT")] = None
    drop_path_rate: Annotated[float | None, unset("FRACTION")] = None
    image_size: Annotated[int | None, unset("PIXELS")] = None
    value_range: Annotated[tuple[float, float] | None, unset("BLACK WHITE")] = None
    auto_augment: Annotated[
        Literal["none", "randaugment", "trivialaugment"] | None, unset("{none,randaugment,trivialaugment}")
    ] = None
    layer_decay: Annotated[float | None, unset("FACTOR", "the same rate everywhere")] = None
    erase: Annotated[float | None, unset("FRACTION")] = None
    mixup: Annotated[float | None, unset("FLOAT")] = None
    cutmix: Annotated[float | None, unset("FLOAT")] = None
    product: Annotated[Literal["torch", "onednn"] | None, unset("{torch,onednn}")] = None
    workers: Annotated[int | None, unset("INT")] = None
    verify: Annotated[  # its flag is --no-verify
        bool,
        arg(
            help="do not decode every image once before training; a broken image then ends the run when it is read.",
            help_behavior_hint="(by default broken images are found before training, reported and skipped)",
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
        data: digits (built in); a folder with one sub-folder of images per class, or with train/ and val/ that have
            them; or a table (.csv, .tsv, .jsonl, .parquet) of images and classes, or a folder with train.parquet, ....
        settings: how to train.
        overwrite: remove the files of an earlier run from the out folder and start from the beginning.
    """
    output = Output(json, quiet)
    progress = ConsoleProgress(output.console, settings.epochs)
    try:
        from ..training import train as run

        result = run(data, settings, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt as stop:
        raise type(stop)(*_going_on(settings.out, progress.saved_step, overwrite)) from None
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


def _going_on(out: Path, step: int | None, overwrite: bool) -> tuple[str, ...]:
    """How a run that was stopped can go on, in words; nothing where no state of it has been saved.

    Args:
        out: the folder of the run.
        step: the step of the last state known to be saved, 0 where none is; None where training had not begun.
        overwrite: whether it was to replace the run in that folder.
    """
    if (step is None and overwrite) or not (out / STATE).exists():
        return ()
    same = "the same command without --overwrite" if overwrite else "the same command"
    return (f"{same} goes on from {f'step {step}' if step else 'the last saved state'}",)
