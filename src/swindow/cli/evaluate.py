"""``swindow evaluate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..console import steps
from . import complain
from .shared import (
    Checkpoint,
    Data,
    Device,
    Ensemble,
    ImageColumn,
    Json,
    LabelColumn,
    LabelSeparator,
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
    from ..inference import Evaluation, LabelEvaluation

WORST = 10  # mistakes that are printed


def evaluate(
    checkpoint: Checkpoint,
    data: Data,
    batch_size: int = 64,
    all: bool = False,
    held_out: Annotated[float | None, unset("FRACTION", "the images held out from training")] = None,
    seed: Annotated[int | None, unset("INT", "the images held out from training")] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    label_separator: LabelSeparator = None,
    device: Device = "auto",
    precision: Precision = None,
    runtime: Runtime = "auto",
    threads: Threads = None,
    trust: Trust = False,
    save_mistakes: Annotated[Path | None, unset("DIR", "none is written")] = None,
    names: Names = None,
    flip: bool = False,
    sizes: Sizes = (),
    ensemble: Ensemble = (),
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure a trained model on images that it was not trained on.

    Where the data has a split of its own (val/ or test/), these are the images in it. Otherwise they are the images of
    this data that were held out when the model was trained. A checkpoint that records no split is measured on every
    image.

    Args:
        checkpoint: a file that swindow train wrote, or a classifier of any supported library (a file, a folder, or
            hf://org/name), the name of published weights, or a file that swindow export wrote.
        data: digits (built in), a folder with one sub-folder of images per class, or a table (.csv, .tsv, .jsonl,
            .parquet) of images and classes.
        batch_size: images per forward pass.
        all: measure on all images, those used for training included.
        held_out: measure on this fraction of the images of every class, drawn at random; needs --seed, and data
            without a split of its own.
        seed: the seed of that draw.
        image_column: the column of a table that holds the images.
        label_column: the column of a table that holds the classes.
        label_separator: what stands between the labels of an image in a text, for a model that gives several.
        save_mistakes: write a contact sheet of the most certain mistakes, mistakes.png, into this folder.
        flip: average the probabilities of each image and its mirror image.
    """
    from ..data import Columns
    from ..inference import LabelEvaluation
    from ..inference import evaluate as measure

    output = Output(json, quiet)
    models, how = (checkpoint, *ensemble), (runtime, threads, trust)
    predictor = open_predictor(models, device, precision, names, flip, sizes, output, *how)
    with steps(output.bars, "measuring") as step:
        found = measure(
            predictor,
            data,
            batch_size,
            held_out=held_out,
            seed=seed,
            all=all,
            save_mistakes=save_mistakes,
            columns=Columns(image_column, label_column, label_separator),
            on_progress=lambda done, total: step("", done, total),
        )
    for skipped in found.skipped:
        complain(skipped)
    if isinstance(found, LabelEvaluation):
        _show_labels(found, output)
        return 1 if found.skipped else 0
    for line in _summary(found):
        output.result(line)
    output.table(_rows(found))
    if found.mistakes:
        output.result("most certain mistakes:")
    for mistake in found.mistakes[:WORST]:
        output.result(f"  {mistake.image}: {mistake.truth}, taken for {mistake.predicted} ({mistake.probability:.2f})")
    if len(found.mistakes) > WORST:
        output.result(f"  and {len(found.mistakes) - WORST} more mistakes; --json lists all")
    if save_mistakes is not None:
        output.say(f"wrote {save_mistakes / 'mistakes.png'}")
    output.put(_document(found))
    return 1 if found.skipped else 0


def _show_labels(found: LabelEvaluation, output: Output) -> None:
    """Prints the figures of a model that gives several labels."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    output.result(
        f"mean average precision {shown(found.mean_average_precision)}, f1 {found.f1:.4f} (mean over the classes "
        f"{found.f1_macro:.4f}), loss {found.loss:.4f} on {found.images} images: {found.measured_on}"
    )
    columns = ("images", "average_precision", "precision", "recall", "f1")
    rows: list[tuple[str, ...]] = [("class", "images", "average precision", "precision", "recall", "f1")]
    for row in found.classes:
        rows.append((row.name, str(row.images), *(shown(getattr(row, name)) for name in columns[1:])))
    output.table(rows)
    document = dataclasses.asdict(found)
    document["classes"] = {row.name: {name: getattr(row, name) for name in columns} for row in found.classes}
    output.put(document)


def _summary(found: Evaluation) -> list[str]:
    """The figures over all classes."""
    top5 = "" if found.top5 is None else f", top-5 accuracy {found.top5:.4f}"
    macro = ", ".join(f"{name} {value:.4f}" for name, value in found.macro.items())
    return [
        f"accuracy {found.accuracy:.4f}{top5}, loss {found.loss:.4f}, calibration error "
        f"{found.calibration_error:.4f} on {found.images} images: {found.measured_on}",
        f"means over the classes: {macro}",
    ]


def _rows(found: Evaluation) -> list[tuple[str, ...]]:
    """The columns' names, and a row per class."""
    rows: list[tuple[str, ...]] = [("class", "images", "right", "recall", "precision", "f1", "taken for")]
    numbers = {name: k for k, name in enumerate(found.names)}
    for row in found.classes:
        k = numbers[row.name]
        counts = () if found.confusion is None else found.confusion[k]
        others = sorted((-n, found.names[j]) for j, n in enumerate(counts) if n and j != k)
        figures = ("-" if value is None else f"{value:.4f}" for value in (row.recall, row.precision, row.f1))
        taken = ", ".join(f"{name} ({-n})" for n, name in others[:3]) + (", ..." if len(others) > 3 else "")
        rows.append((row.name, str(row.images), str(row.right), *figures, taken))
    return rows


def _document(found: Evaluation) -> dict[str, Any]:
    """The result for ``--json``."""
    figures = ("images", "right", "recall", "precision", "f1")
    return {
        "accuracy": found.accuracy,
        "loss": found.loss,
        "images": found.images,
        "top5": found.top5,
        "calibration_error": found.calibration_error,
        "measured_on": found.measured_on,
        "macro": found.macro,
        "classes": {row.name: {name: getattr(row, name) for name in figures} for row in found.classes},
        "mistakes": [
            {"image": m.image, "class": m.truth, "predicted": m.predicted, "probability": m.probability}
            for m in found.mistakes
        ],
        "skipped": list(found.skipped),
    }
