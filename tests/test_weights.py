"""Published weights: the table beside other libraries, and loading by name from servers on the loopback address."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from PIL import Image
from safetensors.torch import save_file

import swindow
from helpers import hub as hubs
from helpers.definition import difference, randomise
from helpers.peers import peer
from swindow import CheckpointError, ConfigError, cli, weights
from swindow.checkpoints import download
from swindow.cli.shared import checked_name
from swindow.models.meta import meta_model
from swindow.variants import VARIANTS, image_size, parameters, variant_config
from swindow.weights import PUBLISHED, published

ROOT = Path(__file__).parents[1]
SMALL = {"num_classes": 3, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "embed_dim": 16}
TIMM = "timm/swin_tiny_patch4_window7_224.ms_in1k"

# --- the table --------------------------------------------------------------------------------------------------------


def test_every_row_has_a_name_a_variant_and_a_source():
    names = [row.name for row in PUBLISHED]
    assert len(set(names)) == len(names) == 43
    assert {row.variant for row in PUBLISHED} <= set(VARIANTS)
    assert all(row.pixels == image_size(row.variant) for row in PUBLISHED)
    assert all(row.sources and row.data and row.classes in (0, 10, 400, 1000, 21_841) for row in PUBLISHED)
    called = [name for row in PUBLISHED for name in weights._names(row)]
    assert len(set(called)) == len(called)  # no name is of two


def test_pretrained_is_the_best_of_those_who_trained_it_first():
    for variant in {row.variant for row in PUBLISHED}:
        rows = [row for row in PUBLISHED if row.variant == variant]
        first = [row for row in rows if row.tag.startswith("ms_")] or rows
        best = max(first, key=lambda row: row.top1 or 0)
        assert [row for row in rows if row.default] == [best]


def test_the_table_is_that_of_timm():
    timm = peer("timm")
    get_pretrained_cfg = timm.models.get_pretrained_cfg

    for row in PUBLISHED:
        if row.timm:
            theirs = get_pretrained_cfg(row.timm)
            assert (f"timm/{row.timm}", row.url, row.classes) == (theirs.hf_hub_id, theirs.url, theirs.num_classes)
            assert (row.pixels, row.licence.lower()) == (theirs.input_size[1], theirs.license)
            bare = row.timm.partition(".")[0]
            assert published(bare).tag == get_pretrained_cfg(bare).tag
    ours = {row.timm for row in PUBLISHED}
    theirs = {name for name in timm.list_models("swin*", pretrained=True) if "_cr_" not in name}
    assert theirs == ours - {""}


def test_the_table_is_that_of_torchvision():
    models = peer("torchvision.models")
    found = {}
    for name in models.list_models(include=["swin*"]):
        theirs = models.get_model_weights(name)
        assert published(name).url == theirs.DEFAULT.url
        for one in theirs:
            (metrics,) = one.meta["_metrics"].values()
            found[one.url] = metrics["acc@1"]
            row = next(row for row in PUBLISHED if row.url == one.url)
            short = one.transforms.keywords["resize_size"]
            assert "3d" in name or (row.resize or (260 if "_v2_" in name else 232)) == short
    assert found == {row.url: row.top1 for row in PUBLISHED if row.tag.startswith("tv_")}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("swin_tiny.ms_in1k", "swin_tiny.ms_in1k"),
        ("swin_tiny_patch4_window7_224.ms_in22k", "swin_tiny.ms_in22k"),
        ("timm/swin_tiny_patch4_window7_224.ms_in22k", "swin_tiny.ms_in22k"),
        ("swin_base_patch4_window7_224", "swin_base.ms_in22k_ft_in1k"),
        ("microsoft/swinv2-tiny-patch4-window8-256", "swinv2_tiny_w8.ms_in1k"),
        ("swin_v2_b", "swinv2_base_w8.tv_in1k"),
        ("swin3d_b", "swin3d_base.tv_k400"),
    ],
)
def test_names_of_other_libraries(name, row):
    assert published(name).name == row


def test_what_is_no_name():
    for name in ("swin_tiny", "swin_tiny.ms", "model.safetensors", "", "timm/", "microsoft/", "cat.jpg"):
        assert published(name) is None


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("swin_tiny.ms_in2k", "swin_tiny.ms_in22k"),
        ("swin_tiny_patch4_window7_224.ms_in1", "swin_tiny_patch4_window7_224.ms_in1k"),
        ("swinv2_tiny_window8_265.ms_in1k", "swinv2_tiny_window8_256.ms_in1k"),
        ("timm/swin_tiny_patch4_window7_224.ms_in1", "timm/swin_tiny_patch4_window7_224.ms_in1k"),
        ("microsoft/swin-tiny-patch4-window7-22", "microsoft/swin-tiny-patch4-window7-224"),
    ],
)
def test_misspelt_names_get_the_right_one(wrong, right, run):
    assert published(right) is not None
    assert weights.suggestions(wrong).startswith(f" (did you mean {right!r}")
    for command in ("predict", "inspect", "explain"):
        code, _, error = run(command, wrong, *(() if command == "inspect" else ("cat.jpg",)))
        assert code == 2
        assert error.startswith(f"swindow: error: unknown weights {wrong!r} (did you mean {right!r}")
        assert error.endswith("; 'swindow weights' lists all\n")


def test_suggestions_know_torchvisions_names():
    assert weights.suggestions("swin_v2_tt").startswith(" (did you mean 'swin_v2_t' or ")


@pytest.mark.parametrize(
    "path",
    [
        "swin_tiny.pth",
        "swin_tiny_patch4_window7_224.pth",
        "runs/swin_tiny.ms_in1",
        "./swin_tiny.ms_in1",
        "timm/swin_tiny_patch4_window7_224.pth",
        "model.ms_backup",
    ],
)
def test_wrong_paths_get_no_names_of_weights(path):
    checked_name(path)  # what is wrong with it, load says


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("swinv2_cr_tiny_ns_224", "timm's swinv2_cr, another architecture than SwinV2"),
        ("timm/swinv2_cr_tiny_ns_224.sw_in1k", "timm's swinv2_cr, another architecture than SwinV2"),
        ("hf://timm/SwinV2_CR_small_224.sw_in1k", "timm's swinv2_cr, another architecture than SwinV2"),
        ("SwinIR_real_sr_x4", "SwinIR, which restores images"),
        ("ctranspath.pth", "CTransPath, which has convolutions"),
        ("hf://1aurent/swin_tiny_patch4_window7_224.CTransPath", "CTransPath, which has convolutions"),
    ],
)
def test_names_of_other_architectures_are_refused(name, what, run, tmp_path, monkeypatch):
    assert weights.refused(name).startswith(what)
    code, _, error = run("inspect", name)
    assert (code, error.startswith(f"swindow: error: {name}: got the name of {what}")) == (2, True)
    if "/" not in name:  # a file of that name is looked into
        monkeypatch.chdir(tmp_path)
        (tmp_path / name).write_bytes(b"")
        checked_name(name)


def test_no_published_name_is_refused():
    names = [name for row in PUBLISHED for name in weights._names(row)]
    paths = ["runs/old/swinir.pth", "swin_tiny", "swinv2_cr", "cat.jpg", ""]
    assert [name for name in (*names, *VARIANTS, *paths) if weights.refused(name)] == []


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    return randomise(swindow.create("swin_tiny", **SMALL)).eval()


@pytest.fixture
def hub(model, tmp_path):
    """A hub that has a small model under the name of a large one."""
    folder = tmp_path / "repository"
    folder.mkdir()
    swindow.save(model, folder / "model.safetensors", layout="timm")
    for name in ("README.md", ".gitattributes", "pytorch_model.bin"):  # as there, and not wanted
        (folder / name).write_text("more")
    hub = hubs.Hub()
    hub.repositories[TIMM] = folder
    with hubs.serving(hub):
        yield hub


@pytest.fixture
def run_python(hub, tmp_path):
    """Runs a script, or a command, for which ours is the hub; returns what it printed."""

    def run(script, fails=False, **more):
        environment = of_its_own(hub, tmp_path) | more
        command = [sys.executable, "-c", script] if isinstance(script, str) else [sys.executable, "-m", *script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert bool(done.returncode) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


def of_its_own(hub, folder):
    """The environment of a process that sees this hub and no cache or proxy of the machine."""
    ours = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TORCH_HOME")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours) and not k.lower().endswith("_proxy")}
    caches = {"HF_HOME": str(folder / "home"), "TORCH_HOME": str(folder / "torch")}
    return kept | caches | {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}


LOAD = """
import sys, torch, swindow
model = swindow.{call}
print(model.load_report.source, model.card.data, model.card.licence, model.training, model.config.num_classes, sep=", ")
torch.save(model.state_dict(), "{out}")
"""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('load("swin_tiny.ms_in1k")', "swin_tiny.ms_in1k, ImageNet-1k, MIT, False, 3"),
        pytest.param(
            'load("timm/swin_tiny_patch4_window7_224.ms_in1k", num_classes=0)',
            "swin_tiny.ms_in1k, ImageNet-1k, MIT, False, 0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'create("swin_tiny", pretrained=True)',
            "swin_tiny.ms_in1k, ImageNet-1k, MIT, True, 3",
            marks=pytest.mark.slow,
        ),
        ('create("swin_tiny", "ms_in1k", num_classes=7, seed=3)', "swin_tiny.ms_in1k, ImageNet-1k, MIT, True, 7"),
        pytest.param(
            'create("swin_tiny_patch4_window7_224.ms_in1k", pretrained=True, num_classes=0)',
            "swin_tiny.ms_in1k, ImageNet-1k, MIT, True, 0",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_weights_are_downloaded_once(call, said, hub, model, run_python, tmp_path):
    out = tmp_path / "found.pt"
    assert run_python(LOAD.format(call=call, out=out)).strip() == said
    found = torch.load(out)
    expected = model.state_dict()
    same = [key for key in found if not key.startswith("head.") or said.endswith("3")]
    assert all(torch.equal(found[key], expected[key]) for key in same)
    assert len(same) >= len(expected) - 2
    assert any(TIMM in path for _, path, _ in hub.requests)
    hub.requests.clear()
    assert run_python(LOAD.format(call=call, out=out)).strip() == said
    assert hub.requests == []  # from the cache
    assert run_python(LOAD.format(call=call, out=out), HF_HUB_OFFLINE="1").strip() == said
    again = torch.load(out)
    if "seed" in call:
        assert all(torch.equal(again[key], found[key]) for key in found)


def test_commands_take_names(run_python, tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (80, 60), "red").save(image)
    found = json.loads(run_python(["swindow", "predict", "swin_tiny.ms_in1k", str(image), "--json"]))
    assert sorted(p["class"] for p in found[0]["predictions"]) == ["0", "1", "2"]
    out = json.loads(run_python(["swindow", "inspect", "swin_tiny_patch4_window7_224.ms_in1k", "--json"]))
    assert out["source"] == "swin_tiny.ms_in1k"
    settings = ["--weights", "swin_tiny.ms_in1k", "--epochs", "1", "--image-size", "32", "--limit", "64"]
    run_python(["swindow", "train", "digits", *settings, "--out", str(tmp_path / "run")])
    trained = swindow.load(tmp_path / "run" / "model.safetensors")
    assert trained.config.depths == (1, 1, 1, 1)
    assert (trained.card.data, trained.card.licence) == ("ImageNet-1k, then digits", "MIT")
    failed = run_python(["swindow", "predict", "swin_tiny.ms_in2k", str(image)], fails=True)
    assert failed.startswith(
        "swindow: error: unknown weights 'swin_tiny.ms_in2k' (did you mean 'swin_tiny.ms_in22k' or "
    )
    assert failed.strip().endswith("; 'swindow weights' lists all")
    failed = run_python(["swindow", "predict", "swin_tiny.pth", str(image)], fails=True)
    assert failed.startswith("swindow: error: swin_tiny.pth: there is no such file")


@pytest.mark.slow
def test_an_interrupted_download_goes_on(hub, run_python):
    path = f"/{TIMM}/resolve/{hubs.COMMIT}/model.safetensors"
    large = swindow.create("swin_tiny", num_classes=3, embed_dim=64, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16))
    swindow.save(large, hub.repositories[TIMM] / "model.safetensors", layout="timm")
    hub.cut[path] = 25_000_000  # the hub's library writes 10 MiB at a time
    script = 'import swindow; print(swindow.load("swin_tiny.ms_in1k").config.depths)'
    assert "(2, 2, 2, 2)" in run_python(script)
    ranges = [asked for method, where, asked in hub.requests if where == path and asked]
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").partition("-")[0]) >= 10 * 2**20


@pytest.mark.slow
def test_a_revision_is_fetched(hub, model, run_python, tmp_path):
    older = randomise(swindow.create("swin_tiny", **SMALL, seed=1))
    (tmp_path / "older").mkdir()
    swindow.save(older, tmp_path / "older" / "model.safetensors", layout="timm")
    hub.repositories |= {"org/name@v1": tmp_path / "older", "org/name": hub.repositories[TIMM]}
    out = tmp_path / "found.pt"
    for address, expected in (("hf://org/name@v1", older), ("hf://org/name", model), ("hf://org/name@v1", older)):
        script = f"import swindow, torch; torch.save(swindow.load({address!r}).state_dict(), {str(out)!r})"
        run_python(script)
        found = torch.load(out)
        assert all(torch.equal(found[key], value) for key, value in expected.state_dict().items())
    asked = {path for _, path, _ in hub.requests if path.endswith("model.safetensors")}
    assert asked == {f"/org/name/resolve/{commit}/model.safetensors" for commit in (hubs.COMMIT, hubs.commit_of("v1"))}
    failed = run_python('import swindow; swindow.load("hf://org/name@v2")', fails=True)
    assert "CheckpointError: hf://org/name@v2: could not be had from the hub or its cache (" in failed


@pytest.fixture
def elsewhere(hub):
    """Another server, to which the hub sends on whoever asks for the weights, and their path there."""
    cdn, path = hubs.Hub(), f"/{TIMM}/resolve/{hubs.COMMIT}/model.safetensors"
    cdn.files["/repos/blob"] = hub.repositories[TIMM] / "model.safetensors"
    with hubs.serving(cdn):
        hub.moved[path] = f"{cdn.address}/repos/blob"
        yield cdn, path


@pytest.mark.parametrize("xet", [False, True], ids=["files", "Xet storage"])
def test_weights_that_the_hub_keeps_elsewhere(xet, hub, elsewhere, model, run_python, tmp_path):
    """As the hub sends to its content delivery network; of Xet storage, without hf_xet or with HF_HUB_DISABLE_XET."""
    cdn, path = elsewhere
    hub.xet |= {path} if xet else set()
    out = tmp_path / "found.pt"
    assert "swin_tiny.ms_in1k" in run_python(LOAD.format(call='load("swin_tiny.ms_in1k")', out=out))
    found = torch.load(out)
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    assert ("HEAD", path, None) in hub.requests
    assert [(method, where) for method, where, _ in cdn.requests if method == "GET"] == [("GET", "/repos/blob")]
    assert not any("xet" in where for _, where, _ in hub.requests)


@pytest.mark.slow
def test_an_interrupted_download_from_elsewhere_goes_on(hub, elsewhere, run_python):
    cdn, _ = elsewhere
    large = swindow.create("swin_tiny", num_classes=3, embed_dim=64, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16))
    swindow.save(large, hub.repositories[TIMM] / "model.safetensors", layout="timm")
    cdn.cut["/repos/blob"] = 25_000_000
    assert "(2, 2, 2, 2)" in run_python('import swindow; print(swindow.load("swin_tiny.ms_in1k").config.depths)')
    ranges = [asked for method, where, asked in cdn.requests if where == "/repos/blob" and asked]
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").partition("-")[0]) >= 10 * 2**20


def test_another_file_than_the_announced_one_is_refused(hub, run_python, tmp_path):
    hub.lies.add(f"/{TIMM}/resolve/{hubs.COMMIT}/model.safetensors")
    script = 'import swindow; swindow.load("swin_tiny.ms_in1k")'
    failed = run_python(script, fails=True)
    assert "model.safetensors is not the file that the hub describes (its hash differs); it was removed" in failed
    hub.lies.clear()
    run_python(script)


def test_without_a_network_the_file_and_its_place_are_named(run_python, tmp_path):
    failed = run_python('import swindow; swindow.load("swin_small.ms_in1k")', fails=True, HF_HUB_OFFLINE="1")
    place = tmp_path / "torch" / "hub" / "checkpoints" / "swin_small_patch4_window7_224.pth"
    assert f"swin_small_patch4_window7_224.pth elsewhere and put it at {place}" in failed
    assert "CheckpointError: swin_small.ms_in1k: could not be downloaded" in failed


@pytest.fixture
def file(model, tmp_path, monkeypatch):
    """A file of torchvision's on a server, and the row of the table that names it."""
    folder = tmp_path / "models"
    folder.mkdir()
    swindow.save(model, folder / "a.pth", layout="torchvision")
    digits = hashlib.sha256((folder / "a.pth").read_bytes()).hexdigest()[:8]
    hub = hubs.Hub()
    hub.files[f"/models/swin_t-{digits}.pth"] = folder / "a.pth"
    hub.files["/models/swin_t-00000000.pth"] = folder / "a.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def use(digits=digits):
        row = published("swin_t")._replace(url=f"{hub.address}/models/swin_t-{digits}.pth")
        monkeypatch.setattr(weights, "PUBLISHED", (row,))
        return download.place_of(row.url)

    with hubs.serving(hub):
        yield hub, use


