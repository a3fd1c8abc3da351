"""``swindow data``."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from ..console import steps
from ..errors import OutputError
from .shared import Data, ImageColumn, Json, LabelColumn, LabelSeparator, Output, Quiet, unset

if TYPE_CHECKING:
    from PIL import Image

    from ..data.overview import Duplicate, Overview

MANY = 10  # unreadable images, duplicates, sizes: of more only the number is printed
SHEET = 48  # images on the contact sheet
PAIRS = 30  # pairs of duplicates on it


def data(
    data: Data,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    label_separator: LabelSeparator = None,
    sheet: Annotated[Path | None, unset("PNG", "none is drawn")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show what a data set holds: classes, sizes, unreadable images and duplicates.

    Every image is decoded once. Duplicates are looked for between training and held-out images, or, where nothing is
    held out yet, between all: the same pixels, or nearly the same picture in another size, quality or colour.

    Args:
        data: digits (built in), a folder with one sub-folder of images per class, or a table (.csv, .tsv, .jsonl,
            .parquet) of images and classes.
        image_column: the column of a table that holds the images.
        label_column: the column of a table that holds the classes.
        label_separator: what stands between the labels of an image in a text.
        sheet: draw a contact sheet of images of every class, then of the duplicates.
    """
    from .. import data as data_
    from ..data.overview import overview
    from ..training.choice import suited

    output = Output(json, quiet)
    splits = data_.open(data, verify=False, columns=data_.Columns(image_column, label_column, label_separator))
    with steps(output.bars, "looking at the images") as step:
        found = overview(splits, lambda done, total: step("", done, total))
    recipe, why = suited(splits.train, pretrained=False)
    for line in _lines(found):
        output.result(line)
    output.table(_classes(found))
    for line in [f"warning: {warning}" for warning in data_.warnings(splits)]:
        output.say(line)
    output.say(f"swindow train would use the recipe {recipe}: {why}")
    if sheet is not None:
        _draw(found, sheet)
        output.say(f"wrote {sheet}")
    output.put(_document(found, recipe))
    return 0


def _lines(found: Overview) -> list[str]:
    """What there is, in lines for a person."""
    info, held_out = found.splits.train.info, found.splits.held_out
    split = "no split of its own" if held_out is None else f"{len(held_out):,} held out (its own split)"
    lines = [f"{info.name}: {len(found.splits.train):,} images to train on, {split}; {len(info.class_names)} classes"]
    lines.append(f"sizes (height x width): {_sizes(found)}")
    lines.append(f"modes: {', '.join(f'{mode} {count:,}' for mode, count in found.modes.items())}")
    broken = (*found.unreadable, *info.skipped)
    lines.append(f"unreadable: {len(broken)}")
    lines += [f"  {problem}" for problem in broken[:MANY]]
    where = "between training and held-out images" if held_out is not None else "among all images"
    exact = sum(pair.exact for pair in found.duplicates)
    lines.append(f"duplicates {where}: {exact} with the same pixels, {len(found.duplicates) - exact} nearly the same")
    lines += [f"  {_pair(found, pair)}" for pair in found.duplicates[:MANY]]
    if found.contradictions:
        lines.append(f"the same pixels in different classes: {len(found.contradictions)}")
        lines += [f"  {_pair(found, pair)}" for pair in found.contradictions[:MANY]]
    if max(len(broken), len(found.duplicates), len(found.contradictions)) > MANY:
        lines.append(f"  of more than {MANY} the first are shown; --json lists all")
    return lines


def _sizes(found: Overview) -> str:
    """The sizes of images, in words."""
    sizes = list(found.sizes.values())
    if not sizes:
        return "none can be read"
    if len(set(sizes)) == 1:
        return f"all {_size(sizes[0])}"
    smallest, largest = min(sizes, key=np.prod), max(sizes, key=np.prod)
    short = statistics.median(map(min, sizes))
    return f"{_size(smallest)} to {_size(largest)}, shorter side {short:g} (median); {len(set(sizes)):,} different"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _pair(found: Overview, pair: Duplicate) -> str:
    """Two images, and their classes where these differ."""
    labels, names = found.labels(), found.splits.train.info.class_names
    kinds = "" if labels is None or labels[pair.one] == labels[pair.other] else (
        f" ({names[labels[pair.one]]} and {names[labels[pair.other]]})"
    )  # fmt: skip
    return f"{found.key(pair.one)} {'=' if pair.exact else '~'} {found.key(pair.other)}{kinds}"


def _classes(found: Overview) -> list[tuple[str, ...]]:
    """The columns' names, and a row per class."""
    counts = _counts(found)
    if found.splits.held_out is None:
        return [("class", "images"), *((name, f"{train:,}") for name, (train, _) in counts.items())]
    rows = ((name, f"{train:,}", f"{held_out:,}") for name, (train, held_out) in counts.items())
    return [("class", "to train on", "held out"), *rows]


def _counts(found: Overview) -> dict[str, tuple[int, int]]:
    """Training and held-out images of every class."""
    from ..data import class_counts

    names = found.splits.train.info.class_names
    both = [[0] * len(names) if part is None else class_counts(part) for part in found.splits]
    return {name: (both[0][c], both[1][c]) for c, name in enumerate(names)}


def _draw(found: Overview, path: Path) -> None:
    """Draws images of every class in turn, then pairs of duplicates."""
    from ..media import contact_sheet

    names, labels = found.splits.train.info.class_names, found.labels()
    readable = [number for number in found.sizes if number < len(found.splits.train)]
    by_class: dict[int, list[int]] = {}
    for number in readable:
        by_class.setdefault(-1 if labels is None else int(labels[number]), []).append(number)
    each = max(1, SHEET // max(1, len(by_class)))
    chosen = [n for c in sorted(by_class) for n in by_class[c][:: max(1, len(by_class[c]) // each)][:each]][:SHEET]

    def cell(number: int, text: str) -> tuple[Image.Image, tuple[str, str]]:
        return found.image(number), (found.key(number), text)

    cells = [cell(n, "" if labels is None else names[labels[n]]) for n in chosen]
    for pair in found.duplicates[:PAIRS]:
        text = f"duplicate{'' if pair.exact else ', nearly'}"
        cells += [cell(pair.one, text), cell(pair.other, text)]
    try:
        contact_sheet(cells).save(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: the contact sheet cannot be written ({error})") from error


def _document(found: Overview, recipe: str) -> dict[str, Any]:
    """The result for ``--json``."""

    def pairs(some: tuple[Duplicate, ...]) -> list[dict[str, Any]]:
        return [{"images": [found.key(pair.one), found.key(pair.other)], "exact": pair.exact} for pair in some]

    info, held_out = found.splits.train.info, found.splits.held_out
    return {
        "name": info.name,
        "images": len(found.splits.train),
        "held_out": None if held_out is None else len(held_out),
        "classes": {name: {"images": train, "held_out": held} for name, (train, held) in _counts(found).items()},
        "sizes": [[*size, count] for size, count in Counter(found.sizes.values()).most_common()],
        "modes": found.modes,
        "unreadable": [*found.unreadable, *info.skipped],
        "duplicates": pairs(found.duplicates),
        "contradictions": pairs(found.contradictions),
        "recipe": recipe,
    }
