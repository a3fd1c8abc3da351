"""Our backbone in the real transformers and torchvision: they build on it, train it, save it and load it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.definition import V2, difference, randomise
from helpers.peers import peer
from swindow import InputError, SwinConfig, SwinTransformer

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIG = SwinConfig(
    embed_dim=16,
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 2, 4),
    window_size=4,
    patch_size=4,
    num_classes=7,
    out_norms=True,
)
SIZE = (100, 131)  # no multiple of anything


@pytest.fixture
def ours():
    return randomise(SwinTransformer(CONFIG)).eval()


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Imports an example as a user's Python would, and lets it write into an empty folder."""
    peer("sklearn")
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]


def untouched(module):
    """What training would never reach, which distributed training refuses."""
    return [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hf():
    peer("transformers")
    return importlib.import_module("swindow.adapters.transformers")


def test_its_maps_are_those_of_the_pyramid(hf, ours):
    backbone, x = hf.SwindowBackbone.of(ours).eval(), torch.randn(2, 3, *SIZE)
    found, expected = backbone(x), ours.pyramid(x)
    assert backbone.channels == [m.shape[1] for m in expected] == [16, 32, 64, 128]
    assert all(map(torch.equal, found.feature_maps, expected))
    assert found.hidden_states is None
    assert len(backbone(x, output_hidden_states=True).hidden_states) == 4
    assert all(map(torch.equal, backbone(x, return_dict=False)[0], expected))


def test_stages_are_chosen_in_their_words_and_saved(hf, ours, tmp_path):
    hf.SwindowBackbone.of(ours).save_pretrained(tmp_path)
    backbone = hf.SwindowBackbone.from_pretrained(tmp_path, out_features=["stage2", "stage3"])
    x = torch.randn(1, 3, *SIZE)
    assert all(map(torch.equal, backbone(x).feature_maps, ours.pyramid(x)[1:3]))
    for i, y in enumerate(backbone(x).feature_maps):
        assert y.shape[1] == backbone.channels[i]
    sum(y.sum() for y in backbone(x).feature_maps).backward()
    assert untouched(backbone) == []
    with pytest.raises(InputError, match="stem"):
        hf.SwindowConfig(architecture=CONFIG.to_dict(), out_features=["stem"])


@pytest.mark.parametrize("version", [{}, V2])
def test_upernet(hf, ours, tmp_path, version):
    transformers = peer("transformers")
    ours = randomise(SwinTransformer(CONFIG.replace(**version))).eval()
    backbone = hf.SwindowBackbone.of(ours)
    config = transformers.UperNetConfig(
        backbone_config=backbone.config,
        hidden_size=16,
        num_labels=3,
        pool_scales=[1, 2],
        auxiliary_in_channels=backbone.channels[2],
        auxiliary_channels=8,
    )
    segmenter = transformers.UperNetForSemanticSegmentation(config)
    segmenter.backbone.load_state_dict(backbone.state_dict())
    x = torch.randn(2, 3, *SIZE)
    found = segmenter(x, labels=torch.randint(0, 3, (2, *SIZE)))
    assert found.logits.shape == (2, 3, *SIZE)
    found.loss.backward()
    assert untouched(segmenter) == []
    segmenter.save_pretrained(tmp_path)
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    assert difference(again.eval()(x).logits, segmenter.eval()(x).logits) <= 2e-5


def test_mask2former_and_detr(hf, ours):
    transformers = peer("transformers")
    backbone = hf.SwindowBackbone.of(ours)
    small = {"num_queries": 5, "encoder_layers": 1, "decoder_layers": 2}
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone.config,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_attention_heads=2,
        dim_feedforward=32,
        encoder_feedforward_dim=32,
        num_labels=3,
        train_num_points=64,
        **small,
    )
    segmenter = transformers.Mask2FormerForUniversalSegmentation(config)
    masks = [torch.rand(2, *SIZE).gt(0.5).float()]
    segmenter(torch.randn(1, 3, *SIZE), mask_labels=masks, class_labels=[torch.tensor([0, 2])]).loss.backward()
    assert untouched(segmenter.model.pixel_level_module.encoder) == []
    config = transformers.DetrConfig(
        backbone_config=backbone.config,
        use_timm_backbone=False,
        backbone=None,
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        **small,
    )
    detector = transformers.DetrForObjectDetection(config)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}]
    found = detector(torch.randn(1, 3, *SIZE), labels=labels)
    assert found.pred_boxes.shape == (1, 5, 4)
    found.loss.backward()
    assert detector.model.backbone.model.model.stages[0].blocks[0].attn.qkv.weight.grad.abs().max() > 0


