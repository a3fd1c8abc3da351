"""Two tasks that are not swindow's, trained through its loop: classes of pixels, and boxes, on scenes of digits.

python -m helpers.trial_tasks pixels OUT [--workers 2]      # from tests/; a run that was killed goes on
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from swindow import SwinConfig, SwinTransformer, TrainConfig, data
from swindow.card import ModelCard
from swindow.data import DataInfo, ImageArray, Sample, Splits
from swindow.tasks import Batch, Example
from swindow.training import Progress, train

NAMES = ("background", "digit")
UNLABELLED = 255  # pixels at the edges of digits, of which the masks say nothing
SIDE = 48  # pixels of the model's input


@dataclasses.dataclass(frozen=True, eq=False)
class Scenes:
    """Grey scenes of up to three digits, 40 to 70 pixels a side; about a quarter are empty.

    A target is the mask (H, W) and the boxes (n, 5): x1 y1 x2 y2 in pixels of the scene, and the class from 1.
    """

    digits: data.Dataset
    count: int
    seed: int

    @property
    def info(self):
        return DataInfo("scenes", class_names=NAMES, channels=1, recipe="digits", in_memory=True)

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        random = np.random.default_rng((self.seed, i))
        height, width = random.integers(40, 71, size=2)
        image, mask, boxes = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8), []
        for _ in range(random.choice([0, 2, 3, 3])):
            side = int(random.integers(16, 24))
            y, x = int(random.integers(0, height - side)), int(random.integers(0, width - side))
            place = slice(y, y + side), slice(x, x + side)
            if image[place].any():
                continue
            digit = self.digits[int(random.integers(len(self.digits)))]
            ink = np.asarray(digit.media.decode().resize((side, side), Image.Resampling.BICUBIC))
            image[place] = ink
            mask[place] = np.select([ink > 90, ink > 60], [1, UNLABELLED])
            boxes.append((x, y, x + side, y + side, 1))
        return Sample(ImageArray(image), (mask, np.array(boxes, np.float32).reshape(-1, 5)), f"scenes/{i}")

    def labels(self):
        return None

    def fingerprint(self):
        return data.digest(self.digits.fingerprint(), self.count, self.seed)


def scenes(count=200, held_out=24):
    digits = data.digits()
    return Splits(Scenes(digits.train, count, 1), Scenes(digits.held_out, held_out, 2))


class Dense(nn.Module):
    """Maps of a Swin backbone, joined at the finest, and a 1x1 convolution: (B, channels, H/4, W/4)."""

    def __init__(self, channels):
        super().__init__()
        config = SwinConfig(
            embed_dim=24,
            depths=(2, 2),
            num_heads=(2, 4),
            window_size=4,
            in_chans=1,
            num_classes=0,
            out_norms=True,
            drop_path_rate=0.0,  # else parts and processes would drop other paths
        )
        self.backbone = SwinTransformer(config)
        self.head = nn.Sequential(nn.Conv2d(72, 48, 3, padding=1), nn.GELU(), nn.Conv2d(48, channels, 1))

    def forward(self, image):
        fine, coarse = self.backbone.pyramid(image)
        coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)
        return self.head(torch.cat([fine, coarse], 1))


class OnScenes:
    """What both tasks share: one random cut of the scene, for image, mask and boxes alike."""

    def cut(self, sample, rng, train):
        """The image (1, SIDE, SIDE), the mask as large, the boxes in its pixels, and where it lies in the scene."""
        image, (mask, boxes) = sample.media.decode(), sample.target
        place = np.array([0.0, 0.0, image.width, image.height])
        if train:
            place += rng.uniform(-4, 4, size=4)
        scale = SIDE / (place[2:] - place[:2])
        resized = image.transform((SIDE, SIDE), Image.Transform.EXTENT, tuple(place), Image.Resampling.BILINEAR)
        labels = Image.fromarray(mask).transform((SIDE, SIDE), Image.Transform.EXTENT, tuple(place))
        moved = boxes.copy()
        moved[:, :4] = (boxes[:, :4] - np.tile(place[:2], 2)) * np.tile(scale, 2)
        x = torch.from_numpy(np.array(resized, np.float32))[None] / 255
        return x, np.array(labels), moved, {"key": sample.key, "size": (image.height, image.width)}

    def card(self, info):
        return ModelCard(task=self.name, class_names=info.class_names, input_size=(SIDE, SIDE), data=info.name)


class Pixels(OnScenes):
    """The class of every pixel; what is found is mapped back to the size of the scene and measured there."""

    name = "pixels"

    def build(self, info, parts=None):
        return Dense(len(info.class_names))

    def transform(self, sample, rng, train):
        x, mask, _, meta = self.cut(sample, rng, train)
        return [Example({"image": x}, torch.from_numpy(mask if train else sample.target[0]).long(), meta)]

    def collate(self, examples, rng, train):
        masks = [example.target for example in examples]  # in evaluation each of its own size
        images = torch.stack([example.inputs["image"] for example in examples])
        return Batch({"image": images}, torch.stack(masks) if train else masks, [e.meta for e in examples])

    def units(self, batch):
        return {"pixels": float((batch.targets != UNLABELLED).sum())}

    def loss(self, outputs, batch):
        logits = F.interpolate(outputs.float(), batch.targets.shape[1:], mode="bilinear", align_corners=False)
        losses = F.cross_entropy(logits, batch.targets, ignore_index=UNLABELLED, reduction="sum")
        return {"loss": (losses, "pixels")}

    def decode(self, outputs, metas):
        return [
            F.interpolate(one[None], meta["size"], mode="bilinear", align_corners=False)[0].argmax(0).cpu()
            for one, meta in zip(outputs.float(), metas, strict=True)
        ]

    def metric(self):
        return Overlap()


class Overlap:
    """The mean intersection over union of the classes that occur."""

    best = (("mean_iou", "high"),)

    def __init__(self):
        self.pairs = torch.zeros(len(NAMES), len(NAMES), dtype=torch.int64)

    def update(self, predictions, targets):
        for found, mask in zip(predictions, targets, strict=True):
            assert found.shape == mask.shape
            known = mask != UNLABELLED
            index = len(NAMES) * mask[known] + found[known]
            self.pairs += torch.bincount(index, minlength=len(NAMES) ** 2).view_as(self.pairs)

    def merge(self, others):
        self.pairs += sum(other.pairs for other in others)

    def compute(self):
        both = self.pairs.diag()
        either = self.pairs.sum(0) + self.pairs.sum(1) - both
        return {"mean_iou": float((both[either > 0] / either[either > 0]).mean()), "pixels": int(self.pairs.sum())}


class Boxes(OnScenes):
    """Digits and where they are: at every cell of a grid its class, at the cells of boxes' centres their sides."""

    name = "boxes"

    def build(self, info, parts=None):
        return Dense(len(info.class_names) + 4)

    def transform(self, sample, rng, train):
        x, _, boxes, meta = self.cut(sample, rng, train)
        return [Example({"image": x}, torch.from_numpy(boxes if train else sample.target[1]), meta)]

    def collate(self, examples, rng, train):
        images = torch.stack([example.inputs["image"] for example in examples])
        return Batch({"image": images}, [e.target for e in examples], [e.meta for e in examples])

    def units(self, batch):
        return {"cells": float(len(batch) * (SIDE // 4) ** 2), "boxes": float(sum(map(len, batch.targets)))}

    def loss(self, outputs, batch):
        outputs = outputs.float()
        logits, sides = outputs[:, :-4], outputs[:, -4:]
        classes = torch.zeros(len(outputs), *outputs.shape[2:], dtype=torch.int64, device=outputs.device)
        apart = sides.sum() * 0  # of every parameter, also where no image has a box
        for i, boxes in enumerate(batch.targets):
            centres = ((boxes[:, :2] + boxes[:, 2:4]) / 2 / 4).long().clamp(0, SIDE // 4 - 1)
            for (x, y), box in zip(centres.tolist(), boxes, strict=True):
                classes[i, y, x] = box[4].long()
                apart = apart + (sides[i, :, y, x] - self.sides(box[:4], x, y)).abs().sum()
        weight = torch.ones(len(NAMES), device=outputs.device).index_fill_(0, torch.tensor([0]), 0.1)
        kinds = F.cross_entropy(logits, classes, weight, reduction="sum")
        return {"class": (kinds * 10, "cells"), "sides": (apart, "boxes")}

    @staticmethod
    def sides(box, x, y):
        """How far the four sides of a box are from the middle of a cell, over 16 pixels."""
        return (box - torch.tensor([x, y, x, y], device=box.device) * 4 - 2) / 16

    def decode(self, outputs, metas):
        """For every image (n, 6): x1 y1 x2 y2 in pixels of the scene, class, score."""
        found = []
        for one, meta in zip(outputs.float().cpu(), metas, strict=True):
            score, kind = one[:-4].softmax(0)[1:].max(0)  # (h, w)
            peak = score == F.max_pool2d(score[None], 3, 1, 1)[0]
            y, x = torch.nonzero(peak & (score > 0.3), as_tuple=True)
            middle = torch.stack([x, y, x, y], 1) * 4 + 2
            height, width = meta["size"]
            scale = torch.tensor([width, height, width, height]) / SIDE
            boxes = (one[-4:, y, x].T * 16 + middle) * scale
            found.append(torch.cat([boxes, kind[y, x, None] + 1, score[y, x, None]], 1))
        return found

    def metric(self):
        return Precision()


class Precision:
    """The average precision at half overlap, all classes together: predictions of all images, best first."""

    best = (("precision", "high"),)

    def __init__(self):
        self.images = []  # what was found (n, 6) and what is there (m, 5), n and m of each image's own

    def update(self, predictions, targets):
        self.images += zip(predictions, targets, strict=True)

    def merge(self, others):
        for other in others:
            self.images += other.images

    def compute(self):
        hits, there = [], sum(len(boxes) for _, boxes in self.images)
        for found, boxes in self.images:
            free = [True] * len(boxes)
            for prediction in sorted(found.tolist(), key=lambda p: -p[5]):
                overlaps = [self.overlap(prediction, box) if free[j] else 0.0 for j, box in enumerate(boxes.tolist())]
                j = int(np.argmax(overlaps)) if overlaps else -1
                hit = j >= 0 and overlaps[j] >= 0.5
                if hit:
                    free[j] = False
                hits.append((prediction[5], hit))
        right, total = 0, 0.0
        for rank, (_, hit) in enumerate(sorted(hits, reverse=True), start=1):
            right += hit
            total += right / rank if hit else 0.0
        return {"precision": total / there if there else None, "images": len(self.images), "found": len(hits)}

    @staticmethod
    def overlap(a, b):
        if a[4] != b[4]:
            return 0.0
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(0.0, width) * max(0.0, height)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both + 1e-9)


TASKS = {"pixels": Pixels, "boxes": Boxes}


def run(name, out, progress=None, **settings):
    """Trains a task on scenes; returns the result."""
    defaults = {"epochs": 2, "batch_size": 16, "lr": 4e-3, "warmup_epochs": 1.0, "device": "cpu", "save_minutes": 0.0}
    return train(scenes(), TrainConfig(out=out, **{**defaults, **settings}), task=TASKS[name](), progress=progress)


class Printed(Progress):
    """Prints after every step how many are done, for a test that kills a run there."""

    def step(self, done, figures, images_per_s):
        print(done, flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("task", choices=TASKS)
    options.add_argument("out", type=Path)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--workers", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    run(given.task, given.out, Printed(), epochs=given.epochs, workers=given.workers)
