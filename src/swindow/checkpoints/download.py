"""Weights from the Hugging Face hub and from their publishers, once; afterwards from the cache, without a network.

The hub's files lie in its own cache (``HF_HOME``), others in that of torch.hub (``TORCH_HOME``), where torchvision and
timm look too. ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and the usual variables for proxies are obeyed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..weights import BARS, Published, hash_of
from .layouts import SIDECARS

HUB = "hf://"
PACKAGE = Path(__file__).parent.parent
KINDS = ("*.safetensors", "*.bin")  # of weights, the first that is there
BLOCK = 1 << 20  # bytes


def fetch(row: Published) -> Path:
    """Returns where published weights lie on this machine: a file, or a folder of the hub's cache.

    Some come with this package. What is not there is downloaded, with a bar, from the first source that answers. It
    goes on where a connection breaks off.

    Raises:
        CheckpointError: there is no network, no source has the file, or it is not what was published; the message says
            where a file from elsewhere may be put.
    """
    if row.packaged:
        return _packaged(row)
    for source in row.sources:
        found = cached(source)
        if found is not None:
            return found
    problems = []
    for source in row.sources:
        try:
            return from_hub(source, verify=True) if source.startswith(HUB) else from_url(source)
        except CheckpointError as error:
            problems.append(str(error))
    advice = f"download {row.url} elsewhere and put it at {place_of(row.url)}" if row.url else "try again later"
    raise CheckpointError(f"{row.name}: could not be downloaded ({'; '.join(problems)}); {advice}")


def _packaged(row: Published) -> Path:
    """Where weights lie that come with this package."""
    place = PACKAGE.parent / row.sources[0]
    if not place.is_file():
        raise CheckpointError(f"{row.name}: {row.sources[0]} is absent from this installation; install swindow again")
    return place


def cached(source: str) -> Path | None:
    """Returns where a source lies on this machine; None: it does not, or not as a whole."""
    if not source.startswith(HUB):
        return place_of(source) if place_of(source).is_file() else None
    from huggingface_hub import errors, snapshot_download

    for kind in KINDS:
        try:
            folder = Path(snapshot_download(source[len(HUB) :], allow_patterns=_files(kind), local_files_only=True))
        except errors.LocalEntryNotFoundError:
            continue
        if _weights(folder):
            return folder
    return None


@contextmanager
def _bars() -> Iterator[None]:
    """Lets no bar be drawn inside the ``with`` block where none is wanted; a variable of the user's has priority."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    switch = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not BARS.get() and not are_progress_bars_disabled()
    if switch:
        disable_progress_bars()
    try:
        yield
    finally:
        if switch:
            enable_progress_bars()


@_bars()
def from_hub(address: str, verify: bool = False) -> Path:
    """Returns the folder of ``hf://org/name[@revision]``, downloaded where its newest version is not in the cache.

    Args:
        address: of a repository.
        verify: whether to compare the files with the hashes that the hub gives; else their sizes are.

    Raises:
        CheckpointError: it cannot be had, it has no weights, or a file is not the one that the hub describes.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = address[len(HUB) :].partition("@")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise CheckpointError(f"{address}: expected {HUB}organisation/name or {HUB}organisation/name@revision")
    try:
        for kind in KINDS:
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=_files(kind)))
            if _weights(folder):
                break
        else:
            raise CheckpointError(f"{address}: holds no weights ({' or '.join(KINDS)})")
        for file in _weights(folder) if verify else ():
            _verify(address, name, file)
    except _failures() as error:
        raise CheckpointError(f"{address}: could not be had from the hub or its cache ({_first(error)})") from error
    return folder


@_bars()
def from_url(url: str) -> Path:
    """Returns where a file lies after it was downloaded. Of several processes one downloads it.

    Raises:
        CheckpointError: it cannot be had, or its hash or its size are not what was published.
    """
    from filelock import FileLock
    from huggingface_hub import constants

    place = place_of(url)
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{url}: HF_HUB_OFFLINE is set")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f"{place.name}.lock")):
            if not place.is_file():
                _get(url, place)
    except _failures() as error:
        raise CheckpointError(f"{url}: could not be downloaded ({_first(error)})") from error
    return place


def _get(url: str, place: Path) -> None:
    """Downloads a file and puts it into its place when it is whole and verified."""
    part, expected = place.with_name(f"{place.name}.part"), hash_of(url)
    total = _download(url, part)
    size = part.stat().st_size
    if total is None and not expected:
        part.unlink()
        raise CheckpointError(f"{url}: the server does not say how long the file is, so that it cannot be verified")
    if total is not None and size != total:
        raise CheckpointError(
            f"{url}: the connection ended after {size:,} of {total:,} bytes; try again, it goes on there"
        )
    found = _sha256(part) if expected else ""
    if not found.startswith(expected):
        part.unlink()
        raise CheckpointError(f"{url}: got a file with SHA-256 {found[:8]}..., expected {expected}...; it was removed")
    os.replace(part, place)


def place_of(url: str) -> Path:
    """Returns where a file of an address is kept: where torch.hub keeps it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _download(url: str, part: Path) -> int | None:
    """Writes a file, from where an earlier try ended; returns how many bytes it should have, if the server says so."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        answer: Any = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not there:
            raise
        if error.headers.get("Content-Range") == f"bytes */{there}":  # nothing is left to send
            return there
        part.unlink()  # of another file
        return _download(url, part)
    with answer:
        if there and not str(answer.headers.get("Content-Range")).startswith(f"bytes {there}-"):
            there = 0  # the server sends the whole
        length = answer.headers.get("Content-Length")
        total = None if length is None else there + int(length)
        with (
            part.open("ab" if there else "wb") as file,
            tqdm(total=total, initial=there, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,  # type: ignore[no-untyped-call]
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    return total


def _files(kind: str) -> list[str]:
    """What is wanted of a repository, with weights of one kind."""
    return [*SIDECARS, kind, f"{kind}.index.json"]


def _weights(folder: Path) -> list[Path]:
    """The files of weights of a folder."""
    return [file for kind in KINDS for file in sorted(folder.glob(kind))]


def _verify(address: str, repository: str, file: Path) -> None:
    """Raises CheckpointError where a file does not have the SHA-256 that the hub gives it as a name."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if file.is_symlink():  # to the file of that name
        blob = file.parent / os.readlink(file)
        expected = blob.name
    else:
        blob, expected = file, get_hf_file_metadata(hf_hub_url(repository, file.name)).etag or ""
    if re.fullmatch("[0-9a-f]{64}", expected) and _sha256(file) != expected:
        blob.unlink()
        file.unlink(missing_ok=True)
        raise CheckpointError(
            f"{address}: {file.name} is not the file that the hub describes (its hash differs); it was removed"
        )


def _failures() -> tuple[type[Exception], ...]:
    """What networks, disks and the hub's library raise, that of the HTTP library under it too."""
    from huggingface_hub import errors

    libraries = ("httpx", "requests")
    below = [
        kind
        for kind in errors.HfHubHTTPError.__mro__
        if kind.__module__.startswith(libraries) and issubclass(kind, Exception)
    ]
    known = (errors.LocalEntryNotFoundError, errors.HFValidationError)
    return (OSError, ValueError, http.client.HTTPException, errors.HfHubHTTPError, *known, *below)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
