"""How good a model is, by its task's metric: the same for the loop and for ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from ..tasks import Batch, Metric, Task


@torch.no_grad()
def measure(
    models: Sequence[nn.Module],
    task: Task,
    feed: Iterator[Batch],
    batches: int,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Metric]:
    """Returns the metric of each model on the next batches of a stream, in this process.

    Leaves the models in evaluation mode.

    Args:
        models: they lie on the device.
        task: what the models have learned.
        feed: batches on the CPU.
        batches: how many of them to take.
        device: where the models run.
        on_progress: called with the batches done and their number.
    """
    metrics = [task.metric() for _ in models]
    for model in models:
        model.eval()
    for done in range(1, batches + 1):
        batch = next(feed)
        inputs, targets = batch.to(device).inputs, batch.own_targets()
        for model, metric in zip(models, metrics, strict=True):
            outputs = model(**inputs)
            metric.update(task.decode(outputs, batch.metas), targets)
            del outputs
        if on_progress is not None:
            on_progress(done, batches)
    return metrics
