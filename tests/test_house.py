"""The rules of the house that a machine can check: arrows, the names that users import, the code that they copy."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import swindow
from helpers.peers import peer

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "docs" / "site" / "en").glob("*.md"))


def code_of(language, chapter):
    text = (ROOT / "docs" / "site" / language / f"{chapter}.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_code_of_the_tutorial_runs(chapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = code_of("en", chapter)
    if "pytorch_grad_cam" in code:
        peer("pytorch_grad_cam")
    names = {"i": torch.arange(14), "g": 14, "w": 7, "s": 3}
    exec(compile(code, chapter, "exec"), names)
    assert names.get("label", torch.tensor([0] * 7 + [1] * 4 + [2] * 3)).tolist() == [0] * 7 + [1] * 4 + [2] * 3
    without_comments = [re.sub("#.*", "", code_of(language, chapter)) for language in ("en", "zh")]
    assert without_comments[0] == without_comments[1]


def test_arrows_point_one_way():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) \.?test_", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_public_names():
    """What users import; a change here is a change of the interface."""
    assert sorted(n for n in swindow.__all__ if n != "__version__") == [
        "CheckpointError", "ConfigError", "DataError", "Evaluation", "Failure", "InputError", "ModelCard",
        "OutputError", "Prediction", "Predictor", "Preprocess", "SwinConfig", "SwinTransformer", "SwindowError",
        "TrainConfig", "TrainResult", "TrainingError", "adopt", "convert", "create", "evaluate", "inflate",
        "list_layouts", "list_variants", "load", "predict", "save", "train",
    ]  # fmt: skip
    for module in pkgutil.walk_packages(swindow.__path__, "swindow."):
        if (
            not module.name.endswith("__main__") and "adapters." not in module.name
        ):  # those need the libraries adapted to
            importlib.import_module(module.name)
    for name in swindow.__all__:  # no module of that name has come in between
        assert not isinstance(getattr(swindow, name), types.ModuleType)
    with pytest.raises(AttributeError):
        _ = swindow.nonsense
