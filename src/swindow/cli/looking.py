"""``swindow predict`` and ``swindow explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..console import steps
from ..errors import ConfigError, DataError, nearest
from .shared import Checkpoint, complain, console, load_or_create, put_json, say


def predict(
    checkpoint: Checkpoint,
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    top: int = 5,
    json: bool = False,
) -> int:
    """Say what is in images. A broken image is reported and the others are still predicted; the exit status is then 1.

    Args:
        checkpoint: a file of swindow train, or a file or folder of any library with that head.
        images: image files.
        top: classes per image.
        json: print the result as one JSON object on the last line.
    """
    from ..checkpoints import load
    from ..prediction import predict as run

    if not images:
        raise ConfigError("predict: got no image; try swindow predict CHECKPOINT IMAGE")
    model, results, bad = load(checkpoint), [], 0
    for image in images:
        try:
            found = run(model, [image], top)[0]
        except DataError as error:
            complain(error)
            bad += 1
            continue
        pairs = list(zip(found.classes, found.probabilities, strict=True))
        say(f"{image}: " + ", ".join(f"{name} {p:.3f}" for name, p in pairs))
        results.append({"image": image, "predictions": [{"class": name, "probability": p} for name, p in pairs]})
    if json:
        put_json(results)
    return 1 if bad else 0


def explain(
    checkpoint: Checkpoint,
    image: Annotated[Positional[str], arg(metavar="IMAGE")],
    out: Path = Path("runs/explain.html"),
    size: int | None = None,
    pixel: tuple[int, int] | None = None,
    target: str | None = None,
    png: bool = False,
    json: bool = False,
) -> int:
    """Show how shifted windows work on an image: one page, from the patches to attention, Grad-CAM and cost.

    Args:
        checkpoint: a file of swindow train, or a file or folder of any library; a variant's name: then it is untrained.
        image: an image file.
        out: a file ending in .html: one page that needs no network; else a folder for the pictures as PNGs.
        size: side of the image in pixels; by default what the checkpoint was made for.
        pixel: row and column from which attention is shown first; by default the middle.
        target: class that Grad-CAM explains, by name or number from 0; by default the likeliest.
        png: write the pictures as PNGs too, into a folder beside the page.
        json: print the result as one JSON object on the last line.
    """
    import dataclasses

    import numpy as np

    from .. import media
    from ..card import preprocessing
    from ..explain import explain as draw

    model, trained, side = load_or_create(checkpoint)
    how = preprocessing(model.card, side, model.config.in_chans)
    if size is not None:
        how = dataclasses.replace(how, size=(size, size))
    shown = media.fit(media.read(image), how)
    tensor, display = media.to_tensor(shown, how), np.asarray(media.picture(shown))
    chosen = None if target is None else _class_number(target, (model.card.class_names if model.card else None) or ())
    names = (Path(checkpoint).name, Path(image).name)
    with steps(console(), "drawing") as step:
        paths = draw(
            model,
            tensor,
            display,
            out,
            trained=trained,
            pixel=pixel,
            target=chosen,
            png=png,
            names=names,
            on_progress=step,
        )
    for path in paths:
        say(str(path))
    if json:
        page, pictures = ([paths[0]], paths[1:]) if paths[0].suffix != ".png" else ([], paths)
        written = {"page": str(page[0]) if page else None, "pictures": [str(path) for path in pictures]}
        put_json({"trained": trained, **written})
    return 0


def _class_number(target: str, names: tuple[str, ...]) -> int:
    """The number of a class that was given by its name or its number."""
    if target in names:
        return names.index(target)
    if not target.isdecimal():
        raise ConfigError(f"explain: got class {target!r}{nearest(target, names)}, expected a name or a number from 0")
    return int(target)
