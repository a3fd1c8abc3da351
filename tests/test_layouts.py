"""Any checkpoint in, any checkpoint out: their model, their file, ours, and back into theirs with strict loading.

The names are checked from both sides: what a library wrote must be explained to the last key, and what we write it must
take strictly. Libraries that cannot be installed here are in ``test_golden.py``.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import swindow
from helpers.definition import V2, difference, randomise
from helpers.peers import (
    CLIP,
    NARROW,
    NARROW_V2,
    our_maps,
    peer,
    timm_model,
    torchvision_2d,
    torchvision_3d,
    transformers_v2,
)
from swindow import SwinConfig, SwinTransformer
from swindow.checkpoints.buffers import Block, coordinates, index
from swindow.checkpoints.layouts import LAYOUTS
from swindow.checkpoints.layouts.own import OWN, OWN_SIMMIM
from swindow.errors import CheckpointError
from swindow.models import build
from swindow.models.assemble import named

NEAR = 2e-5


@pytest.fixture
def there_and_back(tmp_path):
    """Loads the file that a model's state dict makes, compares, writes it back, and loads that strictly into theirs."""

    def run(theirs, x, layout, logits=lambda y: y, maps=None, others=(), **settings):
        theirs = randomise(theirs).eval()
        torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "theirs.pth")
        ours = swindow.load(tmp_path / "theirs.pth", **settings)
        assert ours.load_report.layout == layout
        assert ours.load_report.initialised == ()
        with torch.no_grad():
            wanted = logits(theirs(x))
            assert difference(ours(x), wanted) <= NEAR
            for model, y in ((theirs, x), *others):  # others are built for other sizes
                model.load_state_dict(theirs.state_dict())
                assert difference(ours(y), logits(model.eval()(y))) <= NEAR
                for a, b in zip(ours.pyramid(y), maps(model, y) if maps else [], strict=maps is not None):
                    assert difference(a, b) <= NEAR
            for suffix in (".pth", ".safetensors"):
                swindow.save(ours, tmp_path / f"ours{suffix}", layout)
            written = torch.load(tmp_path / "ours.pth", weights_only=True)
            again = randomise(theirs)
            again.load_state_dict(written, strict=True)
            assert difference(logits(again(x)), wanted) <= 1e-6
        assert swindow.load(tmp_path / "ours.safetensors", **settings).config == ours.config
        return ours

    return run


# --- every table, by itself -------------------------------------------------------------------------------------------


@st.composite
def configs(draw, layout):
    """Configs that a layout has models of, with every optional tensor there is."""
    axes = draw(st.sampled_from(layout.axes))
    depths = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    v2 = draw(st.booleans()) if layout.cosine is None else layout.cosine
    last = len(depths) - 1
    out = draw(st.sampled_from([None, (last,), (0,)]))
    fields = {"qkv_bias": draw(st.booleans())}
    if v2:
        fields = {"qkv_bias": "qv", "similarity": "cosine", "position_bias": "continuous"}
        fields |= {"norm_placement": "post", "merge_norm": "post", "extra_norm_period": draw(st.integers(0, 2))}
    return SwinConfig(
        embed_dim=4,
        depths=depths,
        num_heads=(1,) * len(depths),
        window_size=draw(st.integers(1, 3)),
        patch_size=(2,) * axes,
        num_classes=draw(st.sampled_from([0, 3])),
        patch_norm=draw(st.booleans()),
        absolute_position_size=draw(st.sampled_from([None, (3,) * axes])),
        merge_axes=tuple(range(axes)),
        final_merge=draw(st.booleans()),
        decoder_stride=draw(st.sampled_from([0, 4])),
        out_norms=out is not None,
        out_indices=out,
        **fields,
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
@given(data=st.data())
def test_every_table_is_a_bijection(layout, data):
    """Ours to theirs and back: the same tensors, no key twice, and nothing invented; whatever has no place is named."""
    config = data.draw(configs(layout))
    ours = {k: torch.randn_like(v) for k, v in named(build(config)).items()}
    written = layout.table.write(ours)
    assert written.incomplete == ()
    read = layout.table.read(written.tensors)
    assert (read.unknown, read.incomplete) == ((), ())
    assert set(read.tensors) == set(ours) - set(written.unknown)
    for key, tensor in read.tensors.items():
        if key == "position_embed.embedding":
            tensor = tensor.view(ours[key].shape)  # where theirs is flat, its grid is settled elsewhere
        assert torch.equal(tensor, ours[key]), key
    again = layout.table.write(read.tensors | {k: ours[k] for k in ("position_embed.embedding",) if k in ours})
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in written.tensors.items())
    assert not set(written.unknown) - {k for k in ours if not layout.table.write({k: ours[k]}).tensors}


