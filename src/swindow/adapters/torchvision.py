"""Our model as a backbone of torchvision's detectors: Faster R-CNN, Mask R-CNN, RetinaNet, ... (needs torchvision)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelMaxPool

from ..models import SwinTransformer
from . import freeze_unused


class DetectionBackbone(nn.Module):
    """The pyramid's maps through a feature pyramid network, as torchvision's detectors want them.

    Args:
        model: taken as it is, not copied; what ``pyramid`` does not use is no longer trained. With ``out_norms=True``
            and ``out_indices`` (``swindow.create``) its maps are normalised, and chosen.
        out_channels: channels of every map.
        extra_blocks: coarser maps from the last one; by default one, for torchvision's region proposals. RetinaNet
            takes ``LastLevelP6P7``.

    Attributes:
        out_channels: read by torchvision.
    """

    def __init__(
        self, model: SwinTransformer, out_channels: int = 256, extra_blocks: ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        self.model, self.out_channels = freeze_unused(model), out_channels
        widths = [model.config.width(i) for i in model.config.out_stages]
        self.fpn = FeaturePyramidNetwork(widths, out_channels, extra_blocks or LastLevelMaxPool())

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Returns the maps (B, out_channels, H_i, W_i) by name, "0" the finest, for images (B, in_chans, H, W)."""
        maps = OrderedDict((str(i), y) for i, y in enumerate(self.model.pyramid(x)))
        return self.fpn(maps)
