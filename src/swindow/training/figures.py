"""The pictures of a training run: curves and confusion matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints import replacing
from .evaluation import Evaluation

TRAIN, HELD_OUT = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion, told apart by the colour-blind


def curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draws loss and accuracy over the epochs, of training and held-out images. Raises ImportError, OutputError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [m["epoch"] for m in history]
    for axes, key, label in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("loss (nats)", "accuracy"), strict=True):
        training = "training images (augmented, labels smoothed)" if key == "loss" else "training images (augmented)"
        axes.plot(epochs, [m[f"train_{key}"] for m in history], color=TRAIN, label=training, marker=".")
        axes.plot(epochs, [m[key] for m in history], color=HELD_OUT, label="held-out images", marker=".")
        axes.set(
            xlabel="epoch",
            ylabel=label,
            title=f"{label.split()[0].capitalize()} after the last epoch: {history[-1][key]:.4f} held out",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion(evaluation: Evaluation, path: Path) -> None:
    """Draws how many images of each true class were taken for each class. Raises ImportError, OutputError."""
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array(evaluation.confusion)  # (classes, classes)
    n = len(counts)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    side = min(max(5.0, 0.5 * n + 2), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"{evaluation.images} held-out images, "
        f"{evaluation.images - int(counts.trace())} of them wrong: accuracy {evaluation.accuracy:.4f}",
    )
    figure.colorbar(picture, ax=axes, label="share of the true class")
    if n <= 40:
        axes.set_xticks(range(n), evaluation.classes, rotation=0 if max(map(len, evaluation.classes)) < 4 else 90)
        axes.set_yticks(range(n), evaluation.classes)
    if n <= 20:
        for (i, j), number in np.ndenumerate(counts):
            if number:
                axes.text(j, i, number, ha="center", va="center", color="black" if shares[i, j] > 0.5 else "white")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