def test_our_own_table_names_every_tensor():
    """A tensor that is new in the model must be put into the tables, or said to have no place in them."""
    every = {"absolute_position_size": (3, 3), "final_merge": True}
    for fields in (
        {},
        {"similarity": "cosine", "position_bias": "continuous", "qkv_bias": "qv", "extra_norm_period": 1},
    ):
        config = SwinConfig(embed_dim=4, depths=(1, 2), num_heads=(1, 1), window_size=2, **every, **fields)
        for out in ({}, {"out_norms": True}):
            assert OWN.table.write(named(build(config.replace(**out)))).unknown == ()
            pretraining = named(build(config.replace(**out, mask_token=True, decoder_stride=4)))
            assert OWN_SIMMIM.table.write(pretraining).unknown == ()


@pytest.mark.parametrize("layout", ["swindow", "mmpretrain"])
def test_extra_norms_in_a_middle_stage_only(layout, tmp_path):
    """As in SwinV2's huge and giant models: the short first and last stages have none."""
    v2 = {"qkv_bias": "qv", "similarity": "cosine", "position_bias": "continuous"}
    v2 |= {"norm_placement": "post", "merge_norm": "post", "extra_norm_period": 3}
    config = SwinConfig(embed_dim=4, depths=(1, 2, 6, 2), num_heads=(1, 1, 1, 1), window_size=4, num_classes=3, **v2)
    model = randomise(SwinTransformer(config)).eval()
    swindow.save(model, tmp_path / "m.pth", layout)
    again = swindow.load(tmp_path / "m.pth", config={"window_size": 4, "shrink": None, "mask_padding": True})
    assert (again.load_report.layout, again.config.extra_norm_period) == (layout, 3)
    x = torch.randn(1, 3, 70, 50)
    with torch.no_grad():
        assert difference(again(x), model(x)) <= 1e-6


# --- libraries that are installed -------------------------------------------------------------------------------------


def timm_maps(model, x):
    return model.forward_intermediates(x, intermediates_only=True)


def torchvision_maps(model, x):
    """The maps before merging: the embedding and every stage and merging stand in one row."""
    found = []
    for i, module in enumerate(model.features):
        x = module(x)
        if i % 2:
            found.append(x.movedim(-1, 1))
    return found


@pytest.mark.parametrize("size", [(56, 56), (56, 112), (28, 56)])
@pytest.mark.parametrize("config", [NARROW, NARROW_V2], ids=["v1", "v2"])
def test_timm(config, size, there_and_back):
    """Windows that it shrinks when it is built, for the size that it is built for."""
    config = config.replace(window_size=7)
    model = timm_model(config, size)
    told = {} if config is NARROW else {"config": {"window_size": 7}}
    others = []
    if min(size) == 56:  # its windows are those of twice the size too
        size2 = tuple(2 * side for side in size)
        others = [(timm_model(config, size2), torch.randn(1, 3, *size2))]
    x = torch.randn(2, 3, *size)
    ours = there_and_back(model, x, "timm", maps=timm_maps, others=others, input_size=size, **told)
    assert list(ours.config.window_size) == [tuple(s.blocks[0].window_size) for s in model.layers]


def test_timm_with_heads_of_any_number_of_channels(there_and_back, tmp_path):
    """Its Swin has them; its SwinV2 and the other libraries' models have not, and are not written."""
    swin = peer("timm.models.swin_transformer")
    theirs = swin.SwinTransformer(
        img_size=56, embed_dim=16, depths=(2, 1), num_heads=(3, 2), head_dim=(5, 9), window_size=7, num_classes=3
    )
    ours = there_and_back(theirs, torch.randn(2, 3, 56, 56), "timm", maps=timm_maps, input_size=56)
    assert ours.config.head_dim == ours.config.head_dims == (5, 9)
    assert swindow.adopt(theirs).config.head_dim == (5, 9)
    swindow.save(ours, tmp_path / "folder", "timm", input_size=56)
    timm = peer("timm")
    x = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        again = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
        assert difference(again(x), ours(x)) <= NEAR
        assert difference(swindow.load(tmp_path / "folder")(x), ours(x)) <= 1e-6


