"""Equal to transformers, run beside it.

Equal means max|a - b| / max|b| <= 2e-5 in fp32 and 1e-9 in float64, gradients 1e-4, with every parameter random.
"""

import pytest
import torch

from helpers.definition import difference, randomise
from helpers.peers import NARROW, peer, under_our_names
from swindow import SwinTransformer
from swindow.variants import variant_config

TRANSFORMERS_RULE = {"shrink": "min", "shift_single": False, "mask_padding": False}
from_transformers = under_our_names("state dicts of transformers 5, Swin")


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
