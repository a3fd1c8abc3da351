"""Writes a model as one file that other runtimes read, with its card inside, and verifies it there."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..card import CHANNELS, ModelCard, Preprocess
from ..checkpoints.files import reason
from ..data import images_in
from ..errors import ConfigError, OutputError
from ..inference.exported import ExportInfo, Format, entries, require
from ..inference.file_runtimes import open_file
from ..media import convert, prepare, read
from ..models import SwinTransformer, require_swin
from ..models.deployed import DeployedTransformer
from ..models.twin import evaluation_twin
from ..tasks import task_of
from . import quantize, write
from .capture import capture, inputs_of, module_of
from .request import Request, destination
from .verify import Agreement, Trial, compare_answers, verify

VERIFIED_IN = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch", "aotinductor": "aotinductor"}
CALIBRATED = 256  # images at most
_ONE_AT_A_TIME = threading.RLock()
Progress = Callable[[str], None]
Sample = tuple[Tensor, Tensor]  # an image as the file takes it, and as the model does


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: the file; of OpenVINO, a .bin stands beside it.
        format: "onnx", "openvino", "torch" or "aotinductor".
        about: what the file takes and gives.
        trials: how far its outputs are from the model's.
        agreement: with int8 and images: on how many it names the same class.
        bytes: size on disk.
        seconds: that it took.
    """

    path: Path
    format: Format
    about: ExportInfo
    trials: tuple[Trial, ...]
    agreement: Agreement | None
    bytes: int
    seconds: float

    @property
    def difference(self) -> float:
        """The largest difference from the model's outputs, over the largest output."""
        return max(trial.difference for trial in self.trials)


def export(
    model: SwinTransformer | DeployedTransformer,
    path: str | Path,
    format: str | None = None,
    *,
    what: str = "logits",
    size: int | Sequence[int] | None = None,
    batch: int = 1,
    open_size: bool = False,
    open_batch: bool = False,
    half: bool = False,
    bf16: bool = False,
    int8: bool = False,
    images: str | Path | Iterable[str | Path] | None = None,
    static: bool = False,
    agreement: float = 0.98,
    with_preprocessing: bool = False,
    on_progress: Progress | None = None,
) -> Exported:
    """Writes a model as a file for another runtime, and compares what the file gives there with the model.

    The file holds the model's card, so that ``swindow.predict`` and ``swindow.evaluate`` take it as a checkpoint. It is
    written beside its place and moved there when it has been verified. It takes 10 to 30 seconds for Swin-T, with open
    sizes about two minutes.

    Args:
        model: the model; it is not changed. For ``model.deploy()`` the model that it was made from is exported.
        path: where to write: .onnx, .xml (OpenVINO, which writes a .bin beside it) or .pt2 (torch.export).
        format: "onnx", "openvino", "torch" or "aotinductor" (a library compiled for this processor, .pt2); None: as
            the suffix says.
        what: the outputs: "logits", "probabilities", "features" or "pyramid" (a map per stage).
        size: of the images, in pixels: a side, or one number per axis; None: the size that the model is for.
        batch: images at a time.
        open_size: any height and width from 8 to 2048 pixels instead. A file of a fixed size is about 10 % faster.
        open_batch: any number of images at a time instead.
        half: weights and activations in fp16; inputs and outputs stay in fp32.
        bf16: the same in bfloat16, whose numbers reach as far as those of fp32 and have fewer digits.
        int8: linear layers in 8 bits. In .onnx files activations are quantised as they come; in .xml files only weights
            are in 8 bits, by NNCF.
        images: for int8: image files, or a folder of them, at most 256 of which are used. The file is refused where it
            names the class that the model names on too few of them.
        static: with int8 and images: activations are quantised by the ranges met on these images instead.
        agreement: the share of images from which on an int8 file is accepted (fraction).
        with_preprocessing: the file takes photos (B, H, W, channels) of any size as uint8, and cuts, resizes and
            normalises them as the model's card says.
        on_progress: is called with what is done next, in words.

    Returns:
        What was written, and how far it is from the model.

    Raises:
        CheckpointError: the path's suffix is another one.
        ConfigError: an argument is wrong, or what writes or reads the format is not installed.
        DataError: one of the images is absent or broken.
        OutputError: the file cannot be written, or does not give what the model gives; nothing is left of it.

    Example:
        >>> import tempfile, swindow
        >>> model = swindow.create("swin_nano", num_classes=3)
        >>> path = tempfile.mkdtemp() + "/model.pt2"
        >>> swindow.export(model, path, open_batch=True).difference < 2e-5
        True
        >>> from PIL import Image
        >>> len(swindow.predict(path, [Image.new("RGB", (80, 60))] * 2))
        2
    """
    start, step = time.perf_counter(), on_progress or (lambda text: None)
    source = origin(model)
    kind, path = destination(path, format)
    card = _card(source)
    request = Request(what, size, batch, open_size, open_batch, half, bf16, int8, static, agreement, with_preprocessing)
    about = request.about(source, card, kind)
    if card.preprocess is not None and about.size is not None and len(about.size) == 2:
        card = card.replace(preprocess=dataclasses.replace(card.preprocess, size=about.size))
    if static and images is None:
        raise ConfigError("static: expected images, by which the ranges are found")
    if images is not None and not int8:
        raise ConfigError("images: expected int8 too, for which they are")
    samples = _samples(images, card, about, step) if images is not None else []
    # Exporters change what belongs to the whole process: one export at a time.
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), _writing(path) as folder:
        temporary = folder / f"{path.stem}{path.suffix.lower()}"
        _write(kind, source, temporary, about, card, samples, step)
        step(f"comparing it with the model in {VERIFIED_IN[kind]}")
        twin = _on_cpu(evaluation_twin(source))
        trials = verify(temporary, VERIFIED_IN[kind], twin, about, card)
        agreed = _agreed(temporary, VERIFIED_IN[kind], twin, samples, agreement) if about.int8 and samples else None
        size_on_disk = sum(file.stat().st_size for file in folder.iterdir())
    return Exported(path, kind, about, tuple(trials), agreed, size_on_disk, time.perf_counter() - start)


