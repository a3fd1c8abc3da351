"""A feature pyramid network on swindow's pyramid, in plain PyTorch: finds and names handwritten digits, pixel by pixel.

python examples/segment_fpn.py        (2 minutes on 2 cores)
"""

from __future__ import annotations

import scenes
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

import swindow


class FeaturePyramid(nn.Module):
    """From the coarsest map to the finest: widen, add the map of the finer stage, go on; then classes of pixels."""

    def __init__(self, backbone: swindow.SwinTransformer, classes: int, channels: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        widths = [backbone.config.width(i) for i in backbone.config.out_stages]
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes, H, W) for images (B, 1, H, W)."""
        *finer, coarsest = self.backbone.pyramid(x)
        y = self.lateral[-1](coarsest)
        for lateral, finer_map in zip(reversed(self.lateral[:-1]), reversed(finer), strict=True):
            y = lateral(finer_map) + F.interpolate(y, finer_map.shape[-2:], mode="bilinear")
        y = self.classify(F.gelu(self.smooth(y)))
        return F.interpolate(y, x.shape[-2:], mode="bilinear")


def main(steps: int = 500) -> float:
    """Trains for some steps; prints and returns the mean IoU."""
    backbone = swindow.create("swin_nano", num_classes=0, in_chans=1, out_norms=True)
    model = FeaturePyramid(backbone, scenes.CLASSES)
    return scenes.train_to_segment("segment_fpn", model, model, steps)


if __name__ == "__main__":
    tyro.cli(main)
