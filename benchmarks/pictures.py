"""Turns parquet files of small images, as dataset hubs serve them, into one NumPy file for part ``more`` of gpu.py.

    python benchmarks/pictures.py FOLDER OUT.npz [--train 10000] [--test 2000]

FOLDER holds train.parquet and test.parquet: a column of encoded images (bytes, or a struct with them) and one of
integer labels. Needs pyarrow; what it writes needs NumPy alone.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image


def read(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images (count, H, W, 3) uint8 and labels (count,) of a file."""
    table = pa.parquet.read_table(path).slice(0, count)
    images, labels = [], None
    for name in table.column_names:
        column, kind = table[name], table.schema.field(name).type
        if pa.types.is_integer(kind):
            labels = column.to_numpy()
        else:
            images = [value["bytes"] if isinstance(value, dict) else value for value in column.to_pylist()]
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in images]
    return np.stack(pixels), np.asarray(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2_000)
    chosen = parser.parse_args()
    images, labels = read(chosen.folder / "train.parquet", chosen.train)
    test_images, test_labels = read(chosen.folder / "test.parquet", chosen.test)
    np.savez_compressed(chosen.out, images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    print(f"{chosen.out}: {len(images)} and {len(test_images)} images, {chosen.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