def test_a_file_over_http(file, model):
    hub, use = file
    place = use()
    found = swindow.load("swin_tiny.tv_in1k")
    assert place.is_file()
    assert found.load_report.layout == "torchvision"
    assert (found.card.data, found.card.licence) == ("ImageNet-1k", "BSD-3-Clause")
    x = torch.randn(1, 3, 224, 224)
    assert difference(found(x), model(x)) <= 2e-5
    hub.requests.clear()
    swindow.load("swin_tiny.tv_in1k")
    assert hub.requests == []


def test_a_file_over_http_that_was_cut_off_goes_on(file):
    hub, use = file
    place = use()
    path = next(path for path in hub.files if "00000000" not in path)
    hub.cut[path] = 30_000
    with pytest.raises(CheckpointError, match=r"the connection ended after 30,000 of [\d,]+ bytes; try again"):
        swindow.load("swin_tiny.tv_in1k")
    assert not place.exists()
    swindow.load("swin_tiny.tv_in1k")
    assert hub.requests[-1] == ("GET", path, "bytes=30000-")
    assert place.read_bytes() == hub.files[path].read_bytes()


def test_a_file_over_http_that_moved_goes_on_there(file):
    hub, use = file
    place = use()
    path = next(path for path in hub.files if "00000000" not in path)
    hub.files["/new/place"] = hub.files[path]
    hub.moved[path] = "/new/place"
    hub.cut["/new/place"] = 30_000
    with pytest.raises(CheckpointError, match=r"the connection ended after 30,000 of [\d,]+ bytes; try again"):
        swindow.load("swin_tiny.tv_in1k")
    swindow.load("swin_tiny.tv_in1k")
    assert hub.requests[-2:] == [("GET", path, "bytes=30000-"), ("GET", "/new/place", "bytes=30000-")]
    assert place.read_bytes() == hub.files[path].read_bytes()


