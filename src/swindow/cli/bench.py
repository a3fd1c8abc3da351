"""``swindow bench``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from ..errors import ConfigError
from .shared import Checkpoint, Json, Output, Quiet, Threads, Trust, load_or_create, unset


def bench(
    checkpoint: Checkpoint,
    batch: tuple[int, ...] = (1, 8),
    size: Annotated[int | None, unset("PIXELS", "the size that the checkpoint was made for")] = None,
    frames: Annotated[int | None, unset("INT", "as many as the checkpoint was made for")] = None,
    ways: Annotated[tuple[str, ...], unset("WAY...", "eager deploy; of an exported file, auto")] = (),
    rounds: int = 10,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Time a model and compare it with the matrix products of its linear layers.

    Those products alone are the shortest time that the model could take.

    Args:
        checkpoint: a file that swindow train wrote, a checkpoint of any supported library (a file, a folder or
            hf://org/name), the name of published weights, a file that swindow export wrote, or the name of a
            variant, which is then timed with random weights.
        batch: batch sizes to time, in images.
        size: height and width of the images, or of the frames of clips.
        frames: frames of the clips, or slices of the volumes, for a model of these.
        ways: how to run the model: eager, deploy or compile (inference), train (forward and backward); of an exported
            file: auto, onnxruntime, openvino, torch or aotinductor.
        rounds: how many times each way is timed; the ways take turns.
    """
    from ..inference.bench import bench as time
    from ..inference.bench import bench_file
    from ..inference.exported import is_exported
    from ..sizes import image_size

    output = Output(json, quiet)
    if is_exported(checkpoint):
        output.say("time over the matrix products, in PyTorch: median, quartiles")
        runs = (bench_file(checkpoint, size, n, ways or ("auto",), rounds, threads, trust, frames) for n in batch)
        return _show(runs, output)
    model, _ = load_or_create(checkpoint, output)
    if frames is not None and model.config.ndim < 3:
        raise ConfigError(f"frames: got {frames} for a model of images; leave --frames out")
    made_for = image_size(model.config, model.card)
    sides = tuple(size or side for side in made_for)
    if len(sides) == 3:
        sides = (frames or made_for[0], *sides[1:])
    output.say(f"inputs of {'x'.join(map(str, sides))}; time over the matrix products: median, quartiles")
    return _show((time(model, sides, n, ways or ("eager", "deploy"), rounds) for n in batch), output)


def _show(runs: Iterable[Sequence[dict[str, Any]]], output: Output) -> int:
    """Prints the rows of every batch as they come."""
    rows = []
    for run in runs:
        for row in run:
            rows.append(row)
            p, took = row["products"], f"{row['seconds'] * 1e3:9.1f} ms {row['images_per_second']:9.1f} images/s"
            ratio = f"{p['median']:.2f} ({p['low']:.2f} to {p['high']:.2f})"
            output.result(f"batch {row['batch']:3d}  {row['way']:11s} {took}  {ratio}")
    output.put(rows)
    return 0
