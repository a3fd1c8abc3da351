"""Draws the tutorial's figures from the code: `make docs` calls it. About a minute on 2 cores.

    python docs/site/figures.py

The geometry is that of swin_tiny (swinv2_tiny_w8 for SwinV2), whose weights are untrained: nothing published can be
fetched here. What only training gives, attention and Grad-CAM, is shown by swin_nano.cifar10, which is in the package.
"""

from __future__ import annotations

import importlib.resources
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import swindow
from swindow import explain, media
from swindow.card import preprocessing

HERE = Path(__file__).resolve().parent


def main() -> None:
    torch.manual_seed(0)
    photo = Image.open(io.BytesIO((importlib.resources.files("sklearn.datasets.images") / "china.jpg").read_bytes()))
    chosen = ("01", "02", "03", "04", "05a", "06d", "07")
    drawn = of("swin_tiny", swindow.create("swin_tiny").eval(), photo, False, chosen)
    v2 = swindow.create("swinv2_tiny_w8").eval()
    drawn += of("swinv2", v2, photo, False, ("05b",))
    trained, cat = swindow.load("swin_nano.cifar10"), Image.open(HERE.parent.parent / "examples" / "cat.jpg")
    drawn += of("cat", trained, cat, True, ("05c", "06a", "06b", "06c"))
    for name in drawn:
        print(name)


def of(
    prefix: str, model: swindow.SwinTransformer, image: Image.Image, trained: bool, chosen: tuple[str, ...]
) -> list[str]:
    """Draws the figures whose names begin with one of ``chosen`` for both languages and returns their names."""
    how = preprocessing(model.card, 256 if prefix == "swinv2" else 224, model.config.in_chans)
    fitted = media.fit(image, how)
    display = np.asarray(fitted.convert("RGB"))
    found = explain.Findings(model, media.to_tensor(fitted, how), display, trained)
    drawn = []
    for name, draw in found.figures().items():
        if name.startswith(chosen):
            png = io.BytesIO()
            FigureCanvasAgg(draw()).print_png(png)
            for language in ("en", "zh"):
                path = HERE / language / "figures" / f"{prefix}_{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png.getvalue())
            drawn.append(f"{prefix}_{name}.png")
    return drawn


if __name__ == "__main__":
    main()
