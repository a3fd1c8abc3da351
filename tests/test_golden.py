"""Equal to libraries that cannot be installed here, from files that they wrote: every layout, size rule and version.

Each file holds random weights, as that library saves them, and its outputs at one or more sizes. What is loaded is
recognised from the file alone, but for what no file tells; what is written back is the file, bit for bit. Where a
library is known to be wrong, the test documents the difference.
"""

from __future__ import annotations

import pytest
import torch

import swindow
from helpers.definition import difference
from helpers.peers import our_maps

PAD_SMALL_MAP = {"shrink": None, "shift_single": True}  # mmpretrain's setting of that name, which no file tells
TRAINED = {  # what a v2 file's coordinates tell
    "microsoft_v2_w6_pretrained": ((4, 4), (4, 4), (4, 4), (2, 2)),
    "mmpretrain_v2": ((6, 6), (6, 6), (3, 3)),
}
SIZES = {  # what a file's masks tell
    "microsoft_v1_w6_96": (96, 96),
    "microsoft_v1_ape_rect": (56, 112),
    "microsoft_v1_nonorm_noqkvbias": (56, 56),
    "microsoft_v2_w6_pretrained": (96, 96),
    "microsoft_v2_w8_64": (128, 128),
    "simmim_pretrain": (96, 96),
    "simmim_v2_pretrain": (96, 96),
}
WINDOWS = {
    "microsoft_v1_w6_96": ((6, 6), (6, 6), (6, 6), (3, 3)),
    "microsoft_v2_w6_pretrained": ((6, 6), (6, 6), (6, 6), (3, 3)),
    "mmpretrain_v2_extranorm": ((4, 4), (8, 8)),
    "videoswin": ((8, 7, 7),) * 2,
    "monai_swinvit": ((2, 2, 2),) * 4,
}


@pytest.fixture
def golden(shared, tmp_path):
    """Returns the model of a file, and that file's inputs and outputs; the file written back is the same."""

    def load(name, layout, **config):
        path = shared("data", "golden", f"{name}.pth")
        expected = torch.load(path.with_name(f"{name}.expected.pt"), weights_only=True)
        model = swindow.load(path, config=config)
        assert model.load_report.layout == layout
        assert model.config.pretrained_window_size == TRAINED.get(name)
        assert (model.card.input_size if model.card else None) == SIZES.get(name)
        assert model.config.window_size == WINDOWS.get(name, model.config.window_size)
        swindow.save(model, tmp_path / "again.pth", layout)
        again = torch.load(tmp_path / "again.pth", weights_only=True)
        same(torch.load(path, weights_only=True), again, model.load_report)
        return model, expected if isinstance(expected, list) else [expected]

    return load


def same(theirs, ours, report):
    """Every tensor of a file, buffers too, but for those that belong to another model."""
    theirs = theirs.get("model") or theirs["state_dict"]
    foreign = {key for key in theirs if report.dropped.get(key, "").startswith("outside")}
    assert set(ours) == set(theirs) - foreign
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype, key
        if key.endswith("relative_coords_table"):
            torch.testing.assert_close(tensor, theirs[key], rtol=0, atol=1e-6)
        else:
            assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize(
    "name",
    [
        "microsoft_v1_w6_96",
        "microsoft_v1_ape_rect",
        "microsoft_v1_nonorm_noqkvbias",
        "microsoft_v2_w8_64",
        "microsoft_v2_w6_pretrained",
    ],
)
@torch.no_grad()
def test_official(golden, name):
    model, expected = golden(name, "microsoft")
    for case in expected:
        assert difference(model(case["input"]), case["logits"]) <= 2e-5
        assert difference(model.features(case["input"]), case["features"]) <= 2e-5


@pytest.mark.parametrize("name", ["simmim_pretrain", "simmim_v2_pretrain"])
@torch.no_grad()
def test_simmim(golden, name):
    """The encoder's map, with no patch hidden and with some, and what the decoder makes of it."""
    model, (case,) = golden(name, "simmim")
    x, mask = case["input"], case["mask"]
    tokens = model.backbone.patch_embed(x)
    for y, wanted in ((tokens, case["features"][0]), (model._hide(tokens, mask), case["masked_features"][0])):
        assert difference(model.backbone.encode(y).movedim(-1, 1), wanted) <= 2e-5
    assert difference(model(x, mask), case["masked_reconstruction"]) <= 2e-5


@pytest.mark.parametrize(
    ("name", "layout"), [("detfork_v1", "forks"), ("detfork_v1_ape", "forks"), ("mmdet_v1", "mmdetection")]
)
@torch.no_grad()
def test_detection_backbones(golden, name, layout):
    model, expected = golden(name, layout)
    for case in expected:
        found = model.pyramid(case["input"])
        assert len(found) == len(case["features"])
        for ours, theirs in zip(found, case["features"], strict=True):
            assert difference(ours, theirs) <= 2e-5


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("mmpretrain_v1", {}),
        ("mmpretrain_v1_padsmall", PAD_SMALL_MAP),
        ("mmpretrain_v2", {}),
        ("mmpretrain_v2_extranorm", PAD_SMALL_MAP),
    ],
)
@torch.no_grad()
def test_mmpretrain(golden, name, config):
    model, expected = golden(name, "mmpretrain", **config)
    assert "small maps" in model.load_report.assumed
    for case in expected:
        assert difference(model(case["input"]), case["logits"]) <= 2e-5
        assert difference(model.pyramid(case["input"])[-1], case["features"][-1]) <= 2e-5


@torch.no_grad()
def test_video_swin_and_its_wrong_slice(golden):
    model, expected = golden("videoswin", "video")
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
    model, expected = golden("monai_swinvit", "monai")
    for case in expected:
        for ours, theirs in zip(our_maps(model, case["input"]), case["features"], strict=True):
            assert difference(ours, theirs) <= 2e-5