@pytest.mark.parametrize(
    ("layout", "fields"),
    [(name, {}) for name in ("microsoft", "torchvision", "transformers_5", "mmpretrain")]
    + [(name, V2) for name in ("microsoft", "torchvision", "mmpretrain", "timm")],
)
def test_other_layouts_refuse_heads_of_any_number_of_channels(layout, fields, tmp_path):
    shape = {"embed_dim": 16, "depths": (1, 1), "num_heads": (3, 2), "num_classes": 3, "window_size": 4}
    model = SwinTransformer(SwinConfig(**shape, head_dim=(5, 9), **fields))
    expected = rf"layout '{layout}' .* this one has \(5, 9\) for \(3, 2\) heads; try layout 'swindow'"
    with pytest.raises(CheckpointError, match=expected):
        swindow.save(model, tmp_path / "x.pth", layout, input_size=64)
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("layout", ["microsoft", "torchvision", "timm"])
def test_a_head_dim_that_is_the_usual_one_is_no_obstacle(layout, tmp_path):
    fields = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4), "num_classes": 3, "window_size": 4}
    ours = randomise(SwinTransformer(SwinConfig(**fields, head_dim=8))).eval()
    swindow.save(ours, tmp_path / "x.pth", layout, input_size=32)
    assert swindow.load(tmp_path / "x.pth").config.head_dims == (8, 8)


@pytest.mark.parametrize("window", [8, 16])
def test_timm_published_v2_by_its_window_alone(window, tmp_path):
    """Its last stage's windows are smaller where 256 pixels make them so; the report says what was assumed."""
    timm = peer("timm")
    theirs = randomise(timm.create_model(f"swinv2_tiny_window{window}_256", num_classes=3)).eval()
    ours = swindow.load(theirs.state_dict(), config={"window_size": window})
    assert f"swinv2_tiny_w{window}" in ours.load_report.assumed["windows"]
    assert ours.config.window_size == tuple(tuple(stage.blocks[0].window_size) for stage in theirs.layers)
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        assert difference(ours(x), theirs(x)) <= NEAR


def test_timm_v2_without_any_bias_of_qkv():
    swin = peer("timm.models.swin_transformer_v2")
    theirs = swin.SwinTransformerV2(
        img_size=32, window_size=8, embed_dim=8, depths=(1, 1), num_heads=(1, 2), qkv_bias=False
    )
    theirs = randomise(theirs).eval()
    ours = swindow.load(theirs.state_dict(), config={"window_size": 8}, input_size=32)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert difference(ours(x), theirs(x)) <= NEAR


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swinv2_cr_tiny_224", "timm's swinv2_cr, another architecture"),
        ("swin_tiny_patch4_window7_224", "try the weights of the model without features_only"),
    ],
)
def test_timm_models_that_are_none(name, message):
    timm = peer("timm")
    theirs = timm.create_model(name, features_only="cr" not in name)
    for take in (swindow.adopt, lambda model: swindow.load(model.state_dict())):
        with pytest.raises(swindow.CheckpointError, match=message):
            take(theirs)


def test_timm_needs_the_window_of_v2(tmp_path):
    torch.save(timm_model(NARROW_V2, (64, 64)).state_dict(), tmp_path / "m.pth")
    with pytest.raises(swindow.CheckpointError, match=r"config=\{'window_size': 8\}.*input_size="):
        swindow.load(tmp_path / "m.pth")
    assert swindow.load(tmp_path / "m.pth", config={"window_size": 8}).config.window_size == ((8, 8), (8, 8))