def test_a_file_with_another_hash_is_refused(file):
    _, use = file
    place = use("00000000")
    with pytest.raises(
        CheckpointError, match=r"got a file with SHA-256 \w{8}\.\.\., expected 00000000\.\.\.; it was removed"
    ):
        swindow.load("swin_tiny.tv_in1k")
    assert not place.exists()
    assert [file.suffix for file in place.parent.iterdir()] == [".lock"]


def test_one_of_two_threads_downloads(file):
    hub, use = file
    use()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: swindow.load("swin_tiny.tv_in1k"), range(2)))
    assert len([path for method, path, _ in hub.requests if method == "GET"]) == 1
    assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), found[1].parameters(), strict=True))


@pytest.mark.parametrize("left", ["longer", "as long"])
def test_what_an_earlier_try_left_is_completed_or_replaced(file, left):
    hub, use = file
    place = use()
    path = next(path for path in hub.files if "00000000" not in path)
    whole = hub.files[path].read_bytes()
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(whole if left == "as long" else whole + b"more")
    swindow.load("swin_tiny.tv_in1k")
    assert place.read_bytes() == whole


def test_what_cannot_be_verified_is_refused(file, monkeypatch):
    hub, use = file
    place = use()
    path = next(path for path in hub.files if "00000000" not in path)
    hub.silent.add(path)
    swindow.load("swin_tiny.tv_in1k")  # by its hash
    place.unlink()
    monkeypatch.setattr(download, "hash_of", lambda url: "")
    with pytest.raises(
        CheckpointError, match="the server does not say how long the file is, so that it cannot be verif"
    ):
        swindow.load("swin_tiny.tv_in1k")
    assert not place.exists()