def _card(model: SwinTransformer) -> ModelCard:
    """What the file says of itself: a classifier of images always how they are prepared, and names of its classes."""
    classifies = model.config.num_classes and model.config.ndim == 2 and model.config.in_chans in CHANNELS
    return task_of(model.card).card_of(model) if classifies else model.card or ModelCard()


def origin(model: Any) -> SwinTransformer:
    """Returns the model that is to be exported: itself, or the one that a deployed twin was made from.

    Raises:
        ConfigError: the weights of that model have changed since.
        InputError: it is no model of images.
    """
    if not isinstance(model, DeployedTransformer):
        found: SwinTransformer = require_swin(model, "export")
        return found
    if not model.is_current():
        raise ConfigError("export: the model that this one was deployed from has changed since; export that model")
    return model.origin


def _write(
    kind: Format,
    model: SwinTransformer,
    path: Path,
    about: ExportInfo,
    card: ModelCard,
    samples: Sequence[Sample],
    step: Progress,
) -> None:
    """Writes the file."""
    if kind in ("onnx", "openvino"):
        for needed in ("onnx", "onnxscript", VERIFIED_IN[kind]):
            require(needed)
        if kind == "openvino" and about.int8 is not None:
            quantize.require_nncf()
    inputs, texts = inputs_of(about), entries(card, about)
    step("capturing the model" + (", with sizes kept open" if about.size is None else ""))
    precision = "fp32" if kind == "openvino" else about.precision  # OpenVINO stores and computes halves by itself
    program = capture(module_of(model, about, card, precision, kind in ("onnx", "openvino")), inputs)
    if kind in ("torch", "aotinductor"):
        step("writing it" if kind == "torch" else "compiling it for this processor")
        (write.torch_program if kind == "torch" else write.aotinductor)(program, path, texts)
        return
    step("translating it to ONNX")
    last = kind == "onnx" and about.int8 is None
    graph = path if last else path.with_name("fp32.onnx")
    outputs = [f"map{i}" for i in range(len(model.config.out_stages))] if about.what == "pyramid" else [about.what]
    write.onnx(program, graph, texts if last else quantize.SOURCE, inputs.name, outputs)
    if last:
        return
    if kind == "openvino":
        change = None
        if about.int8 is not None:
            change = functools.partial(quantize.for_openvino, batches=_calibration(samples, about))
        step("translating it to OpenVINO" + ("" if change is None else f", in 8 bits ({about.int8})"))
        write.openvino(graph, path, texts, about.precision != "fp32", change)
    else:
        step(f"quantising its linear layers to 8 bits ({about.int8})")
        if about.int8 == "dynamic":
            quantize.dynamic(graph, path, texts)
        else:
            quantize.static(graph, path, texts, inputs.name, _calibration(samples, about))
    graph.unlink()