@pytest.mark.parametrize("variant", ["swin_tiny", "swinv2_tiny_w16"])
def test_timm_create_model_takes_what_is_written(variant, tmp_path):
    """By ``checkpoint_path``, in the official layout too, which it converts, and as a folder that tells all."""
    timm = peer("timm")
    name = {"swin_tiny": "swin_tiny_patch4_window7_224", "swinv2_tiny_w16": "swinv2_tiny_window16_256"}[variant]
    ours = randomise(swindow.create(variant, num_classes=5, depths=(1, 1, 2, 1), drop_path_rate=0.0)).eval()
    ours.card = swindow.ModelCard(class_names=tuple("abcde"), input_size=(256 if "v2" in variant else 224,) * 2)
    x = torch.randn(1, 3, *ours.card.input_size)
    changed = {"num_classes": 5, "depths": (1, 1, 2, 1)}
    with torch.no_grad():
        wanted = ours(x)
        for suffix in (".pth", ".safetensors"):
            swindow.save(ours, tmp_path / f"timm{suffix}", "timm")
            theirs = timm.create_model(name, checkpoint_path=str(tmp_path / f"timm{suffix}"), **changed).eval()
            assert difference(theirs(x), wanted) <= NEAR
        swindow.save(ours, tmp_path / "old.pth", "microsoft")  # that of timm up to 0.6
        there = {"file": str(tmp_path / "old.pth"), "num_classes": 5}
        theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=there, **changed).eval()
        assert difference(theirs(x), wanted) <= NEAR
        swindow.save(ours, tmp_path / "folder", "timm")
        theirs = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
        assert difference(theirs(x), wanted) <= NEAR
    again = swindow.load(tmp_path / "folder")
    assert again.config.window_size == ours.config.window_size
    assert (again.card.class_names, again.card.input_size) == (ours.card.class_names, ours.card.input_size)
    with torch.no_grad():
        assert difference(again(x), wanted) <= 1e-6


@pytest.mark.parametrize("config", [NARROW, NARROW.replace(window_size=4), NARROW_V2], ids=["v1", "w4", "v2"])
def test_torchvision(config, there_and_back):
    model = torchvision_2d(config)
    others = [(model, torch.randn(1, 3, *size)) for size in ((61, 75), (20, 112))]
    there_and_back(model, torch.randn(2, 3, 56, 56), "torchvision", maps=torchvision_maps, others=others)


def test_torchvision_video(there_and_back):
    ours = there_and_back(torchvision_3d(CLIP), torch.randn(1, 3, 7, 30, 41), "torchvision")
    assert ours.config.window_size == ((4, 3, 3),) * 2


def transformers_v1(size=56, **fields):
    transformers = peer("transformers")
    arguments = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 7, "drop_path_rate": 0.0}
    return transformers, transformers.SwinConfig(image_size=size, **arguments, **fields)


@pytest.mark.parametrize("fields", [{}, {"qkv_bias": False}, {"use_absolute_embeddings": True}, {"mlp_ratio": 2.7}])
def test_transformers_state_dicts(fields, there_and_back):
    transformers, config = transformers_v1(num_labels=5, **fields)
    model = transformers.SwinForImageClassification(config)
    there_and_back(model, torch.randn(2, 3, 56, 56), "transformers_5", lambda y: y.logits)


