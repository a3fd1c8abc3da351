"""The fused GPU kernel: in Triton's interpreter, in a process of its own, and how it is asked for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swindow import ConfigError, create, kernels

installed = importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not installed, reason="triton is not installed")
@pytest.mark.parametrize("tier", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernel_in_the_interpreter(tier):
    script = Path(__file__).parent / "helpers" / "triton_in_interpreter.py"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", tier, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_without_triton_the_error_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "swindow.kernels.triton", raising=False)
    monkeypatch.delattr(kernels, "triton", raising=False)
    with pytest.raises(ConfigError, match="kernel 'triton' needs triton, which is not installed"):
        create("swin_nano").set_kernel("triton")
