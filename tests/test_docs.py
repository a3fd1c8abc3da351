"""README and the pages in docs/: code and commands run, links lead somewhere, figures are those that were measured."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from PIL import Image

import swindow
from helpers.folders import make_folder
from helpers.peers import peer
from swindow import cli, weights

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

NEEDS_A_GPU = "<!-- needs a GPU -->\n"
PEERS = (
    "openvino",
    "torch.utils.tensorboard",
    "timm",
    "torchvision",
    "transformers",
)  # a page that imports one needs it
SLOW = ("docs/speed.md",)  # compiles and exports
SETS_UP = ("pip ", "make ")  # installs, or runs everything: continuous integration does that

# What is changed so that the same code and commands take seconds.
QUICK_CODE = {
    "epochs=30": "epochs=1",
    'swindow.create("swin_tiny").eval()\nimages = torch.randn(2, 3, 256, 256)': (
        'swindow.create("swin_nano").eval()\nimages = torch.randn(2, 3, 64, 64)'
    ),
}
QUICK_TRAINING = " --epochs 1 --image-size 32 --workers 0"
SHELL = """
python() { "$PYTHON" "$@"; }
swindow() { "$PYTHON" -m swindow "$@"; }
torchrun() { "$PYTHON" -m torch.distributed.run "$@"; }
"""


def pages_with(language):
    slow = {name: [pytest.mark.slow] if name in SLOW else [] for name in NAMES}
    return [pytest.param(name, marks=slow[name]) for name in NAMES if blocks(name, language)]


def blocks(name, language):
    """The code blocks of a page, by the number of lines before; without those that need a GPU where there is none."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.finditer(rf"((?:<!--.*-->\n)?)```{language}\n(.*?)```", text, re.DOTALL)
    usable = [match for match in found if match[1] != NEEDS_A_GPU or torch.cuda.is_available()]
    return {text.count("\n", 0, match.start(2)): match[2] for match in usable}


def commands(name):
    """The commands of a page, without the comments behind them."""
    lines = "".join(blocks(name, "bash").values()).splitlines()
    return [re.sub(r"\s+#.*", "", line) for line in lines if line and not line.startswith(SETS_UP)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the files that the pages speak of."""
    desk = tmp_path_factory.mktemp("desk")
    for name in ("photos", "other_photos"):
        make_folder(desk / name)
    (desk / "new" / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "photo.jpg", "new/1.jpg", "new/more/2.jpg"):
        Image.effect_noise((40, 30), 90).convert("RGB").save(desk / name)
    make_folder(desk / "other_photos", classes=("cat",), each=11)
    (desk / "broken.jpg").write_bytes(b"no image")
    settings = swindow.TrainConfig(
        variant="swin_nano", image_size=32, epochs=1, workers=0, out=desk / "runs" / "photos"
    )
    swindow.train(desk / "photos", settings)
    (desk / "runs" / "digits").mkdir()
    digits = swindow.create("swin_nano", num_classes=10, in_chans=1)
    swindow.save(digits, desk / "runs" / "digits" / "model.safetensors")
    small = swindow.create("swin_tiny", embed_dim=24, num_heads=(1, 2, 4, 8)).eval()
    swindow.save(small, desk / "swin_tiny_patch4_window7_224.pth", "microsoft", input_size=224)
    for published in ("swin_tiny.ms_in1k", "swin_base.ms_in22k_ft_in1k"):  # as if they had been downloaded
        place = desk / "torch" / "hub" / "checkpoints" / weights.published(published).url.rpartition("/")[2]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(desk / "swin_tiny_patch4_window7_224.pth", place)
    make_folder(desk / "imagenet" / "val", classes=("n01440764", "n02123045"))
    shutil.copy(desk / "a.jpg", desk / "cat.jpg")
    shutil.copytree(ROOT / "examples", desk / "examples")
    tables(desk)
    return desk


def tables(desk):
    """The photos as a table of paths, and as Parquet files of a data set with a split."""
    photos = sorted((desk / "photos").rglob("*.*"))
    rows = "".join(f"{photo.relative_to(desk).as_posix()},{photo.parent.name}\n" for photo in photos)
    (desk / "labels.csv").write_text(f"file,species\n{rows}", encoding="utf-8")
    (desk / "cifar10").mkdir()
    images = [{"bytes": photo.read_bytes(), "path": None} for photo in photos]
    for split in ("train", "test"):
        found = pyarrow.table({"image": images, "label": [photo.parent.name for photo in photos]})
        pyarrow.parquet.write_table(found, desk / "cifar10" / f"{split}.parquet")


@pytest.fixture
def desk(prepared, tmp_path, monkeypatch):
    """A copy of that folder, to work in."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))  # not that of this machine
    return tmp_path


@pytest.mark.parametrize("name", pages_with("python"))
def test_the_code_runs(name, desk):
    """All blocks of a page, one after the other, as a reader would give them."""
    found, names = blocks(name, "python"), {"__name__": "page"}
    everything = "".join(found.values())
    for module in PEERS:
        if re.search(rf"^(from|import) {module}\b", everything, re.MULTILINE):
            peer(module)
    if "torch.onnx" in everything:
        peer("onnxscript")
    if "swindow.train(" in everything:  # the page makes this model itself
        shutil.rmtree(desk / "runs" / "digits")
    for line, code in found.items():
        for slow, quick in QUICK_CODE.items():
            code = code.replace(slow, quick)
        exec(compile("\n" * line + code, ROOT / name, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("name", pages_with("bash"))
def test_the_commands_run(name, desk, capfd):
    for command in commands(name):
        quick = re.sub("(--variant|explain|bench) swin_tiny", r"\1 swin_nano", command)
        if "swindow train " in quick:
            quick = re.sub(" --epochs [0-9]+", "", quick) + QUICK_TRAINING
            quick += "" if "--weights" in quick or "--variant" in quick else " --variant swin_nano"
            for made in re.findall(r"--out (\S+)", quick):
                shutil.rmtree(made, ignore_errors=True)  # pages train the same model anew
        if command.startswith("swindow ") and not re.search("[|>]", command):
            with pytest.raises(SystemExit) as end:
                cli.main(shlex.split(quick)[1:])
            status = end.value.code or 0
        else:
            source = os.pathsep.join([str(Path(swindow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
            environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": source}
            status = subprocess.run(["bash", "-ec", SHELL + quick], env=environment, timeout=300).returncode
        assert status == 0, (command, capfd.readouterr().err)


@pytest.mark.parametrize("name", [*NAMES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert ROOT in there.parents, target
        if heading:
            assert heading in headings(there), target


def without_code(page):
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def headings(page):
    """The anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_every_page_is_listed():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "README.md").read_text("utf-8")))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150


def test_make_has_the_targets():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [target for page in PAGES for target in re.findall(r"(?:^|`)make ([\w-]+)", page.read_text("utf-8"), re.M)]
    assert named
    assert set(named) <= set(targets)


def rows_with_results():
    table = README.read_text(encoding="utf-8").split("\n## Speed\n")[1].split("\n## ")[0]
    return [row for row in table.splitlines() if "benchmarks/results/" in row]


@pytest.mark.parametrize("row", rows_with_results())
def test_figures_in_the_readme_are_those_of_the_linked_result(row):
    files = re.findall(r"\]\((benchmarks/results/[^)]+)\)", row)
    result = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    figures = re.findall(r"(?<![\w.])\d+\.\d+|(?<![\w.])\d{3,}", re.sub(r"\([^)]*/[^)]*\)", "", row))
    assert figures
    for figure in figures:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", result), (figure, files)
