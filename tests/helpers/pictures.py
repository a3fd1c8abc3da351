"""Data without files."""

from __future__ import annotations

import dataclasses

import numpy as np

from swindow.data import DataInfo, ImageArray, Sample


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Black images, without files."""

    info: DataInfo = DataInfo("pets", class_names=("cat", "dog"))  # noqa: RUF009  frozen
    images: int = 90
    side: int = 300
    share: float = 0.5  # of the first class

    def __len__(self):
        return self.images

    def __getitem__(self, i):
        return Sample(ImageArray(np.zeros((self.side, self.side + i % 3), np.uint8)), int(self.labels()[i]), str(i))

    def labels(self):
        return (np.arange(self.images) >= self.share * self.images).astype(np.int64)

    def fingerprint(self):
        return "pictures"
