"""Folders of images, made when a test needs one."""

from __future__ import annotations

import numpy as np
from PIL import Image


def make_folder(root, classes=("cat", "dog"), each=10):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root
