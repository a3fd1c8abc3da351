"""A folder of class folders: DIR/CLASS/image, or DIR/train/CLASS/image and DIR/val/CLASS/image."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import DataError
from ..media import ImageFile
from .sample import DataInfo, Sample, Splits
from .split import digest

TRAINING = ("train", "training", "trn")
VALIDATION = ("val", "valid", "validation", "dev", "eval", "evaluation")
TEST = ("test", "testing")
MOST_BAD = 0.1  # of all images; more unusable ones are an error
# What Pillow has a suffix for and never gives pixels of: data it only recognises, and what it only writes.
NOT_IMAGES = ("BUFR", "GRIB", "HDF5", "MPEG", "PALM", "PDF")

SYSTEM = ("__MACOSX", "@eaDir")  # folders that macOS and network drives put beside files

_EXPECTED = "expected a folder with one sub-folder of images per class"
_NO_FILE = -1  # the size of what is no file


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Image files, each with a class.

    Attributes:
        root: the folder that the keys are below.
        keys: the path of every image, below ``root``, with ``/`` on every system.
        classes: the class of every image, an index into ``info.class_names``.
        sizes: of every file, in bytes.
        info: what is known of the data.
    """

    root: str
    keys: Sequence[str]
    classes: Sequence[int]
    sizes: Sequence[int]
    info: DataInfo

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Sample:
        return Sample(ImageFile(os.path.join(self.root, self.keys[i])), self.classes[i], self.keys[i])

    def labels(self) -> np.ndarray:
        """Returns the class of every image: (len,) int64."""
        return np.asarray(self.classes, np.int64)

    def fingerprint(self) -> str:
        """Changes when names of classes, keys, labels or sizes do; a copy elsewhere has the same."""
        return digest(*map(list, (self.info.class_names, self.keys, self.classes, self.sizes)))


def folder(root: str | Path, verify: bool = True, on_progress: Callable[[int, int], None] | None = None) -> Splits:
    """Returns the images of a folder whose sub-folders are the classes.

    With ``train`` and ``val`` inside, these are the splits; else everything is in ``train``. In any case of letters,
    ``training`` and ``trn`` stand for ``train``; ``valid``, ``validation``, ``dev``, ``eval`` and ``evaluation`` for
    ``val``. ``test`` or ``testing`` is held out where there is no ``val``.

    Hidden files are left out. Files without the suffix of an image are left out and counted.

    Args:
        root: the folder.
        verify: decode every image once now, so that broken ones are reported and skipped; else only names are looked
            at and a broken image is an error when training meets it.
        on_progress: called with the images verified so far and their number.

    Raises:
        DataError: the folder is absent or empty, cannot be told to be classes or splits, has fewer than two classes, a
            class without usable images, classes in the held-out folder that are not in the other, or more than 10 %
            unusable images.
    """
    root = Path(root)
    ignored: Counter[str] = Counter()
    try:
        if not root.is_dir():
            raise DataError(f"{root}: {'is a file' if root.exists() else 'there is no such folder'}; {_EXPECTED}")
        parts, notes = _parts(root)
        classes = _class_names(root / parts[0])
        listed = [_list_images(root, part, classes, ignored) for part in parts]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error
    problems = _problems(root, [image for images in listed for image in images], verify, on_progress)
    usable = [[image for image in images if image.key not in problems] for images in listed]
    _check(root, classes, usable[0], list(problems.values()), sum(map(len, listed)), ignored)
    if not usable[-1]:
        raise DataError(f"{root / parts[-1]}: no usable images are held out for evaluation; {_EXPECTED}")
    loose = [entry.name for entry in _entries(root / parts[0]) if is_image(entry.name) and entry.is_file()]
    if loose:
        notes.append(f"{root / parts[0]}: {len(loose)} images beside the class folders are not used: {loose[0]}, ...")
    if ignored:
        notes.append(f"{root}: ignored {_by_suffix(ignored)} without the suffix of an image")
    info = DataInfo(
        name=os.path.basename(os.path.abspath(root)),
        class_names=classes,
        skipped=tuple(problems.values()),
        ignored=ignored.total(),
        notes=tuple(notes),
    )
    return Splits(*(_dataset(root, images, info) for images in usable))


class _Image(NamedTuple):
    key: str
    label: int
    size: int


def _dataset(root: Path, images: list[_Image], info: DataInfo) -> ImageFolder:
    keys, classes, sizes = zip(*images, strict=True)
    return ImageFolder(str(root), keys, classes, sizes, info)


def _parts(root: Path) -> tuple[list[str], list[str]]:
    """The folders of the splits below the root, training first ("": the root itself), and what is to be said of them.

    A folder named like a split can be a class, too: trains among vehicles, "test" beside "control". It is one where
    other folders hold images and nothing in it looks like classes.
    """
    inside = _folders(root)
    kinds = [[name for name in inside if name.lower() in names] for names in (TRAINING, VALIDATION, TEST)]
    for names in kinds:
        if len(names) > 1:
            raise DataError(f"{root}: {' and '.join(names)} are names of the same split; leave one of them there")
    training, validation, test = kinds
    named = [*training, *validation, *test]
    if training and len(named) > 1:
        unused = [f"{root / test[0]} is not used: {validation[0]} is held out"] if len(named) > 2 else []
        return named[:2], unused
    if not named:
        return [""], _alike(root, inside)
    beside = [name for name in inside if name not in named and _holds_images(root / name)]
    within = _folders(root / named[0])
    if training and within and not beside:
        return training, []  # a share of them can be held out
    expected = "expected train/CLASS/images and val/CLASS/images, or CLASS/images"
    if not beside:
        missing = f"{training[0]} has no class folders in it" if training else "there is no folder to train on"
        raise DataError(f"{root}: got {' and '.join(named)}, named like splits, for classes, but {missing}; {expected}")
    if (training and within) or set(within) & set(beside):
        raise DataError(
            f"{root}: {named[0]} is named like a split and has folders in it, but {', '.join(beside[:3])} beside it "
            f"holds images too; {expected}; move or rename one of them"
        )
    return [""], [f"{root / named[0]} is taken for a class, as {beside[0]} is one, though it is named like a split"]


