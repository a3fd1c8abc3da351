"""The one road from images to answers: read in parallel, run in batches, answered in order."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from ..card import ModelCard
from ..class_names import read_names
from ..data import Sample
from ..errors import ConfigError, InputError, SwindowError
from ..media import ImageFile, ImageObject
from ..tasks import Prediction
from .opening import open_model
from .runtimes import Runtime
from .views import Piece, Views

Images = Iterable["str | Path | Image.Image"]


@dataclasses.dataclass(frozen=True)
class Failure:
    """An image that could not be read.

    Attributes:
        image: its path; None for a PIL image that is of no file.
        error: why not; its text is one line and names the file.
    """

    image: str | None
    error: SwindowError


class Predictor:
    """Answers images with a model: ``predictor(images)`` is a stream of predictions, in the order of the images.

    Images are read by several threads and run in batches. A broken image is a ``Failure`` in the stream,
    and does not end it. A predictor may be used from many threads at once.

    Args:
        runtime: what runs the model.
        card: the model's card: its preprocessing and class names.
        others: runtimes and cards of more models, whose probabilities are averaged with those of the first.
        flip, sizes: as in ``open``.

    Attributes:
        card: as given; of several models that of the first.
        notes: what a user should know of how the models were opened, one sentence each.

    Example:
        >>> import swindow
        >>> from PIL import Image
        >>> predictor = Predictor.open(swindow.create("swin_nano", num_classes=3))
        >>> for answer in predictor([Image.new("RGB", (80, 60))] * 2, top=1):
        ...     print(len(answer.classes))
        1
        1
    """

    def __init__(
        self,
        runtime: Runtime,
        card: ModelCard,
        others: Sequence[tuple[Runtime, ModelCard]] = (),
        flip: bool = False,
        sizes: Sequence[int] = (),
    ) -> None:
        self.card = card
        self.notes: tuple[str, ...] = ()
        self.views = Views([(runtime, card), *others], flip, sizes)

    @classmethod
    def open(
        cls,
        source: Any,
        *others: Any,
        device: str | None = None,
        precision: str | None = None,
        runtime: str = "auto",
        flip: bool = False,
        sizes: Sequence[int] = (),
        names: Sequence[str] | str | Path | None = None,
        threads: int | None = None,
        trust: bool = False,
    ) -> Predictor:
        """Returns the predictor of a model.

        Args:
            source: a model, or what ``swindow.load`` takes: the path of a checkpoint, a folder, ``hf://org/name``, the
                name of published weights; or the path of a file that ``swindow.export`` wrote. A model is not changed;
                its predictor follows later changes of its weights in place, as training makes them, with runtime
                "eager".
            others: more of these, whose probabilities are averaged with those of the first (an ensemble). Their
                classes have the same names; each prepares images in its own way.
            device: "cpu", "cuda", "cuda:1", "mps", ...; None: where a given model lies; a GPU for a checkpoint, if
                there is one.
            precision: "fp32", "bf16" or "fp16"; None: that of a given model's weights, fp32 for a checkpoint.
            runtime: "eager": the model as it is; "deploy": ``model.deploy()``, a copy that is faster on a CPU in fp32;
                for an exported file what runs it: "onnxruntime", "openvino", "torch" or "aotinductor". "auto": "deploy"
                for a checkpoint where it is faster, else "eager"; for an exported file the fastest that is installed.
            flip: average over each image and its mirror image.
            sizes: average over images prepared with these sides, in pixels; empty: the size that each model was made
                for.
            names: names of the classes in the order of the first model's outputs, or a file with one name per line;
                None: those of the checkpoint.
            threads: of the CPU, for an exported file; None: as many as PyTorch uses.
            trust: whether to load an exported file that holds code: a compiled library.

        Raises:
            CheckpointError: as ``swindow.load``.
            ConfigError: there is no such device, precision or runtime, or a number of names that does not fit.
            DataError: models of an ensemble know other classes.
            InputError: a model has no head, or takes no images.
        """
        first, *more = [open_model(one, device, precision, runtime, threads, trust) for one in (source, *others)]
        found = cls(first.runtime, first.card, [(one.runtime, one.card) for one in more], flip, sizes)
        if names is None:
            found.notes = tuple(dict.fromkeys(note for one in (first, *more) for note in one.notes))
        else:  # after the classes of an ensemble have been matched by the names that the models have
            found.card = first.card.replace(class_names=_names(names, len(first.card.class_names or ())))
            found.views.task = dataclasses.replace(found.views.task, class_names=found.card.class_names, numbered=False)
        return found

    def __call__(
        self, images: Images | str | Path | Image.Image, batch_size: int = 32, top: int = 5
    ) -> Iterator[Prediction | Failure]:
        """Yields an answer for every image, in order.

        Args:
            images: paths or PIL images, also an endless stream of them; one path or image is taken for a list of one.
            batch_size: images per forward pass.
            top: classes per answer, likeliest first.

        Raises:
            ConfigError: batch_size or top is not above 0.
            InputError: something is neither a path nor a PIL image.
        """
        if top < 1:
            raise ConfigError(f"top: got {top}, expected a number above 0")
        if isinstance(images, (str, os.PathLike, Image.Image)):
            images = [images]
        return (self._answer(sample, found, top) for sample, found in self.stream(map(_sample, images), batch_size))

    def stream(self, samples: Iterable[Sample], batch_size: int = 32) -> Iterator[tuple[Sample, Any]]:
        """Yields every sample with its prediction as its task decodes it, or with the error that reading it raised.

        Args:
            samples: of any number; on a GPU, some more than two batches are read ahead.
            batch_size: samples per forward pass.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size: got {batch_size}, expected a number above 0")
        return _run(self.views, iter(samples), batch_size)

    def _answer(self, sample: Sample, found: Any, top: int) -> Prediction | Failure:
        """What a user sees of a prediction or an error."""
        name = sample.key or None
        return Failure(name, found) if isinstance(found, SwindowError) else self.views.task.answer(found, name, top)


