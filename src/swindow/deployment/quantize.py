"""Linear layers in 8 bits. Products in the attention, norms and the softmax stay as they are.

Static quantisation of everything in ONNX Runtime and SmoothQuant in NNCF, the defaults of these libraries, lose the
answers of small Swin models. What is used instead is measured for ONNX files in benchmarks/results/int8.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..inference.exported import require
from .write import quiet

ATTENTION = {"MatMulConstBOnly": True}  # products of two activations stay in fp32
SOURCE = {"onnx.quant.pre_process": "onnxruntime.quant"}  # an entry of files, without which ONNX Runtime gives advice


def dynamic(source: Path, path: Path, texts: Mapping[str, str]) -> None:
    """Writes an ONNX file whose linear layers have int8 weights per channel; activations are quantised as they come.

    Weights have 7 bits: processors without VNNI add pairs of products in 16 bits.
    """
    quantization = require("onnxruntime.quantization", "onnxruntime")
    with quiet():
        quantization.quantize_dynamic(
            source,
            path,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            extra_options=ATTENTION,
        )
    _describe(path, texts)


def static(source: Path, path: Path, texts: Mapping[str, str], name: str, batches: Sequence[np.ndarray]) -> None:
    """Writes an ONNX file whose linear layers have int8 weights and activations of ranges met on some images.

    Args:
        source: an ONNX file in fp32.
        path: what to write.
        texts: its description.
        name: of the input.
        batches: images as the file takes them.
    """
    quantization = require("onnxruntime.quantization", "onnxruntime")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: batch}

    with quiet():
        quantization.quantize_static(
            source,
            path,
            Reader(),
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            per_channel=True,
            reduce_range=True,
            extra_options=ATTENTION,
        )
    _describe(path, texts)


def for_openvino(model: Any, batches: Sequence[np.ndarray]) -> Any:
    """Returns an OpenVINO model with weights in int8; with batches of images, also the inputs of linear layers.

    Args:
        model: an OpenVINO model in fp32.
        batches: images as it takes them, by which the ranges of activations are found.
    """
    import rich

    nncf, console = require_nncf(), rich.get_console()
    quiet_before, console.quiet = console.quiet, True  # it draws progress bars there
    try:
        if not batches:
            return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        off = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=_products_of_activations(model)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off),
        )
    finally:
        console.quiet = quiet_before


def require_nncf() -> Any:
    """Returns NNCF, which is to report errors only. Raises ConfigError where it is not installed."""
    loggers = logging.getLoggerClass()
    try:
        nncf = require("nncf", "NNCF, which writes .xml files in 8 bits,", "pip install nncf")
    finally:
        logging.setLoggerClass(loggers)  # its own is for all otherwise
    nncf.set_log_level(logging.ERROR)
    return nncf


def _products_of_activations(model: Any) -> list[str]:
    """Names of the matrix products of an OpenVINO model that have no weight: those of the attention."""
    names = []
    for op in model.get_ops():
        if op.get_type_name() == "MatMul":
            second = op.input_value(1).get_node()
            while second.get_type_name() in ("Convert", "Reshape", "Transpose"):
                second = second.input_value(0).get_node()
            if second.get_type_name() != "Constant":
                names.append(op.get_friendly_name())
    return names


def _describe(path: Path, texts: Mapping[str, str]) -> None:
    """Writes the description into an ONNX file anew: not all of these tools keep it."""
    onnx = require("onnx")
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, dict(texts))
    onnx.save(proto, path)
