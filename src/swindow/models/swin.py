"""The Swin Transformer: patch embedding, stages, norm, pooling, head (Swin section 3.1, figure 3a)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..caching import is_static
from ..card import ModelCard
from ..config import SwinConfig
from ..errors import ConfigError
from .attention import WindowAttention
from .block import SwinBlock
from .deployed import DeployedTransformer
from .init import linear, reset_linear
from .patches import PatchEmbed, PatchMerging
from .recording import recorded
from .stage import SwinStage


class SwinTransformer(nn.Module):
    """A hierarchical vision transformer whose attention is computed in shifted windows (Swin section 3).

    It takes images of any height and width (clips or volumes of any size where ``patch_size`` has three axes).

    Args:
        config: the architecture.

    Raises:
        ConfigError: the config is that of a SimMIM.

    Attributes:
        config: the SwinConfig it was built from.
        card: the ModelCard that travels with the weights: class names, preprocessing, ...; None: nothing is known.
        load_report: what ``swindow.load`` did to fill the model; None for a model that was not loaded.

    Example:
        >>> model = SwinTransformer(SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=5)).eval()
        >>> model(torch.zeros(1, 3, 50, 75)).shape
        torch.Size([1, 5])
        >>> [tuple(m.shape) for m in model.pyramid(torch.zeros(1, 3, 50, 75))]
        [(1, 8, 13, 19), (1, 16, 7, 10)]
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        if config.decoder_stride:
            raise ConfigError(
                f"SwinTransformer: got decoder_stride {config.decoder_stride}, expected 0; try "
                "swindow.models.SimMIM(config)"
            )
        self.config = config
        self.card: ModelCard | None = None
        self.load_report: Any = None
        rates = [config.drop_path_rate * i / max(1, sum(config.depths) - 1) for i in range(sum(config.depths))]
        ends = itertools.accumulate(config.depths)
        self.patch_embed = PatchEmbed(config)
        self.position_embed = AbsolutePositionEmbed(config) if config.absolute_position_size else nn.Identity()
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.stages = nn.ModuleList(
            SwinStage(config, i, rates[end - depth : end])
            for i, (depth, end) in enumerate(zip(config.depths, ends, strict=True))
        )
        last, dim = config.num_stages - 1, config.width(config.num_stages - 1)
        self.out_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(config.width(i), eps=config.norm_eps) for i in config.out_stages if config.out_norms}
        )
        self.norm = nn.Identity() if str(last) in self.out_norms else nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = linear(dim, config.num_classes) if config.num_classes else nn.Identity()
        for module in self._frozen():
            module.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Draws linear layers and the norms that end residual branches again, as at first.

        The convolution of the patch embedding keeps PyTorch's default, as in the official code.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                reset_linear(module)
            elif isinstance(module, SwinBlock):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits (B, num_classes) of images (B, in_chans, H, W); the features where there is no head.

        Raises:
            InputError: the input is no dense tensor, or of a wrong shape, type or device. A batch of 0 images is
                allowed: its results are empty, and its gradients are 0.
        """
        return recorded(self.head, self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Returns the pooled features (B, D): the last stage's tokens, normalised and averaged over the grid."""
        return self.encode(recorded(self.patch_embed, x)).flatten(1, -2).mean(1)  # (B, D)

    def encode(self, tokens: Tensor) -> Tensor:
        """Returns the last stage's tokens, normalised, (B, *grid', D), for embedded patches (B, *grid, C)."""
        *_, x = self._maps(tokens)
        last = str(self.config.num_stages - 1)
        return recorded(self.out_norms[last], x) if last in self.out_norms else recorded(self.norm, x)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Returns the maps of the stages ``config.out_indices``, before merging: (B, C_i, *grid_i), halving each time.

        With ``config.out_norms`` every one goes through a LayerNorm of its own.
        """
        maps = enumerate(itertools.islice(self._maps(recorded(self.patch_embed, x)), self.config.out_stages[-1] + 1))
        chosen = ((str(i), y) for i, y in maps if i in self.config.out_stages)
        return [(recorded(self.out_norms[i], y) if i in self.out_norms else y).movedim(-1, 1) for i, y in chosen]

    def train(self, mode: bool = True) -> SwinTransformer:
        """Sets training or evaluation mode; what is frozen stays in evaluation mode and gets no gradient."""
        super().train(mode)
        for module in self._frozen():
            module.eval().requires_grad_(False)
        return self

    def set_kernel(self, name: str | None = None, product: str | None = None) -> None:
        """Chooses what computes attention and matrix products; all choices give the same up to rounding.

        Args:
            name: "reference" (word by word as in the paper), "sdpa" (PyTorch's attention), "cpu" (blocks that stay in
                a processor's cache), "triton" (one fused kernel for NVIDIA GPUs), or None: what suits device and type.
            product: of matrices in fp32 on a CPU, where ``name`` is None or "cpu": "torch" (``F.linear``) or "onednn";
                None: what the environment variable SWINDOW_PRODUCT says, else what was measured to suit the processor.

        Raises:
            ConfigError: there is no such kernel or product.
        """
        chosen = kernels.kernel(name, product)
        for module in self.modules():
            if isinstance(module, SwinBlock | WindowAttention | PatchMerging):
                module.kernel = chosen

    def deploy(self, product: str | None = None) -> DeployedTransformer:
        """Returns a frozen, faster twin for inference, which gives what this model gives in evaluation mode.

        It keeps weights of its own, prepared for this machine: it cannot be trained, moved or saved, and does not
        follow later changes of this model. It holds up to twice the memory of the model's weights, and keeps this
        model, which ``swindow.export`` takes in its place. Compile the model itself.

        Args:
            product: as of ``set_kernel``; None: as chosen there.

        Example:
            >>> model = SwinTransformer(SwinConfig(embed_dim=8, depths=(2,), num_heads=(1,), num_classes=5)).eval()
            >>> x = torch.randn(1, 3, 50, 75)
            >>> torch.allclose(model.deploy()(x), model(x), atol=1e-6)
            True
        """
        return DeployedTransformer(self, product)

    def set_grad_checkpointing(self, stages: bool | Sequence[int] = True) -> None:
        """Trades time for memory in training: the chosen stages keep only the input of every block for backward.

        What else backward needs is worked out again, block by block, with the same random numbers: gradients stay
        the same.

        Args:
            stages: the stages, from 0; True: all, False: none.

        Raises:
            ConfigError: there is no such stage.
        """
        count = self.config.num_stages
        chosen = (range(count) if stages else ()) if isinstance(stages, bool) else stages
        if not isinstance(chosen, Sequence) or any(type(i) is not int or i not in range(count) for i in chosen):
            raise ConfigError(
                f"set_grad_checkpointing: got stages {stages!r}, expected numbers below {count}, or True or False for "
                "all or none; try [0] for the first"
            )
        for i, stage in enumerate(self.stages):
            cast("SwinStage", stage).grad_checkpointing = i in chosen

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuses ``torch.jit.script``, which asks every module: it knows neither caches nor geometry."""
        raise ConfigError(
            "got a model for torch.jit.script, which cannot compile it; try torch.jit.trace or torch.export.export"
        )

    def _frozen(self) -> list[nn.Module]:
        """What ``config.frozen_stages`` keeps from training."""
        if self.config.frozen_stages < 0:
            return []
        stages = range(self.config.frozen_stages)
        norms = [self.out_norms[str(i)] for i in stages if str(i) in self.out_norms]
        embedding = [self.patch_embed, self.position_embed, self.pos_drop]
        return [*embedding, *(self.stages[i] for i in stages), *norms]

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """The hierarchy of embedded patches (B, *grid, C): yields the map (B, *grid_i, C_i) of every stage."""
        x = self.pos_drop(self.position_embed(x))
        for stage in self.stages:
            y, x = stage(x)
            yield y


class AbsolutePositionEmbed(nn.Module):
    """A learned embedding added to every token (the official ``ape``; off in all published models).

    On another grid than its own it is resized bicubically, as the detection code does (linearly where the grid has one
    or three axes, for which PyTorch has no cubic).
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        assert config.absolute_position_size is not None
        self.embedding = nn.Parameter(torch.empty(*config.absolute_position_size, config.embed_dim))  # (*grid, C)
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Returns tokens (B, *grid, C) plus the embedding."""
        embedding: Tensor = self.embedding
        if not is_static(x.shape[1:]) or x.shape[1:] != embedding.shape:
            mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[x.ndim - 2]
            embedding = F.interpolate(embedding.movedim(-1, 0)[None], x.shape[1:-1], mode=mode)[0].movedim(0, -1)
        return x + embedding
