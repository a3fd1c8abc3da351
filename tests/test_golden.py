"""Equal to libraries that cannot be installed here, from files that they wrote: every size rule and both versions.

Each file holds random weights, as that library saves them, and its outputs at one or more sizes. Where a library is
known to be wrong, the test documents the difference.
"""

from __future__ import annotations

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from definition import V2, difference

from swindow import SwinConfig, SwinTransformer

MICROSOFT = {"shrink": "min", "mask_padding": False}
FORKS = {"shift_single": True, "mask_padding": False}  # the detection forks, mmdetection, pad_small_map
VIDEO = {"shrink": "axis", "mask_padding": False}

NAMES = (
    (r"^backbone\.|^swinViT\.|^encoder\.", ""),
    (r"^layers(\d+)\.0\.", lambda m: f"stages.{int(m[1]) - 1}."),
    (r"^layers\.", "stages."),
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.downsample\.", ".merge."),
    (r"\.w_msa\.", "."),
    (r"\.relative_position_bias_table", ".position_bias.table"),
    (r"\.cpb_mlp\.", ".position_bias.mlp."),
    (r"\.logit_scale", ".similarity.logit_scale"),
    (r"\.attn\.([qv])_bias", r".attn.qkv.\1_bias"),
    (r"\.ffn\.layers\.0\.0\.|\.mlp\.linear1\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.|\.mlp\.linear2\.", ".mlp.fc2."),
    (r"^norm(\d)\.", r"out_norms.\1."),
    (r"^cls_head\.fc_cls\.|^head\.fc\.", "head."),
    (r"^absolute_pos_embed", "position_embed.embedding"),
)
BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")
FOREIGN = ("neck.", "rpn_head.", "bbox_head.", "out.", "decoder.", "mask_token")


def unfolded(key, value):
    """OpenMMLab's merging counts its 4C channels as (channel, 00 01 10 11); ours as (00 10 01 11, channel)."""
    if key.endswith("reduction.weight"):
        return value.unflatten(1, (-1, 4))[:, :, [0, 2, 1, 3]].transpose(1, 2).flatten(1)
    return value.unflatten(0, (-1, 4))[:, [0, 2, 1, 3]].T.flatten()


def monai_order(value):
    """MONAI's merging of volumes takes the eight offsets in an order of its own; ours has the first axis fastest."""
    theirs = ["000", "100", "010", "001", "110", "101", "011", "111"]
    ours = ["".join(reversed(o)) for o in itertools.product("01", repeat=3)]
    return value.unflatten(-1, (8, -1))[..., [theirs.index(o) for o in ours], :].flatten(-2)


def ours_of(state, unfold=False, last_merge=None):
    """The tensors of a file under our names."""
    found = {}
    for key, value in state.items():
        if key.endswith(BUFFERS) or key.startswith(FOREIGN):
            continue
        for old, new in NAMES:
            key = re.sub(old, new, key)
        found[key] = value
    if any(re.match(r"stages\.0\.merge", key) for key in found) is False:  # merging at the start of the next stage
        pattern = r"stages\.(\d+)\.merge"
        found = {re.sub(pattern, lambda m: f"stages.{int(m[1]) - 1}.merge", k): v for k, v in found.items()}
    if unfold:
        post = found["stages.0.merge.norm.weight"].shape[0] != found["stages.0.merge.reduction.weight"].shape[1]
        kinds = (
            ("merge.reduction.weight",) if post else ("merge.reduction.weight", "merge.norm.weight", "merge.norm.bias")
        )
        found = {k: unfolded(k, v) if k.endswith(kinds) else v for k, v in found.items()}
    if last_merge is not None:
        found = {k: monai_order(v) if ".merge." in k else v for k, v in found.items() if last_merge not in k}
    if found.get("position_embed.embedding", torch.zeros(1)).ndim == 4:
        found["position_embed.embedding"] = found["position_embed.embedding"][0].movedim(0, -1)
    return found