class _Reader(ThreadPoolExecutor):
    """Threads that leave what they have not begun when the stream ends early."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)


class _Waiting:
    """A sample on its way."""

    def __init__(self, sample: Sample, pieces: Future[list[Piece]]) -> None:
        self.sample, self.pieces = sample, pieces
        self.results: list[Any] = []
        self.missing = -1  # results that it waits for; -1: it has not been read
        self.error: SwindowError | None = None


def _run(views: Views, samples: Iterator[Sample], batch_size: int) -> Iterator[tuple[Sample, Any]]:
    """Opens threads that read, and yields the samples with their predictions or errors."""
    threads = min(8, os.cpu_count() or 1)
    # On a CPU the model's threads and the reading ones would wait for each other's cores: they take turns.
    ahead = batch_size if views.on_cpu else 2 * batch_size + threads
    with _Reader(threads) as reader:
        yield from _in_order(views, reader, samples, batch_size, ahead)


def _in_order(
    views: Views, reader: _Reader, samples: Iterator[Sample], batch_size: int, ahead: int
) -> Iterator[tuple[Sample, Any]]:
    """Reads samples ahead, sorts their pieces by shape into buckets, and runs a bucket when it is a full batch.

    The sample that is next in order decides what is run where no bucket is full. An error of the source of the samples
    is raised after those that came before.
    """
    order: deque[_Waiting] = deque()  # all that is on its way
    unread: deque[_Waiting] = deque()  # those of it that threads are reading
    buckets: dict[Hashable, list[tuple[_Waiting, int, Piece]]] = {}

    def run(bucket: Hashable) -> None:
        batch = buckets.pop(bucket)
        for (waiting, k, _), result in zip(batch, views.forward([piece for *_, piece in batch]), strict=True):
            waiting.results[k] = result
            waiting.missing -= 1

    more, failed = True, None
    while more or order:
        while more and len(order) < ahead:
            try:
                sample = next(samples, None)
            except Exception as error:
                sample, failed = None, error
            if sample is None:
                more = False
                break
            waiting = _Waiting(sample, reader.submit(views.plan, sample))
            order.append(waiting)
            unread.append(waiting)
        if not order:
            break
        if unread:
            waiting = unread.popleft()
            try:
                pieces = waiting.pieces.result()
            except SwindowError as error:
                waiting.error, pieces = error, []
            waiting.results, waiting.missing = [None] * len(pieces), len(pieces)
            for k, piece in enumerate(pieces):
                buckets.setdefault(piece.bucket, []).append((waiting, k, piece))
                if len(buckets[piece.bucket]) == batch_size:
                    run(piece.bucket)
        else:
            run(next(bucket for bucket, batch in buckets.items() if any(w is order[0] for w, *_ in batch)))
        while order and order[0].missing == 0:
            done = order.popleft()
            yield done.sample, done.error or views.merge(done.results)
    if failed is not None:
        raise failed


def _names(names: Sequence[str] | str | Path, classes: int) -> tuple[str, ...]:
    """Names that were given, in a list or a file."""
    if isinstance(names, (str, Path)):
        return read_names(names, classes)
    if len(names) != classes or len(set(names)) != classes:
        raise ConfigError(f"names: got {len(set(names))} different ones, expected {classes}, one per class")
    return tuple(names)


def _sample(image: Any) -> Sample:
    """An image of a user as a sample."""
    if isinstance(image, Image.Image):
        return Sample(ImageObject(image), None, str(getattr(image, "filename", "") or ""))
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        return Sample(ImageFile(path), None, path)
    raise InputError(
        f"predict: got {type(image).__name__}, expected the path of an image or a PIL image; "
        "try PIL.Image.fromarray(array), or call the model itself on a tensor"
    )
