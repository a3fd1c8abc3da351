"""Equal to others: transformers, run beside it, and files that the official code wrote.

Equal means max|a - b| / max|b| <= 2e-5 in fp32 and 1e-9 in float64, gradients 1e-4, with every parameter random.
"""

import math
import re

import pytest
import torch
from definition import difference, randomise
from peers import peer

from swindow import SwinConfig, SwinTransformer
from swindow.variants import variant_config

# --- transformers -----------------------------------------------------------------------------------------------------

TRANSFORMERS_NAMES = {
    "swin.embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "swin.embeddings.norm.": "patch_embed.norm.",
    "swin.encoder.layers.": "stages.",
    ".downsample.": ".merge.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".attention.o_proj.": ".attn.proj.",
    ".attention.relative_position_bias.relative_position_bias_table": ".attn.position_bias.table",
    "swin.layernorm.": "norm.",
    "classifier.": "head.",
}
TRANSFORMERS_RULE = {"shrink": "min", "shift_single": False, "mask_padding": False}


def from_transformers(theirs):
    """Their tensors under our names; works for weights and for gradients."""
    ours = {}
    for name, value in theirs.items():
        for old, new in TRANSFORMERS_NAMES.items():
            name = name.replace(old, new)
        split = re.fullmatch(r"(.*)\.attention\.([qkv])_proj\.(weight|bias)", name)
        if split:
            prefix, letter, kind = split.groups()
            ours.setdefault(f"{prefix}.attn.qkv.{kind}", {})[letter] = value
        else:
            ours[name] = value
    return {k: torch.cat([v["q"], v["k"], v["v"]]) if isinstance(v, dict) else v for k, v in ours.items()}


def transformers_twin(config, size):
    """Their model for our config, every parameter random, and ours with the same weights."""
    transformers = peer("transformers")
    theirs = transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=size,
            patch_size=config.patch_size[0],
            num_channels=config.in_chans,
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.num_heads),
            window_size=config.window_size[0][0],
            mlp_ratio=config.mlp_ratio,
            num_labels=config.num_classes,
        )
    )
    theirs = randomise(theirs).eval()
    ours = SwinTransformer(config.replace(**TRANSFORMERS_RULE)).eval()
    ours.load_state_dict(from_transformers(theirs.state_dict()), strict=True)
    return theirs, ours


def test_swin_tiny_is_that_of_transformers():
    config = variant_config("swin_tiny")
    theirs, ours = transformers_twin(config, 224)
    x = torch.randn(1, 3, 224, 224)
    own_rule = SwinTransformer(config).eval()  # at 224 every window fits, so that the size rule makes no difference
    own_rule.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        wanted = theirs(x).logits
        assert difference(ours(x), wanted) <= 2e-5
        assert difference(own_rule(x), wanted) <= 2e-5


NARROW = SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=7, num_classes=5, drop_path_rate=0.0)


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((56, 56), 7),  # maps 14x14 and 7x7: the second is one window, unshifted
        ((57, 79), 7),  # 15x20 and 8x10: pixels and both maps are padded, both shifted
        ((53, 99), 7),  # 14x25 and 7x13: the second is padded, and unshifted on both axes
        ((36, 50), 4),  # 9x13 and 5x7, an even window
        ((24, 24), 3),  # 6x6 and 3x3
    ],
)
def test_a_narrow_model_is_that_of_transformers_with_all_gradients(size, window):
    # Their model changes when it is called, so that every size has a fresh one.
    theirs, ours = transformers_twin(NARROW.replace(window_size=window), size)
    theirs, ours = theirs.double(), ours.double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    wanted, found = theirs(inputs[0]).logits, ours(inputs[1])
    assert difference(found, wanted) <= 1e-9
    cotangent = torch.randn_like(wanted)
    wanted.backward(cotangent)
    found.backward(cotangent)
    assert difference(inputs[1].grad, inputs[0].grad) <= 1e-9
    gradients = from_transformers({name: p.grad for name, p in theirs.named_parameters()})
    assert set(gradients) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert difference(parameter.grad, gradients[name]) <= 1e-9, name


@torch.no_grad()
def test_a_call_changes_what_transformers_returns_later_and_never_what_we_do():
    """At 56 pixels one window covers its second map; it then drops the shift there for good."""
    theirs, ours = transformers_twin(NARROW, (112, 112))
    x, small = torch.randn(1, 3, 112, 112), torch.randn(1, 3, 56, 56)
    before, same = theirs(x).logits, ours(x)
    theirs(small), ours(small)
    assert difference(theirs(x).logits, before) > 2e-5  # more than what counts as equal
    assert torch.equal(ours(x), same)


# --- the official code, from files ------------------------------------------------------------------------------------

OFFICIAL_NAMES = {
    "layers.": "stages.",
    ".downsample.": ".merge.",
    ".relative_position_bias_table": ".position_bias.table",
    "absolute_pos_embed": "position_embed.embedding",
}


def from_official(theirs, grid):
    """The official tensors under our names, without the buffers."""
    ours = {}
    for name, value in theirs.items():
        if name.endswith(("relative_position_index", "attn_mask")):
            continue
        if name == "absolute_pos_embed":
            value = value.view(*grid, -1)
        for old, new in OFFICIAL_NAMES.items():
            name = name.replace(old, new)
        ours[name] = value
    return ours


def official_config(state, grid):
    """What an official file says of its architecture; the windows come from the sizes of the tables."""
    ends = sorted({tuple(map(int, re.findall(r"\d+", k)[:2])) for k in state if ".blocks." in k})
    depths = [sum(stage == i for stage, _ in ends) for i in range(ends[-1][0] + 1)]
    tables = [state[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(len(depths))]
    weight = state["patch_embed.proj.weight"]
    return SwinConfig(
        embed_dim=weight.shape[0],
        in_chans=weight.shape[1],
        patch_size=tuple(weight.shape[2:]),
        depths=tuple(depths),
        num_heads=tuple(table.shape[1] for table in tables),
        window_size=tuple((math.isqrt(table.shape[0]) + 1) // 2 for table in tables),
        mlp_ratio=state["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / weight.shape[0],
        num_classes=state["head.weight"].shape[0],
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state,
        patch_norm="patch_embed.norm.weight" in state,
        absolute_position_size=grid if "absolute_pos_embed" in state else None,
        shrink="min",
        mask_padding=False,
    )


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("microsoft_v1_w6_96", (6, 6, 6, 3)),
        ("microsoft_v1_ape_rect", (7, 7)),
        ("microsoft_v1_nonorm_noqkvbias", (7, 7)),
    ],
)
def test_official_files_give_the_official_results(name, windows, shared):
    state = torch.load(shared("data", "golden", f"{name}.pth"), weights_only=True)["model"]
    expected = torch.load(shared("data", "golden", f"{name}.expected.pt"), weights_only=True)
    x = expected["input"]
    grid = tuple(size // 4 for size in x.shape[2:])
    config = official_config(state, grid)
    assert config.window_size == tuple((w, w) for w in windows)
    model = SwinTransformer(config).eval()
    model.load_state_dict(from_official(state, grid), strict=True)
    with torch.no_grad():
        assert difference(model(x), expected["logits"]) <= 2e-5
        assert difference(model.features(x), expected["features"]) <= 2e-5
