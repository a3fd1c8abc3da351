"""Equal to torchvision, timm and transformers' SwinV2 on the same random weights: forward, and all gradients.

Every peer is *built for the size* it is compared at. Where a peer is wrong, the test documents the difference.
"""

from __future__ import annotations

import pytest
import torch

from helpers.definition import difference, randomise
from helpers.peers import (
    CLIP,
    NARROW,
    NARROW_V2,
    peer,
    timm_model,
    torchvision_2d,
    torchvision_3d,
    transformers_v2,
    under_our_names,
)
from swindow import SwinTransformer, create

TORCHVISION = {"mask_padding": False, "patch_remainder": "drop"}
TORCHVISION_3D = {"shrink": "axis", "mask_padding": False}
TIMM = {"mask_padding": False}
TRANSFORMERS = {"shrink": "min", "mask_padding": False}


def assert_equal(theirs, ours, named, x, outputs=lambda y: y):
    """Logits, the input's gradient and every parameter's gradient; both models in float64.

    The peers keep SwinV2's coordinates in fp32, so that they are not exact in float64.
    """
    near = 1e-6 if ours.config.position_bias == "continuous" else 1e-9
    theirs, ours = randomise(theirs).double().eval(), ours.double().eval()
    ours.load_state_dict(named(theirs.state_dict()), strict=True)
    inputs = [x.double().requires_grad_() for _ in range(2)]
    wanted, found = outputs(theirs(inputs[0])), ours(inputs[1])
    assert difference(found, wanted) <= near
    cotangent = torch.randn_like(wanted)
    wanted.backward(cotangent)
    found.backward(cotangent)
    assert difference(inputs[1].grad, inputs[0].grad) <= 10 * near
    gradients = named({name: p.grad for name, p in theirs.named_parameters()})
    assert set(gradients) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert difference(parameter.grad, gradients[name]) <= 10 * near, name


# --- torchvision ------------------------------------------------------------------------------------------------------

TORCHVISION_NAMES = {
    "images": under_our_names("torchvision, Swin"),
    "images, v2": under_our_names("torchvision, SwinV2"),
    "video": under_our_names("torchvision, Swin for video"),
}


def torchvision_names(theirs):
    v2 = any("logit_scale" in key for key in theirs)
    return TORCHVISION_NAMES["images, v2" if v2 else "images"](theirs)


SIZES = [(56, 56), (57, 79), (61, 259), (28, 28), (20, 100)]  # fits, is padded, pixels are dropped, one window, less


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("config", [NARROW, NARROW.replace(window_size=4), NARROW_V2, NARROW_V2.replace(window_size=5)])
def test_torchvision(config, size):
    assert_equal(
        torchvision_2d(config),
        SwinTransformer(config.replace(**TORCHVISION)),
        torchvision_names,
        torch.randn(2, 3, *size),
    )


@pytest.mark.parametrize("size", [(8, 24, 24), (7, 30, 41), (4, 24, 48), (2, 24, 24)])
def test_torchvision_video(size):
    """Maps no axis of which but time is smaller than its window: there its slice of the bias is right."""
    ours = SwinTransformer(CLIP.replace(**TORCHVISION_3D))
    assert_equal(torchvision_3d(CLIP), ours, TORCHVISION_NAMES["video"], torch.randn(1, 3, *size))


@torch.no_grad()
def test_torchvision_video_slices_the_bias_wrongly_where_height_or_width_shrinks():
    theirs = randomise(torchvision_3d(CLIP)).double().eval()
    ours = SwinTransformer(CLIP.replace(**TORCHVISION_3D)).double().eval()
    ours.load_state_dict(TORCHVISION_NAMES["video"](theirs.state_dict()))
    x = torch.randn(1, 3, 8, 8, 24, dtype=torch.float64)  # 2 rows of tokens under a window of 3
    assert difference(ours(x), theirs(x)) > 1e-3
    padded = SwinTransformer(CLIP).double().eval()  # ours never shrinks, and masks what it pads: the definition
    padded.load_state_dict(ours.state_dict())
    assert difference(ours.pyramid(x)[0], padded.pyramid(x)[0]) <= 1e-9


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("swin_s", "swin_b", "swin_v2_s", "swin_v2_b")]
LARGE_VIDEO = [pytest.param(name, (4, 224, 224), marks=pytest.mark.slow) for name in ("small", "base")]


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t", *LARGE])
@torch.no_grad()
def test_torchvision_whole_models(name):
    models = peer("torchvision.models")
    letters = {"t": "tiny", "s": "small", "b": "base"}
    size = 256 if "v2" in name else 224
    variant = f"swinv2_{letters[name[-1]]}_w8" if "v2" in name else f"swin_{letters[name[-1]]}"
    theirs, ours = randomise(models.get_model(name)).eval(), create(variant).eval()
    ours.load_state_dict(torchvision_names(theirs.state_dict()), strict=True)
    x = torch.randn(1, 3, size, size)
    assert difference(ours(x), theirs(x)) <= 2e-5


