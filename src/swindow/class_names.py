"""Names of classes: those of ImageNet-1k and ImageNet-22k, and those that a file lists. Imports no torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from .errors import ConfigError

FILE_1K = Path(__file__).with_name("imagenet_1k.txt")
FILE_22K = Path(__file__).with_name("imagenet_22k.txt")
CLASSES_22K = 21_841


@functools.cache
def imagenet_1k() -> tuple[tuple[str, str], ...]:
    """Returns (synset, name) of each of the 1000 classes of ImageNet-1k, in the order of their numbers.

    Example:
        >>> imagenet_1k()[281]
        ('n02123045', 'tabby')
    """
    return _pairs(FILE_1K)


@functools.cache
def imagenet_22k() -> tuple[tuple[str, str], ...]:
    """Returns (synset, name) of each of the 21,841 classes of ImageNet-22k, in the order of Microsoft's weights.

    Names differ from each other. Those of the classes that are in ImageNet-1k too are the same there, unless another
    class of ImageNet-22k has the name as well. timm's list of as many classes has another order, see the file.

    Example:
        >>> imagenet_22k()[2397], imagenet_22k()[2167]
        (('n02123045', 'tabby, tabby cat'), ('n02084071', 'dog'))
    """
    return _pairs(FILE_22K)


def _pairs(path: Path) -> tuple[tuple[str, str], ...]:
    """What a file of ours lists: synset and name on every line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines if not line.startswith("#"))
    return tuple((synset, name) for synset, name in pairs)


def numbers(names: Sequence[str]) -> dict[str, int]:
    """Returns the number of the class for every name that data may have for it: its own, and its synset of ImageNet.

    Names have synsets where they are those of ImageNet-1k or of ImageNet-22k, in the order of ``imagenet_1k`` or
    ``imagenet_22k``, also where more synonyms follow each, after a comma.

    Example:
        >>> numbers(["cat", "dog"])
        {'cat': 0, 'dog': 1}
        >>> numbers([name for _, name in imagenet_1k()])["n02123045"]
        281
    """
    found = {name: number for number, name in enumerate(names)}
    known = imagenet_22k() if len(names) == CLASSES_22K else imagenet_1k()
    # "crane" stands for "crane bird" and for the machine in lists that do not tell them apart.
    if len(names) == len(known) and all(
        f"{ours.split(',')[0]} ".startswith(f"{name.split(',')[0]} ") for name, (_, ours) in zip(names, known)
    ):
        found |= {synset: number for number, (synset, _) in enumerate(known)}
    return found


def read_names(path: str | Path, classes: int) -> tuple[str, ...]:
    """Returns the names of classes that a file lists, in the order of a model's outputs.

    Args:
        path: a text file in UTF-8 with one name per line; or a .json file with a list of names.
        classes: how many there must be.

    Raises:
        ConfigError: there is no such file, it is no such list, or it has another number of names or one of them twice.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "names.txt")
        >>> _ = path.write_text("cat\\ndog\\n")
        >>> read_names(path, 2)
        ('cat', 'dog')
    """
    path = Path(path)
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.rstrip().splitlines()]
    except (OSError, RuntimeError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(
            f"{path}: cannot be read as class names ({why}); expected one name per line, UTF-8"
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: is no list of names; expected a JSON list of texts, or one name per line")
    if len(names) != classes:
        raise ConfigError(f"{path}: got {len(names)} class names, expected {classes}, one per output of the model")
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise ConfigError(f"{path}: name {number} is empty; expected one name per line, without empty lines")
        if name in first:
            raise ConfigError(f"{path}: names {first[name]} and {number} are both {name!r}; expected different names")
        first[name] = number
    return tuple(names)
