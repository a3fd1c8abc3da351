"""Looking inside a model while it runs: what every part of it returned, and where each block attended."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, SupportsIndex, cast

import torch
from torch import Tensor, nn

from .. import kernels
from ..config import PerAxis
from ..errors import InputError
from ..models import SwinBlock, SwinStage, SwinTransformer, WindowAttention, require_swin
from ..models.deployed import DeployedTransformer
from ..models.recording import recording
from ..windows import Geometry


class BlockRecord(NamedTuple):
    """How one block attended in the last forward pass.

    Attributes:
        name: of the block in the model, for instance ``"stages.0.blocks.1"``.
        stage, number: which stage and which block of it, from 1.
        token: pixels per token side, per axis.
        geometry: how its map was cut into windows.
        tokens: (B, *grid, C) the normalised tokens that attention was given.
        module: the block's attention.
        autocast: the lower precision that ran, or None.
    """

    name: str
    stage: int
    number: int
    token: PerAxis
    geometry: Geometry
    tokens: Tensor
    module: WindowAttention
    autocast: torch.dtype | None

    def attention(self) -> Tensor:
        """Returns the attention probabilities (B, nW, h, N, N), query by key, recomputed from the recorded tokens.

        Windows are those of the padded and shifted map, row-major, whatever kernel ran. Dropout is left out.
        """
        device = self.tokens.device.type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            bias = self.module.position_bias(self.geometry.window)
            return kernels.weights(self.tokens, self.module.project, bias, self.geometry, self.module.similarity)


class Capture:
    """What a model did in its last forward pass; see ``capture``.

    Attributes:
        model: the model looked at.
        image: (B, in_chans, *pixels) what it was given.
    """

    def __init__(self, model: SwinTransformer) -> None:
        self.model = model
        self.image: Tensor = torch.empty(0)
        self._outputs: dict[str, Tensor] = {}
        self._blocks: dict[str, BlockRecord] = {}

    @property
    def blocks(self) -> list[BlockRecord]:
        """A BlockRecord per block that ran, in order."""
        return list(self._blocks.values())

    @property
    def names(self) -> list[str]:
        """What was recorded, in the order in which it was computed."""
        return list(self._outputs)

    @property
    def pixels(self) -> PerAxis:
        """Height and width (frames first for clips) of the images in pixels."""
        return tuple(self.image.shape[2:])

    def __getitem__(self, name: str) -> Tensor:
        """Returns what the part ``name`` returned.

        Raises:
            InputError: nothing of that name ran.
        """
        if name not in self._outputs:
            raise InputError(f"capture: nothing named {name!r} ran; recorded: {', '.join(self.names) or 'nothing'}")
        return self._outputs[name]

    def block(self, which: int | str = -1) -> BlockRecord:
        """Returns a block by its place among all blocks (negative: from the end) or by its name.

        Raises:
            InputError: no such block ran.
        """
        blocks = self.blocks
        if isinstance(which, str) and which in self._blocks:
            return self._blocks[which]
        if isinstance(which, SupportsIndex) and -len(blocks) <= operator.index(which) < len(blocks):
            return blocks[which]
        if not blocks:
            raise InputError("capture: no block ran; call the model inside the with block")
        raise InputError(
            f"capture: got block {which!r}, expected a number from {-len(blocks)} to {len(blocks) - 1} "
            f"or a name from {blocks[0].name} to {blocks[-1].name}"
        )


@contextmanager
def capture(model: SwinTransformer) -> Iterator[Capture]:
    """Records what a model computes inside the ``with`` block; the model is not changed.

    Only passes of the thread (or the asyncio task) that opened the block are recorded. Meanwhile other threads may
    call, copy, deploy or record the same model; blocks may overlap and end in any order.

    Recorded under the names of ``model.named_modules()`` are the results of ``patch_embed``, every block, its ``attn``
    and ``mlp``, every ``merge``, the ``out_norms``, ``norm`` and ``head``: the tensors themselves, with gradients where
    these are on. Maps are (B, *grid, C); in training they include samples whose branch is dropped. A second forward
    pass takes the place of the first.

    Args:
        model: a model for images, clips or volumes, in any mode, on any device.

    Yields:
        The Capture, filled by the forward pass.

    Raises:
        InputError: the model is none of ours, a SimMIM, or a deployed or compiled one.

    Example:
        >>> from swindow.config import SwinConfig
        >>> model = SwinTransformer(SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=5)).eval()
        >>> with torch.no_grad(), capture(model) as seen:
        ...     logits = model(torch.zeros(1, 3, 64, 64))
        >>> seen["stages.0.merge"].shape
        torch.Size([1, 8, 8, 16])
        >>> seen.block("stages.0.blocks.1").attention().shape
        torch.Size([1, 9, 1, 49, 49])
    """
    _check(model)
    seen = Capture(model)
    with recording(_Keeper(seen)):
        yield seen


def token_size(model: SwinTransformer, stage: int) -> PerAxis:
    """Returns the pixels per token side of a stage (from 0), per axis."""
    config = model.config
    return tuple(p * 2**stage if axis in config.merge_axes else p for axis, p in enumerate(config.patch_size))


def _check(model: nn.Module) -> None:
    if isinstance(model, DeployedTransformer):
        raise InputError("capture: got a deployed model, whose parts are fused; try the model that it was made from")
    if not isinstance(require_swin(model, "capture"), SwinTransformer):
        hint = "; try the model that was compiled" if hasattr(model, "_orig_mod") else ""
        raise InputError(f"capture: got {type(model).__name__}, expected a SwinTransformer{hint}")


class _Keeper:
    """Puts what the parts of a model return into a Capture.

    Attributes:
        names: of the parts that are kept; a copy of the model has others.
    """

    def __init__(self, seen: Capture) -> None:
        model = seen.model
        blocks = [module for module in model.modules() if isinstance(module, SwinBlock)]
        merges = [cast(SwinStage, stage).merge for stage in model.stages]
        inside = [part for block in blocks for part in (block.attn, block.mlp)]
        parts = {model.patch_embed, *blocks, *inside, *merges, *model.out_norms.values(), model.norm, model.head}
        self._seen = seen
        self.names = {
            part: name for name, part in model.named_modules() if part in parts and not isinstance(part, nn.Identity)
        }

    def __call__(self, part: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> None:
        """Keeps the result of a part, if it is one of the model's."""
        name, seen = self.names.get(part), self._seen
        if name is None:
            return
        if part is seen.model.patch_embed:
            seen.image, seen._outputs, seen._blocks = inputs[0], {}, {}
        if isinstance(part, WindowAttention):
            record = _block_record(seen.model, name.removesuffix(".attn"), part, *inputs)
            seen._blocks[record.name] = record
        seen._outputs[name] = result


def _block_record(
    model: SwinTransformer, name: str, module: WindowAttention, tokens: Tensor, geometry: Geometry
) -> BlockRecord:
    _, stage, _, number = name.split(".")  # stages.0.blocks.1
    device = tokens.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    place = (int(stage) + 1, int(number) + 1, token_size(model, int(stage)))
    return BlockRecord(name, *place, geometry, tokens, module, autocast)