def _alike(root: Path, classes: list[str]) -> list[str]:
    """A remark where every class holds folders of the same names, as splits of another name would (``train_set``)."""
    inside = {tuple(_folders(root / name)) for name in classes}
    if len(classes) < 2 or len(inside) > 1 or inside == {()}:
        return []
    return [
        f"{root}: {classes[0]} and {classes[1]} are taken for classes, and hold folders of the same names "
        f"({', '.join(inside.pop()[:3])}); if they are splits, name them train and val"
    ]


def _folders(folder: Path) -> list[str]:
    """The names of the sub-folders that are not hidden, sorted."""
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted by code points: the same order on every system."""
    with os.scandir(folder) as entries:
        kept = (e for e in entries if not e.name.startswith(".") and e.name not in SYSTEM)
        return sorted(kept, key=lambda entry: entry.name)


def _class_names(part: Path) -> tuple[str, ...]:
    """The sub-folders that are classes, sorted."""
    names = tuple(_folders(part))
    if not names:
        raise DataError(f"{part}: {'holds no sub-folders' if any(part.iterdir()) else 'is empty'}; {_EXPECTED}")
    if len(names) == 1:
        raise DataError(f"{part}: got one class ({names[0]}), expected at least two; {_EXPECTED}")
    return names


def _list_images(root: Path, part: str, classes: tuple[str, ...], ignored: Counter[str]) -> list[_Image]:
    """Every image below the class folders, in a fixed order. Counts the other files in ``ignored``, by suffix."""
    numbers, suffixes, images = {name: c for c, name in enumerate(classes)}, image_suffixes(), []
    for name in _class_names(root / part):
        if name not in numbers:
            raise DataError(f"{root / part / name}: a class that the training folder does not have; it has {classes}")
        for key, entry in _files(root / part / name, f"{part}/{name}" if part else name):
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix not in suffixes:
                ignored[suffix] += 1
                continue
            size = entry.stat().st_size if entry.is_file() else _NO_FILE
            images.append(_Image(key, numbers[name], size))
    return images


def _files(folder: str | Path, key: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below a folder, with its path below the root. Links to files count, links to folders do not."""
    for entry in _entries(folder):
        below = f"{key}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, below)
        elif entry.is_file() or (entry.is_symlink() and not entry.is_dir()):  # the second: a link to nothing
            yield below, entry


def _holds_images(folder: Path) -> bool:
    return any(is_image(key) for key, _ in _files(folder, ""))


def images_in(folder: str | Path) -> list[str]:
    """Returns the paths of the files below a folder that have the suffix of an image, in a fixed order, none hidden."""
    return [os.path.join(folder, key[1:]) for key, _ in _files(folder, "") if is_image(key)]


def is_image(name: str | Path) -> bool:
    """Returns whether a file has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Returns the suffixes of images, lower case, with their dot: those of all formats that Pillow can read."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind not in NOT_IMAGES)


def _problems(
    root: Path, images: list[_Image], verify: bool, on_progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    """The keys of the images that cannot be used, and why. Decodes them all, or, unverified, none."""

    def problem(image: _Image) -> str | None:
        try:
            ImageFile(str(root / image.key)).decode()
        except DataError as error:
            return str(error)
        return None

    found = {i.key: f"{root / i.key}: a link to a file that is not there" for i in images if i.size == _NO_FILE}
    if not verify:
        return found
    images = [image for image in images if image.key not in found]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
        for start in range(0, len(images), 1000):  # a pool takes all its work at once, so it is handed out in portions
            some = images[start : start + 1000]
            for done, (image, bad) in enumerate(zip(some, pool.map(problem, some), strict=True), start=start + 1):
                if bad is not None:
                    found[image.key] = bad
                if on_progress is not None:
                    on_progress(done, len(images))
    return found


def _check(
    root: Path, classes: tuple[str, ...], train: list[_Image], bad: list[str], total: int, ignored: Counter[str]
) -> None:
    """Raises DataError where too little can be used."""
    left_out = f" (ignored {_by_suffix(ignored)} without the suffix of an image)" if ignored else ""
    if total == 0:
        raise DataError(f"{root}: the class folders hold no images{left_out}; {_EXPECTED}")
    if len(bad) > MOST_BAD * total:
        raise DataError(
            f"{root}: {len(bad)} of {total} images are unusable, more than {MOST_BAD:.0%}; the first: "
            + "; ".join(bad[:3])
        )
    present = {image.label for image in train}
    empty = [name for c, name in enumerate(classes) if c not in present]
    if empty:
        raise DataError(
            f"{root}: no usable images in class {', '.join(empty)}{left_out}; add some or remove the folder"
        )


def _by_suffix(ignored: Counter[str]) -> str:
    """Example: ``13 files (12 .xml, 1 without suffix)``."""
    shown = ignored.most_common(5)
    kinds = [f"{count} {suffix or 'without suffix'}" for suffix, count in shown]
    total = ignored.total()
    if len(ignored) > len(shown):
        kinds.append(f"{total - sum(count for _, count in shown)} others")
    return f"{total} file{'s' * (total > 1)} ({', '.join(kinds)})"
