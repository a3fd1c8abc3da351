"""The command line, as a user meets it: what it prints, its exit status, and one clear line for every mistake."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import pytest
from PIL import Image

import swindow
from helpers.folders import make_folder
from swindow import cli
from swindow.card import Preprocess


@pytest.fixture
def run(capsys):
    """Gives a command; returns exit status, output and error output."""

    def command(*args):
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in args])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = swindow.create("swin_nano", num_classes=3)
    model.metadata = {"class_names": ["ant", "bee", "cat"], "preprocess": Preprocess((32, 32)).to_dict()}
    swindow.save(model, path)
    return path


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_train_evaluate_predict_inspect(run, tmp_path):
    folder, out = make_folder(tmp_path / "photos", each=6), tmp_path / "run"
    options = ["--variant", "swin_nano", "--epochs", 1, "--image-size", 8, "--workers", 0, "--out", out]
    status, output, _ = run("train", folder, *options, "--json")
    assert status == 0
    assert "epoch   1/1" in output
    result = json.loads(output.splitlines()[-1])
    status, output, _ = run("evaluate", out / "model.safetensors", folder, "--json")
    measured = json.loads(output.splitlines()[-1])
    assert status == 0
    assert set(measured) == {"accuracy", "loss", "images"}
    assert (measured["accuracy"], measured["images"]) == (result["accuracy"], 2)
    status, output, _ = run("inspect", out / "model.safetensors", "--json")
    assert json.loads(output.splitlines()[-1])["class_names"] == ["cat", "dog"]


def test_predict_json(run, checkpoint, picture):
    status, output, _ = run("predict", checkpoint, picture, picture, "--top", 2, "--json")
    found = json.loads(output.splitlines()[-1])
    assert status == 0
    assert [f["image"] for f in found] == [str(picture)] * 2
    assert set(found[0]["predictions"][0]) == {"class", "probability"}
    assert len(found[0]["predictions"]) == 2


def test_predict_goes_on_after_a_broken_image(run, checkpoint, picture, tmp_path):
    (tmp_path / "b.jpg").write_text("no image")
    status, output, error = run("predict", checkpoint, tmp_path / "b.jpg", picture)
    assert status == 1
    assert "b.jpg" in error
    assert str(picture) in output


def test_explain_a_checkpoint_and_a_variant(run, checkpoint, picture, tmp_path):
    status, output, _ = run("explain", checkpoint, picture, "--out", tmp_path / "one", "--json")
    found = json.loads(output.splitlines()[-1])
    assert status == 0
    assert found["trained"]
    assert sorted(map(str, (tmp_path / "one").iterdir())) == found["pictures"]
    assert found["page"] is None
    page = tmp_path / "two" / "page.html"
    status, output, _ = run(
        "explain", "swin_nano", picture, "--out", page, "--size", 64, "--pixel", 3, 60, "--target", 5, "--json"
    )
    assert "untrained" in output
    found = json.loads(output.splitlines()[-1])
    assert (found["trained"], found["page"], found["pictures"]) == (False, str(page), [])
    assert '"pixel":[3,60]' in page.read_text()
    assert "what speaks for class 5 (" in page.read_text()
    status, _, error = run("explain", "swin_nano", picture, "--out", page, "--size", 64, "--pixel", 64, 0)
    assert status == 1
    assert "inside the image" in error
    wrong = [("target", "1000", 1, "1000 classes"), ("target", "cat", 2, "a number"), ("out", "a.png", 2, "a page")]
    for option, value, expected, says in wrong:
        status, _, error = run("explain", "swin_nano", picture, f"--{option}", value)
        assert status == expected
        assert says in error


def test_variants_lists_every_name(run):
    status, output, _ = run("variants", "--json")
    assert status == 0
    assert all(name in output for name in swindow.list_variants())
    assert json.loads(output.splitlines()[-1])["swin_tiny"]["depths"] == [2, 2, 6, 2]


def test_convert_inspect_and_use_other_libraries_files(run, checkpoint, tmp_path, picture):
    """Ours to timm and transformers and back; inspected, predicted with and trained on as they are."""
    there, folder = tmp_path / "timm.pth", tmp_path / "folder"
    status, output, _ = run("convert", checkpoint, there, "--to", "timm", "--json")
    assert status == 0
    assert json.loads(output.splitlines()[-1])["difference"] <= 2e-5
    assert "timm has mask_padding=False, the source True" in output
    assert "read again, its outputs are the same" in output
    assert run("convert", there, folder, "--to", "transformers", "--input-size", 32)[0] == 0
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors"}
    status, output, _ = run("inspect", folder, "--json")
    assert status == 0
    found = json.loads(output.splitlines()[-1])
    assert (found["layout"], found["variant"], found["input_size"]) == ("transformers", "swin_nano", [32, 32])
    assert "GMACs" in output
    assert "matched" in output
    status, output, _ = run("predict", folder, picture, "--json")
    assert status == 0
    assert len(json.loads(output.splitlines()[-1])[0]["predictions"]) == 3
    photos, out = make_folder(tmp_path / "photos", each=6), tmp_path / "run"
    options = ["--epochs", 1, "--image-size", 8, "--workers", 0, "--out", out, "--weights", there]
    assert run("train", photos, *options)[0] == 0


def test_convert_help_names_every_layout(run):
    status, output, _ = run("convert", "--help")
    assert status == 0
    assert set(swindow.list_layouts()) <= set(output.replace(",", " ").replace(".", " ").split())


def test_convert_mistakes(run, checkpoint, tmp_path):
    for args, expected_status, expected in [
        ((checkpoint, tmp_path / "a.pth", "--to", "tim"), 1, "did you mean 'timm'"),
        ((checkpoint, checkpoint), 1, "is there already"),
        ((checkpoint, tmp_path / "a.bin"), 1, "ends in .safetensors or .pth"),
        ((checkpoint, tmp_path / "a.pth", "--to", "monai"), 1, "final_merge True"),
        ((tmp_path / "absent", tmp_path / "b.pth"), 1, "no such file"),
    ]:
        status, _, error = run("convert", *args)
        assert (status, error.count("\n")) == (expected_status, int(expected_status != 0)), (args, error)
        assert expected in error


def test_inspect_a_variant(run):
    status, output, _ = run("inspect", "swin_nano")
    assert status == 0
    assert "694,756" in output


def test_mistakes_are_one_line_and_have_their_status(run, checkpoint, picture, tmp_path):
    (tmp_path / "empty").mkdir()
    make_folder(tmp_path / "one", classes=("cat",))
    make_folder(tmp_path / "two")
    (tmp_path / "text.safetensors").write_text("no weights")
    two_channels = tmp_path / "two_channels.safetensors"
    swindow.save(swindow.create("swin_nano", in_chans=2), two_channels)
    out = tmp_path / "run"
    for args, expected_status, expected in [
        (("train", tmp_path / "absent", "--out", out), 1, "no such folder"),
        (("train", tmp_path / "empty", "--out", out), 1, "empty"),
        (("train", tmp_path / "one", "--out", out), 1, "at least two"),
        (("train", tmp_path / "two", "--variant", "swin_tinny", "--out", out), 2, "swin_tiny"),
        (("train", tmp_path / "two", "--epochs", "0", "--out", out), 2, "epochs"),
        (("train", "digits", "--device", "cuda:77", "--out", out), 2, "device"),
        (("evaluate", tmp_path / "absent.safetensors", "digits"), 1, "no such file"),
        (("evaluate", checkpoint, tmp_path / "two"), 1, "class 'dog'"),
        (("predict", tmp_path / "text.safetensors", picture), 1, "not a whole safetensors"),
        (("predict", checkpoint, tmp_path / "absent.png"), 1, "no such file"),
        (("predict", two_channels, picture), 2, "2 channels"),
        (("explain", "swin_huge", picture), 2, "unknown variant"),
        (("inspect", picture), 1, "not a whole file of torch.save"),
    ]:
        status, _, error = run(*args)
        assert (status, error.count("\n")) == (expected_status, 1), (args, error)
        assert error.startswith("swindow: error: ")
        assert expected in error
    assert not out.exists() or not list(out.iterdir())  # nothing is left behind


def test_wrong_use_is_status_2():
    for args in (["nonsense"], ["train"], ["train", "digits", "--epochs", "many"], []):
        done = subprocess.run([sys.executable, "-m", "swindow", *args], capture_output=True, text=True)
        assert done.returncode == 2, args


def test_a_full_disk_while_saving(tmp_path):
    """Files may grow to 100 kB, as on a disk with no more space; a checkpoint needs more."""

    def fill_the_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-m", "swindow", "train", "digits", "--epochs", "1", "--image-size", "8", "--out", tmp_path],
        preexec_fn=fill_the_disk,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("swindow: error: could not write")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_and_variants_need_no_torch():
    for args in (["--help"], ["train", "--help"], ["variants"]):
        code = f"""
import sys
from swindow import cli
try: cli.main({args})
except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)
"""
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - started < 10


def test_importing_swindow_imports_no_torch():
    code = "import sys, swindow; swindow.list_variants(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_loading_starts_no_compiler(checkpoint):
    """Random numbers on the meta device make torch import its compiler, which takes longer than all of loading."""
    code = f"import sys, swindow; swindow.load({str(checkpoint)!r}); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
