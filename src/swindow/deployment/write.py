"""From an exported program of PyTorch to a file of each format, with its description inside."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..errors import ConfigError
from ..inference.exported import require

OPSET = 20
LARGEST_FILE = 2**31 - 2**24  # bytes of an ONNX file: more does not fit in one


def onnx(program: ExportedProgram, path: Path, texts: Mapping[str, str], inputs: str, outputs: Sequence[str]) -> None:
    """Writes an ONNX file.

    Raises:
        ConfigError: ONNX's packages are not installed, or the weights do not fit in one file.
    """
    for module in ("onnx", "onnxscript"):
        require(module)
    size = sum(t.numel() * t.element_size() for t in (*program.state_dict.values(), *program.constants.values()))
    if size > LARGEST_FILE:
        raise ConfigError(f"export: {size / 1e9:.1f} GB of weights do not fit in one ONNX file of 2 GB; try --half")
    names: dict[str, Any] = {"input_names": [inputs], "output_names": list(outputs)}
    with quiet():
        made: Any = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=OPSET, **names)
    made.model.metadata_props.update(texts)
    made.save(path)


def openvino(
    source: Path, path: Path, texts: Mapping[str, str], half: bool, change: Callable[[Any], Any] | None = None
) -> None:
    """Writes an OpenVINO file, .xml with .bin beside it, from an ONNX file.

    Args:
        source: an ONNX file in fp32.
        path: what to write.
        texts: its description.
        half: whether weights are stored in fp16.
        change: makes another of OpenVINO's model before it is written, as ``quantize.for_openvino`` does.
    """
    ov = require("openvino")
    with quiet():
        model = ov.Core().read_model(source)
        model = model if change is None else change(model)
    for name, text in texts.items():
        model.set_rt_info(text, name.split("."))
    try:
        ov.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # what it makes of a full disk
        raise OSError(f"OpenVINO could not write ({' '.join(str(error).split())[:80]})") from error


def torch_program(program: ExportedProgram, path: Path, texts: Mapping[str, str]) -> None:
    """Writes a file of torch.export."""
    made = io.BytesIO()  # a full disk would abort the process in PyTorch's own writer
    with quiet():
        torch.export.save(program, made, extra_files=dict(texts))
    path.write_bytes(made.getbuffer())


def aotinductor(program: ExportedProgram, path: Path, texts: Mapping[str, str]) -> None:
    """Compiles a library for this processor and writes it, with its weights prepacked.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.export.pt2_archive._package import package_pt2

    options = {"aot_inductor.package": True, "freezing": True}
    try:
        with quiet(), torch.no_grad():
            files: Any = torch._inductor.aot_compile(program.module(), *program.example_inputs, options=options)
    except InvalidCxxCompiler as error:
        raise ConfigError("export: format aotinductor needs a C++ compiler; try installing g++") from error
    made = io.BytesIO()
    package_pt2(made, aoti_files={"model": files}, extra_files=dict(texts))
    path.write_bytes(made.getbuffer())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves out the warnings that exporters raise about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