def architecture(state, **fields):
    """What tensors under our names say of the architecture."""
    blocks = sorted({tuple(map(int, m.groups())) for k in state if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)", k))})
    depths = [sum(i == stage for stage, _ in blocks) for i in range(blocks[-1][0] + 1)]
    continuous = "stages.0.blocks.0.attn.similarity.logit_scale" in state
    bias = "similarity.logit_scale" if continuous else "position_bias.table"
    heads = [state[f"stages.{i}.blocks.0.attn.{bias}"] for i in range(len(depths))]
    proj = state["patch_embed.proj.weight"]
    norms = tuple(i for i in range(len(depths)) if f"out_norms.{i}.weight" in state)
    return SwinConfig(
        embed_dim=proj.shape[0],
        in_chans=proj.shape[1],
        patch_size=tuple(proj.shape[2:]),
        depths=tuple(depths),
        num_heads=tuple(h.shape[0] if continuous else h.shape[1] for h in heads),
        mlp_ratio=state["stages.0.blocks.0.mlp.fc1.weight"].shape[0] / proj.shape[0],
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
        patch_norm="patch_embed.norm.weight" in state,
        out_norms=bool(norms),
        out_indices=norms or None,
        **{**(V2 if continuous else {}), **fields},
    )


@pytest.fixture
def golden(shared):
    """Returns our model with a file's weights, and that file's inputs and outputs."""

    def load(name, layout=None, **fields):
        layout = layout or {}
        path = shared("data", "golden", f"{name}.pth")
        state = torch.load(path, weights_only=True)
        state = state.get("model") or state["state_dict"]
        expected = torch.load(path.with_name(f"{name}.expected.pt"), weights_only=True)
        state = ours_of(state, **layout)
        model = SwinTransformer(architecture(state, **fields)).eval()
        if "norm.weight" not in state:  # a backbone without a final norm
            state |= {k: v for k, v in model.state_dict().items() if k in ("norm.weight", "norm.bias")}
        model.load_state_dict(state, strict=True)
        return model, expected if isinstance(expected, list) else [expected]

    return load


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("microsoft_v2_w8_64", {"window_size": 8}),
        ("microsoft_v2_w6_pretrained", {"window_size": (6, 6, 6, 3), "pretrained_window_size": (4, 4, 4, 2)}),
    ],
)
@torch.no_grad()
def test_official_v2(golden, name, fields):
    model, expected = golden(name, **MICROSOFT, **fields)
    for case in expected:
        assert difference(model(case["input"]), case["logits"]) <= 2e-5
        assert difference(model.features(case["input"]), case["features"]) <= 2e-5


@pytest.mark.parametrize(
    ("name", "layout", "fields"),
    [
        ("detfork_v1", {}, {"window_size": 7}),
        ("detfork_v1_ape", {}, {"window_size": 7, "absolute_position_size": (16, 24)}),
        ("mmdet_v1", {"unfold": True}, {"window_size": 7}),
    ],
)
@torch.no_grad()
def test_detection_backbones(golden, name, layout, fields):
    model, expected = golden(name, layout, **FORKS, **fields)
    for case in expected:
        found = model.pyramid(case["input"])
        assert len(found) == len(case["features"])
        for ours, theirs in zip(found, case["features"], strict=True):
            assert difference(ours, theirs) <= 2e-5


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("mmpretrain_v1", {**MICROSOFT, "window_size": 7}),
        ("mmpretrain_v1_padsmall", {**FORKS, "window_size": 7}),
        ("mmpretrain_v2", {**MICROSOFT, "window_size": 8, "pretrained_window_size": (6, 6, 3)}),
        ("mmpretrain_v2_extranorm", {**FORKS, "window_size": (4, 8), "extra_norm_period": 2}),
    ],
)
@torch.no_grad()
def test_mmpretrain(golden, name, fields):
    model, expected = golden(name, {"unfold": True}, **fields)
    for case in expected:
        assert difference(model(case["input"]), case["logits"]) <= 2e-5
        assert difference(model.pyramid(case["input"])[-1], case["features"][-1]) <= 2e-5


@torch.no_grad()
def test_video_swin_and_its_wrong_slice(golden):
    model, expected = golden("videoswin", **VIDEO, window_size=((8, 7, 7),) * 2)
    for number, case in enumerate(expected):
        first, second = model.pyramid(case["input"])
        assert difference(first, case["stage_maps"][0]) <= 2e-5
        if number < 2:
            assert difference(second, case["stage_maps"][1]) <= 2e-5
            assert difference(model(case["input"]), case["logits"]) <= 2e-5
        else:  # 5 rows under a window of 7: the library takes index[:N, :N], offsets of other pairs
            assert difference(second, case["stage_maps"][1]) > 1e-3


@torch.no_grad()
def test_monai_volumes(golden):
    """The library returns each map after its merge, through a norm without parameters; ours has no fourth merge."""
    fields = {"window_size": 2, "merge_axes": (0, 1, 2)}
    model, expected = golden("monai_swinvit", {"last_merge": "stages.3.merge"}, **VIDEO, **fields)
    for case in expected:
        x = model.patch_embed(case["input"])
        found = [x]
        for stage in model.stages:
            _, x = stage(x)
            found.append(x)
        for ours, theirs in zip(found[:-1], case["features"], strict=False):
            assert difference(F.layer_norm(ours, ours.shape[-1:]).movedim(-1, 1), theirs) <= 2e-5