def test_the_next_source_is_tried(hub, model, run_python, tmp_path):
    """timm's repository is absent, and that of transformers is there."""
    folder = tmp_path / "other"
    swindow.save(model, folder, layout="transformers", input_size=224)
    hub.repositories = {"microsoft/swin-tiny-patch4-window7-224": folder}
    out = tmp_path / "found.pt"
    assert "swin_tiny.ms_in1k, ImageNet-1k" in run_python(LOAD.format(call='load("swin_tiny.ms_in1k")', out=out))
    assert any("/microsoft/" in path for _, path, _ in hub.requests)
    hub.repositories["org/empty"] = tmp_path / "without"
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "config.json").write_text("{}")
    again = 'import swindow; swindow.load("hf://org/empty")'
    assert "holds no weights (*.safetensors or *.bin)" in run_python(again, fails=True)


def test_windows_of_swinv2_are_known_by_the_name(hub, run_python, tmp_path):
    """timm's library keeps the tensors alone in the cache, and no tensor tells these windows."""
    fields = {"num_classes": 3, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "embed_dim": 16}
    model = randomise(swindow.create("swinv2_tiny_w16", **fields))
    folder = tmp_path / "v2"
    folder.mkdir()
    swindow.save(model, folder / "model.safetensors", layout="timm")
    hub.repositories = {"timm/swinv2_tiny_window16_256.ms_in1k": folder}
    found = run_python('import swindow; print(swindow.load("swinv2_tiny_w16.ms_in1k").config.window_size)')
    assert found.strip() == "((16, 16), (16, 16), (16, 16), (8, 8))"


