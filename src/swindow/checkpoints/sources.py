"""Where weights come from: a file, a folder, a published name, the Hugging Face hub, a state dict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, nearest
from ..weights import PUBLISHED, Published, published
from .download import BESIDE, HUB, fetch, from_hub
from .files import reason
from .unpickle import torch_load

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder, the first that is there
# Where a state dict is found in what a training script saved, the first that is there.
WRAPPERS = (
    "model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights", "params",
    "model_ema", "state_dict_ema", "ema",
)  # fmt: skip
WRAPPED_BY_TORCH = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
DEPTH = 4  # wrappers around wrappers


@dataclasses.dataclass
class Source:
    """Tensors as they were found, and what was found with them.

    Attributes:
        name: for reports.
        tensors: key to tensor; those of files are mapped from disk, not read.
        metadata: the texts in the header of a safetensors file, by key.
        neighbours: config.json and preprocessor_config.json, by name, where they are beside the file.
        whole_folder: whether the source was a folder, to which its config.json certainly belongs.
        beside: what lay beside the weights, and why it is not taken.
        about: the ``meta`` entry that OpenMMLab's files have.
        published: the weights that were asked for by name; None: they were not.
    """

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    neighbours: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    whole_folder: bool = False
    beside: dict[str, str] = dataclasses.field(default_factory=dict)
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    published: Published | None = None


def open_source(source: str | Path | Mapping[str, Any]) -> Source:
    """Returns the tensors of a path, published name, ``hf://org/name[@revision]``, or state dict.

    Raises:
        CheckpointError: it is absent, broken or refused, or cannot be downloaded.
    """
    if isinstance(source, Mapping):
        return _unwrapped("the state dict", source)
    if not isinstance(source, (str, Path)):
        raise CheckpointError(f"load: got a {type(source).__name__}, expected a path, 'hf://org/name' or a state dict")
    if str(source).startswith(HUB):
        found = _folder(from_hub(str(source)))
        found.name = str(source)
        return found
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(path)
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, no home
        raise CheckpointError(f"{str(source)[:80]!r}: cannot be looked for ({reason(error)})") from error
    if not there:
        row = published(str(source))
        if row is None:
            near = nearest(str(source), [row.name for row in PUBLISHED]) if path.suffix[1:3] in ("ms", "tv") else ""
            raise CheckpointError(
                f"{path}: there is no such file{near}; expected a file of weights, a folder with config.json, or a "
                "published name ('swindow weights' lists them)"
            )
        path = fetch(row)
        found = _folder(path) if path.is_dir() else _file(path)
        found.name, found.published = row.name, row
        return found
    found = _file(path)
    found.neighbours = _neighbours(path.parent)
    return found


def _file(path: Path) -> Source:
    """The tensors of one file; its kind is told by its content, not by its name."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _safetensors(path)
    return _unwrapped(str(path), torch_load(path))


def _safetensors(path: Path) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            return Source(str(path), tensors, dict(file.metadata() or {}))
    except (OSError, SafetensorError, ValueError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({reason(error)}); it is broken or of another kind"
        ) from error


def _folder(path: Path) -> Source:
    """The tensors of a folder as transformers writes it, in one file or several."""
    files = [path / name for name in WEIGHTS if (path / name).is_file()]
    shards = [path / f"{name}.index.json" for name in WEIGHTS if (path / f"{name}.index.json").is_file()]
    if files:
        found = _file(files[0])
    elif shards:
        found = _sharded(shards[0])
    else:
        raise CheckpointError(
            f"{path}: is a folder without {' or '.join(WEIGHTS)}; try the path of the file of weights itself"
        )
    found.name, found.neighbours, found.whole_folder = str(path), _neighbours(path), True
    return found


def _sharded(index: Path) -> Source:
    """Tensors that an index distributes over several files."""
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(v, str) and Path(v).name == v for v in where.values()):
        raise CheckpointError(f"{index}: got no weight_map of keys to files of the same folder; it is broken")
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(where.values()):
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent}: {name} is absent, which {index.name} names; get the folder again")
        tensors |= _file(index.parent / name).tensors
    missing = [key for key in where if key not in tensors]
    if missing:
        raise CheckpointError(f"{index.parent}: {missing[0]} is in none of its files ({len(missing)} such keys)")
    return Source(str(index.parent), tensors)


def _neighbours(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON files that say more of a model."""
    return {name: _json(folder / name) for name in BESIDE if (folder / name).is_file()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not whole JSON ({reason(error)})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: got a {type(found).__name__}, expected an object")
    return found


def _unwrapped(name: str, found: Any) -> Source:
    """The state dict inside what a training script saved; what lies beside it is named."""
    beside: dict[str, str] = {}
    about: dict[str, Any] = {}
    for _ in range(DEPTH):
        if not isinstance(found, Mapping):
            raise CheckpointError(f"{name}: got a {type(found).__name__}, expected a state dict, key to tensor")
        if any(isinstance(value, Tensor) for value in found.values()):
            tensors = {_plain(key): value for key, value in found.items() if isinstance(value, Tensor)}
            if len(tensors) < sum(isinstance(value, Tensor) for value in found.values()):
                raise CheckpointError(
                    f"{name}: two of its keys are the same, but for what torch's wrappers put into them"
                )
            beside |= {str(key): "not a tensor" for key, value in found.items() if not isinstance(value, Tensor)}
            return Source(name, tensors, beside=beside, about=about)
        inner = next((key for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        for key in found:
            if key != inner:
                why = "other weights" if key in WRAPPERS else "not weights"
                beside[str(key)] = f"{why}, beside {inner!r}"
        about = dict(found["meta"]) if isinstance(found.get("meta"), Mapping) else about
        found = found[inner]
    keys = ", ".join(list(map(str, found))[:5]) or "none"
    raise CheckpointError(f"{name}: holds no tensors (keys: {keys}); expected a state dict, or one under 'model'")


def _plain(key: Any) -> str:
    """A key without what torch's wrappers put into it."""
    key = str(key)
    for wrapper in WRAPPED_BY_TORCH:
        key = key.replace(wrapper, "")
    return key
