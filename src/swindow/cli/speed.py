"""``swindow bench``."""

from __future__ import annotations

from .shared import Checkpoint, load_or_create, put_json, say


def bench(
    checkpoint: Checkpoint,
    batch: tuple[int, ...] = (1, 8),
    size: int | None = None,
    ways: tuple[str, ...] = ("eager", "deploy"),
    rounds: int = 10,
    json: bool = False,
) -> int:
    """Time a model, beside the shortest it could take: the bare matrix products of its linear layers.

    Args:
        checkpoint: a file of swindow train, or a file or folder of any library; a variant's name: then it is untrained.
        batch: images at a time.
        size: side of the images in pixels; by default what the checkpoint was made for.
        ways: of eager, deploy, compile (inference) and train (forward and backward).
        rounds: how often each is called, in turns.
        json: print the result as one JSON object on the last line.
    """
    from ..timing import bench as time

    model, _, side = load_or_create(checkpoint)
    sides = (size or side,) * model.config.ndim
    say(f"images of {'x'.join(map(str, sides))}; time over the matrix products: median, quartiles")
    rows = []
    for count in batch:
        for row in time(model, sides, count, ways, rounds):
            rows.append(row)
            p, took = row["products"], f"{row['seconds'] * 1e3:9.1f} ms {row['images_per_second']:9.1f} images/s"
            say(f"batch {count:3d}  {row['way']:8s} {took}  {p['median']:.2f} ({p['low']:.2f} to {p['high']:.2f})")
    if json:
        put_json(rows)
    return 0
