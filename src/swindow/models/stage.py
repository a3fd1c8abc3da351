"""A stage: blocks at one resolution, alternately W-MSA and SW-MSA (Swin section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..config import SwinConfig
from .block import SwinBlock
from .patches import PatchMerging


class SwinStage(nn.Module):
    """The blocks of one stage and, but for the last stage, the patch merging after them.

    Args:
        config: the model's config.
        i: which stage, from 0.
        drop_path: stochastic depth of each of its blocks (fraction).
    """

    def __init__(self, config: SwinConfig, i: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(SwinBlock(config, i, j, rate) for j, rate in enumerate(drop_path)))
        last = i == config.num_stages - 1
        self.merge = nn.Identity() if last else PatchMerging(config, i)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the stage's map (B, *grid, C), and what goes on to the next: merged (B, *grid/2, 2C)."""
        x = self.blocks(x)
        return x, self.merge(x)
