"""How good a model is, by its task's metric: the same for the loop and for ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from ..tasks import Batch, Metric, Task


@torch.no_grad()
def measure(
    model: nn.Module,
    task: Task,
    feed: Iterator[Batch],
    batches: int,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> Metric:
    """Returns the metric of the next batches of a stream, in this process. Leaves the model in evaluation mode.

    Args:
        model: it lies on the device.
        task: what the model has learned.
        feed: batches on the CPU.
        batches: how many of them to take.
        device: where the model runs.
        on_progress: called with the batches done and their number.
    """
    model.eval()
    metric = task.metric()
    for done in range(1, batches + 1):
        batch = next(feed)
        outputs = model(**batch.to(device).inputs)
        metric.update(task.decode(outputs, batch.metas), batch.own_targets())
        del outputs
        if on_progress is not None:
            on_progress(done, batches)
    return metric
