"""Weights from the Hugging Face hub and from their publishers, once; afterwards from the cache, without a network.

The hub's files lie in its own cache (``HF_HOME``), others in that of torch.hub (``TORCH_HOME``), where torchvision and
timm look too. ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and the usual variables for proxies are obeyed.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..weights import Published, hash_of

HUB = "hf://"
BESIDE = ("config.json", "preprocessor_config.json")  # JSON files that say more of a model
KINDS = ("*.safetensors", "*.bin")  # of weights, the first that is there
BLOCK = 1 << 20  # bytes


def fetch(row: Published) -> Path:
    """Returns where published weights lie on this machine: a file, or a folder of the hub's cache.

    What is not there is downloaded, with a bar, from the first source that answers. A download that was interrupted is
    continued.

    Raises:
        CheckpointError: there is no network, no source has the file, or it is not what was published; the message says
            where a file from elsewhere may be put.
    """
    for source in row.sources:
        found = cached(source)
        if found is not None:
            return found
    problems = []
    for source in row.sources:
        try:
            return from_hub(source) if source.startswith(HUB) else from_url(source)
        except CheckpointError as error:
            problems.append(str(error))
    advice = f"download {row.url} elsewhere and put it at {place_of(row.url)}" if row.url else "try again later"
    raise CheckpointError(f"{row.name}: could not be downloaded ({'; '.join(problems)}); {advice}")


def cached(source: str) -> Path | None:
    """Returns where a source lies on this machine; None: it does not."""
    if not source.startswith(HUB):
        return place_of(source) if place_of(source).is_file() else None
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(source[len(HUB) :], local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    return folder if any(found for kind in KINDS for found in folder.glob(kind)) else None


def from_hub(address: str) -> Path:
    """Returns the folder of ``hf://org/name[@revision]``, downloaded where its newest version is not in the cache.

    Raises:
        CheckpointError: it cannot be had, or a file is not the one that the hub describes.
    """
    from huggingface_hub import errors, snapshot_download

    name, _, revision = address[len(HUB) :].partition("@")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise CheckpointError(f"{address}: expected {HUB}organisation/name or {HUB}organisation/name@revision")
    had = set(_weights(cached(f"{HUB}{name}"))) if not revision else None
    try:
        for kind in KINDS:
            patterns = [*BESIDE, kind, f"{kind}.index.json"]
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
            if any(folder.glob(kind)):
                break
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError, OSError) as error:
        raise CheckpointError(f"{address}: could not be had from the hub or its cache ({_first(error)})") from error
    for file in _weights(folder):
        if had is not None and file not in had:
            _check_blob(address, file)
    return folder


def from_url(url: str) -> Path:
    """Returns where a file lies after it was downloaded.

    Raises:
        CheckpointError: it cannot be had, or its hash or its size are not what was published.
    """
    from huggingface_hub import constants

    place = place_of(url)
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{url}: HF_HUB_OFFLINE is set")
    part = place.with_name(f"{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        total = _download(url, part)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise CheckpointError(f"{url}: could not be downloaded ({_first(error)})") from error
    size, expected = part.stat().st_size, hash_of(url)
    if total is not None and size != total:
        raise CheckpointError(
            f"{url}: the connection ended after {size:,} of {total:,} bytes; try again, it goes on there"
        )
    found = _sha256(part) if expected else ""
    if not found.startswith(expected):
        part.unlink()
        raise CheckpointError(f"{url}: got a file with SHA-256 {found[:8]}..., expected {expected}...; it was removed")
    os.replace(part, place)
    return place


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
        if error.code != 416 or not there:  # nothing is left to send
            raise
        return there
    with answer:
        if answer.status != 206:  # the server sends the whole
            there = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else there + int(length)
        with (
            part.open("ab" if there else "wb") as file,
            tqdm(total=total, initial=there, unit="B", unit_scale=True, desc=part.stem) as bar,  # type: ignore[no-untyped-call]
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    return total


def _weights(folder: Path | None) -> list[Path]:
    """The files of weights of a folder."""
    return [] if folder is None else [file for kind in KINDS for file in folder.glob(kind)]


def _check_blob(address: str, file: Path) -> None:
    """Raises CheckpointError where a file is not that whose SHA-256 the hub gave, by which it calls large files."""
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and _sha256(blob) != blob.name:
        blob.unlink()
        file.unlink(missing_ok=True)
        raise CheckpointError(
            f"{address}: {file.name} is not the file that the hub describes (its hash differs); it was removed"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
