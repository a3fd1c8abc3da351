"""``swindow predict``."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..console import steps
from ..errors import ConfigError, DataError
from . import complain
from .shared import (
    Checkpoint,
    Device,
    Ensemble,
    Json,
    Names,
    Output,
    Precision,
    Quiet,
    Runtime,
    Sizes,
    Threads,
    Trust,
    open_predictor,
    unset,
)

if TYPE_CHECKING:
    from ..tasks import Prediction


def predict(
    checkpoint: Checkpoint,
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...", help_behavior_hint="(at least one)")],
    top: int = 5,
    batch_size: int = 32,
    device: Device = "auto",
    precision: Precision = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    trust: Trust = False,
    out: Annotated[Path | None, unset("FILE", "answers are printed")] = None,
    all_classes: bool = False,
    overwrite: bool = False,
    names: Names = None,
    flip: bool = False,
    sizes: Sizes = (),
    ensemble: Ensemble = (),
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Predict the classes of images.

    A broken image is reported and the others are still predicted; the exit status is then 1.

    Args:
        checkpoint: a file that swindow train wrote, or a classifier of any supported library (a file, a folder, or
            hf://org/name), the name of published weights, or a file that swindow export wrote.
        images: image files; folders, with all images in them and below; patterns such as "photos/**/*.jpg"; and -,
            which stands for a list on standard input, one path per line.
        top: how many classes to show per image, the most probable first.
        batch_size: images per forward pass.
        out: write the answers to this file instead of printing them: a table (.csv, .parquet) or JSON lines (.jsonl).
        all_classes: write the probabilities of all classes to the --out file or the --json document.
        overwrite: replace the --out file if it exists.
        flip: average the probabilities of each image and its mirror image.
    """
    from ..inference import Failure
    from ..inference.answers import answer_as_json, writer

    output, paths = Output(json, quiet), listed(images)
    for there in () if out is None or overwrite else (out, out.with_name(f"{out.name}.partial")):
        if there.exists():
            raise ConfigError(f"{there} exists; try --overwrite, or another name")
    models, how = (checkpoint, *ensemble), (runtime, threads, trust)
    predictor = open_predictor(models, device, precision, names, flip, sizes, output, *how)
    classes = predictor.card.class_names or ()
    answers = predictor(paths, batch_size, len(classes) if all_classes else top)
    failures, found = 0, []
    try:
        with ExitStack() as stack:
            table = None if out is None else stack.enter_context(writer(out, classes, top, all_classes))
            step = stack.enter_context(steps(output.bars, "predicting"))
            for done, answer in enumerate(answers, start=1):
                if isinstance(answer, Failure):
                    failures += 1
                    complain(answer.error)
                elif table is None:
                    output.result(f"{answer.image}: {_shown(answer, top)}")
                if table is not None:
                    table.write(answer)
                if json:
                    found.append(answer_as_json(answer))
                step("", done, len(paths))
    except KeyboardInterrupt as stop:
        raise type(stop)(*([] if out is None else [f"the answers so far are in {out}.partial"])) from None
    if out is not None:
        unread = f"; {failures} of {len(paths)} images could not be read" if failures else ""
        output.say(f"wrote {out}: {len(paths) - failures} answers{unread}")
    output.put(found)
    return 1 if failures else 0


def _shown(answer: Prediction, top: int) -> str:
    """The likeliest classes; of a model that gives several labels those that it gives."""
    pairs = list(zip(answer.classes, answer.probabilities, strict=True))[:top]
    text = ", ".join(f"{name} {p:.3f}" for name, p in pairs if answer.threshold is None or p >= answer.threshold)
    return text or f"no label from {answer.threshold:g} on (the likeliest: {pairs[0][0]} {pairs[0][1]:.3f})"


def listed(images: Sequence[str]) -> list[str]:
    """Returns the paths of images that were given as files, folders, patterns or a list on standard input.

    Raises:
        ConfigError: nothing was given.
        DataError: a folder holds no images, or no image matches a pattern.
    """
    if not images:
        raise ConfigError("predict: got no image; try swindow predict CHECKPOINT IMAGE")
    from ..data import images_in, is_image

    found = []
    for image in images:
        if image == "-":
            lines = [] if sys.stdin is None else sys.stdin.buffer.read().splitlines()
            found += _some([os.fsdecode(line) for line in lines if line.strip()], "no paths on standard input")
        elif os.path.isdir(image):
            found += _some(images_in(image), f"{image}: holds no images")
        elif glob.has_magic(image) and not os.path.exists(image):
            matching = sorted(path for path in glob.glob(image, recursive=True) if is_image(path))
            found += _some(matching, f"{image}: no image matches this pattern")
        else:
            found.append(image)
    return found


def _some(paths: list[str], otherwise: str) -> list[str]:
    if not paths:
        raise DataError(otherwise)
    return paths
