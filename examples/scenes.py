"""Scenes of several handwritten digits, with boxes and masks: real data for the other examples, nothing to download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swindow.data import Dataset, digits

SIZE = (46, 62)  # pixels; no multiple of a window, as real images are not
CLASSES = 11  # background, then the digits 0 to 9


class Scene(NamedTuple):
    """A picture (1, H, W), 0 to 1; boxes (n, 4), x1 y1 x2 y2; their classes (n,); the class of every pixel (H, W)."""

    image: Tensor
    boxes: Tensor
    labels: Tensor
    mask: Tensor


def scene(digits: Dataset, random: np.random.Generator, attempts: int = 8) -> Scene:
    """Returns a new scene: digits of 14 to 20 pixels at places where they do not overlap."""
    image, mask, boxes, labels = torch.zeros(1, *SIZE), torch.zeros(SIZE, dtype=torch.int64), [], []
    for _ in range(attempts):
        side = int(random.integers(14, 21))
        y, x = (int(random.integers(0, whole - side)) for whole in SIZE)
        place = slice(y, y + side), slice(x, x + side)
        if mask[place].any():
            continue
        digit = digits[int(random.integers(len(digits)))]
        small = torch.from_numpy(np.array(digit.media.decode(), np.float32) / 255)
        ink = F.interpolate(small[None, None], (side, side), mode="bicubic")[0, 0].clamp(0, 1)
        image[(0, *place)] = ink
        mask[place] = (ink > 0.3) * (digit.target + 1)
        boxes.append([x, y, x + side, y + side])
        labels.append(digit.target + 1)
    return Scene(image, torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels), mask)


def train(model: nn.Module, loss_of: Callable[[list[Scene]], Tensor], steps: int, batch: int, lr: float) -> None:
    """Trains a model on new scenes at every step, and says how it goes."""
    split, random = digits().train, np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for step in range(steps):
        loss = loss_of([scene(split, random) for _ in range(batch)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 24 or step == steps - 1:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval()


def held_out_scenes(count: int = 40) -> list[Scene]:
    """Returns scenes of digits that no training sees."""
    split, random = digits().held_out, np.random.default_rng(1)
    return [scene(split, random) for _ in range(count)]


def train_to_segment(name: str, model: nn.Module, logits: Callable[[Tensor], Tensor], steps: int) -> float:
    """Trains ``logits`` (images to (B, CLASSES, H, W)), saves a picture of what it finds; returns the mean IoU."""
    weight = torch.full((CLASSES,), 1.0)
    weight[0] = 0.2  # most pixels are background

    def loss_of(batch: list[Scene]) -> Tensor:
        images, masks = torch.stack([s.image for s in batch]), torch.stack([s.mask for s in batch])
        return F.cross_entropy(logits(images), masks, weight)

    train(model, loss_of, steps, batch=16, lr=3e-3)
    tests = held_out_scenes()
    with torch.inference_mode():
        found = torch.cat([logits(s.image[None]).argmax(1) for s in tests])  # (40, H, W)
    iou = mean_iou(found, torch.stack([s.mask for s in tests]))
    print(f"mean IoU of {CLASSES} classes on {len(tests)} scenes of held-out digits: {iou:.3f}")
    save_picture(f"runs/examples/{name}.png", tests[:4], found[:4])
    return iou


def mean_iou(found: Tensor, wanted: Tensor) -> float:
    """Returns intersection over union, the mean over the classes that occur."""
    pairs = torch.bincount((CLASSES * wanted + found).flatten(), minlength=CLASSES**2).view(CLASSES, CLASSES)
    union = pairs.sum(0) + pairs.sum(1) - pairs.diag()
    return float((pairs.diag()[union > 0] / union[union > 0]).mean())


def save_picture(path: str, scenes: Sequence[Scene], found: Tensor) -> None:
    """Saves the scenes above, the true classes in the middle and the found ones below, one colour per class."""
    figure, axes = plt.subplots(3, len(scenes), figsize=(2.4 * len(scenes), 5.6), layout="constrained", squeeze=False)
    for column, (one, classes) in enumerate(zip(scenes, found, strict=True)):
        for row, picture in enumerate((one.image[0], one.mask, classes)):
            colours = (
                {"cmap": "gray"} if row == 0 else {"cmap": "tab20", "vmin": 0, "vmax": 19, "interpolation": "none"}
            )
            axes[row, column].imshow(picture, **colours)
            axes[row, column].set(xticks=[], yticks=[])
    for row, title in enumerate(("scene", "true classes", "found")):
        axes[row, 0].set_ylabel(title)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"saved {path}")
