"""A contact sheet of the first training batch, as the model sees it."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints import load_parts, replacing
from ..data import Dataset, Splits
from ..data import open as open_data
from ..errors import ConfigError
from ..media import contact_sheet
from .config import TrainConfig
from .feed import Broken
from .progress import Progress
from .setup import batches_of, chosen, columns_of, opened, plan_of


def show_batch(
    data: Splits | Dataset | str | Path, settings: TrainConfig, path: str | Path, progress: Progress | None = None
) -> str:
    """Draws the first training batch after all random changes; returns what the run would use, in one line.

    Nothing is trained. The images are those that ``train`` would begin with; with ``accumulate`` of the first part.

    Args:
        data: as for ``train``.
        settings: as for ``train``.
        path: the picture to write, a PNG.
        progress: is told how far looking at the images has got.

    Raises:
        ConfigError: a setting is wrong, or the task cannot be drawn.
        DataError: the data is absent or unusable.
        OutputError: the picture cannot be written.
    """
    start = None if settings.weights is None else load_parts(settings.weights)
    found = open_data(data, verify=False, columns=columns_of(settings)).train
    task, choice = chosen(None, settings, found, start)
    s = choice.settings
    splits, _ = opened(data, s, progress or Progress())
    batch = batches_of(splits, task, s).__getitems__(plan_of(splits, s).training(0)[0][0])
    if isinstance(batch, Broken):
        raise batch.kind(batch.reason)
    pictures = getattr(task, "pictures", None)
    if pictures is None:
        raise ConfigError(f"show_batch: the task {task.name} has no method pictures(), so it cannot be drawn")
    with replacing(Path(path)) as temporary:
        contact_sheet(pictures(batch, splits.train.info.class_names)).save(temporary, format="png")
    return choice.why