NAMES = """
import swindow
from swindow.class_names import imagenet_1k, imagenet_22k

for classes, known in ((None, imagenet_22k()), (1000, imagenet_1k())):
    model = swindow.load("swin_tiny.ms_in22k", num_classes=classes)
    print(model.card.class_names == tuple(name for _, name in known), "class_names" in model.load_report.assumed)
"""


def test_names_of_imagenet_22k_are_those_of_the_weights_not_those_beside_them(hub, run_python, tmp_path):
    """config.json files name the classes in another order."""
    fields = {"num_classes": 21_841, "depths": (1, 1), "num_heads": (1, 2), "embed_dim": 8}
    model = randomise(swindow.create("swin_tiny", **fields))
    model.card = swindow.ModelCard(class_names=tuple(map(str, range(21_841))))
    swindow.save(model, tmp_path / "folder", layout="timm", input_size=224)
    hub.repositories = {"timm/swin_tiny_patch4_window7_224.ms_in22k": tmp_path / "folder"}
    assert run_python(NAMES).split() == ["True", "False"] * 2


@pytest.mark.parametrize("name", ["swinv2_cr_tiny_ns_224", "hf://timm/swinv2_cr_tiny_ns_224.sw_in1k", "SwinIR_x4.pth"])
def test_names_of_other_architectures_are_refused_in_python(name):
    with pytest.raises(CheckpointError, match=r"is of (timm's swinv2_cr|SwinIR).*which swindow does not have"):
        swindow.load(name)


