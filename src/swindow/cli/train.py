"""``swindow train``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Fixed, OmitArgPrefixes, Suppress, arg

from ..console import ConsoleProgress
from ..training.config import TrainConfig  # imports no torch; what does is imported inside the commands
from .shared import Data, Json, Output, Quiet, unset

STATE = "state.pt"  # training.state.FILE; importing that module may be what was interrupted


NAMES = {  # what stands for the value of an option, where it is not INT, FLOAT, ...
    "recipe": "NAME", "variant": "NAME", "weights": "CHECKPOINT", "optimizer": "NAME", "image_size": "PIXELS",
    "value_range": "BLACK WHITE", "augment": "{photo,crop,affine,none}", "image_column": "NAME",
    "label_column": "NAME", "label_separator": "TEXT", "limit": "IMAGES",
}  # fmt: skip
OTHERWISE = {  # what is used where an option is not given, where it is not what the recipe says
    "recipe": "the data decides", "weights": "random", "head_lr": "as lr", "frozen_stages": "train all",
    "patience": "train all epochs", "image_column": "guessed by its name", "label_column": "guessed by its name",
    "label_separator": "a text is one class",
    "limit": "all", "fraction": "all", "product": "what suits the processor", "workers": "what suits the data",
    "value_range": "by type", "image_size": "as the weights, else the recipe",
    "variant": "the recipe's",
}  # fmt: skip
VERIFY = arg(  # its flag is --no-verify
    help="do not decode every image once before training; a broken image then ends the run when it is read.",
    help_behavior_hint="(by default broken images are found before training, reported and skipped)",
)


def _options() -> type[TrainConfig]:
    """The settings of a run as the command line shows them: what None stands for is said in words."""
    hints = get_type_hints(TrainConfig)
    shown: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(TrainConfig):
        kind, name = hints[field.name], field.name
        if name == "augment":
            kind = Literal["photo", "crop", "affine", "none"] | None
        if name == "optimizer_options":
            shown.append((name, Annotated[kind, Fixed, Suppress], None))
        elif name == "verify":
            shown.append((name, Annotated[bool, VERIFY], True))
        elif field.default is None:
            one = next(part for part in get_args(kind) if part is not type(None))
            of = NAMES.get(name) or (
                f"{{{','.join(get_args(one))}}}"
                if get_origin(one) is Literal
                else getattr(one, "__name__", "VALUE").upper()
            )
            shown.append((name, Annotated[kind, unset(of, OTHERWISE.get(name, "the recipe's"))], None))
    made = dataclasses.make_dataclass("Settings", shown, bases=(TrainConfig,), frozen=True)
    made.__doc__ = TrainConfig.__doc__
    return made


if TYPE_CHECKING:
    Settings = TrainConfig
else:
    Settings = _options()


def train(
    data: Data,
    settings: OmitArgPrefixes[Settings] = Settings(),  # noqa: B008  immutable
    overwrite: bool = False,
    allow_changes: bool = False,
    show_batch: Annotated[Path | None, unset("PNG", "train")] = None,
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
        allow_changes: go on with the run in the out folder also where epochs, learning rates, augmentation or other
            settings that do not change the model are new.
        show_batch: do not train; draw the first batch after all random changes.
    """
    output = Output(json, quiet)
    if show_batch is not None:
        from ..training.preview import show_batch as show

        progress = ConsoleProgress(output.console)
        output.say(show(data, settings, show_batch, progress))
        progress.finished()
        output.result(f"made {show_batch}: the first batch of training images, after all random changes")
        output.put({"picture": str(show_batch)})
        return 0
    progress = ConsoleProgress(output.console)
    try:
        from ..training import train as run
        from ..training.folder import FILES

        result = run(data, settings, overwrite=overwrite, allow_changes=allow_changes, progress=progress)
    except KeyboardInterrupt as stop:
        raise type(stop)(*_going_on(settings.out, progress.saved_step, overwrite)) from None

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    best, first = result.best, next(name for name in ("accuracy", "mean_average_precision") if name in result.best)
    output.result(
        f"{first.replace('_', ' ')} {shown(result.metrics[first])} on {result.images} held-out images after the last "
        f"epoch (best {shown(best[first])}, epoch {best['epoch']})"
    )
    made = (name for name in FILES if (result.out / name).exists())
    output.say(f"made in {result.out}: {', '.join(made)}")
    output.say(f"next: swindow predict {result.out / 'model.safetensors'} IMAGE")
    output.put(
        {
            first: result.metrics[first],
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