# --- torchvision ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tv(monkeypatch):
    """torchvision; where its compiled operators are absent, suppression of overlapping boxes is done in Python."""
    peer("torchvision")
    boxes = importlib.import_module("torchvision.ops.boxes")

    def nms(places, scores, iou_threshold):
        order = scores.argsort(descending=True)
        overlap = (boxes.box_iou(places[order], places[order]) > iou_threshold).numpy()
        kept, gone = [], np.zeros(len(order), bool)
        for i in range(len(order)):
            if not gone[i]:
                kept.append(i)
                gone |= overlap[i]
        return order[kept]

    if not importlib.import_module("torchvision.extension")._has_ops():
        monkeypatch.setattr(boxes, "nms", nms)
    return importlib.import_module("swindow.adapters.torchvision")


@pytest.mark.slow
def test_detectors_train_and_detect(tv, ours):
    detection = importlib.import_module("torchvision.models.detection")
    generator = importlib.import_module("torchvision.models.detection.anchor_utils").AnchorGenerator
    p6p7 = importlib.import_module("torchvision.ops.feature_pyramid_network").LastLevelP6P7
    common = {"num_classes": 3, "min_size": 96, "max_size": 128}
    backbone = tv.DetectionBackbone(ours, out_channels=32)
    maps = backbone(torch.randn(1, 3, *SIZE))
    assert [tuple(m.shape) for m in maps.values()] == [
        (1, 32, *grid) for grid in ((25, 33), (13, 17), (7, 9), (4, 5), (2, 3))
    ]
    anchors = generator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    few = {f"rpn_{which}_nms_top_n_{mode}": 50 for which in ("pre", "post") for mode in ("train", "test")}
    faster = detection.FasterRCNN(backbone, rpn_anchor_generator=anchors, **few, **common)
    two = SwinTransformer(CONFIG.replace(out_indices=(1, 2)))
    last = tv.DetectionBackbone(two, 16, p6p7(16, 16))
    anchors = generator(((16,), (32,), (64,), (128,)), ((1.0,),) * 4)
    retina = detection.RetinaNet(last, anchor_generator=anchors, topk_candidates=50, **common)
    images = [torch.rand(3, *SIZE), torch.rand(3, 64, 80)]
    targets = [{"boxes": torch.tensor([[10.0, 10.0, 50.0, 60.0]]), "labels": torch.tensor([1])}] * 2
    for detector in (faster, retina):
        sum(detector.train()(images, targets).values()).backward()
        assert untouched(detector) == []
        with torch.no_grad():
            assert set(detector.eval()(images)[1]) == {"boxes", "labels", "scores"}


# --- the examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("segment_fpn", "torch"),
        ("segment_upernet", "transformers"),
        pytest.param("detect_torchvision", "torchvision", marks=pytest.mark.slow),
    ],
)
def test_examples_run(example, tv, name, library, tmp_path, capsys):
    peer(library)
    share = example(name).main(steps=3)
    assert 0 <= share <= 1
    assert "step 3 of 3: loss" in capsys.readouterr().out
    assert (tmp_path / f"runs/examples/{name}.png").stat().st_size > 5000
