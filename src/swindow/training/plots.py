"""The pictures of a training run: its curves, and the tables of its last evaluation that have a picture here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import replacing

# Okabe and Ito's blue, vermilion and green, told apart by the colour-blind
LINES = {"train_": ("training data (augmented)", "#0072B2"), "": ("held-out data", "#D55E00")}
AVERAGED = ("ema_", "held-out data, averaged weights", "#009E73")
NOT_DRAWN = ("lr", "images_per_s", "seconds")
COLUMNS = 3  # of curves beside each other
NAMED = 40  # classes of a confusion matrix; of more, those with the most mistakes are drawn
LONG = 24  # characters of the name of a class


def curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws every figure over the epochs, of training and held-out data. Raises ImportError, OutputError.

    Figures are the fractional numbers of the history; "train_NAME" and "ema_NAME" are drawn with "NAME".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    last, epochs = history[-1], [figures["epoch"] for figures in history]
    drawn = [key for key, value in last.items() if isinstance(value, float) and key not in NOT_DRAWN]
    names = list(dict.fromkeys(key.removeprefix("train_").removeprefix("ema_") for key in drawn))
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places[len(names) :]:
        axes.remove()
    prefix, text, green = AVERAGED
    for axes, name in zip(places, names, strict=False):
        for before, (label, colour) in {**LINES, prefix: (text, green)}.items():
            if f"{before}{name}" in drawn:
                values = [figures.get(f"{before}{name}") for figures in history]
                axes.plot(epochs, values, color=colour, label=label, marker="." if len(epochs) < 50 else None)
        title = f": {last[name]:.4f} held out after the last epoch" if name in drawn else ""
        axes.set(xlabel="epoch", ylabel=name.replace("_", " "), title=f"{name.replace('_', ' ')}{title}")
        axes.title.set_fontsize("medium")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion(table: Sequence[Sequence[int]], names: Sequence[str], path: Path) -> None:
    """Draws how many images of each true class were taken for each class. Raises ImportError, OutputError.

    Of more than ``NAMED`` classes, those with the most mistakes are drawn. Long names are cut in the middle.

    Args:
        table: (classes, classes) counts, true class by predicted class.
        names: of the classes.
        path: the picture.
    """
    import numpy as np
    from matplotlib.figure import Figure

    whole = np.array(table)  # (classes, classes)
    images, right = int(whole.sum()), int(whole.trace())
    shares = whole / whole.sum(1, keepdims=True).clip(1)
    chosen = np.arange(len(whole))
    if len(whole) > NAMED:
        mistakes = whole.sum(0) + whole.sum(1) - 2 * whole.diagonal()
        chosen = np.sort(np.argsort(-mistakes, kind="stable")[:NAMED])
    counts, shares, shown = (
        whole[np.ix_(chosen, chosen)],
        shares[np.ix_(chosen, chosen)],
        [_cut(names[c]) for c in chosen.tolist()],
    )
    n = len(chosen)
    side = min(max(5.0, 0.5 * n + 2), 16.0)
    figure = Figure(
        figsize=(side + 1 + 0.09 * max(map(len, shown)), side + 0.09 * max(map(len, shown))), layout="constrained"
    )
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    some = f"\nthe {n} of {len(whole)} classes with the most mistakes" if n < len(whole) else ""
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"{images} held-out images, {images - right} of them wrong: accuracy {right / images:.4f}{some}",
    )
    axes.title.set_wrap(True)
    figure.colorbar(picture, ax=axes, label="share of the true class")
    axes.set_xticks(range(n), shown, rotation=0 if max(map(len, shown)) < 4 else 90)
    axes.set_yticks(range(n), shown)
    if n <= 20:
        for (i, j), number in np.ndenumerate(counts):
            if number:
                axes.text(j, i, number, ha="center", va="center", color="black" if shares[i, j] > 0.5 else "white")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _cut(name: str) -> str:
    """A name of at most ``LONG`` characters, cut in the middle: both ends tell similar names apart."""
    return name if len(name) <= LONG else f"{name[: LONG // 2 - 1]}...{name[-(LONG // 2 - 2) :]}"


# A table of this name in what a metric computes is drawn, as NAME.png.
TABLES = {"confusion": confusion}
