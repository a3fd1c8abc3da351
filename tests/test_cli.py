"""The command line, as a user meets it: what it prints, its exit status, and one clear line for every mistake."""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import swindow
from helpers.folders import make_folder
from swindow import cli, console
from swindow.card import HeldOut, ModelCard, Preprocess
from swindow.cli.shared import Output, class_number
from swindow.errors import ConfigError
from swindow.training import state
from swindow.weights import BARS

HEAVY = ("torch", "numpy", "rich", "tyro", "swindow.cli.shared", "swindow.training", "argparse")


def summaries():
    """Every command with its one line."""
    return {name: summary for group in cli.COMMANDS.values() for name, summary in group.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = swindow.create("swin_nano", num_classes=3)
    model.card = ModelCard(class_names=("ant", "bee", "cat"), preprocess=Preprocess((32, 32)))
    swindow.save(model, path)
    return path


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_train_evaluate_predict_inspect(run, tmp_path):
    folder, out = make_folder(tmp_path / "photos", each=6), tmp_path / "run"
    options = ["--variant", "swin_nano", "--epochs", 1, "--image-size", 8, "--workers", 0, "--out", out]
    status, output, messages = run("train", folder, *options, "--json")
    assert status == 0
    assert "epoch   1/1" in messages
    result = json.loads(output)
    status, output, _ = run("evaluate", out / "model.safetensors", folder, "--json")
    measured = json.loads(output)
    assert status == 0
    assert set(measured["classes"]) == {"cat", "dog"}
    assert (measured["accuracy"], measured["images"]) == (result["accuracy"], 2)
    status, output, _ = run("inspect", out / "model.safetensors", "--json")
    assert json.loads(output)["class_names"] == ["cat", "dog"]


def test_evaluate_says_which_images_it_measured(run, checkpoint, tmp_path):
    folder, out = make_folder(tmp_path / "photos"), tmp_path / "run"
    options = ["--variant", "swin_nano", "--epochs", 1, "--image-size", 8, "--workers", 0, "--seed", 3, "--out", out]
    assert run("train", folder, *options)[0] == 0
    status, output, _ = run("evaluate", out, folder)
    assert status == 0
    assert "on 4 images: the images held out from training: 20%, seed 3" in output
    other = make_folder(tmp_path / "other", each=5)
    status, _, error = run("evaluate", out, other)
    assert (status, error.count("\n")) == (2, 1)
    assert "--all (every image), or --held-out SHARE with --seed NUMBER" in error
    assert "on 10 images: all images, as asked for" in run("evaluate", out, other, "--all")[1]
    assert "on 2 images: 20% of the images, seed 1" in run("evaluate", out, other, "--held-out", 0.2, "--seed", 1)[1]
    status, _, error = run("train", folder, *options[:-4], "--seed", 4, "--out", out)
    assert (status, error.count("\n")) == (2, 1)
    assert "seed 3 is now 4" in error
    assert "--overwrite" in error


def test_a_broken_image_met_by_a_worker_is_one_line(tmp_path):
    folder = make_folder(tmp_path / "photos")
    (folder / "cat" / "3.png").write_bytes((folder / "cat" / "3.png").read_bytes()[:200])
    options = ["--variant", "swin_nano", "--image-size", "8", "--epochs", "1", "--workers", "2", "--no-verify"]
    command = [sys.executable, "-m", "swindow", "train", folder, *options, "--device", "cpu", "--out", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"swindow: error: {folder / 'cat' / '3.png'}: a broken image (")


def test_help_of_a_flag_is_of_what_it_does(run, capsys):
    _, output, _ = run("train", "--help")
    words = " ".join(output.replace("│", " ").split())
    assert "--no-verify do not decode every image once before training" in words
    assert "--value-range" in words
    assert "--verify " not in words


def test_the_help_lists_every_command_as_its_own_help_begins(run):
    status, output, error = run("--help")
    assert (status, error) == (0, "")
    assert run("-h") == (0, output, "")
    assert run() == (2, output, "")  # wrong use, which is answered all the same
    for name, summary in summaries().items():
        command = getattr(importlib.import_module(f"swindow.cli.{name}"), name)
        assert summary == command.__doc__.splitlines()[0]
        assert f"  {name:10s} {summary}\n" in output
        assert summary in run(name, "--help")[1]
    folder = Path(cli.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "shared", *summaries()}
    assert output.count("\n  swindow ") == len(cli.EXAMPLES)
    for group in cli.COMMANDS:
        assert f"\n{group}\n" in output


def test_every_example_of_the_help_is_a_command_with_its_arguments(monkeypatch):
    for example in cli.EXAMPLES:
        _, name, *rest = example.split()
        got = []
        module = importlib.import_module(f"swindow.cli.{name}")
        command = getattr(module, name)

        def instead(*args, got=got, **options):
            got.append((args, options))
            return 0

        monkeypatch.setattr(module, name, functools.wraps(command)(instead))
        with pytest.raises(SystemExit) as end:
            cli.main([name, *rest])
        assert (end.value.code, len(got)) == (0, 1), example


def test_version(run):
    assert run("--version") == (0, f"swindow {swindow.__version__}\n", "")


def test_an_unknown_command_names_the_nearest(run):
    for args, expected in [
        (("trian", "digits"), "unknown command 'trian' (did you mean 'train'"),
        (("nonsense",), "unknown command 'nonsense'; try swindow --help"),
        (("--quiet", "variants"), "unknown option '--quiet'; try swindow --help"),
    ]:
        status, output, error = run(*args)
        assert (status, output, error.count("\n")) == (2, "", 1)
        assert error.startswith(f"swindow: error: {expected}")


def test_json_leaves_one_document_on_standard_output(run, checkpoint, picture):
    for args in (
        ("predict", checkpoint, picture),
        ("inspect", "swin_nano"),
        ("variants",),
        ("bench", "swin_nano", "--batch", 1, "--size", 16, "--rounds", 1),
    ):
        plain, with_json = run(*args), run(*args, "--json")
        assert (plain[0], with_json[0]) == (0, 0)
        json.loads(with_json[1])
        assert with_json[1].count("\n") == 1
        assert plain[2] == ""


def test_json_after_an_error_is_no_document(run, tmp_path):
    status, output, error = run("inspect", tmp_path / "absent.safetensors", "--json")
    assert (status, output, error.count("\n")) == (1, "", 1)


def test_quiet_leaves_the_result(run, checkpoint, picture, tmp_path):
    assert run("predict", checkpoint, picture, "--quiet") == run("predict", checkpoint, picture)
    status, output, error = run("inspect", "swin_nano", "--quiet")
    assert (status, error) == (0, "")
    assert "untrained" in run("inspect", "swin_nano")[1]
    assert "untrained" not in output
    assert "694,756" in output
    options = ["--variant", "swin_nano", "--epochs", 1, "--image-size", 8, "--workers", 0, "--out", tmp_path / "run"]
    status, output, error = run("train", make_folder(tmp_path / "photos", each=6), *options, "--quiet")
    assert (status, output.count("\n"), error) == (0, 1, "")
    assert output.startswith("accuracy ")
    status, output, error = run("variants", "--quiet", "--json")
    assert (status, error) == (0, "")
    json.loads(output)


@pytest.mark.parametrize(("encoding", "written"), [("utf-8", "猫"), ("cp1252", "\\u732b"), ("utf-16", "猫")])
def test_json_is_not_escaped_where_it_can_be_written(encoding, written, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    Output(json=True).put({"class": "猫"})
    assert raw.getvalue().decode(encoding) == f'{{"class": "{written}"}}\n'


@pytest.fixture
def bars_of_downloads():
    """As before, afterwards: a quiet ``Output`` switches them off until its command ends, which none does here."""
    token = BARS.set(True)
    yield
    BARS.reset(token)


@pytest.mark.usefixtures("bars_of_downloads")
def test_of_several_processes_the_first_speaks(capsys, monkeypatch):
    for rank, expected in (("0", ("a result\n", "")), ("1", ("", ""))):
        monkeypatch.setenv("RANK", rank)
        Output(quiet=True).result("a result")
        assert tuple(capsys.readouterr()) == expected
    for options in ({}, {"json": True}, {"quiet": True}):
        output = Output(**options)
        output.say("a message")
        output.result("a result")
        output.put({})
        assert output.console.quiet
    assert tuple(capsys.readouterr()) == ("", "")


STOPPABLE = ["train", "digits", "--variant", "swin_nano", "--image-size", "8", "--device", "cpu", "--epochs", "500"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def stopped(number, *args, when):
    """Runs a command, sends it a signal, and returns its exit status and error output."""
    command = [sys.executable, "-m", "swindow", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ONE_THREAD, **pipes) as process:
        while not when(process) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    return process.returncode, error


def test_a_run_that_is_stopped_says_from_where_it_goes_on(tmp_path):
    command = [*STOPPABLE, "--out", tmp_path]
    found = stopped(signal.SIGTERM, *command, when=lambda _: (tmp_path / ".lock.json").exists())
    assert found == (143, "swindow: stopped\n")  # nothing had been saved
    assert list(tmp_path.iterdir()) == []
    found = stopped(signal.SIGTERM, *command, when=lambda _: (tmp_path / "state.pt").exists())
    assert found[0] == 143
    step = re.fullmatch(r"swindow: stopped; the same command goes on from step (\d+)\n", found[1]).group(1)
    lines = []

    def goes_on(process):
        lines.append(process.stdout.readline())
        return lines[-1].startswith("going on")

    found = stopped(signal.SIGINT, *command, when=goes_on)
    assert lines[-1].startswith(f"going on after step {step} of ")
    assert found == (130, f"swindow: stopped; the same command goes on from step {step}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_other_commands_that_are_stopped_say_no_more(number, status):
    command = ["bench", "swin_nano", "--size", "16", "--batch", "1", "--rounds", "1000000"]
    found = stopped(number, *command, when=lambda process: process.stdout.readline().startswith("inputs of"))
    assert found == (status, "swindow: stopped\n")


@pytest.mark.parametrize(
    ("overwrite", "begun", "saved", "file", "expected"),
    [
        (False, False, None, False, ""),
        (False, False, None, True, "; the same command goes on from the last saved state"),
        (False, True, None, False, ""),
        (False, True, 7, True, "; the same command goes on from step 7"),
        (False, True, None, True, "; the same command goes on from the last saved state"),  # between file and report
        (False, True, 7, False, ""),
        (True, False, None, True, ""),  # the file is of the run that was to be replaced
        (True, True, 7, True, "; the same command without --overwrite goes on from step 7"),
    ],
)
def test_what_is_said_of_going_on_is_true(overwrite, begun, saved, file, expected, run, monkeypatch, tmp_path):
    def train(data, settings, *, overwrite, allow_changes, progress):
        if begun:
            progress.started(20, 0, 2)
        if saved is not None:
            progress.saved(saved)
        if file:
            (settings.out / state.FILE).touch()
        progress.finished()
        raise KeyboardInterrupt

    monkeypatch.setattr("swindow.training.train", train, raising=False)
    options = ["--overwrite"] if overwrite else []
    assert run("train", "digits", "--out", tmp_path, *options)[::2] == (130, f"swindow: stopped{expected}\n")
    monkeypatch.setenv("RANK", "1")
    assert run("train", "digits", "--out", tmp_path, *options) == (130, "", "")


def instead_of_variants(monkeypatch, do):
    def variants() -> int:
        do()
        return 0

    monkeypatch.setattr("swindow.cli.variants.variants", variants)


def test_the_handler_of_sigterm_is_there_for_one_command_and_not_under_torchrun(run, monkeypatch):
    before, seen = signal.getsignal(signal.SIGTERM), []
    instead_of_variants(monkeypatch, lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    assert run("variants") == (0, "", "")
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("variants") == (0, "", "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    thread = threading.Thread(target=run, args=("variants",))
    thread.start()
    thread.join()
    assert [handler is before for handler in seen] == [False, True, True]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nothing_reads_ends_a_command_without_a_message(unbuffered, checkpoint, picture, tmp_path):
    train = [*STOPPABLE, "--out", tmp_path / "run"]
    predict = ["predict", checkpoint, *[picture] * 2]
    options = ["variants", "--json", "--quiet"]
    commands = ["--help"], ["--version"], ["convert", "--help"], ["variants"], options, predict, train
    for args in commands[: 5 if unbuffered else None]:
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "swindow", *map(str, args)]
        environment = {**ONE_THREAD, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, ""), args
    assert not list(tmp_path.glob("run/*"))


def test_the_first_line_of_the_output_is_enough():
    command = f"{sys.executable} -m swindow variants | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    first, status = done.stdout.splitlines()
    assert first.split()[:2] == ["variant", "parameters"]
    assert status in ("0", "141")  # head may have read everything
    assert done.stderr == ""


def test_without_standard_output_a_command_still_runs():
    for options in ("", "--json --quiet"):
        command = f"{sys.executable} -m swindow variants {options} >&-"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_broken_pipe_is_not_taken_for_that_of_the_output(run, monkeypatch):
    def break_a_pipe():
        raise BrokenPipeError("of a worker")

    instead_of_variants(monkeypatch, break_a_pipe)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        cli.main(["variants"])


def test_the_text_of_an_argument_is_one_paragraph(monkeypatch):
    """At any width: no line break of the docstring is left in it."""
    texts = []
    monkeypatch.setattr("tyro.cli", lambda command, **_: texts.append(command.__doc__) or 0)
    for name in summaries():
        with pytest.raises(SystemExit):
            cli.main([name])
    assert len(texts) == len(summaries())
    for text in texts:
        arguments = text.partition("Args:\n")[2]
        assert all(re.match(r"    \w+: \w", line) for line in arguments.splitlines()), arguments


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def monotonic(self):
        return self.now


def progress(monkeypatch, terminal):
    clock, text = Clock(), io.StringIO()
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.setattr(console, "QUIET", 0.05)
    return console.ConsoleProgress(Console(file=text, force_terminal=terminal, width=150)), clock, text


def test_the_time_left_is_that_of_all_epochs_with_their_evaluation(monkeypatch):
    shown, clock, text = progress(monkeypatch, terminal=True)
    shown.started(steps=1000, done=100, epochs=10)
    clock.now += 60  # a hundred steps, their evaluation included
    shown.step(200, {"loss": 1.5, "accuracy": 0.25}, 320.0)
    shown.finished()
    assert "200/1000" in text.getvalue()
    assert "loss 1.500  accuracy 0.250  320 images/s  0:08:00 left" in text.getvalue()


def test_without_a_terminal_a_line_comes_now_and_then_however_long_a_step_takes(monkeypatch):
    assert console.QUIET <= 60
    shown, clock, text = progress(monkeypatch, terminal=False)
    shown.started(steps=1000, done=0, epochs=10)
    shown.step(10, {"loss": 1.5}, 320.0)
    shown.evaluated(3, 12)
    assert text.getvalue() == ""
    clock.now += 1  # a second in which nothing is told
    while not text.getvalue():
        time.sleep(0.01)
    shown.finished()
    assert text.getvalue() == "training: 10 of 1000  measuring held-out data: batch 3 of 12\n"


def test_the_line_that_comes_now_and_then_ends_quietly_where_nothing_reads(monkeypatch):
    shown, clock, _ = progress(monkeypatch, terminal=False)
    unhandled = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)

    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    shown.console = Output().console
    shown.console.file = Broken()
    shown.started(steps=1000, done=0, epochs=10)
    shown.step(10, {"loss": 1.5}, 320.0)
    clock.now += 1
    shown.clock.join(timeout=30)
    assert not shown.clock.is_alive()
    assert unhandled == []
    with pytest.raises(BrokenPipeError):
        shown.note("the next line")


def test_predict_json(run, checkpoint, picture):
    status, output, _ = run("predict", checkpoint, picture, picture, "--top", 2, "--json")
    found = json.loads(output)
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
    found = json.loads(output)
    assert status == 0
    assert found["trained"]
    assert sorted(map(str, (tmp_path / "one").iterdir())) == found["pictures"]
    assert found["page"] is None
    page = tmp_path / "two" / "page.html"
    status, output, messages = run(
        "explain", "swin_nano", picture, "--out", page, "--size", 64, "--pixel", 3, 60, "--target", 5, "--json"
    )
    assert "untrained" in messages
    found = json.loads(output)
    assert (found["trained"], found["page"], found["pictures"]) == (False, str(page), [])
    assert '"pixel":[3,60]' in page.read_text()
    assert "what speaks for class 5 (" in page.read_text()
    status, _, error = run("explain", "swin_nano", picture, "--out", page, "--size", 64, "--pixel", 64, 0)
    assert status == 1
    assert "inside the image" in error
    status, _, error = run("explain", "swin_nano", picture, "--out", "a.png")
    assert status == 2
    assert "a page" in error


def test_an_unknown_class_is_an_error_that_says_which_there_are(run, checkpoint, picture, tmp_path):
    many = tmp_path / "many.safetensors"
    model = swindow.create("swin_nano", num_classes=11)
    model.card = ModelCard(class_names=(*"abcdefghij", "robin"), preprocess=Preprocess((32, 32)))
    swindow.save(model, many)
    for model, target, expected in [
        ("swin_nano", "1000", "got class '1000', expected a number from 0 to 999"),
        ("swin_nano", "-1", "got class '-1', expected a number from 0 to 999"),
        ("swin_nano", "cat", "got class 'cat', expected a number from 0 to 999"),
        (checkpoint, "3", "got class '3', expected a number from 0 to 2"),
        (
            checkpoint,
            "be",
            "got class 'be' (did you mean 'bee'?), expected 'ant', 'bee', 'cat' or a number from 0 to 2",
        ),
        (many, "robbin", "(did you mean 'robin'?), expected the name of a class or a number from 0 to 10"),
    ]:
        status, _, error = run("explain", model, picture, f"--target={target}")
        assert (status, error.count("\n")) == (2, 1), error
        assert error.endswith(f"{expected}\n")


def test_a_model_without_classes_has_none_to_explain():
    with pytest.raises(ConfigError, match="got class '0', expected none, as the model has no classes"):
        class_number("0", (), 0)


def test_variants_lists_every_name(run):
    status, output, _ = run("variants", "--json")
    assert status == 0
    assert all(name in output for name in swindow.list_variants())
    assert json.loads(output)["swin_tiny"]["depths"] == [2, 2, 6, 2]


def test_convert_inspect_and_use_other_libraries_files(run, checkpoint, tmp_path, picture):
    """Ours to timm and transformers and back; inspected, predicted with and trained on as they are."""
    there, folder = tmp_path / "timm.pth", tmp_path / "folder"
    status, output, messages = run("convert", checkpoint, there, "--to", "timm", "--json")
    assert status == 0
    result = run("convert", checkpoint, there, "--to", "timm", "--overwrite")[1]
    assert json.loads(output)["difference"] <= 2e-5
    assert "timm has mask_padding=False, the source True" in messages
    assert "a .pth file does not carry class_names, preprocess;" in messages
    assert "read again, its outputs are the same" in result
    assert run("convert", there, folder, "--to", "transformers", "--input-size", 32)[0] == 0
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors"}
    status, output, _ = run("inspect", folder, "--json")
    assert status == 0
    found = json.loads(output)
    assert (found["layout"], found["variant"], found["input_size"]) == ("transformers", "swin_nano", [32, 32])
    for line in ("GMACs", "matched"):
        assert line in run("inspect", folder)[1]
    status, output, _ = run("predict", folder, picture, "--json")
    assert status == 0
    assert len(json.loads(output)[0]["predictions"]) == 3
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


def test_inspect_shows_the_card(run, tmp_path):
    model = swindow.create("swin_nano", num_classes=3)
    model.card = ModelCard(
        task="classify",
        class_names=("ant", "bee", "cat"),
        preprocess=Preprocess((32, 32), "squash"),
        input_size=(32, 32),
        split=HeldOut(0.25, 3),
        data="insects",
        licence="MIT",
    )
    swindow.save(model, tmp_path / "m.safetensors")
    _, output, _ = run("inspect", tmp_path / "m.safetensors")
    for line in ("task  classify", "data  insects", "held out  25% of it, seed 3", "licence  MIT", "fit squash"):
        assert line in output
    status, output, _ = run("inspect", tmp_path / "m.safetensors", "--json")
    assert status == 0
    found = json.loads(output)
    expected = {name: value for name, value in model.card.to_dict().items() if name != "format"}
    assert {name: found.get(name) for name in expected} == expected
    assert "format" not in found


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
    for args in (
        ["nonsense"],
        ["train"],
        ["train", "digits", "--epochs", "many"],
        ["train", "digits", "--product", "mkl"],
        [],
    ):
        done = subprocess.run([sys.executable, "-m", "swindow", *args], capture_output=True, text=True)
        assert done.returncode == 2, args
        assert (done.stdout == "") == bool(args)


def test_a_wrong_option_is_answered_with_the_nearest():
    command = [sys.executable, "-m", "swindow", "train", "digits", "--epoch", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Perhaps you meant" in done.stderr
    assert "--epochs INT" in done.stderr


def test_a_full_disk_while_saving(tmp_path):
    """Files may grow to 100 kB, as on a disk with no more space; a checkpoint needs more."""

    def fill_the_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-m", "swindow", "train", "digits", "--epochs", "1", "--image-size", "8", "--out", tmp_path],
        preexec_fn=fill_the_disk,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("swindow: error: could not write")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_and_variants_need_no_torch():
    for args in (["--help"], *([name, "--help"] for name in summaries()), ["variants"]):
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


def test_the_first_help_and_the_version_import_nothing():
    for args in (["--help"], ["-h"], ["--version"]):
        code = f"""
import sys
from swindow import cli
try: cli.main({args})
except SystemExit as end: sys.exit(end.code or any(name in sys.modules for name in {HEAVY}))
"""
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_command_imports_no_other():
    code = """
import sys
from swindow import cli
try: cli.main(["variants", "--quiet"])
except SystemExit: print(*sorted(name for name in sys.modules if name.startswith("swindow.cli.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "swindow.cli.shared swindow.cli.variants"


def test_importing_swindow_imports_no_torch():
    code = "import sys, swindow.training.choice; swindow.list_variants(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_loading_starts_no_compiler(checkpoint):
    """Random numbers on the meta device make torch import its compiler, which takes longer than all of loading."""
    code = f"import sys, swindow; swindow.load({str(checkpoint)!r}); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_names_that_the_console_lacks_are_escaped(tmp_path):
    photos = make_folder(tmp_path / "photos", classes=("猫", "dog"))
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    options = [
        "--variant",
        "swin_nano",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--workers",
        "0",
        "--out",
        str(tmp_path),
    ]
    train, evaluate = ["train", *options], ["evaluate", str(tmp_path / "model.safetensors")]
    for arguments in ([*train, str(photos)], [*evaluate, str(photos)]):
        command = [sys.executable, "-m", "swindow", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "the images held out from training" in done.stdout
