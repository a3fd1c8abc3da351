"""Which samples make up which batch of a run, and one stream of those batches, all a function of seed and place."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..data import Dataset
from ..errors import ConfigError, SwindowError, TrainingError
from ..tasks import Batch, Task

T = TypeVar("T")

# Streams of random numbers, each seeded by (seed, stream, ...): order of samples, changes to a sample, the model's own,
# changes to a batch.
ORDER, CHANGE, MODEL, MIX = range(4)


class Work(NamedTuple):
    """What one batch is made of, and its place in the run.

    Attributes:
        train: whether its samples are of the training or the held-out data.
        indices: which samples.
        epoch, step, part: the place, each from 0.
        repeats: of each sample, how often it came before in this epoch; empty: none did.
    """

    train: bool
    indices: list[int]
    epoch: int = 0
    step: int = 0
    part: int = 0
    repeats: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which samples make up which batch of a run, for one of its processes.

    Attributes:
        samples: number of training samples.
        held_out: number of held-out samples.
        batch_size: samples per step, over all processes and parts together.
        accumulate: parts that a step is worked through in.
        epochs: passes over the training samples.
        seed: decides their order.
        rank, world_size: which of how many processes this is for.
        repeats: how often each sample stands in a row; an epoch stays as long.
        shares: how often each sample is drawn (samples,), as probabilities; None: each once.
    """

    samples: int
    held_out: int
    batch_size: int
    accumulate: int
    epochs: int
    seed: int
    rank: int = 0
    world_size: int = 1
    repeats: int = 1
    shares: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last may be smaller, down to one sample per process."""
        return len(range(0, self.samples - self.samples % self.world_size, self.batch_size))

    def training(self, epoch: int, start: int = 0) -> list[list[Work]]:
        """Returns the parts of every step of an epoch, from the step ``start`` on.

        Every sample is used once by one process; where their number is no multiple of the processes, the few that are
        left over (others each epoch) are not used.

        Example:
            >>> plan = Plan(samples=5, held_out=3, batch_size=2, accumulate=1, epochs=1, seed=0)
            >>> [[part.indices for part in step] for step in plan.training(epoch=0)]
            [[[2, 4]], [[3, 0]], [[1]]]
        """
        used, rng = self.samples - self.samples % self.world_size, np.random.default_rng((self.seed, ORDER, epoch))
        if self.shares is None:
            order = rng.permutation(self.samples)
        else:
            order = rng.choice(self.samples, self.samples, p=self.shares)
        order = np.repeat(order, self.repeats)[:used]
        repeat = np.zeros(used, np.int64)
        if self.repeats > 1 or self.shares is not None:
            before = np.zeros(self.samples, np.int64)
            for place, sample in enumerate(order):
                repeat[place] = before[sample]
                before[sample] += 1
        mine = slice(self.rank, None, self.world_size)
        steps = []
        for step in range(start, self.steps):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            pairs = list(zip(order[batch][mine].tolist(), repeat[batch][mine].tolist(), strict=True))
            parts = split(pairs, self.accumulate)
            steps.append(
                [Work(True, [i for i, _ in some], epoch, step, n, [k for _, k in some]) for n, some in enumerate(parts)]
            )
        return steps

    def evaluation(self) -> list[Work]:
        """Returns the batches of held-out samples: every one is measured once, by one process."""
        return batches(range(self.rank, self.held_out, self.world_size), self.batch_size)

    def work(self, epoch: int, step: int) -> Iterator[Work]:
        """Yields all batches that are left of a run, from a step of an epoch on; those of evaluation end each epoch."""
        for now in range(epoch, self.epochs):
            for parts in self.training(now, step if now == epoch else 0):
                yield from parts
            yield from self.evaluation()


def batches(samples: Iterable[int], size: int) -> list[Work]:
    """Returns the work of measuring some samples, ``size`` at a time."""
    mine = list(samples)
    return [Work(False, mine[i : i + size]) for i in range(0, len(mine), size)]


def split(batch: list[T], parts: int) -> list[list[T]]:
    """Returns a batch in at most ``parts`` parts, as equal as can be, none empty.

    Example:
        >>> split([1, 2, 3, 4, 5], 2)
        [[1, 2, 3], [4, 5]]
    """
    size = -(-len(batch) // parts)
    return [batch[i : i + size] for i in range(0, len(batch), size)]


class Broken(NamedTuple):
    """Why a batch could not be made: an exception would come out of a worker with that process's traceback."""

    kind: type[SwindowError]
    reason: str


