"""What loading weights did: nothing is skipped, resized, assumed or made up in silence."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of every tensor when weights were loaded; ``model.load_report`` holds it.

    Attributes:
        source: where the weights came from.
        layout: whose key names they had, one of ``swindow.list_layouts()``.
        matched: tensors of the model that are as they were (joined, split or rearranged where the layout asks for it).
        dropped: key of the source to the reason why it was left out.
        resized: keys of the model to what was done to their tensors.
        initialised: keys of the model that the source does not hold, newly initialised.
        assumed: what the source does not say, to what was taken for it: the library's default.
    """

    source: str
    layout: str
    matched: int
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)
    resized: dict[str, str] = dataclasses.field(default_factory=dict)
    initialised: tuple[str, ...] = ()
    assumed: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain JSON values."""
        return {**dataclasses.asdict(self), "initialised": list(self.initialised)}
