import dataclasses
import json
import re

import pytest

import swindow
from swindow import SwinConfig, list_variants
from swindow.errors import ConfigError, SwindowError
from swindow.variants import ELSEWHERE, image_size, variant_config

TINY = {"depths": (2, 2), "num_heads": (1, 2), "embed_dim": 8}


def test_shorthands_are_expanded():
    config = SwinConfig(depths=[2, 2], num_heads=[3, 6], window_size=[7, (4, 5)], patch_size=2)
    assert config.depths == (2, 2)
    assert config.window_size == ((7, 7), (4, 5))
    assert config.patch_size == (2, 2)
    assert config.merge_axes == (0, 1)
    assert (config.ndim, config.num_stages) == (2, 2)
    assert [config.width(i) for i in range(2)] == [96, 192]


def test_heads_of_any_number_of_channels():
    assert SwinConfig(**TINY).head_dims == (8, 8)
    config = SwinConfig(embed_dim=64, depths=(1, 1), num_heads=(6, 5), head_dim=10)  # which divide no width
    assert config.head_dim == config.head_dims == (10, 10)
    assert config.replace(head_dim=[3, 4]).head_dims == (3, 4)
    assert SwinConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_three_axes_merge_height_and_width_unless_told_otherwise():
    clip = SwinConfig(**TINY, patch_size=(2, 4, 4), window_size=((8, 7, 7), 3))
    assert clip.window_size == ((8, 7, 7), (3, 3, 3))
    assert clip.merge_axes == (1, 2)
    assert clip.replace(merge_axes=(0, 1, 2)).merge_axes == (0, 1, 2)
    assert SwinConfig(**TINY, patch_size=(4,)).merge_axes == (0,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": 2}, "depths: got 2, expected a tuple of ints of at least 1"),
        ({"depths": ()}, "depths: got (), expected a tuple"),
        ({"depths": (2, 0)}, "depths: got (2, 0)"),
        ({"depths": (2, 2.0)}, "depths: got (2, 2.0)"),
        ({"depths": (2, True)}, "depths: got (2, True)"),
        ({"depths": "22"}, "depths: got '22'"),
        ({"num_heads": (1,)}, "num_heads: got (1,), expected a tuple of 2"),
        ({"num_heads": (1, 2, 4)}, "num_heads: got (1, 2, 4), expected a tuple of 2"),
        ({"num_heads": (1, 3)}, "num_heads[1]: got 3, which does not divide the 16 channels of stage 1"),
        ({"head_dim": 0}, "head_dim: got (0, 0), expected a tuple of 2 of ints of at least 1"),
        ({"head_dim": True}, "head_dim: got (True, True)"),
        ({"head_dim": (4, 4, 4)}, "head_dim: got (4, 4, 4), expected a tuple of 2"),
        ({"head_dim": 4.0}, "head_dim: got 4.0"),
        ({"patch_size": 0}, "patch_size: got (0, 0)"),
        ({"patch_size": 4.0}, "patch_size: got 4.0"),
        ({"patch_size": True}, "patch_size: got (True, True)"),
        ({"window_size": 0}, "window_size[0]: got (0, 0), expected a tuple of 2 of ints of at least 1"),
        ({"window_size": "7"}, "window_size: got '7', expected one int or one entry for each of the 2 stages"),
        ({"window_size": (7, 7, 7)}, "window_size: got (7, 7, 7), expected one int or one entry"),
        ({"window_size": (7, (7, 7, 7))}, "window_size[1]: got (7, 7, 7), expected a tuple of 2"),
        ({"window_size": (7, 7.0)}, "window_size[1]: got 7.0"),
        ({"absolute_position_size": (14,)}, "absolute_position_size: got (14,), expected a tuple of 2"),
        ({"absolute_position_size": 14}, "absolute_position_size: got 14"),
        ({"merge_axes": (1, 2)}, "merge_axes: got (1, 2), expected different axes below 2"),
        ({"merge_axes": (-1,)}, "merge_axes: got (-1,)"),
        ({"merge_axes": ()}, "merge_axes: got ()"),
        ({"embed_dim": 0}, "embed_dim: got 0, expected an int of at least 1"),
        ({"embed_dim": "96"}, "embed_dim: got '96'"),
        ({"embed_dim": 8.0}, "embed_dim: got 8.0"),
        ({"in_chans": 0}, "in_chans: got 0"),
        ({"in_chans": True}, "in_chans: got True"),
        ({"num_classes": -1}, "num_classes: got -1, expected an int of at least 0"),
        ({"num_classes": None}, "num_classes: got None"),
        ({"drop_rate": 1.0}, "drop_rate: got 1.0, expected a fraction from 0 up to, not including, 1"),
        ({"attn_drop_rate": -0.1}, "attn_drop_rate: got -0.1"),
        ({"drop_path_rate": "0.1"}, "drop_path_rate: got '0.1'"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate: got nan"),
        ({"mlp_ratio": 0}, "mlp_ratio: got 0, expected a finite number above 0"),
        ({"mlp_ratio": None}, "mlp_ratio: got None"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio: got nan"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio: got inf"),
        ({"mlp_ratio": 0.001}, "mlp_ratio: got 0.001, which leaves no hidden channel"),
        ({"norm_eps": float("nan")}, "norm_eps: got nan"),
        ({"patch_size": (2, 2, 2, 2)}, "expected 1 to 3 axes"),
        ({"merge_axes": (1, 1)}, "expected different axes"),
        ({"norm_eps": -1e-5}, "norm_eps: got -1e-05"),
        ({"qkv_bias": 1}, "qkv_bias: got 1, expected True, False or 'qv'"),
        ({"patch_norm": None}, "patch_norm: got None"),
        ({"shift_single": "yes"}, "shift_single: got 'yes'"),
        ({"mask_padding": 0}, "mask_padding: got 0"),
        ({"shrink": "both"}, "shrink: got 'both', expected None, 'axis' or 'min'"),
        ({"shrink": True}, "shrink: got True"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_got_and_expected(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        SwinConfig(**{**TINY, **fields})
    assert isinstance(caught.value, SwindowError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda **fields: SwinConfig.from_dict(fields),
        lambda **fields: SwinConfig().replace(**fields),
        lambda **fields: variant_config("swin_tiny", **fields),
    ],
    ids=["from_dict", "replace", "variant_config"],
)
def test_an_unknown_field_names_the_nearest_and_all(make):
    with pytest.raises(
        ConfigError, match=r"'window' is no field of SwinConfig \(did you mean 'window_size'.*fields: embed_dim, depths"
    ):
        make(window=7)
    with pytest.raises(ConfigError, match=r"'num_clases' .*\(did you mean 'num_classes'"):
        make(num_clases=7)


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown variant 'swin_tinny' \(did you mean 'swin_tiny'"):
        variant_config("swin_tinny")
    with pytest.raises(ConfigError, match=r"unknown variant 'resnet50'; 'swindow variants' lists all \d+"):
        variant_config("resnet50")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("swin_tiny_patch4_window7_224", "swin_tiny"),
        ("swin_tiny_patch4_window7_224.ms_in1k", "swin_tiny"),
        ("swin_base_patch4_window12_384", "swin_base_w12_384"),
        ("swin_large_patch4_window12_384_22k.pth", "swin_large_w12_384"),
        ("swinv2_tiny_window8_256", "swinv2_tiny_w8"),
        ("swinv2_base_window12_192.ms_in22k", "swinv2_base_w12_192"),
        ("swinv2_base_patch4_window12to16_192to256_22kto1k_ft", "swinv2_base_w12to16"),
        ("microsoft/swin-tiny-patch4-window7-224", "swin_tiny"),
        ("microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft", "swinv2_large_w12to24"),
        ("swin_t", "swin_tiny"),
        ("swin_v2_b", "swinv2_base_w8"),
        ("Swin_S_Weights.IMAGENET1K_V1", "swin_small"),
        ("swin3d_b", "swin3d_base"),
        ("swin_base_patch244_window877_kinetics400_1k", "swin3d_base"),
    ],
)
def test_names_of_other_libraries_are_suggested(theirs, ours):
    with pytest.raises(ConfigError, match=rf"{re.escape(theirs)}' \(did you mean '{ours}'\?\)"):
        variant_config(theirs)


def test_suggestions_are_variants():
    assert set(ELSEWHERE.values()) <= set(list_variants())
    assert not set(ELSEWHERE) & set(list_variants())


@pytest.mark.parametrize("value", [True, False])
def test_pretrained_is_no_field(value):
    with pytest.raises(
        ConfigError, match=r"'pretrained' .* an argument of swindow\.create; .*swin_tiny\.ms_in1k"
    ) as caught:
        swindow.load({}, pretrained=value)
    assert "pretrained_window_size" not in str(caught.value)


def test_a_config_is_frozen_and_can_be_compared_and_hashed():
    config = SwinConfig(**TINY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.embed_dim = 16
    assert config == SwinConfig(**TINY)
    assert hash(config) == hash(SwinConfig(**TINY))
    assert config != config.replace(embed_dim=16)
    assert config.embed_dim == 8


VIDEO = SwinConfig(
    **TINY, patch_size=(2, 4, 4), window_size=((8, 7, 7), (4, 7, 7)), absolute_position_size=(4, 8, 8), shrink="axis"
)


@pytest.mark.parametrize("config", [*map(variant_config, list_variants()), VIDEO], ids=[*list_variants(), "video"])
def test_a_config_survives_json(config):
    again = SwinConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)  # tuples all the way down, no list is left


def test_every_variant_has_a_size_and_takes_any_field():
    assert {"swin_nano", "swin_micro", "swin_tiny", "swin_small", "swin_base", "swin_large"} <= set(list_variants())
    for name in list_variants():
        assert image_size(name) in (32, 192, 224, 256, 384)
        assert variant_config(name, num_classes=3, in_chans=1).num_classes == 3
    assert image_size("swin_tiny") == 224
    assert image_size("swin_nano") == 32
    assert image_size("swin_base_w12_384") == 384


@pytest.mark.parametrize(
    ("name", "embed_dim", "depths", "num_heads", "window"),
    [
        ("swin_tiny", 96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
        ("swin_small", 96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
        ("swin_base", 128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
        ("swin_large", 192, (2, 2, 18, 2), (6, 12, 24, 48), 7),
        ("swin_base_w12_384", 128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
        ("swin_large_w12_384", 192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
    ],
)
def test_variants_are_those_of_the_paper(name, embed_dim, depths, num_heads, window):
    config = variant_config(name)
    assert (config.embed_dim, config.depths, config.num_heads) == (embed_dim, depths, num_heads)
    assert config.window_size == ((window, window),) * 4
    assert (config.patch_size, config.mlp_ratio, config.qkv_bias, config.patch_norm) == ((4, 4), 4.0, True, True)
    assert (config.shrink, config.shift_single, config.mask_padding) == (None, False, True)


def test_widths_are_counted_as_in_an_index():
    config = SwinConfig(embed_dim=96)
    assert [config.width(i) for i in (0, 3, -1, -4)] == [96, 768, 768, 96]
    assert all(isinstance(config.width(i), int) for i in range(-4, 4))
    for stage in (4, -5):
        with pytest.raises(ConfigError, match=f"got stage {stage}, expected one of 4"):
            config.width(stage)


def test_errors_of_windows_say_what_would_do():
    for name, window in (("swin3d_tiny", (4, 4, 4)), ("swin_tiny", (8, 4))):
        with pytest.raises(ConfigError) as caught:
            variant_config(name, window_size=window)
        advice = f"try window_size={(window,) * 4}"
        assert advice in str(caught.value)
        assert variant_config(name, window_size=(window,) * 4).window_size == (window,) * 4
    with pytest.raises(
        ConfigError, match=r"patch_size \(2, 2\) of 2 axes.*try another, for instance patch_size=\(2, 2, 2\)"
    ):
        variant_config("swin3d_tiny", patch_size=2)
    assert variant_config("swin3d_tiny", patch_size=(2, 2, 2)).patch_size == (2, 2, 2)
