"""What a model that classifies images says of one."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, likeliest first.

    Attributes:
        image: the path of the image; None for a PIL image that is of no file.
        classes: their names; the numbers of the model's outputs where it has no names.
        probabilities: of these classes (fractions).
        threshold: for a model that gives several labels, the probability from which on a class is one of them.
    """

    image: str | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    threshold: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the image: the likeliest class, or all from the threshold on."""
        if self.threshold is None:
            return self.classes[:1]
        return tuple(c for c, p in zip(self.classes, self.probabilities, strict=True) if p >= self.threshold)