def same_folder(transformers, model, ours, folder, outputs):
    """What we write, read by the library without a key too many or too few."""
    swindow.save(ours, folder, "transformers")
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    theirs, x = again.eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(outputs(theirs, x), outputs(model.eval(), x), strict=True):
            assert difference(a, b) <= 1e-6
    return again


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_transformers_classification(v2, tmp_path):
    transformers = peer("transformers")
    config = transformers.Swinv2Config if v2 else transformers.SwinConfig
    names = dict(enumerate(["cat", "dog", "owl", "cow", "elk"]))
    fields = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 8, "id2label": names}
    fields |= {"pretrained_window_sizes": [6, 4]} if v2 else {}
    kind = transformers.Swinv2ForImageClassification if v2 else transformers.SwinForImageClassification
    theirs = randomise(kind(config(image_size=64, **fields))).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = swindow.load(tmp_path / "theirs")
    assert ours.load_report.layout == "transformers"
    assert ours.card.class_names == tuple(names.values())
    assert ours.card.input_size == (64, 64)
    assert ours.config.pretrained_window_size == (((6, 6), (4, 4)) if v2 else None)
    for side in (64, 128):
        x = torch.randn(2, 3, side, side)
        fresh = kind(config(image_size=side, **fields)).eval()
        fresh.load_state_dict(theirs.state_dict())
        with torch.no_grad():
            assert difference(ours(x), fresh(x).logits) <= NEAR
    old = dict(load_file(tmp_path / "theirs" / "model.safetensors"))  # version 4 saved buffers too
    for i, j in itertools.product(range(2), repeat=2):
        block = Block(ours.config, i, j, None)
        prefix = f"{'swinv2' if v2 else 'swin'}.encoder.layers.{i}.blocks.{j}.attention.self."
        old[prefix + "relative_position_index"] = index(block)
        old |= {prefix + "relative_coords_table": coordinates(block)} if v2 else {}
    found = swindow.load(old)  # without config.json, by its buffers
    assert (found.config.window_size, found.config.pretrained_window_size) == (
        ours.config.window_size,
        ours.config.pretrained_window_size,
    )
    assert sum("worked out anew" in why for why in found.load_report.dropped.values()) == (8 if v2 else 4)
    again = same_folder(transformers, theirs, ours, tmp_path / "ours", lambda m, x: [m(x).logits])
    assert again.config.id2label == names
    auto = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "ours")
    assert type(auto) is kind
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert processor.size == {"height": 64, "width": 64}


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_transformers_base_backbone_and_pretraining(v2, tmp_path):
    transformers = peer("transformers")
    prefix = "Swinv2" if v2 else "Swin"
    fields = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 8, "image_size": 64}
    config = getattr(transformers, f"{prefix}Config")(**fields, encoder_stride=8, out_features=["stage1", "stage2"])
    x, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16, 16) < 0.5

    theirs = randomise(getattr(transformers, f"{prefix}Model")(config)).eval()
    theirs.save_pretrained(tmp_path / "base")
    ours = swindow.load(tmp_path / "base")
    with torch.no_grad():
        assert difference(ours(x), theirs(x).pooler_output) <= NEAR
    same_folder(transformers, theirs, ours, tmp_path / "base_again", lambda m, x: [m(x).pooler_output])

    theirs = randomise(getattr(transformers, f"{prefix}Backbone")(config)).eval()
    theirs.save_pretrained(tmp_path / "backbone")
    ours = swindow.load(tmp_path / "backbone")
    with torch.no_grad():
        for y in (x, torch.randn(1, 3, 128, 128), *([] if v2 else [torch.randn(1, 3, 50, 77)])):
            config.image_size = y.shape[-1]  # its v2 settles windows when it is built
            fresh = type(theirs)(config).eval()
            fresh.load_state_dict(theirs.state_dict())
            for a, b in zip(ours.pyramid(y), fresh(y).feature_maps, strict=True):
                assert difference(a, b) <= NEAR
    config.image_size = 64
    assert ours.config.out_norms == (not v2)  # its v2 backbone has no norms
    if not v2:
        same_folder(transformers, theirs, ours, tmp_path / "backbone_again", lambda m, x: m(x).feature_maps)

    theirs = randomise(getattr(transformers, f"{prefix}ForMaskedImageModeling")(config)).eval()
    theirs.save_pretrained(tmp_path / "pretraining")
    ours = swindow.load(tmp_path / "pretraining")
    with torch.no_grad():
        wanted = theirs(x, bool_masked_pos=mask.flatten(1)).reconstruction
        assert difference(ours(x, mask), wanted) <= NEAR
    same_folder(
        transformers,
        theirs,
        ours,
        tmp_path / "pretraining_again",
        lambda m, x: [m(x, bool_masked_pos=mask.flatten(1)).reconstruction],
    )
    tuned = swindow.load(tmp_path / "pretraining", num_classes=3)
    assert type(tuned) is SwinTransformer
    assert tuned.config.mask_token is False
    assert tuned.config.decoder_stride == 0
    assert tuned(x).shape == (2, 3)
    assert {"decoder.0.weight", f"{prefix.lower()}.embeddings.mask_token"} <= set(tuned.load_report.dropped)


