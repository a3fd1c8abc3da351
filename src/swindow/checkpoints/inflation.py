"""Video models from image models: 2-D weights inflated to 3-D (Video Swin section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import SwinConfig
from ..errors import ConfigError


def inflated(
    config: SwinConfig, tensors: Mapping[str, Tensor], window_frames: int = 8, patch_frames: int = 2
) -> tuple[SwinConfig, dict[str, Tensor]]:
    """Returns config and tensors of a video model, made of those of an image model; see ``swindow.inflate``.

    Raises:
        ConfigError: the model is no image model, or a number is below 1.
    """
    if config.ndim != 2:
        raise ConfigError(f"inflate: got a model with {config.ndim} axes, expected an image model (2 axes)")
    for name, value in (("window_frames", window_frames), ("patch_frames", patch_frames)):
        if value < 1:
            raise ConfigError(f"inflate: got {name} {value}, expected at least 1")
    found = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for name, tensor in found.items():
        if name == "patch_embed.proj.weight":
            found[name] = tensor[:, :, None].repeat(1, 1, patch_frames, 1, 1) / patch_frames  # (C, in_chans, T, H, W)
        elif name == "position_embed.embedding":
            found[name] = tensor[None]  # (1, H, W, C)
        elif name.endswith("position_bias.table"):
            found[name] = tensor.repeat(2 * window_frames - 1, 1)  # time is the first digit of a row's number
        elif name.endswith("position_bias.mlp.0.weight"):
            found[name] = torch.cat((torch.zeros_like(tensor[:, :1]), tensor), 1)  # (512, axes)
    return _video(config, window_frames, patch_frames), found


def _video(config: SwinConfig, window_frames: int, patch_frames: int) -> SwinConfig:
    """The config of the inflated model."""
    trained = config.pretrained_window_size
    size = config.absolute_position_size
    return config.replace(
        patch_size=(patch_frames, *config.patch_size),
        window_size=tuple((window_frames, *w) for w in config.window_size),
        pretrained_window_size=None if trained is None else tuple((window_frames, *w) for w in trained),
        absolute_position_size=None if size is None else (1, *size),
        merge_axes=tuple(axis + 1 for axis in config.merge_axes),
    )
