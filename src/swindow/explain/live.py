"""What the page's own pictures are drawn from: attention, regions and biases of every block, in a few megabytes."""

from __future__ import annotations

import base64
import gzip
import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from ..models import SwinBlock
from ..windows import Geometry
from .capturing import BlockRecord, Capture
from .geometry import Record, bias_pictures, label_map
from .style import REGIONS


class Pack:
    """Arrays of bytes, one after the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Adds an array and returns where it is: ``at`` (bytes from the start) and ``shape``."""
        self._parts.append(np.ascontiguousarray(values).tobytes())
        self._size += values.size
        return {"at": self._size - values.size, "shape": list(values.shape)}

    def text(self) -> str:
        """Returns everything, compressed by gzip, as base64."""
        return base64.b64encode(gzip.compress(b"".join(self._parts), mtime=0)).decode()


def live_data(seen: Capture, record: Record, budget: int) -> dict[str, Any]:
    """Returns JSON values for the page: ``blocks``, ``stages``, ``colours``, and ``pack``, the arrays they point to.

    Args:
        seen: what ``capture`` recorded of a model for images; the first image counts.
        record: the same from ``geometry.recorded``.
        budget: bytes of attention before compression. Where all heads of all blocks are more, heads are averaged, then
            blocks left out, the first ones first.
    """
    from matplotlib import colormaps

    pack = Pack()
    kept = _kept(seen.blocks, budget)
    blocks = []
    for block in seen.blocks:
        bias = bias_pictures(cast(SwinBlock, seen.model.get_submodule(block.name)))
        blocks.append(
            {
                "name": block.name,
                "stage": block.stage,
                "number": block.number,
                "token": block.token,
                **_geometry(block.geometry),
                "attention": pack.add(_attention(block, kept[block.name])) if kept[block.name] else None,
                "bias": pack.add(_bytes(bias)) | {"low": float(bias.min()), "high": float(bias.max())},
            }
        )
    stages = [
        {"number": s.number, "token": s.token, **_geometry(s.sw_msa), "labels": pack.add(_labels(s.sw_msa))}
        for s in record.stages
        if s.sw_msa is not None and s.shifted
    ]
    colours = {name: _shades(colormaps[name]) for name in ("inferno", "viridis")} | {"regions": REGIONS}
    return {"blocks": blocks, "stages": stages, "colours": colours, "pack": pack.text()}


def _kept(blocks: list[BlockRecord], budget: int) -> dict[str, str]:
    """What of each block's attention is kept, from the last block on: ``"heads"``, ``"mean"``, or ``""``, nothing."""
    left, kept = budget, {}
    means = sum(math.prod(b.geometry.windows) * math.prod(b.geometry.window) ** 2 for b in blocks)
    for block in reversed(blocks):
        mean = math.prod(block.geometry.windows) * math.prod(block.geometry.window) ** 2
        heads = mean * block.module.num_heads
        means -= mean  # what the blocks before it need at least
        kept[block.name] = "heads" if heads + means <= left else "mean" if mean <= left else ""
        left -= {"heads": heads, "mean": mean, "": left}[kept[block.name]]
    return kept


def _attention(block: BlockRecord, kept: str) -> npt.NDArray[np.uint8]:
    """Attention (h or 1, nW, N, N), every row over its largest value, as bytes; rows sum to 1 before."""
    with torch.no_grad():
        values = block._replace(tokens=block.tokens[:1]).attention()[0].float()  # (nW, h, N, N)
    values = values.transpose(0, 1) if kept == "heads" else values.mean(1)[None]
    return (255 * values / values.amax(-1, keepdim=True)).round().byte().cpu().numpy()


def _bytes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Values from lowest to highest as 0 to 255."""
    low, high = values.min(), values.max()
    return (255 * (values - low) / ((high - low) or 1.0)).round().astype(np.uint8)


def _shades(colormap: Any) -> list[list[int]]:
    """256 colours, each red, green and blue from 0 to 255."""
    return (255 * colormap(np.arange(256))[:, :3]).round().astype(int).tolist()


def _geometry(g: Geometry) -> dict[str, Any]:
    return {key: list(getattr(g, key)) for key in ("grid", "padded", "window", "shift")}


def _labels(g: Geometry) -> npt.NDArray[np.uint8]:
    return label_map(g).astype(np.uint8)