@pytest.mark.parametrize("stops", ["at once", "in the middle"])
def test_a_network_that_fails_is_an_error_of_ours(stops, run_python, hub):
    address = "http://127.0.0.1:9" if stops == "at once" else hub.address
    if stops == "in the middle":
        hub.find = lambda path: 1 / 0  # the connection is closed without an answer
    script = 'import swindow; swindow.load("swin_s3_tiny.ms_in1k")'
    failed = run_python(script, fails=True, HF_ENDPOINT=address, HTTPS_PROXY="http://127.0.0.1:9")
    assert (
        failed.strip()
        .splitlines()[-1]
        .startswith("swindow.errors.CheckpointError: swin_s3_tiny.ms_in1k: could not be downloaded (hf://timm/")
    )


# --- bars -------------------------------------------------------------------------------------------------------------


def on_terminal(command, environment):
    """Runs a command whose standard error is a terminal; returns what it wrote there."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))  # 40 lines of 100 characters
    with os.fdopen(ours, "rb", buffering=0) as screen:
        try:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
        finally:
            os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while block := screen.read(4096):
                written += block
        assert process.wait() == 0, written
    return written.decode()


@pytest.mark.parametrize(("options", "bars"), [pytest.param((), True, marks=pytest.mark.slow), (("--quiet",), False)])
def test_quiet_draws_no_bar_of_the_hub(options, bars, hub, tmp_path):
    command = [sys.executable, "-m", "swindow", "inspect", "swin_tiny.ms_in1k", *options]
    written = on_terminal(command, of_its_own(hub, tmp_path) | {"TERM": "xterm"})
    assert ("model.safetensors" in written or "Fetching" in written) == bars
    assert bars or written == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_quiet_draws_no_bar_of_ours_and_ends_with_its_command(file):
    _, use = file
    place = use()
    for options, bars in (((), True), (("--quiet",), False), ((), True)):
        with contextlib.redirect_stderr(Terminal()) as screen, pytest.raises(SystemExit) as end:
            cli.main(["inspect", "swin_tiny.tv_in1k", *options])
        assert (end.value.code, place.stem in screen.getvalue()) == (0, bars)
        assert bars or screen.getvalue() == ""
        place.unlink()
    assert not are_progress_bars_disabled()


def test_the_hubs_switch_is_ours_too(file):
    _, use = file
    place = use()
    for switch, bars in ((disable_progress_bars, False), (enable_progress_bars, True)):
        switch()
        try:
            with contextlib.redirect_stderr(Terminal()) as screen:
                swindow.load("swin_tiny.tv_in1k")
        finally:
            enable_progress_bars()
        assert (place.stem in screen.getvalue()) == bars
        place.unlink()


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_hubs_variable_has_priority(value, file, tmp_path):
    hub, _ = file
    url = f"{hub.address}{next(path for path in hub.files if '00000000' not in path)}"
    script = f"from swindow.checkpoints import download; download.BARS.set(False); download.from_url({url!r})"
    variables = of_its_own(hub, tmp_path) | {"HF_HUB_DISABLE_PROGRESS_BARS": value}
    written = on_terminal([sys.executable, "-c", script], variables)
    assert ("swin_t-" in written) == (value == "0")
    assert "Warning" not in written


def test_nothing_of_the_hub_is_imported_where_nothing_is_downloaded():
    script = (
        "import sys, swindow.cli.shared as shared; shared.Output(quiet=True); "
        "assert not {'huggingface_hub', 'torch', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_does_not_exist():
    with pytest.raises(ConfigError, match="swin_micro: there are no published weights of it; there are of swin_nano, "):
        swindow.create("swin_micro", pretrained=True)
    with pytest.raises(ConfigError, match=r"unknown variant 'swin_tinny' \(did you mean 'swin_tiny'"):
        swindow.create("swin_tinny", pretrained=True)
    with pytest.raises(ConfigError, match="pretrained: got 'in1k', expected True or, for swin_tiny, ms_in1k or"):
        swindow.create("swin_tiny", pretrained="in1k")
    with pytest.raises(
        CheckpointError, match=r"no such file \(did you mean 'swin_tiny\.ms_in22k' or .*\('swindow weights'"
    ):
        swindow.load("swin_tiny.ms_in2k")


def test_the_command_lists_them(run):
    code, out, _ = run("weights", "22k", "--json")
    found = json.loads(out)
    assert code == 0
    assert all("22k" in name for name in found)
    assert found["swin_base.ms_in22k_ft_in1k"]["top1"] == 85.276
    code, out, _ = run("weights", "simmim")
    assert "swin_base_w6_192.ms_simmim *  192" in out
    code, _, error = run("weights", "resnet")
    assert (code, error) == (
        2,
        "swindow: error: no published weights have 'resnet' in their name or data; 'swindow weights' lists all\n",
    )


def test_the_command_counts_parameters_with_the_head_that_weights_have(run):
    _, out, _ = run("weights", "--json")
    found = json.loads(out)
    assert {row["classes"] for row in found.values()} == {0, 10, 400, 1000, 21_841}
    for row in PUBLISHED:
        model = meta_model(variant_config(row.variant, num_classes=row.classes, decoder_stride=row.decoder_stride))
        assert found[row.name]["parameters"] == sum(p.numel() for p in model.parameters())
    _, out, _ = run("weights", "swin_tiny.ms_in22k")
    shown = {line.split()[0]: line for line in out.splitlines()}
    assert "  44.3 M  " in shown["swin_tiny.ms_in22k"]
    assert "  28.3 M  " in shown["swin_tiny.ms_in22k_ft_in1k"]


# --- in the package ---------------------------------------------------------------------------------------------------

OURS = "swin_nano.cifar10"


def test_weights_of_the_package_need_no_network(monkeypatch):
    monkeypatch.delattr(download, "from_hub")
    monkeypatch.delattr(download, "from_url")
    for model in (swindow.load(OURS), swindow.create("swin_nano", pretrained=True)):
        assert model.config == variant_config("swin_nano", num_classes=10)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model.card.class_names[3] == "cat"
        assert (model.card.data, model.card.licence) == ("CIFAR-10", "Apache-2.0")
        assert model.card.preprocess.size == (32, 32)
        assert not model.load_report.assumed
    row = published(OURS)
    assert f"Accuracy {row.top1 / 100:.4f} on the 10,000 test images" in model.card.description
    assert "Not for use in products" in model.card.description
    assert download.fetch(row).stat().st_size < 4_000_000
    assert row.checked == "no download"


def test_weights_of_the_package_are_those_of_the_committed_result():
    result = json.loads((ROOT / "benchmarks" / "results" / "cifar10.json").read_text())
    row = published(OURS)
    assert row.top1 == pytest.approx(100 * result["accuracy"], abs=1e-9)
    assert parameters(row.variant, row.classes) == result["parameters"] <= 1_500_000
    assert result["minutes"] <= 150


def test_weights_of_the_package_are_as_good_as_they_say():
    """Measured on the first thousand test images: seven standard errors are allowed."""
    path = ROOT.parent / "shared" / "data" / "cifar10" / "test.parquet"
    if not path.is_file():
        pytest.skip("needs ../shared/data/cifar10")
    test = swindow.data.open(path, verify=False).train
    found = swindow.evaluate(OURS, swindow.data.Subset(test, range(1000)), all=True)
    assert found.accuracy == pytest.approx(published(OURS).top1 / 100, abs=0.07)
    assert found.calibration_error < 0.15


def test_a_card_says_what_weights_are_not_for(run):
    code, out, _ = run("inspect", OURS)
    assert code == 0
    assert "description  Accuracy " in out
    tuned = swindow.card.ModelCard(data="photos").after(swindow.load(OURS).card)
    assert (tuned.data, tuned.licence, tuned.description) == ("CIFAR-10, then photos", "Apache-2.0", None)
    for changes in ({"num_classes": 3}, {"in_chans": 1}, {"window_size": 8}):
        assert swindow.load(OURS, **changes).card.description is None
    assert swindow.inflate(swindow.load(OURS)).card.description is None


def test_an_installation_without_its_weights_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PACKAGE", tmp_path / "swindow")
    with pytest.raises(CheckpointError, match=r"pretrained/swin_nano.cifar10.safetensors is absent.*install"):
        swindow.load(OURS)


def test_it_predicts_the_photo_of_the_examples():
    (found,) = swindow.predict(OURS, ROOT / "examples" / "cat.jpg", top=10)
    assert set(found.classes) == set(swindow.load(OURS).card.class_names)
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-4)


# --- every row --------------------------------------------------------------------------------------------------------


def zeros(module):
    """The state of a module with zeros for parameters, which take no memory; buffers follow from sizes."""
    parameters = dict(module.named_parameters())
    return {key: torch.zeros(x.shape) if key in parameters else x for key, x in module.state_dict().items()}


def fits(found, row, theirs):
    """Every tensor has its place; the model is the variant, with as many parameters as theirs."""
    variant = swindow.SwinConfig.from_dict(VARIANTS[row.variant])
    assert not found.load_report.initialised
    assert found.load_report.matched == len(found.state_dict())
    assert found.config.num_classes == row.classes
    for field in ("embed_dim", "depths", "num_heads", "window_size", "patch_size", "similarity"):
        assert getattr(found.config, field) == getattr(variant, field)
    count = sum(p.numel() for p in found.parameters())
    assert count == parameters(row.variant, row.classes, row.decoder_stride)
    return count == sum(p.numel() for p in theirs.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.timm], ids=lambda row: row.name)
def test_files_of_timm_fit(row, tmp_path):
    """As on the hub: tensors, and a config.json that names the model."""
    timm = peer("timm")
    with torch.device("meta"):
        theirs = timm.create_model(row.timm, pretrained=False)
    size = theirs.pretrained_cfg["input_size"]
    about = {"architecture": row.timm.partition(".")[0], "pretrained_cfg": {"input_size": size, "crop_pct": 0.9}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    save_file(zeros(theirs), tmp_path / "model.safetensors")
    assert fits(swindow.load(tmp_path), row, theirs)
    (tmp_path / "model.safetensors").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.tag.startswith("tv_")], ids=lambda row: row.name)
def test_files_of_torchvision_fit(row, monkeypatch):
    models = peer("torchvision.models")
    name = next(name for name in weights._names(row) if "." not in name).removesuffix("_22k")
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda x, **_: x)  # drawing takes most of the time
    theirs = models.get_model(name, weights=None)
    assert fits(swindow.load(zeros(theirs)), row, theirs) or "v2" in row.variant  # theirs has more biases


ONE_OF_EACH = {  # architecture to the peer that publishes it
    "swin_tiny.ms_in1k": "timm",
    "swin_s3_tiny.ms_in1k": "timm",
    "swinv2_tiny_w8.ms_in1k": "timm",
    "swin_tiny.tv_in1k": "torchvision",
    "swinv2_tiny_w8.tv_in1k": "torchvision",
    "swin3d_tiny.tv_k400": "torchvision",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "library"), ONE_OF_EACH.items())
@torch.no_grad()
def test_downloaded_weights_give_the_logits_of_their_library(name, library, tmp_path, monkeypatch):
    row, hub = published(name), hubs.Hub()
    pixels, clip = row.pixels, "3d" in name
    if library == "timm":
        theirs = peer("timm").create_model(row.timm, pretrained=False)
    else:
        models = peer("torchvision.models")
        theirs = models.get_model(next(n for n in weights._names(row) if "." not in n), weights=None)
    theirs = randomise(theirs).eval()
    x = torch.randn(1, 3, 16, 224, 224) if clip else torch.randn(1, 3, pixels, pixels)
    folder = tmp_path / "repository"
    folder.mkdir()
    with hubs.serving(hub):
        if library == "timm":
            about = {"architecture": row.timm.partition(".")[0], "pretrained_cfg": {"input_size": [3, pixels, pixels]}}
            (folder / "config.json").write_text(json.dumps(about))
            save_file(theirs.state_dict(), folder / "model.safetensors")
            hub.repositories[f"timm/{row.timm}"] = folder
        else:
            torch.save(theirs.state_dict(), folder / "a.pth")
            digits = hashlib.sha256((folder / "a.pth").read_bytes()).hexdigest()[:8]
            hub.files[f"/a-{digits}.pth"] = folder / "a.pth"
            row = row._replace(url=f"{hub.address}/a-{digits}.pth")
            monkeypatch.setattr(weights, "PUBLISHED", (row,))
            monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
            found = swindow.load(name)
        if library == "timm":
            script = f"import swindow; swindow.save(swindow.load({name!r}), {str(tmp_path / 'ours.safetensors')!r})"
            subprocess.run(
                [sys.executable, "-c", script], env=of_its_own(hub, tmp_path), check=True, capture_output=True
            )
            found = swindow.load(tmp_path / "ours.safetensors")
    assert difference(found(x), theirs(x)) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.transformers], ids=lambda row: row.name)
def test_repositories_in_the_layout_of_transformers_fit(row, tmp_path):
    library = peer("transformers")
    known = swindow.SwinConfig.from_dict(VARIANTS[row.variant])
    v2, simmim = known.similarity == "cosine", row.tag == "ms_simmim"
    fields = {"image_size": row.pixels, "window_size": known.window_size[0][0], "num_labels": row.classes}
    fields |= {"embed_dim": known.embed_dim, "depths": list(known.depths), "num_heads": list(known.num_heads)}
    if known.pretrained_window_size:
        fields["pretrained_window_sizes"] = [w[0] for w in known.pretrained_window_size]
    prefix, kind = "Swinv2" if v2 else "Swin", "ForMaskedImageModeling" if simmim else "ForImageClassification"
    config = getattr(library, f"{prefix}Config")(**fields, **({"encoder_stride": 32} if simmim else {}))
    with torch.device("meta"):
        theirs = getattr(library, prefix + kind)(config)
    about = config.to_dict() | {"architectures": [prefix + kind]}
    (tmp_path / "config.json").write_text(json.dumps(about, default=str))
    save_file(zeros(theirs), tmp_path / "model.safetensors")
    found = swindow.load(tmp_path)
    assert simmim == isinstance(found, swindow.models.SimMIM)
    assert fits(found, row, theirs)
    (tmp_path / "model.safetensors").unlink()
