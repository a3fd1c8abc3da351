"""What every test shares: reproducible randomness, one thread, and the way to outside data."""

from __future__ import annotations

import functools
from pathlib import Path

import hypothesis
import pytest
import torch

from swindow import cli, private
from swindow.explain import measure_cost
from swindow.kernels import fast_path
from swindow.models.recording import is_recording

SHARED = Path(__file__).parents[2] / "shared"  # beside the repository, never part of it

# Examples are the same in every run, and no example has a deadline: the first one pays for imports and caches.
hypothesis.settings.register_profile("swindow", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("swindow")

# Tensors in tests are tiny: threads cost more than they bring, and pytest-xdist's workers would fight over the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _looked_on():
    return fast_path.is_watched() or is_recording() or private.has_saved_tensor_hooks()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """A mode, hook or recorder that a test leaves behind would put every later test of its process on slower paths."""
    before = _looked_on()
    yield
    assert before or not _looked_on()  # only the test that leaves something behind fails


@pytest.fixture
def run(capsys):
    """Gives a command; returns exit status, output and error output."""

    def command(*args):
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in args])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return command


@pytest.fixture(autouse=True, scope="session")
def _quick_costs():
    """Pages measure cost at as few sizes as they can; that it is measured well has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swindow.explain.findings.measure_cost", functools.partial(measure_cost, seconds=0.0))
        yield


@pytest.fixture(scope="session")
def shared():
    """Returns the path of a file or folder of the outside data; skips the test where it is absent."""

    def path(*parts: str) -> Path:
        found = SHARED.joinpath(*parts)
        if not found.exists():
            pytest.skip(f"{'/'.join(('../shared', *parts))} is absent")
        return found

    return path
