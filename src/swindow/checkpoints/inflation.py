"""Video models from image models: 2-D weights inflated to 3-D (Video Swin section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import SwinConfig
from ..errors import ConfigError
from ..models import SwinTransformer, require_swin
from ..models.meta import meta_model


def inflate(model: SwinTransformer, window_frames: int = 8, patch_frames: int = 2) -> SwinTransformer:
    """Returns a video model with the weights of an image model: a clip of one image gives the logits of the image.

    The patch embedding's kernel is repeated over the frames of a patch and divided by their number; bias tables are
    repeated over time, and a continuous bias does not look at time yet. Merging stays one of height and width. Clips
    are (B, in_chans, T, H, W), T any number of frames.

    The video model is in eval mode.

    Args:
        model: an image model, for instance from ``swindow.load``; it is not changed.
        window_frames: tokens of a window along time (8 for the published video models).
        patch_frames: frames of a patch (2 for the published video models).

    Raises:
        InputError: the model is a SimMIM.
        ConfigError: the model is no image model, or a number is below 1.

    Example:
        >>> import swindow
        >>> video = inflate(swindow.create("swin_nano", num_classes=3))
        >>> video(torch.zeros(1, 3, 5, 32, 32)).shape
        torch.Size([1, 3])
    """
    require_swin(model, "inflate")
    if model.config.ndim != 2:
        raise ConfigError(f"inflate: got a model with {model.config.ndim} axes, expected an image model (2 axes)")
    for name, value in (("window_frames", window_frames), ("patch_frames", patch_frames)):
        if value < 1:
            raise ConfigError(f"inflate: got {name} {value}, expected at least 1")
    config = _video(model.config, window_frames, patch_frames)
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        if name == "patch_embed.proj.weight":
            tensors[name] = tensor[:, :, None].repeat(1, 1, patch_frames, 1, 1) / patch_frames  # (C, in_chans, T, H, W)
        elif name == "position_embed.embedding":
            tensors[name] = tensor[None]  # (1, H, W, C)
        elif name.endswith("position_bias.table"):
            tensors[name] = tensor.repeat(2 * window_frames - 1, 1)  # time is the first digit of a row's number
        elif name.endswith("position_bias.mlp.0.weight"):
            tensors[name] = torch.cat((torch.zeros_like(tensor[:, :1]), tensor), 1)  # (512, axes)
    video = meta_model(config)
    video.load_state_dict({name: _own(tensor) for name, tensor in tensors.items()}, assign=True)
    if model.card is not None:
        video.card = model.card.replace(input_size=None)  # of images; how many frames a clip has is not known
    return video.eval()


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


def _own(tensor: Tensor) -> Tensor:
    """A copy that shares no memory with the model it came from."""
    return tensor.detach().clone()
