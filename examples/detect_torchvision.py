"""torchvision's Faster R-CNN on our backbone: finds handwritten digits, names them and puts boxes around them.

pip install torchvision
python examples/detect_torchvision.py        (some minutes on 2 cores)
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import scenes
import torch
import tyro
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import box_iou

import swindow
from swindow.adapters.torchvision import DetectionBackbone


def main(steps: int = 300) -> float:
    """Trains for some steps; prints and returns the share of digits that are found and named."""
    model = swindow.create("swin_nano", num_classes=0, in_chans=1, out_norms=True)  # or swindow.load(...)
    detector = FasterRCNN(
        DetectionBackbone(model, out_channels=64),
        num_classes=scenes.CLASSES,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (24,), (32,)), ((1.0,),) * 4),  # one size for every map
        min_size=scenes.SIZE[0],
        max_size=scenes.SIZE[1],
        image_mean=[0.0],
        image_std=[1.0],
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=50,
        box_detections_per_img=12,
    )

    def loss_of(batch: list[scenes.Scene]) -> Tensor:
        targets = [{"boxes": s.boxes, "labels": s.labels} for s in batch]
        return sum(detector([s.image for s in batch], targets).values())

    scenes.train(detector, loss_of, steps, batch=8, lr=1e-3)
    tests = scenes.held_out_scenes()
    with torch.inference_mode():
        found = [detector([s.image])[0] for s in tests]
    hits = torch.cat([is_found(s, f) for s, f in zip(tests, found, strict=True)])
    print(f"{int(hits.sum())} of {len(hits)} held-out digits found and named (IoU of at least 0.5)")
    save_picture("runs/examples/detect_torchvision.png", tests[:4], found[:4])
    return float(hits.float().mean())


def is_found(scene: scenes.Scene, found: dict[str, Tensor]) -> Tensor:
    """Returns for every digit of a scene whether a box of its class, scored at least 0.5, covers it, (n,) bool."""
    sure = found["scores"] >= 0.5
    fits = box_iou(scene.boxes, found["boxes"][sure]) >= 0.5  # (n, m)
    return (fits & (scene.labels[:, None] == found["labels"][sure][None])).any(1)


def save_picture(path: str, tests: list[scenes.Scene], found: list[dict[str, Tensor]]) -> None:
    """Saves scenes with the boxes and classes that were found."""
    figure, axes = plt.subplots(1, len(tests), figsize=(3 * len(tests), 2.6), layout="constrained", squeeze=False)
    for axis, scene, boxes in zip(axes[0], tests, found, strict=True):
        axis.imshow(scene.image[0], cmap="gray")
        axis.set(xticks=[], yticks=[])
        for (x1, y1, x2, y2), label, score in zip(*(boxes[k].tolist() for k in ("boxes", "labels", "scores"))):
            if score >= 0.5:
                axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="tab:orange", lw=2))
                axis.text(x1, y1, str(label - 1), color="black", backgroundcolor="tab:orange", fontsize=8, va="bottom")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"saved {path}")


if __name__ == "__main__":
    tyro.cli(main)
