"""Several labels per image: which of the classes an image shows, none, one or many of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..card import ModelCard, Preprocess
from ..data import DataInfo
from ..errors import ConfigError
from .images import ImageSettings, ImageTask, Mixed
from .prediction import Prediction
from .task import Batch


@dataclasses.dataclass(frozen=True)
class MultiLabelSettings(ImageSettings):
    """What decides how labels are learned.

    Attributes:
        threshold: the probability from which on a label is given to an image (fraction).
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold: got {self.threshold!r}, expected a fraction between 0 and 1")


@dataclasses.dataclass(frozen=True)
class MultiLabel(ImageTask):
    """The task of giving each image any number of labels, each by a sigmoid; attributes as of ``ImageTask``.

    The target of a sample is an array (classes,) of 0 and 1.
    """

    settings: MultiLabelSettings = MultiLabelSettings()
    name = "multilabel"

    def tensor(self, targets: Sequence[Any]) -> Tensor:
        """Returns targets (B, classes) fp32; empty where they are not known."""
        if any(target is None for target in targets):
            return torch.zeros(len(targets), 0)
        return torch.tensor(np.stack(targets), dtype=torch.float32)

    def label(self, target: Tensor, class_names: Sequence[str]) -> str:
        """Returns the names of the labels."""
        return " + ".join(class_names[c] for c in target.nonzero().flatten().tolist()) or "(none)"

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, tuple[Tensor, str]]:
        """Returns the binary cross-entropy of logits (B, classes), in nats, a mean over the classes.

        With label smoothing s, targets are s / 2 and 1 - s / 2. Targets of mixed images are mixed by their shares.
        """
        targets = batch.targets
        if isinstance(targets, Mixed):
            targets = targets.share * targets.targets + (1 - targets.share) * targets.others
        smoothing = self.settings.label_smoothing
        targets = targets * (1 - smoothing) + smoothing / 2
        loss = F.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="none")  # (B, classes)
        return {"loss": (loss.mean(1).sum(), "images")}

    def decode(self, outputs: Tensor, metas: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """Returns the probability of each class: (classes,) fp32 on the CPU for every image."""
        return list(outputs.float().cpu().sigmoid().unbind())

    def merge(self, predictions: Sequence[Tensor]) -> Tensor:
        """Returns the mean probabilities of several views of an image."""
        return torch.stack(list(predictions)).mean(0)

    def answer(self, prediction: Tensor, image: str | None, top: int) -> Prediction:
        """Returns what a user sees of a prediction: the ``top`` likeliest classes, and all that are given as labels."""
        given = int((prediction >= self.settings.threshold).sum())
        p, index = prediction.topk(min(max(top, given), len(prediction)))
        names = [str(i) if self.class_names is None else self.class_names[i] for i in index.tolist()]
        return Prediction(image, tuple(names), tuple(p.tolist()), self.settings.threshold)

    @classmethod
    def of(cls, card: ModelCard) -> MultiLabel:
        """Returns the task of a trained model, as its card describes it."""
        settings = MultiLabelSettings(
            preprocess=card.preprocess or Preprocess(), threshold=float(card.settings.get("threshold", 0.5))
        )
        return cls(settings, card.class_names, bool(card.settings.get("numbered")))

    def card(self, info: DataInfo) -> ModelCard:
        """Returns what is to travel with the weights; the threshold and "sigmoid" always."""
        card = super().card(info)
        return card.replace(settings={**card.settings, "activation": "sigmoid", "threshold": self.settings.threshold})

    def metric(self) -> Labels:
        """Returns an empty metric: mean average precision, F1 at the threshold, loss and images."""
        return Labels(self.settings.threshold)


class Labels:
    """Keeps the probabilities and the labels of all images.

    Args:
        threshold: the probability from which on a label is given.
    """

    best = (("mean_average_precision", "high"), ("loss", "low"))

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.p: list[np.ndarray] = []  # (B, classes) fp32 each
        self.truth: list[np.ndarray] = []  # (B, classes) bool each

    def update(self, predictions: Sequence[Tensor], targets: Tensor) -> None:
        """Adds a batch: probabilities, (classes,) per image, and targets (B, classes) of 0 and 1."""
        self.p.append(torch.stack(list(predictions)).numpy())
        self.truth.append(targets.numpy() > 0.5)

    def merge(self, others: Sequence[Labels]) -> None:
        """Adds what other processes have kept."""
        for other in others:
            self.p += other.p
            self.truth += other.truth

    def compute(self) -> dict[str, Any]:
        """Returns the figures and the table "labels", a row per class.

        These are loss (binary cross-entropy, nats), mean_average_precision (over the classes that have images; None
        where none has), f1 (of all labels together) and f1_macro (mean over the classes), both at the threshold, and
        images. A row has images, average_precision (None without images), precision, recall and f1 of a class.
        """
        assert self.p, "no image was counted"
        p, truth = np.concatenate(self.p), np.concatenate(self.truth)  # (images, classes)
        given = p >= self.threshold
        right, real, said = (given & truth).sum(0), truth.sum(0), given.sum(0)  # (classes,) each
        likely = np.where(truth, p, 1 - p).astype(np.float64).clip(1e-12)
        rows: list[dict[str, Any]] = [
            {
                "images": int(real[c]),
                "average_precision": average_precision(p[:, c], truth[:, c]) if real[c] else None,
                "precision": _share(right[c], said[c]),
                "recall": _share(right[c], real[c]),
                "f1": _share(2 * right[c], real[c] + said[c]),
            }
            for c in range(p.shape[1])
        ]
        known = [row["average_precision"] for row in rows if row["average_precision"] is not None]
        return {
            "loss": float(-np.log(likely).mean()),
            "mean_average_precision": sum(known) / len(known) if known else None,
            "f1": _share(2 * right.sum(), real.sum() + said.sum()),
            "f1_macro": sum(row["f1"] for row in rows) / len(rows),
            "images": len(p),
            "labels": rows,
        }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the area under the steps of precision over recall, as scikit-learn defines it.

    Args:
        scores: (images,); the higher, the more likely.
        truth: (images,) bool, at least one of them true.

    Example:
        >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
        0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(truth[order])
    ends = np.append(np.diff(scores[order]) != 0, True)  # the last of equal scores
    precision, recall = (found / np.arange(1, len(found) + 1))[ends], (found / found[-1])[ends]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _share(part: Any, whole: Any) -> float:
    """A fraction; 0 of 0 is 0, as scikit-learn has it."""
    return float(part / whole) if whole else 0.0
