"""Which of a model's outputs stands for which class of some data."""

from __future__ import annotations

from collections.abc import Sequence

from ..class_names import imagenet_1k, numbers
from ..data import DataInfo
from ..errors import DataError, shortened


def outputs_of(names: Sequence[str], numbered: bool, info: DataInfo) -> tuple[int, ...]:
    """Returns, for every class of some data, the number of the model's output that stands for it.

    Classes go by their names, or by their synsets where the model's names are those of ImageNet-1k or ImageNet-22k.
    Where the model has as many classes as the data, they go by their order if its names are only numbers, or if
    they are those of ImageNet-1k and the data has none of them.

    Args:
        names: of the model's outputs.
        numbered: whether these are only the numbers of the outputs.
        info: of the data.

    Raises:
        DataError: the data has a class that the model does not know.
    """
    found = info.class_names
    known = numbers(tuple(names))
    unknown = [name for name in found if name not in known]
    imagenet = tuple(names) == tuple(name for _, name in imagenet_1k())
    if len(found) == len(names) and ((numbered and unknown) or (imagenet and len(unknown) == len(found))):
        return tuple(range(len(names)))
    advice = "to teach it these classes, fine-tune it: swindow train DATA --weights CHECKPOINT"
    if unknown and numbered:
        raise DataError(f"got {len(found)} classes in {info.name}, the model has {len(names)}; {advice}")
    if unknown:
        raise DataError(
            f"{info.name} has class{'' if len(unknown) == 1 else 'es'} {shortened(unknown)}, which the model does "
            f"not know; it knows {shortened(names)}; {advice}"
        )
    return tuple(known[name] for name in found)


def different(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names of classes; one that came before gets a number: "crane", "crane (2)"."""
    found: dict[str, None] = {}
    for name in names:
        number, taken = 1, name
        while taken in found:
            number += 1
            taken = f"{name} ({number})"
        found[taken] = None
    return tuple(found)
