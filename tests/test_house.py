"""The rules of the house that a machine can check: arrows, the names that users import, the code that they copy."""

from __future__ import annotations

import ast
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


LIBRARIES = re.compile(
    r"(?<![a-z])(timm|torchvision|transformers|monai|mm(det|seg|pretrain|engine|cv|action)\w*|openmmlab|microsoft|detectron2"
    r"|yacs|fvcore|lightning)(?![a-z])",
    re.IGNORECASE,
)


def names_and_texts(tree):
    """Every name and every text of a module but its docstrings."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, described) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        for value in (getattr(node, field, None) for field in ("value", "id", "attr", "name", "module", "arg")):
            if isinstance(value, str) and id(node) not in docstrings:
                yield value


def test_what_is_known_of_a_library_is_in_its_layout():
    """No code names another library but the layouts, the adapters and the table of published weights."""
    package = ROOT / "src" / "swindow"
    allowed = ("checkpoints/layouts/", "adapters/", "weights.py")
    found = {}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        texts = names_and_texts(ast.parse(path.read_text(encoding="utf-8")))
        named = [text for text in texts if LIBRARIES.search(text.replace("Swin Transformers", ""))]
        if named and not name.startswith(allowed):
            found[name] = named
    assert found == {}
    layout = (package / "checkpoints" / "layouts" / "timm.py").read_text(encoding="utf-8")
    assert any(LIBRARIES.search(text) for text in names_and_texts(ast.parse(layout)))


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) \.?test_", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_public_names():
    """What users import; a change here is a change of the interface."""
    assert sorted(n for n in swindow.__all__ if n != "__version__") == [
        "CheckpointError", "ConfigError", "DataError", "Evaluation", "Failure", "InputError", "ModelCard",
        "OutputError", "Prediction", "Predictor", "Preprocess", "SwinConfig", "SwinTransformer", "SwindowError",
        "TrainConfig", "TrainResult", "TrainingError", "adopt", "convert", "create", "deploy", "evaluate", "export",
        "inflate", "list_layouts", "list_variants", "load", "parameter_groups", "predict", "save", "train",
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
