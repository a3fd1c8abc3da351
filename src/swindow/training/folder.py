"""The folder of a run: held by one run at a time, and rid of what a kill left half-written."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..checkpoints import replacing
from ..errors import ConfigError, OutputError

FILES = (
    "model.safetensors",
    "best.safetensors",
    "ema.safetensors",
    "metrics.jsonl",
    "curves.png",
    "confusion.png",
    "state.pt",
)
LOCK = ".lock"  # freed by the operating system when the process that holds it ends, however it ends
HOLDER = ".lock.json"  # who holds it: a file of its own, as the lock's is emptied by whoever tries to take it


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Makes the folder of a run and keeps other runs out of it until the end.

    Raises:
        ConfigError: another run holds it.
        OutputError: it cannot be made or written to.
    """
    lock, holder = FileLock(out / LOCK), out / HOLDER
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{out}: another run is at work there{_of(holder)}; wait for it or try another --out"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be used as the folder of a run ({error.strerror}); try another --out"
        ) from error
    try:
        with replacing(holder) as temporary:
            temporary.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows removes no open file; filelock does it there
            (out / LOCK).unlink(missing_ok=True)  # while it is held; filelock does not take one that was removed
        lock.release()


def clear(out: Path, overwrite: bool) -> None:
    """Removes what a kill left half-written and, to overwrite a run, the files of runs.

    Raises:
        OutputError: a file cannot be removed.
    """
    try:
        for name in FILES if overwrite else ():  # and no others: the folder may hold somebody's notes
            (out / name).unlink(missing_ok=True)
        for left in out.glob(".*.tmp"):
            left.unlink()
    except OSError as error:
        raise OutputError(f"{out}: cannot be cleared ({error.strerror}); try another --out") from error


def _of(holder: Path) -> str:
    """Who holds a folder, as far as it can be read."""
    try:
        about = json.loads(holder.read_text())
        return f" (process {about['process']} on {about['host']})"
    except (OSError, ValueError, KeyError, TypeError):  # just starting, just ending, or not ours
        return ""
