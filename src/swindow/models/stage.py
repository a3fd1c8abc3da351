"""A stage: blocks at one resolution, alternately W-MSA and SW-MSA (Swin section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..config import SwinConfig
from ..windows import SizeRule
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
        dim, window = config.width(i), config.window_size[i]
        half = tuple(w // 2 for w in window)
        self.blocks = nn.Sequential(
            *(
                SwinBlock(
                    dim,
                    window,
                    shift=half if j % 2 else (0,) * len(window),  # every second block is SW-MSA
                    num_heads=config.num_heads[i],
                    rule=SizeRule(config.shrink, config.shift_single, config.mask_padding),
                    mlp_ratio=config.mlp_ratio,
                    qkv_bias=config.qkv_bias,
                    drop=config.drop_rate,
                    attn_drop=config.attn_drop_rate,
                    drop_path=rate,
                    norm_eps=config.norm_eps,
                )
                for j, rate in enumerate(drop_path)
            )
        )
        last = i == config.num_stages - 1
        self.merge = nn.Identity() if last else PatchMerging(dim, config.merge_axes, config.norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the stage's map (B, *grid, C), and what goes on to the next: merged (B, *grid/2, 2C)."""
        x = self.blocks(x)
        return x, self.merge(x)
