"""A folder of class folders: DIR/CLASS/image, or DIR/train/CLASS/image and DIR/val/CLASS/image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from .. import media
from ..card import Preprocess
from ..errors import DataError
from .augment import photo
from .source import Source, Split
from .split import stratified_split

HELD_OUT_NAMES = ("val", "valid", "validation", "test")
MOST_BAD = 0.1  # of all files; more unusable ones are an error, not a blemish

Files = list[tuple[Path, int]]  # each file and its class


def folder(
    root: str | Path,
    held_out: float = 0.2,
    seed: int = 0,
    verify: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Returns the images of a folder whose sub-folders are the classes.

    With ``train`` and ``val`` (or ``valid``, ``validation``, ``test``) inside, these are the splits; else a share of
    every class is held out. Hidden files are passed over.

    Args:
        root: the folder.
        held_out: the held-out share of every class (fraction), where the folder has no split of its own.
        seed: decides which images are held out.
        verify: decode every file once now, so that broken ones are reported and skipped; else only names are looked at
            and a broken file is an error when training meets it.
        on_progress: called with the files verified so far and their number.

    Raises:
        DataError: the folder is absent or empty, has fewer than two classes, a class without usable images, classes
            in the held-out folder that are not in the other, or more than 10 % unusable files.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file' if root.exists() else 'there is no such folder'}; {_EXPECTED}")
    parts = [root / "train" if (root / "train").is_dir() else root]
    if parts[0] != root:
        parts += [root / name for name in HELD_OUT_NAMES if (root / name).is_dir()][:1]
    classes = _class_names(parts[0])
    listed = [_list_files(part, classes) for part in parts]
    usable, skipped = _usable([file for files in listed for file in files], verify, on_progress)
    kept = [[file for file in files if file[0] in usable] for files in listed]
    _check(root, classes, kept[0], len(skipped), sum(map(len, listed)))
    if len(parts) == 1:
        train, rest = stratified_split([c for _, c in kept[0]], held_out, seed)
        kept = [[kept[0][i] for i in train], [kept[0][i] for i in rest]]
    if not kept[1]:
        raise DataError(f"{parts[-1]}: no usable images are held out for evaluation; {_EXPECTED}")
    return Source(
        name=root.name,
        classes=classes,
        train=_split(kept[0]),
        held_out=_split(kept[1]),
        variant="swin_tiny",
        image_size=None,
        lr=5e-4,
        augment=photo,
        preprocess=preprocess,
        skipped=skipped,
    )


def preprocess(size: int) -> Preprocess:
    """Returns how a photo is prepared: ImageNet's values, the centre cut out, resized to ``size`` pixels."""
    return Preprocess((size, size))


_EXPECTED = "expected a folder with one sub-folder of images per class"


def _class_names(part: Path) -> tuple[str, ...]:
    """The sub-folders that are classes, sorted."""
    names = tuple(sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not names:
        what = "holds no sub-folders" if any(part.iterdir()) else "is empty"
        raise DataError(f"{part}: {what}; {_EXPECTED}")
    if len(names) == 1:
        raise DataError(f"{part}: got one class ({names[0]}), expected at least two; {_EXPECTED}")
    return names


def _list_files(part: Path, classes: tuple[str, ...]) -> Files:
    """Every file below the class folders, in a fixed order."""
    if part.is_dir():
        for name in _class_names(part):
            if name not in classes:
                raise DataError(f"{part / name}: a class that the training folder does not have; it has {classes}")
    return [
        (path, c)
        for c, name in enumerate(classes)
        for path in sorted((part / name).rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(part).parts)
    ]


def _usable(
    files: Files, verify: bool, on_progress: Callable[[int, int], None] | None
) -> tuple[set[Path], tuple[str, ...]]:
    """The files that decode (or, unverified, have the name of an image), and why each other one does not."""
    Image.init()
    suffixes = Image.registered_extensions()

    def problem(path: Path) -> str | None:
        if path.suffix.lower() not in suffixes:
            return f"{path}: not an image by its name"
        try:
            if verify:
                media.read(path)
        except DataError as error:
            return str(error)
        return None

    def counted(problems: Iterable[str | None]) -> Iterable[str | None]:
        for done, item in enumerate(problems, start=1):
            if on_progress is not None:
                on_progress(done, len(files))
            yield item

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
        problems = list(counted(pool.map(problem, [path for path, _ in files])))
    usable = {path for (path, _), bad in zip(files, problems, strict=True) if bad is None}
    return usable, tuple(bad for bad in problems if bad is not None)


def _check(root: Path, classes: tuple[str, ...], train: Files, bad: int, total: int) -> None:
    """Raises DataError where too little can be used."""
    if total == 0:
        raise DataError(f"{root}: the class folders hold no files; {_EXPECTED}")
    if bad > MOST_BAD * total:
        raise DataError(
            f"{root}: {bad} of {total} files are unusable, more than {MOST_BAD:.0%}; "
            "is this a folder of images? 'swindow train' lists them when they are few"
        )
    present = {c for _, c in train}
    empty = [name for c, name in enumerate(classes) if c not in present]
    if empty:
        raise DataError(f"{root}: no usable images in class {', '.join(empty)}; add some or remove the folder")


def _split(files: Files) -> Split:
    return Split(tuple(str(path) for path, _ in files), tuple(c for _, c in files), lambda i: media.read(files[i][0]))
