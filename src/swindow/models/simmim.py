"""SimMIM: a Swin Transformer that learns to draw the hidden patches of images (Xie et al., CVPR 2022)."""

from __future__ import annotations

from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from ..card import ModelCard
from ..config import SwinConfig
from ..errors import ConfigError, InputError
from .recording import recorded
from .swin import SwinTransformer


class SimMIM(nn.Module):
    """A Swin Transformer for pre-training: hidden patches are replaced by a mask token, a decoder draws the image.

    Args:
        config: the architecture, with ``decoder_stride`` above 0. There is no head: ``model.config.num_classes`` is 0.

    Attributes:
        config, card, load_report: as those of SwinTransformer.
        backbone: the SwinTransformer that is trained; it can be used by itself.
        mask_token: (C,) takes the place of hidden patches.
        decoder: draws pixels from the last map.

    Raises:
        ConfigError: ``decoder_stride`` is 0.

    Example:
        >>> config = SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), decoder_stride=8)
        >>> model, x = SimMIM(config), torch.rand(1, 3, 64, 64)
        >>> mask = torch.rand(1, 16, 16) < 0.6  # one value per patch
        >>> pixels = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        >>> loss = ((model(x, mask) - x).abs() * pixels).sum() / (3 * pixels.sum())
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        if not config.decoder_stride:
            raise ConfigError("SimMIM: got decoder_stride 0, expected pixels per side; try decoder_stride=32")
        self.config = config.replace(num_classes=0)
        self.card: ModelCard | None = None
        self.load_report: Any = None
        self.backbone = SwinTransformer(self.config.replace(mask_token=False, decoder_stride=0))
        self.mask_token = nn.Parameter(torch.empty(config.embed_dim))  # (C,)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = PixelDecoder(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns the images that the model draws where patches are hidden (SimMIM section 3), in the shape of ``x``.

        Where ``decoder_stride`` is less than the pixels per side of a token of the last map, they are smaller:
        (B, in_chans, *last grid * decoder_stride), as transformers draws them.

        Args:
            x: images (B, in_chans, *pixels).
            mask: (B, *grid), one value per patch: True or 1 where it is hidden.

        Raises:
            InputError: the images do not fit the model, or the mask does not fit the images.
        """
        tokens = self._hide(recorded(self.backbone.patch_embed, x), mask)  # (B, *grid, C)
        drawn = self.decoder(self.backbone.encode(tokens))  # (B, in_chans, *pixels), padding included
        return drawn[(..., *(slice(size) for size in x.shape[2:]))]

    def set_kernel(self, name: str | None = None, product: str | None = None) -> None:
        """As of SwinTransformer."""
        self.backbone.set_kernel(name, product)

    def deploy(self) -> NoReturn:
        """Refuses: ``deploy`` is for inference. The backbone has one."""
        raise ConfigError("deploy: got a SimMIM, expected a SwinTransformer; try model.backbone.deploy()")

    def _hide(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, *grid, C) with the mask token where ``mask`` (B, *grid) is 1."""
        if mask.shape != tokens.shape[:-1]:
            raise InputError(
                f"got a mask of shape {tuple(mask.shape)}, expected one value per patch: {tuple(tokens.shape[:-1])}"
            )
        return torch.where(mask.bool()[..., None], self.mask_token.to(tokens.dtype), tokens)


class PixelDecoder(nn.Module):
    """Tokens to pixels: a linear layer draws a block of pixels for each token of the last map (SimMIM section 3.3)."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.stride, self.chans = config.decoder_stride, config.in_chans
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[config.ndim]
        drawn = config.in_chans * config.decoder_stride**config.ndim
        self.proj = convolution(config.width(config.num_stages - 1), drawn, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns pixels (B, in_chans, *grid * stride) for tokens (B, *grid, C)."""
        n, s = x.ndim - 2, self.stride
        grid = x.shape[1:-1]
        x = self.proj(x.movedim(-1, 1)).unflatten(1, (self.chans, *(s,) * n))  # (B, chans, s, s, H, W)
        x = x.permute(0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i)))  # (B, chans, H, s, W, s)
        return x.reshape(x.shape[0], self.chans, *(g * s for g in grid))  # (B, chans, H*s, W*s)


SwinModel: TypeAlias = SwinTransformer | SimMIM


def build(config: SwinConfig) -> SwinTransformer | Any:  # Any: so that type checkers do not ask for a case distinction
    """Returns an untrained model of a config: a SimMIM where ``decoder_stride`` is above 0, else a SwinTransformer."""
    return SimMIM(config) if config.decoder_stride else SwinTransformer(config)


def require_swin(model: Any, caller: str) -> SwinTransformer:
    """Returns a SwinTransformer. Raises InputError for a SimMIM, which only trains."""
    if isinstance(model, SimMIM):
        raise InputError(
            f"{caller}: got a SimMIM, which is for pre-training, expected a SwinTransformer; try model.backbone, or "
            "fine-tune it: swindow train DATA --weights CHECKPOINT"
        )
    return model
