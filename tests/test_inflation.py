"""Video models from image models: a clip of one image gives what the image gave."""

from __future__ import annotations

import pytest
import torch

import swindow
from helpers.definition import V2, difference, randomise
from swindow import ConfigError, SwinConfig, SwinTransformer, inflate

IMAGE = SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=(3, (4, 2)), num_classes=5)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 4, 9])
@pytest.mark.parametrize(
    "config",
    [
        IMAGE,
        IMAGE.replace(**V2),
        IMAGE.replace(**V2, pretrained_window_size=6, extra_norm_period=2),
        IMAGE.replace(absolute_position_size=(10, 13), out_norms=True, patch_norm=False),
    ],
)
def test_a_clip_of_one_image_gives_the_logits_of_the_image(config, frames):
    """Over time every query meets the same keys again with the same bias; padding is masked, so it does not count."""
    model = randomise(SwinTransformer(config)).double().eval()
    model.metadata = {"class_names": list("abcde")}
    video = inflate(model, window_frames=3, patch_frames=2)
    x = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    still = x[:, :, None].repeat(1, 1, 2 * frames, 1, 1)  # a patch's frames are all there
    assert difference(video(still), model(x)) <= 1e-9
    for ours, image in zip(video.pyramid(still), model.pyramid(x), strict=True):
        assert difference(ours, image[:, :, None].expand_as(ours)) <= 1e-9
    assert video.metadata == model.metadata
    assert not video.training


def test_it_has_the_shape_of_the_published_video_models_and_learns_time():
    video = inflate(swindow.create("swin_tiny", num_classes=400))
    published = swindow.create("swin3d_tiny", num_classes=400)
    shapes = {name: p.shape for name, p in published.named_parameters()}
    assert {name: p.shape for name, p in video.named_parameters()} == shapes
    assert video.config.replace(drop_path_rate=0.0) == published.config.replace(drop_path_rate=0.0)
    x = torch.randn(1, 3, 4, 32, 32)
    video(x).sum().backward()
    table = video.stages[0].blocks[0].attn.position_bias.table
    assert table.grad.view(15, 169, 3).abs().sum((1, 2)).count_nonzero() > 1  # each offset in time has its own number


def test_the_image_model_is_left_alone():
    model = SwinTransformer(IMAGE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    video = inflate(model)
    with torch.no_grad():
        for parameter in video.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "frames", "message"),
    [
        (IMAGE.replace(patch_size=(2, 4, 4), window_size=2, merge_axes=(1, 2)), 2, "3 axes"),
        (IMAGE, 0, "at least 1"),
    ],
)
def test_wrong_calls_are_refused(config, frames, message):
    with pytest.raises(ConfigError, match=message):
        inflate(SwinTransformer(config), window_frames=frames)
