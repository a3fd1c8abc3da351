"""``swindow bench``."""

from __future__ import annotations

from typing import Annotated

from .shared import Checkpoint, Json, Output, Quiet, load_or_create, unset


def bench(
    checkpoint: Checkpoint,
    batch: tuple[int, ...] = (1, 8),
    size: Annotated[int | None, unset("PIXELS", "the size that the checkpoint was made for")] = None,
    ways: tuple[str, ...] = ("eager", "deploy"),
    rounds: int = 10,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Time a model and compare it with the matrix products of its linear layers.

    Those products alone are the shortest time that the model could take.

    Args:
        checkpoint: a file that swindow train wrote, a checkpoint of any supported library (a file, a folder or
            hf://org/name), or the name of a variant, which is then timed with random weights.
        batch: batch sizes to time, in images.
        size: height and width of the images.
        ways: how to run the model: eager, deploy or compile (inference), train (forward and backward).
        rounds: how many times each way is timed; the ways take turns.
    """
    from ..inference.bench import bench as time

    output = Output(json, quiet)
    model, _, side = load_or_create(checkpoint, output)
    sides = (size or side,) * model.config.ndim
    output.say(f"images of {'x'.join(map(str, sides))}; time over the matrix products: median, quartiles")
    rows = []
    for count in batch:
        for row in time(model, sides, count, ways, rounds):
            rows.append(row)
            p, took = row["products"], f"{row['seconds'] * 1e3:9.1f} ms {row['images_per_second']:9.1f} images/s"
            ratio = f"{p['median']:.2f} ({p['low']:.2f} to {p['high']:.2f})"
            output.result(f"batch {count:3d}  {row['way']:8s} {took}  {ratio}")
    output.put(rows)
    return 0
