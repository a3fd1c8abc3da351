"""``swindow explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..console import steps
from .shared import Checkpoint, Json, Output, Quiet, class_number, load_or_create, unset


def explain(
    checkpoint: Checkpoint,
    image: Annotated[Positional[str], arg(metavar="IMAGE")],
    out: Path = Path("runs/explain.html"),
    size: Annotated[int | None, unset("PIXELS", "the size that the checkpoint was made for")] = None,
    pixel: Annotated[tuple[int, int] | None, unset("ROW COLUMN", "the middle of the image")] = None,
    target: Annotated[str | None, unset("CLASS", "the most probable class")] = None,
    png: bool = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Draw how a model works on an image: windows, attention, Grad-CAM and cost.

    The result is one page that can be opened in a browser without a network, or a folder of pictures.

    Args:
        checkpoint: a file that swindow train wrote, a checkpoint of any supported library (a file, a folder or
            hf://org/name), the name of published weights, or that of a variant, which is then drawn with random
            weights.
        image: an image file.
        out: where to write: a name that ends in .html makes a page, any other name a folder of PNG pictures.
        size: height and width of the image that the model is given.
        pixel: the place in that image, counted from 0, whose attention is shown first.
        target: the class that Grad-CAM explains, by its name or its number from 0.
        png: write the pictures of the page as PNG files too, into a folder beside it.
    """
    import dataclasses

    import numpy as np

    from .. import media
    from ..card import preprocessing
    from ..explain import explain as draw
    from ..sizes import image_size
    from ..tasks import check_takes_images

    output = Output(json, quiet)
    model, trained = load_or_create(checkpoint, output)
    check_takes_images(model.config)
    names = (model.card.class_names if model.card else None) or ()
    chosen = None if target is None else class_number(target, names, model.config.num_classes)
    how = preprocessing(model.card, image_size(model.config, model.card), model.config.in_chans)
    if size is not None:
        how = dataclasses.replace(how, size=(size, size))
    shown = media.fit(media.read(image), how)
    tensor, display = media.to_tensor(shown, how), np.asarray(media.picture(shown))
    with steps(output.console, "drawing") as step:
        paths = draw(
            model,
            tensor,
            display,
            out,
            trained=trained,
            pixel=pixel,
            target=chosen,
            png=png,
            names=(Path(checkpoint).name, Path(image).name),
            on_progress=step,
        )
    for path in paths:
        output.result(str(path))
    page, pictures = ([paths[0]], paths[1:]) if paths[0].suffix != ".png" else ([], paths)
    written = {"page": str(page[0]) if page else None, "pictures": [str(path) for path in pictures]}
    output.put({"trained": trained, **written})
    return 0
