"""transformers' UperNet on our backbone: finds and names handwritten digits, pixel by pixel.

pip install transformers
python examples/segment_upernet.py        (some minutes on 2 cores)
"""

from __future__ import annotations

import scenes
import tyro
from transformers import UperNetConfig, UperNetForSemanticSegmentation

import swindow
from swindow.adapters.transformers import SwindowBackbone


def main(steps: int = 500) -> float:
    """Trains for some steps; prints and returns the mean IoU."""
    model = swindow.create("swin_nano", num_classes=0, in_chans=1, out_norms=True)  # or swindow.load(...)
    backbone = SwindowBackbone.of(model)
    segmenter = UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone.config, num_labels=scenes.CLASSES, hidden_size=48, use_auxiliary_head=False
        )
    )
    segmenter.backbone.load_state_dict(backbone.state_dict())  # UperNet builds its own from the config
    return scenes.train_to_segment("segment_upernet", segmenter, lambda x: segmenter(x).logits, steps)


if __name__ == "__main__":
    tyro.cli(main)
