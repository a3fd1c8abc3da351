"""The first step of loading: the tensors of a file, a folder, a published name, a hub's repository or a state dict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..weights import TAGS, Published, published, refused, suggestions
from .download import HUB, fetch, from_hub
from .files import reason
from .layouts import SIDECARS
from .unpickle import torch_load

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder, the first that is there
# Where a state dict is found in what a training script saved, the first that is there.
WRAPPERS = (
    "model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights", "params",
    "teacher", "student", "model_ema", "state_dict_ema", "ema",
)  # fmt: skip
WRAPPED_BY_TORCH = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
DEPTH = 4  # wrappers around wrappers


@dataclasses.dataclass(frozen=True)
class Source:
    """Tensors as they were found, and what was found with them.

    Attributes:
        name: for reports.
        tensors: key to tensor; those of files are mapped from disk, not read.
        header: the texts in the header of a safetensors file, by key.
        sidecars: the JSON files beside it that say more of the model, by name.
        certain: whether these certainly belong to it, being of one folder that was asked for.
        left_out: what lay beside the weights in the file, and why it is not taken.
        extra: the values of these, where they are mappings.
        published: the weights that were asked for by name; None: they were not.
    """

    name: str
    tensors: dict[str, Tensor]
    header: dict[str, str] = dataclasses.field(default_factory=dict)
    sidecars: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    certain: bool = False
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    published: Published | None = None


def read(source: str | Path | Mapping[str, Any], part: str | None = None, verify: bool = True) -> Source:
    """Returns the tensors of a path, published name, ``hf://org/name[@revision]``, or state dict.

    Args:
        source: as of ``swindow.load``.
        part: of several state dicts in one file, the one to take; None: the first of ``WRAPPERS`` that is there.
        verify: whether the checksums in a file of ``torch.save`` are verified.

    Raises:
        CheckpointError: it is absent, broken or refused, or cannot be downloaded; or it has no such part.
    """
    if isinstance(source, Mapping):
        return _unwrapped("the state dict", source, part)
    if not isinstance(source, (str, Path)):
        raise CheckpointError(f"load: got a {type(source).__name__}, expected a path, 'hf://org/name' or a state dict")
    other = refused(str(source)) if str(source).startswith(HUB) else None
    if other is not None:
        raise CheckpointError(f"{source}: is of {other}, which swindow does not have")
    if str(source).startswith(HUB):
        return dataclasses.replace(_folder(from_hub(str(source)), part, verify), name=str(source))
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(path, part, verify)
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, no home
        raise CheckpointError(f"{str(source)[:80]!r}: cannot be looked for ({reason(error)})") from error
    if there:
        return dataclasses.replace(_file(path, part, verify), sidecars=_sidecars(path.parent))
    row = published(str(source))
    if row is None:
        other = refused(str(source))
        if other is not None:
            raise CheckpointError(f"{source}: is of {other}, which swindow does not have")
        near = suggestions(str(source)) if path.suffix[1:].startswith(TAGS) else ""
        raise CheckpointError(
            f"{path}: there is no such file{near}; expected a file of weights, a folder with config.json, or a "
            "published name ('swindow weights' lists them)"
        )
    path = fetch(row)
    found = _folder(path, part, verify) if path.is_dir() else _file(path, part, verify)
    return dataclasses.replace(found, name=row.name, published=row)


def _file(path: Path, part: str | None, verify: bool) -> Source:
    """The tensors of one file; its kind is told by its content, not by its name."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error
    if path.suffix != ".safetensors" and start[8:9] != b"{":
        return _unwrapped(str(path), torch_load(path, verify), part)
    found = _safetensors(path)
    if part is not None:
        raise CheckpointError(f"{path}: got part={part!r}, a safetensors file has no parts; try without it")
    return found


def _safetensors(path: Path) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            return Source(str(path), tensors, dict(file.metadata() or {}))
    except (OSError, SafetensorError, ValueError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({reason(error)}); it is broken or of another kind"
        ) from error


def _folder(path: Path, part: str | None, verify: bool) -> Source:
    """The tensors of a folder with config.json, in one file or several."""
    files = [path / name for name in WEIGHTS if (path / name).is_file()]
    shards = [path / f"{name}.index.json" for name in WEIGHTS if (path / f"{name}.index.json").is_file()]
    if files:
        found = _file(files[0], part, verify)
    elif shards:
        found = _sharded(shards[0], part, verify)
    else:
        raise CheckpointError(
            f"{path}: is a folder without {' or '.join(WEIGHTS)}; try the path of the file of weights itself"
        )
    return dataclasses.replace(found, name=str(path), sidecars=_sidecars(path), certain=True)


def _sharded(index: Path, part: str | None, verify: bool) -> Source:
    """Tensors that an index distributes over several files."""
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(v, str) and Path(v).name == v for v in where.values()):
        raise CheckpointError(f"{index}: got no weight_map of keys to files of the same folder; it is broken")
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(where.values()):
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent}: {name} is absent, which {index.name} names; get the folder again")
        tensors |= _file(index.parent / name, part, verify).tensors
    missing = [key for key in where if key not in tensors]
    if missing:
        raise CheckpointError(f"{index.parent}: {missing[0]} is in none of its files ({len(missing)} such keys)")
    return Source(str(index.parent), tensors)


def _sidecars(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON files that say more of a model."""
    return {name: _json(folder / name) for name in SIDECARS if (folder / name).is_file()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not whole JSON ({reason(error)})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: got a {type(found).__name__}, expected an object")
    return found


def _unwrapped(name: str, found: Any, part: str | None) -> Source:
    """The state dict inside what a training script saved; what lies beside it is named."""
    left_out: dict[str, str] = {}
    extra: dict[str, Any] = {}
    parts: list[str] = []
    for _ in range(DEPTH):
        if not isinstance(found, Mapping):
            raise CheckpointError(f"{name}: got a {type(found).__name__}, expected a state dict, key to tensor")
        chosen = part is not None and isinstance(found.get(part), Mapping)
        if not chosen and any(isinstance(value, Tensor) for value in found.values()):
            if part is not None and part not in parts:
                known = f"one of {', '.join(map(repr, parts))}" if parts else "no part, as it holds one state dict"
                raise CheckpointError(f"{name}: got part={part!r}, expected {known}")
            return Source(name, _tensors(name, found, left_out), left_out=left_out, extra=extra)
        known_here = dict.fromkeys((*([] if part is None else [part]), *WRAPPERS))
        inner = [key for key in known_here if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        for key, value in found.items():
            if key in inner[1:]:
                left_out[key] = f"other weights, beside {inner[0]!r}; part={key!r} takes them"
            elif key != inner[0]:
                left_out[str(key)] = f"not weights, beside {inner[0]!r}"
                extra |= {str(key): value} if isinstance(value, Mapping) else {}
        parts += inner
        found = found[inner[0]]
    keys = ", ".join(list(map(str, found))[:5]) or "none"
    raise CheckpointError(f"{name}: holds no tensors (keys: {keys}); expected a state dict, or one under 'model'")


def _tensors(name: str, found: Mapping[Any, Any], left_out: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a state dict, without what torch's wrappers put into their keys."""
    tensors = {_plain(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) < sum(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{name}: two of its keys are the same, but for what torch's wrappers put into them")
    left_out |= {str(key): "not a tensor" for key, value in found.items() if not isinstance(value, Tensor)}
    return tensors


def _plain(key: Any) -> str:
    """A key without what torch's wrappers put into it."""
    key = str(key)
    for wrapper in WRAPPED_BY_TORCH:
        key = key.replace(wrapper, "")
    return key
