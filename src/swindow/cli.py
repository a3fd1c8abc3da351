"""The command line: parses, calls one public function a command, prints."""

from __future__ import annotations

import json as json_
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from . import variants as variants_
from .console import ConsoleProgress, say
from .errors import ConfigError, DataError, SwindowError
from .training.config import TrainConfig  # imports no torch; what does is imported inside the commands

if TYPE_CHECKING:
    from .models import SwinTransformer

Data = Annotated[Positional[str], arg(metavar="DATA")]
Checkpoint = Annotated[Positional[str], arg(metavar="CHECKPOINT")]


def train(
    data: Data,
    settings: OmitArgPrefixes[TrainConfig] = TrainConfig(),  # noqa: B008  frozen
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
    from .training import train as run

    result = run(data, settings, overwrite=overwrite, progress=ConsoleProgress(_console(), settings.epochs))
    best = result.best
    _say(
        f"accuracy {result.accuracy:.4f} on {result.images} held-out images after the last epoch "
        f"(best {best['accuracy']:.4f}, epoch {best['epoch']})"
    )
    _say(
        f"made in {result.out}: model.safetensors (last epoch), best.safetensors, metrics.jsonl, curves.png, "
        "confusion.png, state.pt"
    )
    _say(f"next: swindow predict {result.out / 'model.safetensors'} IMAGE")
    if json:
        _json(
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
    held_out: float = 0.2,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Measure a trained model on the held-out images of some data.

    Args:
        checkpoint: a file made by swindow train.
        data: digits, or a folder of class folders.
        batch_size: images per forward pass.
        held_out: the held-out share (fraction), where the data has no split of its own; that of the training run.
        seed: the seed of that split; that of the training run.
        device: where to run.
        json: print the result as one JSON object on the last line.
    """
    from .training import evaluate as measure

    found = measure(checkpoint, data, batch_size, device, held_out, seed)
    _say(f"accuracy {found.accuracy:.4f}, loss {found.loss:.4f} on {found.images} held-out images")
    for name, row, c in zip(found.classes, found.confusion, range(len(found.classes)), strict=True):
        wrong = {found.classes[j]: n for j, n in enumerate(row) if n and j != c}
        if wrong:
            _say(
                f"  {name}: {row[c]} of {sum(row)} right; taken for "
                + ", ".join(f"{k} ({n})" for k, n in wrong.items())
            )
    if json:
        _json({"accuracy": found.accuracy, "loss": found.loss, "images": found.images})
    return 0


def predict(
    checkpoint: Checkpoint,
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    top: int = 5,
    json: bool = False,
) -> int:
    """Say what is in images. A broken image is reported and the others are still predicted; the exit status is then 1.

    Args:
        checkpoint: a file made by swindow train.
        images: image files.
        top: classes per image.
        json: print the result as one JSON object on the last line.
    """
    from .checkpoints import load
    from .prediction import predict as run

    if not images:
        raise ConfigError("predict: got no image; try swindow predict CHECKPOINT IMAGE")
    model, results, bad = load(checkpoint), [], 0
    for image in images:
        try:
            found = run(model, [image], top)[0]
        except DataError as error:
            _complain(error)
            bad += 1
            continue
        pairs = list(zip(found.classes, found.probabilities, strict=True))
        _say(f"{image}: " + ", ".join(f"{name} {p:.3f}" for name, p in pairs))
        results.append({"image": image, "predictions": [{"class": name, "probability": p} for name, p in pairs]})
    if json:
        _json(results)
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
        checkpoint: a file made by swindow train, or a variant's name: then the model is untrained.
        image: an image file.
        out: the folder for the pictures.
        size: side of the image in pixels; by default what the checkpoint was made for.
        json: print the result as one JSON object on the last line.
    """
    import dataclasses

    import numpy as np

    from . import images
    from .explain import explain as draw

    model, trained, side = _load_or_create(checkpoint)
    how = images.Preprocess.of(model.metadata, side, model.config.in_chans)
    if size is not None:
        how = dataclasses.replace(how, size=(size, size))
    shown = images.fit(images.read(image), how)
    paths = draw(model, images.to_tensor(shown, how), np.asarray(shown.convert("RGB")), out, trained=trained)
    for path in paths:
        _say(str(path))
    if json:
        _json({"trained": trained, "pictures": [str(path) for path in paths]})
    return 0


def inspect(checkpoint: Checkpoint, json: bool = False) -> int:
    """Say what a checkpoint holds.

    Args:
        checkpoint: a file made by swindow train, or a variant's name.
        json: print the result as one JSON object on the last line.
    """
    from .checkpoints import describe

    model, _, _ = _load_or_create(checkpoint)
    found = describe(model)
    for key, value in {**found.pop("config"), **found}.items():
        _say(f"{key:>24}  {value}")
    if json:
        _json(describe(model))
    return 0


def variants(json: bool = False) -> int:
    """List the models that have names.

    Args:
        json: print the result as one JSON object on the last line.
    """
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in ("variant", "parameters", "pixels", "dim", "blocks", "heads", "window", "patch"):
        table.add_column(column, no_wrap=True)
    for name in variants_.list_variants():
        c = variants_.variant_config(name)
        table.add_row(
            name,
            f"{variants_.PARAMETERS[name]:,}",
            str(variants_.image_size(name)),
            str(c.embed_dim),
            " ".join(map(str, c.depths)),
            " ".join(map(str, c.num_heads)),
            " ".join(dict.fromkeys(map(_side, c.window_size))),
            _side(c.patch_size),
        )
    _console().print(table)
    _say("parameters: with 1000 classes (video 400); pixels: the side of the images it is meant for, any size runs")
    if json:
        _json({name: variants_.variant_config(name).to_dict() for name in variants_.list_variants()})
    return 0


COMMANDS = {f.__name__: f for f in (train, evaluate, predict, explain, inspect, variants)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 success, 1 failure, 2 wrong use, 130 stopped by Ctrl-C."""
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="swindow",
            description="The Swin Transformer family: train, evaluate, predict, explain.",
            args=argv,
            config=(FlagCreatePairsOff,),
        )
    except SwindowError as error:
        _complain(error)
        status = 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("swindow: stopped; the same command goes on from the last saved state", file=sys.stderr)
        status = 130
    sys.exit(status)


def _load_or_create(checkpoint: str) -> tuple[SwinTransformer, bool, int]:
    """The model of a checkpoint or, said so, an untrained one of a variant's name; trained?; side of its images."""
    from .checkpoints import load
    from .models import create

    known = checkpoint in variants_.VARIANTS
    if not known and Path(checkpoint).suffix == "" and not Path(checkpoint).exists():
        variants_.variant_config(checkpoint)  # raises, naming the nearest
    if known:
        _say(f"{checkpoint} is the name of a variant: the weights are random, untrained")
    model = create(checkpoint).eval() if known else load(checkpoint)
    return model, not known, variants_.image_size(checkpoint)


def _side(size: tuple[int, ...]) -> str:
    """``7`` for (7, 7), ``8x7x7`` where the axes differ."""
    return str(size[0]) if len(set(size)) == 1 else "x".join(map(str, size))


def _console() -> Console:
    return Console(quiet=int(os.environ.get("RANK", 0)) > 0)  # of several processes one speaks


def _say(text: str) -> None:
    say(_console(), text)


def _json(value: Any) -> None:
    """The result as one line, the last one."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(json_.dumps(value), flush=True)


def _complain(error: SwindowError) -> None:
    print(f"swindow: error: {' '.join(str(error).split())}", file=sys.stderr)