def test_transformers_backbones_in_memory(tmp_path):
    """A backbone's state dict has a prefix and norms beside it; within a larger model too."""
    transformers, config = transformers_v1(64, out_features=["stage1", "stage2"])
    uper = transformers.UperNetConfig(backbone_config=config, num_labels=3, hidden_size=8, use_auxiliary_head=False)
    whole = randomise(transformers.UperNetForSemanticSegmentation(uper)).eval()
    x = torch.randn(1, 3, 64, 64)
    for theirs, source in ((whole.backbone, whole.backbone.state_dict()), (whole.backbone, whole.state_dict())):
        for ours in (swindow.load(source), swindow.adopt(whole)):
            assert ours.load_report.layout == "transformers_5"
            with torch.no_grad():
                for a, b in zip(ours.pyramid(x), theirs(x).feature_maps, strict=True):
                    assert difference(a, b) <= NEAR
    swindow.save(ours, tmp_path / "m.pth", "transformers_5")
    whole.backbone.load_state_dict(torch.load(tmp_path / "m.pth", weights_only=True), strict=True)
    with_head = SwinTransformer(ours.config.replace(num_classes=4))
    assert set(swindow.save(with_head, tmp_path / "b", "transformers", 56)) == {"head.weight", "head.bias"}
    assert swindow.load(tmp_path / "b").config.out_norms
    norms = {k.replace("hidden_states_norms.stage", "hidden_states_norms."): v for k, v in source.items()}
    with pytest.raises(swindow.CheckpointError, match="maps are normed in another way"):
        swindow.load(norms)  # as MaskFormer's own Swin has it


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"out_features": ["stem", "stage1"]}, "got the stem"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001"),
        ({"image_size": 60}, r"map of \(8, 8\) tokens, which the library takes for \(7, 7\)"),
        ({"use_absolute_embeddings": True}, "one token more"),
    ],
)
def test_transformers_models_that_are_like_no_other(fields, message, tmp_path):
    transformers = peer("transformers")
    arguments = {"image_size": 64, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 8, **fields}
    transformers.Swinv2Backbone(transformers.Swinv2Config(**arguments)).save_pretrained(tmp_path / "m")
    with pytest.raises(swindow.CheckpointError, match=message):
        swindow.load(tmp_path / "m")


@pytest.mark.parametrize("v2", [False, True])
def test_transformers_backbones_choose_their_maps(v2, tmp_path):
    transformers = peer("transformers")
    arguments = {"image_size": 64, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 8}
    prefix = "Swinv2" if v2 else "Swin"
    theirs = getattr(transformers, f"{prefix}Backbone")
    theirs = theirs(getattr(transformers, f"{prefix}Config")(**arguments, out_indices=[-1])).eval()
    theirs.save_pretrained(tmp_path / "m")
    x = torch.randn(1, 3, 64, 64)
    for ours in (swindow.load(tmp_path / "m"), swindow.adopt(theirs)):
        with torch.no_grad():
            (found,) = ours.pyramid(x)
            assert difference(found, theirs(x).feature_maps[0]) <= NEAR


@pytest.mark.parametrize(("axes", "merging"), [(3, "merging"), (3, "mergingv2"), (2, "merging"), (2, "mergingv2")])
def test_monai(axes, merging, tmp_path):
    """Inside a whole SwinUNETR, whose decoder is left out, and back into its encoder, the last merging included."""
    monai = peer("monai.networks.nets.swin_unetr")
    peer("einops")
    unet = monai.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4),
                           spatial_dims=axes, downsample=merging, window_size=2)  # fmt: skip
    unet = randomise(unet).eval()
    torch.save({"state_dict": unet.state_dict()}, tmp_path / "unet.pt")
    layout = "monai_v2" if (axes, merging) == (3, "mergingv2") else "monai"
    assert swindow.adopt(unet).load_report.layout == ("monai_v2" if merging == "mergingv2" else "monai")
    ours = swindow.load(tmp_path / "unet.pt", layout=None if layout == "monai" else layout)
    assert ours.load_report.layout == layout
    assert ours.load_report.initialised == ("norm.weight", "norm.bias")
    assert any(key.startswith("decoder1.") for key in ours.load_report.dropped)
    assert ("merging" in ours.load_report.assumed) == ((axes, merging) == (3, "merging"))
    x = torch.randn(1, 1, *(64,) * axes)
    left_out = swindow.save(ours, tmp_path / "encoder.pth", layout)
    assert set(left_out) == {"norm.weight", "norm.bias"}
    written = torch.load(tmp_path / "encoder.pth", weights_only=True)
    with torch.no_grad():
        wanted = unet.swinViT(x)
        for a, b in zip(our_maps(ours, x), wanted, strict=True):
            assert difference(a, b) <= NEAR
        randomise(unet.swinViT)
        unet.swinViT.load_state_dict({k.removeprefix("swinViT."): v for k, v in written.items()}, strict=True)
        for a, b in zip(unet.swinViT(x), wanted, strict=True):
            assert difference(a, b) <= 1e-6


# --- live models ------------------------------------------------------------------------------------------------------


