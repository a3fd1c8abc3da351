"""Key tables: another library's names beside ours, read in both directions."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .rearrange import SAME, Rearrangement

Names = str | tuple[str, ...]

NUMBER = re.compile(r"\{(\d*)([ij])([+-]\d+)?\}|(\d+)")  # {i}, {i+1}, {2i+1}, or a number that is part of the name


class Name(NamedTuple):
    """A key with places for a stage i and a block j, for instance ``layers.{i}.blocks.{j}.norm1.weight``."""

    text: str
    numbers: tuple[tuple[str, int, int], ...]  # (letter, a, b): the number a * letter + b; ("", 0, b): just b

    @classmethod
    def parse(cls, text: str) -> Name:
        """Reads a name of a table."""
        found = []
        for times, letter, plus, literal in NUMBER.findall(text):
            found.append((letter, int(times or 1), int(plus or 0)) if letter else ("", 0, int(literal)))
        return cls(text, tuple(found))

    @property
    def shape(self) -> str:
        """The name with a # for every number: what keys are looked up by."""
        return NUMBER.sub("#", self.text)

    def match(self, numbers: Sequence[int]) -> dict[str, int] | None:
        """The values of i and j in a key of this shape whose numbers these are; None where it is another key."""
        found = {}
        for number, (letter, times, plus) in zip(numbers, self.numbers):
            value, rest = divmod(number - plus, times) if letter else (0, number - plus)
            if rest or value < 0:
                return None
            if letter:
                found[letter] = value
        return found

    def fill(self, values: Mapping[str, int]) -> str:
        """The key for a stage and a block."""
        numbers = iter(self.numbers)

        def one(_: re.Match[str]) -> str:
            letter, times, plus = next(numbers)
            return str(times * values[letter] + plus if letter else plus)

        return NUMBER.sub(one, self.text)


class Via(NamedTuple):
    """Their names, where what they hold is arranged otherwise."""

    names: Names
    how: Rearrangement


Rows = Mapping[Names, Names | Via]


class Row(NamedTuple):
    """Tensors of ours and theirs that hold the same, and how they are arranged."""

    ours: tuple[Name, ...]
    theirs: tuple[Name, ...]
    how: Rearrangement


class Translation(NamedTuple):
    """What a table made of some tensors.

    Attributes:
        tensors: under the other side's names.
        origin: the keys that each of them was made of.
        unknown: keys that no row names.
        incomplete: keys whose row names others that are absent, or whose shapes do not go together.
    """

    tensors: dict[str, Tensor]
    origin: dict[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    incomplete: tuple[str, ...]


class Table:
    """A two-way table of key names.

    Args:
        rows: ours to theirs. A name may hold ``{i}`` and ``{j}`` (also ``{i+1}``, ``{2i+1}``) for stage and block, and
            end in ``*`` for both ``weight`` and ``bias``. A tuple of names stands for several tensors.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows: list[Row] = []
        for ours, value in rows.items():
            theirs = value if isinstance(value, Via) else Via(value, SAME)
            sides = _tuple(ours), _tuple(theirs.names)
            for ending in ("weight", "bias") if sides[0][0].endswith("*") else ("",):
                left, right = (tuple(Name.parse(name.replace("*", ending)) for name in side) for side in sides)
                self.rows.append(Row(left, right, theirs.how))
        self._ours = _lookup((row, row.ours) for row in self.rows)
        self._theirs = _lookup((row, row.theirs) for row in self.rows)

    def read(self, tensors: Mapping[str, Tensor]) -> Translation:
        """Their tensors under our names."""
        return self._translate(tensors, self._theirs, reading=True)

    def write(self, tensors: Mapping[str, Tensor]) -> Translation:
        """Our tensors under their names."""
        return self._translate(tensors, self._ours, reading=False)

    def names(self, key: str) -> bool:
        """Whether a key is one of theirs."""
        return _find(key, self._theirs) is not None

    def _translate(self, tensors: Mapping[str, Tensor], lookup: Lookup, reading: bool) -> Translation:
        groups: dict[tuple[int, tuple[tuple[str, int], ...]], tuple[Row, dict[int, str]]] = {}
        unknown = []
        for key in tensors:
            found = _find(key, lookup)
            if found is None:
                unknown.append(key)
                continue
            row, part, values = found
            parts = groups.setdefault((id(row), tuple(values.items())), (row, {}))[1]
            if part in parts:  # another spelling of a key that is there, such as layers.00
                unknown.append(key)
            parts.setdefault(part, key)
        translated, origin, incomplete = {}, {}, []
        for (_, values_of), (row, parts) in groups.items():
            old, new = (row.theirs, row.ours) if reading else (row.ours, row.theirs)
            if len(parts) < len(old):
                incomplete += list(parts.values())
                continue
            keys = tuple(parts[i] for i in range(len(old)))
            change = row.how.read if reading else row.how.write
            try:
                changed = change(*(tensors[key] for key in keys))
            except (RuntimeError, IndexError):  # of other shapes than those that are arranged so
                incomplete += keys
                continue
            for name, tensor in zip(new, changed, strict=False):
                full = name.fill(dict(values_of))
                translated[full], origin[full] = tensor, keys
        return Translation(translated, origin, tuple(unknown), tuple(incomplete))


def under(ours: str, theirs: str, rows: Rows) -> Rows:
    """Returns rows with a prefix before our names and another before theirs."""

    def put(prefix: str, names: Names) -> Names:
        return prefix + names if isinstance(names, str) else tuple(prefix + name for name in names)

    found: dict[Names, Names | Via] = {}
    for left, value in rows.items():
        right = put(theirs, value.names if isinstance(value, Via) else value)
        found[put(ours, left)] = Via(right, value.how) if isinstance(value, Via) else right
    return found


Lookup = dict[str, list[tuple[Row, int, Name]]]


def _lookup(sides: Iterable[tuple[Row, tuple[Name, ...]]]) -> Lookup:
    """Rows by the shape of their names: which row, and which of its names."""
    found: Lookup = {}
    for row, names in sides:
        for part, name in enumerate(names):
            found.setdefault(name.shape, []).append((row, part, name))
    return found


def _find(key: str, lookup: Lookup) -> tuple[Row, int, dict[str, int]] | None:
    """The row that names a key, which of its names, and the values of i and j."""
    shape, numbers = _taken_apart(key)
    for row, part, name in lookup.get(shape, ()):
        values = name.match(numbers)
        if values is not None:
            return row, part, values
    return None


@functools.lru_cache(maxsize=10_000)  # a file's keys are looked up in one table after another
def _taken_apart(key: str) -> tuple[str, tuple[int, ...]]:
    """A key with a # for every number, and the numbers."""
    numbers = re.findall(r"\d+", key)
    if any(len(number) > 6 for number in numbers):
        return key, ()  # no model counts so far
    return re.sub(r"\d+", "#", key), tuple(map(int, numbers))


def _tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
