"""What loading a file did: nothing is skipped, resized or made up in silence."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of every tensor when a checkpoint was loaded; ``model.load_report`` holds it.

    Attributes:
        source: where the weights came from.
        layout: whose key names the file uses.
        matched: tensors taken as they were.
        dropped: key of the file to the reason why it was left out.
        resized: keys of the model to what was done to their tensors.
        initialised: keys of the model that the file does not hold, newly initialised.
    """

    source: str
    layout: str
    matched: int
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)
    resized: dict[str, str] = dataclasses.field(default_factory=dict)
    initialised: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain JSON values."""
        return {**dataclasses.asdict(self), "initialised": list(self.initialised)}
