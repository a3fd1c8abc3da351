"""What the pictures show, as arrays: taken from a model while it looks at one image. Draws nothing.

Maps below are in tokens and lie on the padded grid (*padded), either in place or, with ``rolled=True``, as they lie
after the cyclic shift, which is how attention sees them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import windows
from ..config import PerAxis
from ..errors import InputError
from ..models import SwinBlock, SwinTransformer
from ..models.twin import evaluation_twin
from ..windows import Geometry
from .capturing import Capture, capture

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

PADDING = 9  # the label that windows.labels gives to padding on a map of two axes


class Stage(NamedTuple):
    """What one stage did with the image.

    Attributes:
        number: which stage, from 1.
        token: pixels per token side, per axis.
        channels: numbers per token.
        depth: blocks.
        configured: tokens per axis of the configured window.
        w_msa: the geometry that the stage's first block used.
        sw_msa: the one that its second block used; None where the stage has one block. Its shift is 0 along an axis
            on which nothing is shifted.
    """

    number: int
    token: PerAxis
    channels: int
    depth: int
    configured: PerAxis
    w_msa: Geometry
    sw_msa: Geometry | None

    @property
    def shifted(self) -> bool:
        """Whether the stage shifts its windows along any axis."""
        return self.sw_msa is not None and any(self.sw_msa.shift)


class Record(NamedTuple):
    """What a model did with one image.

    Attributes:
        image: height and width in pixels.
        patch: pixels per patch side, per axis.
        channels_in: numbers per pixel.
        tokens: (*grid, C) what the patch embedding returned.
        stages: one Stage per stage.
    """

    image: PerAxis
    patch: PerAxis
    channels_in: int
    tokens: Floats
    stages: tuple[Stage, ...]


class Kind(NamedTuple):
    """All windows of one map that have the same mask.

    Attributes:
        labels: (*window) the region of every token, in the first of these windows.
        mask: (N, N) query by key, True where a pair must not attend.
        windows: the places of these windows on the rolled map, row-major, from 0.
    """

    labels: Ints
    mask: Bools
    windows: tuple[int, ...]


def record(model: SwinTransformer, image: Tensor) -> Record:
    """Runs the model on one image and returns the geometries that its own blocks used; the model is left as it was.

    Args:
        model: a model for images.
        image: (in_chans, H, W) floating, prepared as the model takes it.

    Raises:
        InputError: the model is not one for images, or the image has another shape or type than the model takes.
    """
    return recorded(observe(model, image))


def observe(model: SwinTransformer, image: Tensor) -> Capture:
    """Returns what a model computes for one image in evaluation mode, without gradients; the model is left as it was.

    Args and Raises are those of ``record``.
    """
    if model.config.ndim != 2:
        raise InputError(f"explain: got a model of {model.config.ndim} axes, but pictures are for images (2 axes)")
    if image.ndim != 3:
        raise InputError(
            f"explain: got an image of shape {tuple(image.shape)}, "
            f"expected ({model.config.in_chans} channels, height, width); try image[0] of a batch"
        )
    weight = next(model.parameters())
    x = image.to(weight.device, weight.dtype if image.is_floating_point() else None)
    twin = evaluation_twin(model)
    with torch.no_grad(), capture(twin) as seen:
        twin(x[None])
    return seen


def recorded(seen: Capture) -> Record:
    """Returns the Record of the first image of a capture."""
    config, blocks, stages = seen.model.config, seen.blocks, []
    for i, depth in enumerate(config.depths):
        w_msa, *others = [block for block in blocks if block.stage == i + 1]
        sw_msa = others[0].geometry if others else None
        size = (w_msa.token, config.width(i), depth, config.window_size[i])
        stages.append(Stage(i + 1, *size, w_msa.geometry, sw_msa))
    tokens = seen["patch_embed"][0].cpu().double().numpy()
    return Record(seen.pixels, config.patch_size, config.in_chans, tokens, tuple(stages))


def on_map(values: Tensor, g: Geometry, rolled: bool = False) -> Ints:
    """Returns the map (*padded) of one number per token in window order, (nW, N)."""
    x = windows.merge(values[None, :, :, None], g.window, g.padded)  # (1, *padded, 1)
    if not rolled:
        x = windows.cyclic_shift(x, [-s for s in g.shift])
    return x[0, ..., 0].numpy()


def label_map(g: Geometry, rolled: bool = False) -> Ints:
    """Returns ``windows.labels`` as a map (*padded): the region of every token."""
    return on_map(windows.labels(g), g, rolled)


def padding_map(g: Geometry, rolled: bool = False) -> Bools:
    """Returns which places of the map (*padded) are padding."""
    gather, _ = windows.order(g)
    return on_map(gather.view(-1, math.prod(g.window)), g, rolled) == math.prod(g.grid)


def window_map(g: Geometry, rolled: bool = False) -> Ints:
    """Returns the number of the computed window, row-major on the rolled map, that every token (*padded) is in."""
    count, n = math.prod(g.windows), math.prod(g.window)
    return on_map(torch.arange(count)[:, None].expand(count, n), g, rolled)


def region_map(g: Geometry, rolled: bool = False) -> Ints:
    """Returns the map (*padded) of the moved, irregular windows in place, numbered from 0; masked padding is -1.

    Two tokens have one number exactly where they attend to each other: same computed window, same label.
    """
    label = windows.labels(g)  # (nW, N)
    window = torch.arange(len(label))[:, None]
    pairs = on_map(window * (3 ** len(g.grid) + 1) + label, g, rolled)
    pairs = np.where(padding_map(g, rolled) & g.mask_padding, -1, pairs)
    values, numbers = np.unique(pairs, return_inverse=True)
    return numbers.reshape(pairs.shape) - (values[0] == -1)


def kinds(g: Geometry) -> tuple[Kind, ...]:
    """Returns the distinct kinds of window of a map, in the order in which they first appear."""
    region, kind_of = windows.labels(g).unique(dim=0, return_inverse=True)  # (kinds, N), (nW,)
    found: dict[bytes, Kind] = {}
    for i in dict.fromkeys(kind_of.tolist()):
        mask = (region[i][:, None] != region[i][None, :]).numpy()  # (N, N)
        places = (kind_of == i).nonzero().flatten().tolist()
        before = found.get(mask.tobytes())
        if before is None:
            found[mask.tobytes()] = Kind(region[i].view(g.window).numpy(), mask, tuple(places))
        else:  # other labels, same mask
            found[mask.tobytes()] = before._replace(windows=tuple(sorted((*before.windows, *places))))
    return tuple(found.values())


def index_steps(window: PerAxis) -> dict[str, Ints]:
    """Returns the relative position index of a window of two axes, computed step by step; each (N, N), query by key.

    Keys, in order: ``rows``, ``rows from 0``, ``rows scaled``, ``columns``, ``columns from 0``, ``index``. The last is
    ``windows.relative_position_index``; it is ``rows scaled`` plus ``columns from 0``.
    """
    place = torch.stack(torch.meshgrid(*(torch.arange(w) for w in window), indexing="ij")).flatten(1)  # (2, N)
    rows, columns = (place[:, :, None] - place[:, None, :]).numpy()  # (N, N) each
    moved = rows + window[0] - 1
    return {
        "rows": rows,
        "rows from 0": moved,
        "rows scaled": moved * (2 * window[1] - 1),
        "columns": columns,
        "columns from 0": columns + window[1] - 1,
        "index": windows.relative_position_index(window).numpy(),
    }


def bias_pictures(block: SwinBlock) -> Floats:
    """Returns the relative position bias of a block, one picture per head: (h, 2M-1, 2M-1), by offset query - key.

    Row r holds the row offset r - (M-1), column c the column offset c - (M-1), M being the block's window.
    """
    with torch.no_grad():
        return bias_table(block.attn.position_bias(block.window).cpu().double(), block.window)


def bias_table(bias: Tensor, window: PerAxis) -> Floats:
    """Returns the bias (h, N, N) of a window by offset, query - key: (h, 2M-1, 2M-1)."""
    shape = [2 * w - 1 for w in window]
    table = bias.new_zeros(len(bias), math.prod(shape))
    table[:, windows.relative_position_index(window).flatten()] = bias.flatten(1)
    return table.view(-1, *shape).numpy()


def first_component(tokens: Floats) -> Floats:
    """Returns the first principal component of tokens (*grid, C) as a map (*grid), with its largest value positive."""
    x = tokens.reshape(-1, tokens.shape[-1])
    x = x - x.mean(0)
    _, directions = np.linalg.eigh(x.T @ x)  # ascending
    y = x @ directions[:, -1]
    y = y * (np.sign(y[np.abs(y).argmax()]) or 1.0)  # an eigenvector's sign is arbitrary
    return y.reshape(tokens.shape[:-1])