@dataclasses.dataclass(frozen=True)
class Batches(TorchDataset[Any]):
    """The batches of some data by their work; it is sent to worker processes.

    Attributes:
        train: what to train on; None where no work asks for it.
        held_out: what to measure on; None where no work asks for it.
        task: makes samples into batches.
        seed: decides every random change.
        plain: the task without strong augmentation, and the epoch from which on it makes the training samples; None:
            there is no such epoch.
    """

    train: Dataset | None
    held_out: Dataset | None
    task: Task
    seed: int = 0
    plain: tuple[Task, int] | None = None

    def __getitems__(self, work: Work) -> Batch | Broken:
        """Returns a whole batch; DataLoader calls this with what its batch sampler yields."""
        train, indices, epoch, step, part, repeats = work
        data = self.train if train else self.held_out
        task = self.plain[0] if train and self.plain is not None and epoch >= self.plain[1] else self.task
        assert data is not None
        try:
            examples = []
            for i, repeat in zip(indices, repeats or [0] * len(indices), strict=True):
                place = (CHANGE, epoch, i, repeat) if repeat else (CHANGE, epoch, i)
                examples += task.transform(data[i], self._rng(*place) if train else None, train)
            return task.collate(examples, self._rng(MIX, epoch, step, part) if train else None, train)
        except SwindowError as error:
            return Broken(type(error), str(error))

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *stream))


def seed_model(seed: int, step: int, part: int, rank: int) -> None:
    """Seeds torch for one part of one step, so that dropout and drop path do not depend on what ran before."""
    state = np.random.SeedSequence((seed, MODEL, step, part, rank)).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))


def stream(source: Batches, work: Iterable[Work], workers: int = 0, pin: bool = False) -> Iterator[Batch]:
    """Yields the batches of some work, in order, from one set of worker processes that live as long as the stream.

    Workers are never forked from this process: its threads, such as torch's, would be missing in the copy, which hangs
    where it waits for one.

    Args:
        source: what the batches are made of.
        work: one item per batch.
        workers: processes that make batches ahead; 0: they are made here, when asked for.
        pin: put batches into pinned memory, from which a GPU can copy.

    Raises:
        DataError: an image is broken.
        TrainingError: a worker died.
    """
    context = start_method() if workers else None
    loader = DataLoader(
        source,
        batch_sampler=work,  # type: ignore[arg-type]  # whose items are not lists
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        multiprocessing_context=context,
        worker_init_fn=_end_with_parent,
    )
    with _no_signal_handler(), contextlib.nullcontext() if workers == 0 or _needs_main(source) else _without_main():
        batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            lost = isinstance(error, (ConnectionError, FileNotFoundError, EOFError))  # in the middle of a batch
            if workers == 0 or not (lost or str(error).startswith("DataLoader worker")):
                raise
            raise TrainingError(
                "a worker process ended unexpectedly. It may have run out of memory, or a script calls train() without "
                "`if __name__ == '__main__':`; try workers=0"
            ) from None  # it says no more
        if isinstance(batch, Broken):
            raise batch.kind(batch.reason)
        yield batch


def usable_workers(source: Batches, asked: int) -> tuple[int, str | None]:
    """Returns how many workers can be had of those asked for: all or none, and why none.

    Raises:
        ConfigError: the data or the task cannot be sent to another process.
    """
    if asked == 0:
        return 0, None
    if multiprocessing.current_process().daemon:
        return 0, "running without workers: this process may not start others"
    main = sys.modules["__main__"]
    if (
        _needs_main(source)
        and getattr(main, "__spec__", None) is None
        and not Path(getattr(main, "__file__", None) or "").is_file()
    ):
        return 0, (
            "running without workers: the data or the task is defined in a notebook or on the command line, where a "
            "worker cannot import it; move it to a module to use workers"
        )
    return asked, None


def leave_if_imported_by_worker() -> None:
    """Ends a worker process that imports a script which trains outside of ``if __name__ == "__main__":``.

    Its parent then says what to do. Python's own error for this is 20 lines long, in every worker.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)


def start_method() -> BaseContext:
    """Returns how workers are started: from a server process that has imported this module and run nothing, or anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _needs_main(source: Batches) -> bool:
    """Whether something that is sent to workers is defined in the script, notebook or command line that runs."""
    try:
        return b"__main__" in pickle.dumps(source)
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # what pickle raises for lambdas, locks, ...
        raise ConfigError(
            f"workers: the data or the task cannot be sent to another process ({error}); try workers=0"
        ) from error


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Starts processes that do not import the script that runs: they do not need it, and it may have no main guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _no_signal_handler() -> Iterator[None]:
    """Leaves the handler of SIGCHLD as it was: PyTorch's raises an exception in whatever runs when a worker is killed.

    Where that is the inside of a lock, the lock is never free again, and closing the queues waits for it forever.
    Without the handler, PyTorch notices a dead worker when it has waited 5 s for a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield  # there is none, or only the main thread can set it
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # None: it was not set from Python
            signal.signal(signal.SIGCHLD, before)


def _end_with_parent(_: int) -> None:
    """In a worker: ends it when the process that trains is gone, also when that one was killed.

    PyTorch's own watch looks at the process that started the worker, which is the server that outlives both.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_it_is(batch: Any) -> Any:
    """The batch, which is whole already."""
    return batch
