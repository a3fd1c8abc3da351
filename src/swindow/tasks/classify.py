"""Classification: which of several classes an image shows (Swin section 4.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..card import ModelCard, Preprocess
from .images import ImageSettings, ImageTask, Mixed
from .prediction import Prediction
from .task import Batch


@dataclasses.dataclass(frozen=True)
class ClassifySettings(ImageSettings):
    """What decides how classes are learned.

    Attributes:
        class_weights: what the loss of an image is multiplied with, by its class; None: 1.
    """

    class_weights: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Classify(ImageTask):
    """The task of classification; attributes as of ``ImageTask``.

    Example:
        >>> from swindow.data import DataInfo
        >>> task = Classify(ClassifySettings(variant="swin_nano"))
        >>> model = task.build(DataInfo("pets", class_names=("cat", "dog")))
        >>> predictions = task.decode(model(torch.zeros(4, 3, 32, 32)), metas=[{}] * 4)
        >>> len(predictions), round(predictions[0].exp().sum().item(), 4)
        (4, 1.0)
    """

    settings: ClassifySettings = ClassifySettings()
    name = "classify"

    def tensor(self, targets: Sequence[Any]) -> Tensor:
        """Returns classes (B,), -1 where not known."""
        return torch.tensor([-1 if target is None else target for target in targets])

    def label(self, target: Tensor, class_names: Sequence[str]) -> str:
        """Returns the name of a class."""
        return class_names[int(target)]

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, tuple[Tensor, str]]:
        """Returns the cross-entropy of logits (B, classes), in nats, and how many images are right.

        Of mixed images it is that of both classes, by their shares; right is the class with the larger share.
        """
        found = batch.targets if isinstance(batch.targets, Mixed) else Mixed(batch.targets, batch.targets, 1.0)
        logits = outputs.float()
        loss = self._cross_entropy(logits, found.targets)
        if found.share < 1:
            loss = found.share * loss + (1 - found.share) * self._cross_entropy(logits, found.others)
        right = (outputs.argmax(-1) == (found.targets if found.share >= 0.5 else found.others)).sum()
        return {"loss": (loss, "images"), "accuracy": (right, "images")}

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over a batch."""
        smoothing, weights = self.settings.label_smoothing, self.settings.class_weights
        if weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")  # (B,)
        return (loss * torch.tensor(weights, device=loss.device)[targets]).sum()

    def decode(self, outputs: Tensor, metas: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """Returns the logarithms of the probabilities of all classes: (classes,) fp32 on the CPU for every image."""
        return list(outputs.float().cpu().log_softmax(-1).unbind())

    def merge(self, predictions: Sequence[Tensor]) -> Tensor:
        """Returns the logarithms of the mean probabilities of several views of an image, each as ``decode`` gives."""
        if len(predictions) == 1:
            return predictions[0]
        return torch.stack(list(predictions)).logsumexp(0) - math.log(len(predictions))

    def answer(self, prediction: Tensor, image: str | None, top: int) -> Prediction:
        """Returns what a user sees of a prediction: the ``top`` likeliest classes."""
        p, index = prediction.exp().topk(min(top, len(prediction)))
        names = [str(i) if self.class_names is None else self.class_names[i] for i in index.tolist()]
        return Prediction(image, tuple(names), tuple(p.tolist()))

    @classmethod
    def of(cls, card: ModelCard) -> Classify:
        """Returns the task of a trained model, as its card describes it."""
        how = card.preprocess or Preprocess()
        return cls(ClassifySettings(preprocess=how), card.class_names, bool(card.settings.get("numbered")))

    def metric(self) -> Confusion:
        """Returns an empty metric: accuracy, loss, images and the confusion counts."""
        return Confusion()


TOP = 5  # likeliest classes of which one is right for the top-5 accuracy
ENOUGH = 2 * TOP  # classes: with fewer, most answers would be right
MOST = 2000  # classes of which it is counted which is taken for which: 32 MB
BINS = 15  # of probabilities, for the calibration error


class Confusion:
    """Counts how often images of each class are taken for each class, and adds up what else figures are made of.

    Attributes:
        counts: (classes, classes) int64, true class by likeliest class; None before the first batch, and for more than
            ``MOST`` classes.
        sums: (3, classes) int64: of every class its images, those taken for it, and those of them that are right; None
            before the first batch.
        loss: the summed cross-entropy (nats), without label smoothing.
        top: images whose class is among the ``TOP`` likeliest.
        bins: (``BINS``, 3) of images by the probability of their likeliest class: number, sum of these probabilities,
            how many are right.
    """

    best = (("accuracy", "high"), ("loss", "low"))

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.sums: Tensor | None = None
        self.loss, self.top = 0.0, 0
        self.bins = torch.zeros(BINS, 3, dtype=torch.float64)

    def update(self, predictions: Sequence[Tensor], targets: Tensor) -> None:
        """Adds a batch: the logarithms of probabilities, (classes,) per image, and the true classes (B,)."""
        log_p = torch.stack(list(predictions))  # (B, classes)
        classes = log_p.shape[1]
        if self.sums is None:
            self.sums = torch.zeros(3, classes, dtype=torch.int64)
            self.counts = torch.zeros(classes, classes, dtype=torch.int64) if classes <= MOST else None
        likeliest = log_p.topk(min(TOP, classes)).indices  # (B, 5)
        right = likeliest[:, 0] == targets
        self.loss += float(F.nll_loss(log_p, targets, reduction="sum"))
        self.top += int((likeliest == targets[:, None]).any(1).sum())
        for row, some in zip(self.sums, (targets, likeliest[:, 0], targets[right]), strict=True):
            row += torch.bincount(some, minlength=classes)
        if self.counts is not None:
            self.counts.index_put_((targets, likeliest[:, 0]), torch.ones_like(targets), accumulate=True)
        p = log_p.amax(1).double().exp()
        self.bins.index_add_(0, (p * BINS).ceil().long().clamp(1, BINS) - 1, torch.stack([p**0, p, right], 1))

    def merge(self, others: Sequence[Confusion]) -> None:
        """Adds what other processes have counted."""
        for other in others:
            self.loss, self.top, self.bins = self.loss + other.loss, self.top + other.top, self.bins + other.bins
            if other.sums is not None:
                self.sums = other.sums if self.sums is None else self.sums + other.sums
            if other.counts is not None:
                self.counts = other.counts if self.counts is None else self.counts + other.counts

    def compute(self) -> dict[str, Any]:
        """Returns the figures and, up to ``MOST`` classes, the table "confusion".

        These are loss (nats), accuracy (fraction), images, for more than ten classes top5 (fraction), and
        calibration_error: how far the probability of the likeliest class is from how often it is right, a mean over
        ``BINS`` bins weighted by their images (Guo et al. 2017, section 2; a fraction).
        """
        assert self.sums is not None, "no image was counted"
        images = int(self.sums[0].sum())
        return {
            "loss": self.loss / images,
            "accuracy": int(self.sums[2].sum()) / images,
            **({"top5": self.top / images} if self.sums.shape[1] > ENOUGH else {}),
            "calibration_error": float((self.bins[:, 1] - self.bins[:, 2]).abs().sum()) / images,
            "images": images,
            **({} if self.counts is None else {"confusion": self.counts.tolist()}),
        }