def _calibration(samples: Sequence[Sample], about: ExportInfo) -> list[np.ndarray]:
    """Whole batches of prepared images; the first images again where they do not fill the last. None unless static."""
    if about.int8 != "static":
        return []
    size, endless = about.batch or 1, itertools.cycle(image for _, image in samples)
    return [torch.stack(list(itertools.islice(endless, size))).numpy() for _ in range(-(-len(samples) // size))]


def _samples(
    images: str | Path | Iterable[str | Path], card: ModelCard, about: ExportInfo, step: Progress
) -> list[Sample]:
    """At most 256 of the images, spread evenly: as the file takes them, and prepared."""
    if isinstance(images, (str, Path)):
        images = images_in(images) if os.path.isdir(images) else [images]
    paths = list(images)
    if not paths or card.preprocess is None:
        raise ConfigError("images: expected some image files, and a model whose card says how they are prepared")
    chosen = [paths[i * len(paths) // min(len(paths), CALIBRATED)] for i in range(min(len(paths), CALIBRATED))]
    step(f"reading {len(chosen)} images")
    return [_sample(path, card.preprocess, about.photos) for path in chosen]


def _sample(path: str | Path, how: Preprocess, photo: bool) -> Sample:
    """An image as the file takes it, and prepared."""
    prepared = prepare(path, how)
    if not photo:
        return prepared, prepared
    image = convert(read(path), how)
    return torch.from_numpy(np.array(image, np.uint8).reshape(image.height, image.width, -1)), prepared


def _agreed(path: Path, runtime: str, model: SwinTransformer, samples: Sequence[Sample], least: float) -> Agreement:
    """On how many images an int8 file names the same class. Raises OutputError where they are too few."""
    opened, _ = open_file(path, runtime)
    found = compare_answers(opened, model, samples)
    if found.share < least:
        raise OutputError(
            f"{path.name}: in int8 it names the class that the model names on {found.same} of {found.images} images, "
            f"expected a share of {least}, so nothing was written; try a lower --agreement, or fp32"
        )
    return found


def _on_cpu(twin: SwinTransformer) -> SwinTransformer:
    """A twin in fp32 on the CPU; a copy where it is not."""
    weight = next(twin.parameters())
    if (weight.device.type, weight.dtype) == ("cpu", torch.float32):
        return twin
    import copy

    return copy.deepcopy(twin).to("cpu", torch.float32)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Gives a folder beside ``path``; what was written there is moved to its place when the block ends well."""
    folder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", suffix=".tmp", dir=path.parent))
        yield folder
        written = sorted(folder.iterdir(), key=lambda file: file.suffix != ".bin")  # the named file is the last
        for file in written:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            os.replace(file, path.with_suffix(".bin") if file.suffix == ".bin" else path)
    except OSError as error:
        raise OutputError(f"could not write {path}: {reason(error)}; try another place or free some space") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