@pytest.mark.parametrize(("name", "size"), [("tiny", (7, 224, 200)), *LARGE_VIDEO])
@torch.no_grad()
def test_torchvision_whole_video_models(name, size):
    theirs = randomise(peer("torchvision.models").get_model(f"swin3d_{name[0]}")).eval()
    ours = create(f"swin3d_{name}", **TORCHVISION_3D).eval()
    ours.load_state_dict(TORCHVISION_NAMES["video"](theirs.state_dict()), strict=True)
    x = torch.randn(1, 3, *size)
    assert difference(ours(x), theirs(x)) <= 2e-5


# --- timm -------------------------------------------------------------------------------------------------------------


timm_names = under_our_names("timm, from 0.8 on (Swin, SwinV2 and S3)")


@pytest.mark.parametrize(
    ("size", "window"),
    [((56, 56), 7), ((56, 112), 7), ((112, 56), 7), ((64, 96), 4), ((40, 80), 5), ((28, 28), 7), ((24, 24), 6)],
)
@pytest.mark.parametrize("config", [NARROW, NARROW_V2])
def test_timm_where_it_does_not_pad_what_it_shifts(config, size, window):
    """Odd and even windows, square and not; in the last two the second map is smaller than the window."""
    config = config.replace(window_size=window)
    theirs = timm_model(config, size)
    windows = tuple(stage.blocks[0].window_size for stage in theirs.layers)  # it shrinks them when it is built
    ours = SwinTransformer(config.replace(window_size=windows, **TIMM))
    assert_equal(theirs, ours, timm_names, torch.randn(2, 3, *size))


@torch.no_grad()
def test_timm_rolls_before_it_pads_and_lets_opposite_borders_mix():
    """timm#2438: on a 15x15 map its last row of tokens depends on the first; ours, and torchvision's, does not."""
    config = NARROW.replace(depths=(2,), num_heads=(1,), window_size=7)
    theirs = randomise(timm_model(config, (60, 60))).double().eval()
    ours = SwinTransformer(config.replace(**TIMM)).double().eval()
    ours.load_state_dict(timm_names(theirs.state_dict()), strict=True)
    x = torch.randn(1, 3, 60, 60, dtype=torch.float64)
    top = x.clone()
    top[:, :, :4] += torch.randn(4, 60)

    def last_row_moves(stages):
        return bool((stages(top) - stages(x)).abs()[:, 14].max() > 1e-9)

    assert last_row_moves(lambda image: theirs.layers(theirs.patch_embed(image)))
    assert not last_row_moves(lambda image: ours.stages[0].blocks(ours.patch_embed(image)))


# --- transformers, SwinV2 ---------------------------------------------------------------------------------------------

transformers_v2_names = under_our_names("transformers, SwinV2")


@pytest.mark.parametrize(
    ("side", "window"), [(64, 8), (64, 4), (64, 5), (32, 16), (60, 5), (88, 7), (40, 6), (24, 5), (32, 1)]
)
def test_transformers_v2(side, window):
    """Multiples and not, odd and even windows, maps smaller than the window."""
    maps = [side // 4, side // 4 // 2]  # those of its config, which rounds down
    windows = tuple(min(window, m) for m in maps)  # settled when it is built, coordinates too
    ours = SwinTransformer(NARROW_V2.replace(window_size=windows, **TRANSFORMERS))
    x = torch.randn(2, 3, side, side)
    assert_equal(transformers_v2(side, window), ours, transformers_v2_names, x, lambda y: y.logits)


@torch.no_grad()
def test_transformers_v2_settles_its_windows_for_maps_that_it_rounds_down():
    """60 pixels give a second map of 8 tokens (15, padded, halved); it counts 7, and builds windows of 7 unshifted."""
    theirs = randomise(transformers_v2(60, 8)).double().eval()
    x = torch.randn(2, 3, 60, 60, dtype=torch.float64)
    found = []
    for window in (8, 7):
        ours = SwinTransformer(NARROW_V2.replace(window_size=(8, window), **TRANSFORMERS)).double().eval()
        ours.load_state_dict(transformers_v2_names(theirs.state_dict()))
        for block in ours.stages[1].blocks:
            block.shift = (0, 0)
        found.append(difference(ours(x), theirs(x).logits))
    assert found[0] > 1e-3  # one window of 8 covers the map, as the rule has it
    assert found[1] <= 1e-6  # two by two windows of 7, with padding