def test_adopt_shares_memory_and_knows_what_tensors_do_not_tell():
    config = NARROW_V2.replace(window_size=6)
    theirs = randomise(timm_model(config, (24, 24))).eval()
    theirs.layers[1].blocks[1].drop_path1 = peer("timm.layers").DropPath(0.25).eval()
    ours = swindow.adopt(theirs)
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert difference(ours(x), theirs(x)) <= NEAR
    assert ours.config.window_size == ((6, 6), (3, 3))
    assert ours.config.drop_path_rate == 0.25
    assert ours.card.input_size == (24, 24)
    assert ours.head.weight.data_ptr() == theirs.head.fc.weight.data_ptr()
    assert all(p.requires_grad for p in ours.parameters())
    assert swindow.adopt(ours) is ours
    assert swindow.adopt(theirs.train()).training
    with pytest.raises(swindow.CheckpointError, match="adopt: got a int"):
        swindow.adopt(3)
    with pytest.raises(swindow.CheckpointError, match="torch's Linear"):
        swindow.adopt(torch.nn.Linear(2, 2))
    with pytest.raises(swindow.CheckpointError, match="meta device"):
        swindow.adopt(theirs.to("meta"))
    with pytest.raises(swindow.CheckpointError, match="meta device"):
        swindow.adopt(torchvision_2d(NARROW).to("meta"))
    theirs = timm_model(config, (24, 24))
    theirs.norm.eps = 1e-3
    with pytest.raises(swindow.CheckpointError, match=r"norms with epsilons \[1e-05, 0.001\]"):
        swindow.adopt(theirs)
    theirs.global_pool = "max"
    with pytest.raises(swindow.CheckpointError, match="global_pool 'max'"):
        swindow.adopt(theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adopt_torchvision_and_transformers(dtype):
    near = {torch.float32: NEAR, torch.float64: 1e-6, torch.bfloat16: 0.2}[dtype]  # peers keep some buffers in fp32
    x = torch.randn(2, 3, 64, 64, dtype=dtype)
    transformers, config = transformers_v1(64, num_labels=5)
    for theirs in (
        torchvision_2d(NARROW),
        torchvision_2d(NARROW_V2) if dtype != torch.bfloat16 else torchvision_2d(NARROW),
        transformers_v2(64, 8) if dtype != torch.bfloat16 else transformers.SwinForImageClassification(config),
        transformers.SwinForImageClassification(config),
    ):
        theirs = randomise(theirs).to(dtype).eval()
        ours = swindow.adopt(theirs)
        assert {p.dtype for p in ours.parameters()} == {dtype}
        with torch.no_grad():
            wanted = theirs(x)
            assert difference(ours(x), getattr(wanted, "logits", wanted)) <= near


def test_adopt_the_official_model(shared):
    """Its code cannot be installed: a tree of modules with the names, weights and buffers of its file stands for it."""
    weights = torch.load(shared("data", "golden", "microsoft_v2_w6_pretrained.pth"), weights_only=True)["model"]
    expected = torch.load(shared("data", "golden", "microsoft_v2_w6_pretrained.expected.pt"), weights_only=True)
    theirs = torch.nn.Module()
    for key, value in weights.items():
        *path, name = key.split(".")
        module = theirs
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        if value.is_floating_point() and name not in ("attn_mask", "relative_coords_table"):
            module.register_parameter(name, torch.nn.Parameter(value))
        else:
            module.register_buffer(name, value)
    ours = swindow.adopt(theirs.eval())
    with torch.no_grad():
        assert difference(ours(expected["input"]), expected["logits"]) <= NEAR
    assert ours.config.pretrained_window_size == ((4, 4), (4, 4), (4, 4), (2, 2))


def test_adopt_takes_the_swin_out_of_a_larger_model():
    theirs = torch.nn.ModuleDict({"backbone": randomise(torchvision_2d(NARROW)), "head": torch.nn.Linear(3, 3)}).eval()
    ours = swindow.adopt(theirs)
    x = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        assert difference(ours(x), theirs["backbone"](x)) <= NEAR
    assert set(ours.load_report.dropped) >= {"head.weight", "head.bias"}


def test_two_models_in_one_file_are_not_chosen_between(tmp_path):
    weights = torchvision_2d(NARROW).state_dict()
    both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in weights.items()}
    with pytest.raises(swindow.CheckpointError, match=r"2 models, under 'student\.' and 'teacher\.'; try one"):
        swindow.load(both)
    save_file({k: v.clone() for k, v in both.items() if k.startswith("teacher.")}, tmp_path / "one.safetensors")
    assert swindow.load(tmp_path / "one.safetensors").config.embed_dim == 8
