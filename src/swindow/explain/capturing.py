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
            return kernels.weights(self.tokens, self.module.qkv, bias, self.geometry, self.module.similarity)


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
    """Records what a model computes inside the ``with`` block; afterwards the model is as it was.

    Recorded under the names of ``model.named_modules()`` are the results of ``patch_embed``, every block, its ``attn``
    and ``mlp``, every ``merge``, the ``out_norms``, ``norm`` and ``head``: the tensors themselves, with gradients where
    these are on. Maps are (B, *grid, C). A second forward pass takes the place of the first.

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
    named = {module: name for name, module in model.named_modules()}
    hooks = [model.patch_embed.register_forward_pre_hook(lambda module, args: _start(seen, args[0]))]
    blocks = [m for m in named if isinstance(m, SwinBlock)]
    merges = [cast(SwinStage, stage).merge for stage in model.stages]
    inside = [part for block in blocks for part in (block.attn, block.mlp)]
    parts = [model.patch_embed, *blocks, *inside, *merges, *model.out_norms.values(), model.norm, model.head]
    for part in parts:
        if not isinstance(part, nn.Identity):
            hooks.append(part.register_forward_hook(_keeper(seen, named[part])))
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(cast("list[SwinBlock]", cast(SwinStage, stage).blocks)):
            hooks.append(block.attn.register_forward_pre_hook(_watcher(seen, i, j)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(model: SwinTransformer) -> Iterator[None]:
    """Puts a model into evaluation mode inside the ``with`` block (dropout would draw random numbers)."""
    training = [(module, module.training) for module in model.modules()]
    for module, _ in training:
        module.training = False  # model.eval() would freeze parameters, too, where the config says so
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag


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


def _start(seen: Capture, image: Tensor) -> None:
    seen.image, seen._outputs, seen._blocks = image, {}, {}


def _keeper(seen: Capture, name: str) -> Any:
    def keep(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
        seen._outputs[name] = result

    return keep


def _watcher(seen: Capture, stage: int, number: int) -> Any:
    name, token = f"stages.{stage}.blocks.{number}", token_size(seen.model, stage)

    def watch(module: nn.Module, args: tuple[Tensor, Geometry]) -> None:
        y, g = args
        device = y.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        seen._blocks[name] = BlockRecord(
            name, stage + 1, number + 1, token, g, y, cast(WindowAttention, module), autocast
        )

    return watch
