"""The pictures of a training run: its curves, and the tables of its last evaluation that have a picture here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import replacing

TRAIN, HELD_OUT = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion, told apart by the colour-blind
NOT_DRAWN = ("lr", "images_per_s", "seconds")


def curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws every figure over the epochs, of training and held-out data. Raises ImportError, OutputError.

    Figures are the fractional numbers of the history; "train_NAME" is drawn with "NAME".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    last, epochs = history[-1], [figures["epoch"] for figures in history]
    drawn = [key for key, value in last.items() if isinstance(value, float) and key not in NOT_DRAWN]
    names = list(dict.fromkeys(key.removeprefix("train_") for key in drawn))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for key, label, colour in (
            (f"train_{name}", "training data (augmented)", TRAIN),
            (name, "held-out data", HELD_OUT),
        ):
            if key in drawn:
                axes.plot(epochs, [figures[key] for figures in history], color=colour, label=label, marker=".")
        title = f": {last[name]:.4f} held out after the last epoch" if name in drawn else ""
        axes.set(xlabel="epoch", ylabel=name, title=f"{name}{title}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion(table: Sequence[Sequence[int]], names: Sequence[str], path: Path) -> None:
    """Draws how many images of each true class were taken for each class. Raises ImportError, OutputError.

    Args:
        table: (classes, classes) counts, true class by predicted class.
        names: of the classes.
        path: the picture.
    """
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array(table)  # (classes, classes)
    n, images, right = len(counts), int(counts.sum()), int(counts.trace())
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    side = min(max(5.0, 0.5 * n + 2), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"{images} held-out images, {images - right} of them wrong: accuracy {right / images:.4f}",
    )
    figure.colorbar(picture, ax=axes, label="share of the true class")
    if n <= 40:
        axes.set_xticks(range(n), names, rotation=0 if max(map(len, names)) < 4 else 90)
        axes.set_yticks(range(n), names)
    if n <= 20:
        for (i, j), number in np.ndenumerate(counts):
            if number:
                axes.text(j, i, number, ha="center", va="center", color="black" if shares[i, j] > 0.5 else "white")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


# A table of this name in what a metric computes is drawn, as NAME.png.
TABLES = {"confusion": confusion}
