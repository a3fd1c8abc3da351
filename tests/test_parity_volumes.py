"""Equal to MONAI's Swin encoder for volumes (and slices) on the same random weights: every map, and all gradients."""

from __future__ import annotations

import pytest
import torch

from helpers.definition import difference, randomise
from helpers.peers import our_maps, peer, under_our_names
from swindow import SwinConfig, SwinTransformer

TITLES = {
    (3, "merging"): "MONAI, SwinUNETR's encoder",
    (3, "mergingv2"): "MONAI, SwinUNETR's encoder with downsample='mergingv2'",
    (2, "mergingv2"): "MONAI, SwinUNETR's encoder for images",
}


def ours_and_theirs(axes, merging, chans, window):
    monai = peer("monai.networks.nets.swin_unetr")
    peer("einops")
    theirs = monai.SwinTransformer(
        in_chans=chans,
        embed_dim=8,
        window_size=(window,) * axes,
        patch_size=(2,) * axes,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 2, 4),
        spatial_dims=axes,
        downsample=merging,
    )
    config = SwinConfig(
        embed_dim=8,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 2, 4),
        window_size=window,
        patch_size=(2,) * axes,
        merge_axes=tuple(range(axes)),
        in_chans=chans,
        num_classes=0,
        patch_norm=False,
        final_merge=True,
        drop_path_rate=0.0,
        shrink="axis",
        mask_padding=False,
    )
    return randomise(theirs).double().eval(), SwinTransformer(config).double().eval()


def renamed(tensors, axes, merging):
    """Their tensors under our names, in our order of neighbours."""
    encoder = {f"swinViT.{key}": value for key, value in tensors.items()}
    return under_our_names(TITLES[axes, merging])(encoder)


@pytest.mark.parametrize("merging", ["merging", "mergingv2"])
@pytest.mark.parametrize(
    ("size", "chans", "window"),
    [((32, 32, 32), 1, 2), ((19, 22, 17), 1, 2), ((8, 32, 16), 4, 2), ((34, 30, 22), 2, 3), ((32, 48, 48), 1, 4)],
)
def test_monai_volumes(size, chans, window, merging):
    """Where a map shrinks the window on its first axis alone, or on none: there its slice of the bias is right."""
    theirs, ours = ours_and_theirs(3, merging, chans, window)
    ours.load_state_dict({**ours.state_dict(), **renamed(theirs.state_dict(), 3, merging)})
    inputs = [torch.randn(1, chans, *size, dtype=torch.float64).requires_grad_() for _ in range(1)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    expected, found = theirs(inputs[0])[:-1], our_maps(ours, inputs[1])[:-1]  # the last stage's windows shrink wrongly
    cotangents = [torch.randn_like(m) for m in expected]
    for a, b in zip(found, expected, strict=True):
        assert difference(a, b) <= 1e-9
    torch.autograd.backward(expected, cotangents)
    torch.autograd.backward(found, cotangents)
    assert difference(inputs[1].grad, inputs[0].grad) <= 1e-9
    gradients = renamed({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}, 3, merging)
    reached = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert set(gradients) == set(reached)
    for name, gradient in reached.items():
        assert difference(gradient, gradients[name]) <= 1e-9, name


@torch.no_grad()
def test_monai_slices():
    theirs, ours = ours_and_theirs(2, "mergingv2", 1, 4)
    ours.load_state_dict({**ours.state_dict(), **renamed(theirs.state_dict(), 2, "mergingv2")})
    x = torch.randn(2, 1, 70, 90, dtype=torch.float64)
    for a, b in zip(our_maps(ours, x), theirs(x), strict=True):
        assert difference(a, b) <= 1e-9


@torch.no_grad()
def test_monai_slices_the_bias_wrongly_where_another_axis_than_the_first_shrinks():
    theirs, ours = ours_and_theirs(3, "mergingv2", 1, 4)
    ours.load_state_dict({**ours.state_dict(), **renamed(theirs.state_dict(), 3, "mergingv2")})
    x = torch.randn(1, 1, 16, 16, 6, dtype=torch.float64)  # 3 tokens under a window of 4 on the last axis
    expected, found = theirs(x), our_maps(ours, x)
    assert difference(found[0], expected[0]) <= 1e-9
    assert difference(found[1], expected[1]) > 1e-3
    padded = SwinTransformer(ours.config.replace(shrink=None, mask_padding=True)).double().eval()
    padded.load_state_dict(ours.state_dict())  # never shrinks, and masks what it pads: the definition
    assert difference(found[1], our_maps(padded, x)[1]) <= 1e-9
