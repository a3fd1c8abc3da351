"""A stage: blocks at one resolution, alternately W-MSA and SW-MSA (Swin section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import SwinConfig
from .block import SwinBlock
from .patches import PatchMerging
from .recording import record, recorded


class SwinStage(nn.Module):
    """The blocks of one stage and, but for the last stage of most models, the patch merging after them.

    Args:
        config: the model's config.
        i: which stage, from 0.
        drop_path: stochastic depth of each of its blocks (fraction).

    Attributes:
        grad_checkpointing: whether every block forgets what backward needs of its inside and works it out again there.
    """

    def __init__(self, config: SwinConfig, i: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(SwinBlock(config, i, j, rate) for j, rate in enumerate(drop_path)))
        self.grad_checkpointing = False
        last = i == config.num_stages - 1
        self.merge = nn.Identity() if last and not config.final_merge else PatchMerging(config, i)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the stage's map (B, *grid, C), and what goes on to the next: merged (B, *grid/2, 2C)."""
        forget = self.grad_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            if forget:  # decided here, because what is worked out again has to be what was worked out
                leaves_out = type(block) is SwinBlock and block.may_leave_out(x)
                x = checkpoint(_run, block, x, leaves_out, use_reentrant=False)
            else:
                x = _run(block, x)
        return x, recorded(self.merge, x)


def _run(block: nn.Module, x: Tensor, leaves_out: bool = False) -> Tensor:
    return record(block, (x,), block(x, leave_out=True) if leaves_out else block(x))
