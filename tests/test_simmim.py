"""SimMIM: what it draws, that distributed training sees one forward, its files, and what refuses it."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

import swindow
from helpers.definition import V2, difference, randomise
from helpers.folders import make_folder
from helpers.peers import peer
from swindow import CheckpointError, ConfigError, InputError, SwinConfig, SwinTransformer, explain
from swindow.adapters import freeze_unused
from swindow.models import SimMIM, build
from swindow.tasks import Classify

SMALL = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "patch_size": 2}


def model_of(**fields):
    return randomise(build(SwinConfig(**{**SMALL, "decoder_stride": 4, **fields}))).eval()


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, V2, {"patch_size": (2, 2, 2), "in_chans": 1}], ids=["v1", "v2", "3-D"])
def test_hidden_patches_do_not_count_and_all_others_do(fields):
    model = model_of(**fields)
    axes = model.config.ndim
    x = torch.randn(2, model.config.in_chans, *(11, 8, 6)[:axes])  # of 11 pixels the last half patch is padding
    mask = torch.zeros(2, *(6, 4, 3)[:axes])
    mask[:, 0, 1] = 1
    other = x.clone()
    other[:, :, 0:2, 2:4] = 5.0  # the patch that is hidden
    with torch.no_grad():
        drawn = model(x, mask)
        assert drawn.shape == x.shape
        assert torch.equal(model(other, mask), drawn)
        assert torch.equal(model(x, mask.bool()), drawn)
        assert difference(model(other, torch.zeros_like(mask)), model(x, torch.zeros_like(mask))) > 1e-3
        other[:, :, 4:6, 2:4] = 5.0  # one that is not
        assert difference(model(other, mask), drawn) > 1e-3


def test_the_decoder_draws_a_block_of_pixels_for_every_token():
    """Its output channel (c * s + i) * s + j is the pixel at row i and column j of the block, in channel c."""
    model = model_of()
    x, mask = torch.randn(1, 3, 16, 12), torch.rand(1, 8, 6) < 0.5
    with torch.no_grad():
        tokens = model.backbone.patch_embed(x)
        tokens[mask] = model.mask_token
        tokens = model.backbone.encode(tokens)  # (1, 4, 3, C)
        drawn = model(x, mask)
        for row, column, c, i, j in [(0, 0, 0, 0, 0), (1, 2, 0, 3, 1), (3, 0, 2, 1, 2), (2, 1, 1, 0, 3)]:
            channel = (c * 4 + i) * 4 + j
            wanted = tokens[0, row, column] @ model.decoder.proj.weight[channel].flatten()
            wanted = wanted + model.decoder.proj.bias[channel]
            assert torch.allclose(drawn[0, c, 4 * row + i, 4 * column + j], wanted, atol=1e-5)


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"got a mask of shape \(1, 4, 4\), expected one value per patch: \(1, 8, 8\)"):
        model_of()(torch.randn(1, 3, 16, 16), torch.zeros(1, 4, 4))


def test_create_gives_a_simmim_where_the_config_has_a_decoder():
    model = swindow.create("swin_nano", decoder_stride=8, in_chans=1)
    assert type(model) is SimMIM
    assert model.training
    assert (model.config.mask_token, model.config.decoder_stride, model.config.num_classes) == (True, 8, 0)
    assert not list(model.backbone.head.parameters())
    assert type(swindow.create("swin_nano")) is SwinTransformer


def test_a_mask_token_and_a_decoder_go_together():
    for fields in ({"mask_token": True}, {"mask_token": False, "decoder_stride": 8}):
        with pytest.raises(ConfigError, match=r"expected both or neither; try mask_token=True, decoder_stride=32"):
            SwinConfig(**fields)
    config = SwinConfig(**SMALL, decoder_stride=4)
    assert SwinConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(
        ConfigError, match=r"SwinTransformer: got decoder_stride 4, expected 0; try swindow\.models\.SimMIM\(config\)"
    ):
        SwinTransformer(config)
    with pytest.raises(ConfigError, match=r"SimMIM: got decoder_stride 0, expected .*; try decoder_stride=32"):
        SimMIM(SwinConfig(**SMALL))


def test_distributed_training_sees_one_forward_that_uses_every_parameter(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(swindow.create("swin_nano", decoder_stride=8).train())
        for _ in range(2):  # the second would fail if the first had left a parameter out
            x, mask = torch.randn(2, 3, 32, 32), torch.rand(2, 16, 16) < 0.6
            model.zero_grad(set_to_none=True)
            (model(x, mask) - x).abs().mean().backward()
            assert [name for name, p in model.named_parameters() if p.grad is None] == []
    finally:
        dist.destroy_process_group()


# --- its files --------------------------------------------------------------------------------------------------------


def same_drawing(a, b):
    x, mask = torch.randn(2, a.config.in_chans, 16, 16), torch.rand(2, 8, 8) < 0.5
    with torch.no_grad():
        return difference(a(x, mask), b(x, mask)) <= 1e-6


def test_our_files_hold_the_state_dict(tmp_path):
    model = model_of()
    swindow.save(model, tmp_path / "m.safetensors")
    stored = load_file(tmp_path / "m.safetensors")
    SimMIM(model.config).load_state_dict(stored, strict=True)
    torch.save({"model": DistributedNames(model).state_dict()}, tmp_path / "wrapped.pth")
    sources = [tmp_path / "m.safetensors", model.state_dict(), tmp_path / "wrapped.pth"]
    for source in sources:
        again = swindow.load(source, config={"window_size": 4, "shrink": None})
        assert type(again) is SimMIM
        assert not again.training
        assert again.config == model.config
        assert (again.load_report.dropped, again.load_report.matched) == ({}, len(model.state_dict()))
        assert same_drawing(model, again)


class DistributedNames(torch.nn.Module):
    """Names as DistributedDataParallel gives them."""

    def __init__(self, model):
        super().__init__()
        self.module = model


def test_files_from_before_it_was_a_model_of_its_own(tmp_path):
    """Their names have no "backbone.", and their mask_token did not follow from the decoder."""
    model = model_of()
    swindow.save(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        about = json.loads(file.metadata()["swindow"])
    flat = {key.removeprefix("backbone."): value for key, value in load_file(tmp_path / "m.safetensors").items()}
    save_file(flat, tmp_path / "old.safetensors", {"swindow": json.dumps(about)})
    assert same_drawing(model, swindow.load(tmp_path / "old.safetensors"))
    assert same_drawing(model, swindow.load(flat))
    about["config"] |= {"mask_token": True, "decoder_stride": 0}
    del flat["decoder.proj.weight"], flat["decoder.proj.bias"]
    save_file(flat, tmp_path / "token.safetensors", {"swindow": json.dumps(about)})
    found = swindow.load(tmp_path / "token.safetensors")
    assert type(found) is SwinTransformer
    assert found.load_report.dropped == {"mask_token": "only SimMIM uses it, and the file has no decoder"}


def test_a_backbone_in_a_users_model_is_no_simmim():
    """Without a decoder, what stands beside a module named "backbone" is outside the model."""
    weights = randomise(SwinTransformer(SwinConfig(**SMALL, num_classes=3))).state_dict()
    whole = {f"backbone.{key}": value for key, value in weights.items()} | {"mask_token": torch.zeros(3, 3)}
    found = swindow.load(whole)
    assert type(found) is SwinTransformer
    assert found.config.num_classes == 3
    assert found.load_report.dropped == {"mask_token": "outside 'backbone.', where the model is"}


def test_fine_tuning_takes_the_backbone(tmp_path):
    model = model_of()
    swindow.save(model, tmp_path / "m.safetensors")
    tuned = swindow.load(tmp_path / "m.safetensors", num_classes=3)
    assert type(tuned) is SwinTransformer
    assert tuned.load_report.initialised == ("head.weight", "head.bias")
    assert set(tuned.load_report.dropped) == {"mask_token", "decoder.proj.weight", "decoder.proj.bias"}
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(tuned.features(x), model.backbone.features(x))
    assert swindow.load(tmp_path / "m.safetensors", num_classes=3, in_chans=1)(x[:, :1]).shape == (1, 3)
    assert type(swindow.load(tmp_path / "m.safetensors", num_classes=0)) is SimMIM
    with pytest.raises(ConfigError, match=r"in_chans: got 1 for a SimMIM, whose decoder draws 3 .*; try num_classes="):
        swindow.load(tmp_path / "m.safetensors", in_chans=1)


def test_train_starts_from_it(tmp_path):
    swindow.save(swindow.create("swin_nano", decoder_stride=16), tmp_path / "m.safetensors")
    settings = swindow.TrainConfig(epochs=1, batch_size=8, out=tmp_path / "run", weights=tmp_path / "m.safetensors")
    swindow.train(make_folder(tmp_path / "photos"), settings)
    assert type(swindow.load(tmp_path / "run" / "model.safetensors")) is SwinTransformer


@pytest.mark.parametrize("prefix", ["Swin", "Swinv2"])
def test_a_mask_token_without_a_decoder_is_left_out_and_said_so(prefix, tmp_path):
    transformers = peer("transformers")
    sizes = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 8, "image_size": 64}
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    theirs = randomise(getattr(transformers, f"{prefix}Model")(config, use_mask_token=True)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = swindow.load(tmp_path / "theirs")
    assert type(ours) is SwinTransformer
    assert ours.load_report.dropped["embeddings.mask_token"] == "only SimMIM uses it, and the file has no decoder"
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert difference(ours(x), theirs(x).pooler_output) <= 2e-5
    swindow.save(ours, tmp_path / "again", "transformers")
    again = getattr(transformers, f"{prefix}Model").from_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert difference(again(x).pooler_output, theirs(x).pooler_output) <= 2e-5


def test_a_decoder_without_a_mask_token_is_no_whole_model():
    weights = model_of().state_dict()
    del weights["mask_token"]
    with pytest.raises(CheckpointError, match=r"tensor mask_token .* is missing"):
        swindow.load(weights)


def test_convert_compares_what_is_drawn(tmp_path):
    model = model_of(patch_size=4, decoder_stride=8)
    swindow.save(model, tmp_path / "m.safetensors")
    for layout in ("simmim", "transformers", "swindow", "timm"):
        out = tmp_path / (layout if layout == "transformers" else f"{layout}.safetensors")
        found = swindow.convert(tmp_path / "m.safetensors", out, to=layout, input_size=64)
        assert found.difference <= 1e-6
        assert bool(found.left_out) == (layout == "timm")
        assert type(swindow.load(out)) is (SwinTransformer if layout == "timm" else SimMIM)


def test_inspect_counts_the_decoder_too(tmp_path, run):
    swindow.save(model_of(), tmp_path / "m.safetensors")
    code, out, _ = run("inspect", tmp_path / "m.safetensors", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["parameters"] == sum(p.numel() for p in model_of().parameters())
    plain = swindow.checkpoints.describe(model_of().backbone)
    tokens = (found["input_size"][0] // 4) * (found["input_size"][1] // 4)
    assert found["gmacs"] * 1e9 == pytest.approx(plain["gmacs"] * 1e9 + tokens * 16 * 3 * 4 * 4, abs=1e6)


# --- what refuses it --------------------------------------------------------------------------------------------------

ADVICE = r"got a SimMIM, which is for pre-training, expected a SwinTransformer; try model\.backbone, or fine-tune it"


def look(model):
    with explain.capture(model):
        pass


@pytest.mark.parametrize(
    "use",
    [
        swindow.Predictor.open,
        lambda model: swindow.predict(model, Image.new("RGB", (16, 16))),
        lambda model: swindow.evaluate(model, "digits"),
        look,
        lambda model: explain.record(model, torch.zeros(3, 16, 16)),
        swindow.inflate,
        freeze_unused,
    ],
    ids=["Predictor", "predict", "evaluate", "capture", "record", "inflate", "adapters"],
)
def test_what_needs_a_swin_transformer_says_so(use):
    with pytest.raises(InputError, match=ADVICE):
        use(model_of())


def test_commands_that_need_a_swin_transformer_say_so(tmp_path, run):
    path, photo = tmp_path / "m.safetensors", tmp_path / "a.png"
    swindow.save(model_of(), path)
    Image.new("RGB", (16, 16)).save(photo)
    for arguments in (("predict", path, photo), ("explain", path, photo), ("bench", path)):
        code, _, error = run(*arguments)
        assert code == 1
        assert "try model.backbone, or fine-tune it: swindow train DATA --weights CHECKPOINT" in error


def test_deploy_is_the_backbones():
    model = model_of()
    with pytest.raises(ConfigError, match=r"deploy: got a SimMIM, .*; try model\.backbone\.deploy\(\)"):
        model.deploy()
    x = torch.randn(1, 3, 20, 12)
    with torch.no_grad():
        twin = model.backbone.deploy()
        assert difference(twin(x), model.backbone(x)) <= 2e-5
        tokens = model.backbone.patch_embed(x)
        assert difference(twin.encode(tokens), model.backbone.encode(tokens)) <= 2e-5


def test_a_classifier_is_built_from_it():
    info = swindow.data.DataInfo("pets", class_names=("cat", "dog"))
    built = Classify().build(info, swindow.checkpoints.load_parts(model_of().state_dict()))
    assert type(built) is SwinTransformer
    assert built(torch.randn(1, 3, 16, 16)).shape == (1, 2)


def test_a_small_decoder_draws_small_images():
    model = SimMIM(SwinConfig(**SMALL, decoder_stride=2))
    assert model(torch.rand(1, 3, 32, 32), torch.rand(1, 16, 16) < 0.6).shape == (1, 3, 16, 16)
