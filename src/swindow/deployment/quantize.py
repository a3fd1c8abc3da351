"""Linear layers in 8 bits. Attention, norms and the softmax stay as they are.

Static quantisation of everything and NNCF's own settings, the defaults of these libraries, lose the answers of small
Swin models; what is here was measured to keep them (benchmarks/results/int8.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..inference.exported import require
from .write import quiet

ATTENTION = {"MatMulConstBOnly": True}  # products of two activations stay in fp32


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


def _describe(path: Path, texts: Mapping[str, str]) -> None:
    """Writes the description into an ONNX file anew: not all of these tools keep it."""
    onnx = require("onnx")
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, dict(texts))
    onnx.save(proto, path)
