"""A model on another runtime, called as the model is."""

from __future__ import annotations

import copy
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError, nearest
from ..inference.file_runtimes import FileRuntime, open_file
from ..models import SwinTransformer
from ..models.deployed import DeployedTransformer
from ..models.twin import evaluation_twin
from .exporting import export, origin

SUFFIX = {"onnxruntime": ".onnx", "openvino": ".xml", "aotinductor": ".pt2"}
KEPT = 8  # exported files: one per size and kind of output


class RuntimeModel:
    """See ``swindow.deploy``.

    Args:
        model: the model; it is copied.
        runtime: "onnxruntime", "openvino" or "aotinductor".
        open_size: whether one export serves all sizes.
        half: whether to compute in 16 bits.
        threads: of the CPU; None: as many as PyTorch uses.

    Attributes:
        config, card: as of the model.
    """

    def __init__(self, model: SwinTransformer, runtime: str, open_size: bool, half: bool, threads: int | None) -> None:
        self.config, self.card = model.config, model.card
        self._model, self._runtime, self._threads = copy.deepcopy(evaluation_twin(model)), runtime, threads
        self._lock = threading.Lock()
        self._settings: dict[str, Any] = {"open_size": open_size, "open_batch": True, "half": half}
        self._files: OrderedDict[Any, FileRuntime] = OrderedDict()

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the logits (B, num_classes) of images (B, in_chans, *pixels); features where there is no head."""
        return self._outputs("logits" if self.config.num_classes else "features", x)[0]

    def features(self, x: Tensor) -> Tensor:
        """Returns the pooled features (B, D)."""
        return self._outputs("features", x)[0]

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Returns the maps of the stages ``config.out_indices``, (B, C_i, *grid_i)."""
        return self._outputs("pyramid", x)

    def _outputs(self, what: str, x: Tensor) -> list[Tensor]:
        size = None if self._settings["open_size"] else tuple(x.shape[2:])
        with self._lock:
            found = self._files.get((what, size))
            if found is None:
                found = self._files[what, size] = self._exported(what, size)
                while len(self._files) > KEPT:
                    self._files.popitem(last=False)
        return found.outputs(x)

    def _exported(self, what: str, size: tuple[int, ...] | None) -> FileRuntime:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{SUFFIX[self._runtime]}"
            kind = "aotinductor" if self._runtime == "aotinductor" else None
            export(self._model, path, kind, what=what, size=size, **self._settings)
            return open_file(path, self._runtime, threads=self._threads, trust=True)[0]


def deploy(
    model: SwinTransformer | DeployedTransformer,
    runtime: str | None = None,
    *,
    open_size: bool = False,
    half: bool = False,
    threads: int | None = None,
) -> Any:
    """Returns a frozen, faster twin of a model: a callable with ``features`` and ``pyramid``, as the model's.

    Without a runtime it is ``model.deploy()``. With one, the model is exported, and verified, when a size of images is
    first met: 10 to 30 seconds for Swin-T. The last 8 exports are kept.

    Args:
        model: the model; it is not changed.
        runtime: "onnxruntime", "openvino" or "aotinductor"; None: PyTorch.
        open_size: export once for any height and width from 8 to 2048 pixels, which is about 10 % slower.
        half: compute in 16 bits, where the runtime can.
        threads: of the CPU; None: as many as PyTorch uses.

    Raises:
        ConfigError: there is no such runtime, or it is not installed.

    Example:
        >>> import swindow, torch
        >>> model = swindow.create("swin_nano", num_classes=3, depths=(2,), num_heads=(2,), window_size=4).eval()
        >>> twin = deploy(model, runtime="onnxruntime")
        >>> x = torch.randn(2, 3, 32, 32)
        >>> torch.allclose(twin(x), model(x), atol=1e-5)
        True
    """
    if runtime is None:
        if open_size or half or threads is not None:
            raise ConfigError("deploy: open_size, half and threads are for a runtime; expected one")
        return model.deploy()
    if runtime not in SUFFIX:
        raise ConfigError(f"runtime: got {runtime!r}{nearest(str(runtime), SUFFIX)}, expected {', '.join(SUFFIX)}")
    return RuntimeModel(origin(model), runtime, open_size, half, threads)
