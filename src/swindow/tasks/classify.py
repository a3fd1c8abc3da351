"""Classification: which of several classes an image shows (Swin section 4.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..card import ModelCard, Preprocess, name_of, preprocessing
from ..checkpoints import Parts, adapted
from ..class_names import imagenet_1k, numbers
from ..config import SwinConfig
from ..data import AUGMENTS, DataInfo, Sample
from ..data.augment import POLICIES, called, color_jitter, erase, mix
from ..errors import ConfigError, DataError, InputError, shortened
from ..media import prepare, to_tensor
from ..models import SwinTransformer, create
from ..models.assemble import assemble
from ..sizes import image_size
from ..variants import variant_config
from .task import Batch, Example

# What a classifier's forward does not use, and DistributedDataParallel would wait for: the norms of a backbone's maps
# and the merging after the last stage.
UNUSED: dict[str, Any] = {"out_norms": False, "final_merge": False}


@dataclasses.dataclass(frozen=True)
class ClassifySettings:
    """What decides how classes are learned.

    Attributes:
        variant: the architecture of a new model; weights to start from bring their own.
        drop_path_rate: stochastic depth of the last block (fraction); None: as in the variant or the weights.
        preprocess: how an image becomes the model's input.
        frozen_stages: as of SwinConfig, in training only; None: everything is trained.
        linear_probe: only the head is trained.
        augment: the augmentation of training images, one of ``data.AUGMENTS``, or a function (``data.augment.called``).
        color_jitter: how much brightness, contrast and saturation of training images change (``augment.color_jitter``).
        auto_augment: what else is changed at random in training images, one of ``data.POLICIES``.
        erase: probability that a rectangle of a training image becomes noise (fraction).
        mixup, cutmix: alpha of the Beta distribution of the share with which training images are mixed; 0: not mixed.
        label_smoothing: share of the target spread over all classes (fraction).
        class_weights: what the loss of an image is multiplied with, by its class; None: 1.
    """

    variant: str | None = None
    drop_path_rate: float | None = None
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  frozen
    frozen_stages: int | None = None
    linear_probe: bool = False
    augment: str | Callable[[Any], Any] = "none"
    color_jitter: float = 0.0
    auto_augment: str = "none"
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not callable(self.augment) and self.augment not in AUGMENTS:
            raise ConfigError(f"augment: got {self.augment!r}, expected one of {', '.join(AUGMENTS)}, or a function")
        if callable(self.augment) and (self.color_jitter or self.auto_augment != "none"):
            raise ConfigError("got a function for augment, and color_jitter or auto_augment; expected only one of them")
        if self.auto_augment not in POLICIES:
            raise ConfigError(f"auto_augment: got {self.auto_augment!r}, expected one of {', '.join(POLICIES)}")
        if not 0 <= self.erase <= 1:
            raise ConfigError(f"erase: got {self.erase!r}, expected a probability from 0 to 1")
        for name in ("mixup", "cutmix", "color_jitter"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected a finite number of at least 0")
        if self.variant is not None:
            check_takes_images(variant_config(self.variant))
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing: got {self.label_smoothing!r}, expected a fraction below 1")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, likeliest first.

    Attributes:
        image: the path of the image; None for a PIL image that is of no file.
        classes: their names; the numbers of the model's outputs where it has no names.
        probabilities: of these classes (fractions).
    """

    image: str | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Mixed(NamedTuple):
    """The classes of images of which each is mixed with another.

    Attributes:
        targets: (B,) of the images.
        others: (B,) of those they are mixed with.
        share: of each image that is its own (fraction).
    """

    targets: Tensor
    others: Tensor
    share: float


@dataclasses.dataclass(frozen=True)
class Classify:
    """The task of classification.

    Attributes:
        settings: what decides how classes are learned.
        class_names: the names of the model's outputs; None: their numbers.
        numbered: whether the class names are only the numbers of the outputs, as the model has no names.

    Example:
        >>> task = Classify(ClassifySettings(variant="swin_nano"))
        >>> model = task.build(DataInfo("pets", class_names=("cat", "dog")))
        >>> predictions = task.decode(model(torch.zeros(4, 3, 32, 32)), metas=[{}] * 4)
        >>> len(predictions), round(predictions[0].exp().sum().item(), 4)
        (4, 1.0)
    """

    settings: ClassifySettings = ClassifySettings()
    class_names: tuple[str, ...] | None = None
    numbered: bool = False
    name = "classify"

    def build(self, info: DataInfo, parts: Parts | None = None) -> SwinTransformer | Any:
        """Returns a new model on the CPU. What classification does not use of weights is in its ``load_report``.

        Raises:
            ConfigError: there is neither a variant nor weights.
            InputError: the model takes no images.
        """
        s, classes = self.settings, len(info.class_names)
        if parts is None and s.variant is None:
            raise ConfigError("classify: got neither a variant nor weights, expected one of them")
        config = parts.config if parts else variant_config(s.variant or "")
        stages = len(config.depths) if s.linear_probe else -1 if s.frozen_stages is None else s.frozen_stages
        fields: dict[str, Any] = {"num_classes": classes, "frozen_stages": stages}
        if s.drop_path_rate is not None:
            fields["drop_path_rate"] = s.drop_path_rate
        if parts is None:
            model = create(s.variant or "", in_chans=s.preprocess.channels, **fields)
        else:
            check_takes_images(parts.config)
            parts = adapted(parts, {**fields, **UNUSED})
            model = assemble(parts.config, {name: tensor.clone() for name, tensor in parts.tensors.items()})
            model.load_report = parts.report
        if s.linear_probe:
            model.norm.requires_grad_(False)
        return model

    def transform(self, sample: Sample, rng: np.random.Generator | None, train: bool) -> list[Example]:
        """Returns the image as the model takes it: (C, H, W); in training changed at random."""
        how, image = self.settings.preprocess, sample.media.decode()
        if train:
            assert rng is not None
            x = self._augmented(image, rng)
        else:
            x = prepare(image, how)
        return [Example({"x": x}, sample.target, {"key": sample.key})]

    def _augmented(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """A training image as the model takes it, changed at random."""
        s, how = self.settings, self.settings.preprocess
        if callable(s.augment):
            x = called(s.augment, image, how, rng)
        else:
            image = AUGMENTS[s.augment](image, how, rng)
            image = color_jitter(image, s.color_jitter, rng) if s.color_jitter else image
            x = to_tensor(POLICIES[s.auto_augment](image, how, rng), how)
        return erase(x, s.erase, rng) if s.erase else x

    def plain(self) -> Classify:
        """Returns the task with geometric changes of training images only."""
        off: dict[str, Any] = {"color_jitter": 0.0, "auto_augment": "none", "erase": 0.0, "mixup": 0.0, "cutmix": 0.0}
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **off))

    def collate(self, examples: Sequence[Example], rng: np.random.Generator | None, train: bool) -> Batch:
        """Returns images (B, C, H, W) and their classes (B,), -1 where not known; ``Mixed`` where images are mixed."""
        x = torch.stack([example.inputs["x"] for example in examples])
        targets = torch.tensor([-1 if example.target is None else example.target for example in examples])
        metas = [example.meta for example in examples]
        if not train or not (self.settings.mixup or self.settings.cutmix):
            return Batch({"x": x}, targets, metas)
        assert rng is not None
        x, share = mix(x, self.settings.mixup, self.settings.cutmix, rng)
        return Batch({"x": x}, Mixed(targets, targets.flip(0), share), metas)

    def pictures(self, batch: Batch, class_names: Sequence[str]) -> list[tuple[Image.Image, tuple[str, ...]]]:
        """Returns the images of a training batch for people to look at, each with its class or classes."""
        how, targets = self.settings.preprocess, batch.targets
        found = targets if isinstance(targets, Mixed) else Mixed(targets, targets, 1.0)
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (how.mean, how.std))
        pictures: list[tuple[Image.Image, tuple[str, ...]]] = []
        for x, own, other in zip(batch.inputs["x"], found.targets.tolist(), found.others.tolist(), strict=True):
            pixels = ((x * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()  # (H, W, C)
            image = Image.fromarray(pixels.squeeze()).convert("RGB")
            shares = [(own, found.share), (other, 1 - found.share)] if found.share < 1 else [(own, 1.0)]
            lines = [f"{class_names[c]}{f' {share:.0%}' if len(shares) > 1 else ''}" for c, share in shares]
            pictures.append((image, (", ".join(lines),)))
        return pictures

    def units(self, batch: Batch) -> dict[str, float]:
        """Returns the number of images."""
        return {"images": len(batch)}

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

    def at(self, size: tuple[int, int]) -> Classify:
        """Returns the task with images of another size, in pixels."""
        how = dataclasses.replace(self.settings.preprocess, size=size)
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, preprocess=how))

    def metric(self) -> Confusion:
        """Returns an empty metric: accuracy, loss, images and the confusion counts."""
        return Confusion()

    def card(self, info: DataInfo) -> ModelCard:
        """Returns what is to travel with the weights."""
        how, given = self.settings.preprocess, {}
        for field in dataclasses.fields(self.settings):
            value = getattr(self.settings, field.name)
            if field.name != "preprocess" and value != field.default:
                given[field.name] = name_of(value) if callable(value) else value
        return ModelCard(
            task=self.name,
            settings=given,
            class_names=info.class_names,
            preprocess=how,
            input_size=how.size,
            data=info.name,
        )

    @classmethod
    def of(cls, card: ModelCard) -> Classify:
        """Returns the task of a trained model, as its card describes it."""
        how = card.preprocess or Preprocess()
        return cls(ClassifySettings(preprocess=how), card.class_names, bool(card.settings.get("numbered")))

    @staticmethod
    def preprocess_of(config: SwinConfig, card: ModelCard | None) -> Preprocess:
        """Returns how images are prepared for a model: as its card says, else as ImageNet's, in the size it is for.

        Raises:
            ConfigError: the model takes neither 1 nor 3 channels.
            InputError: the model takes no images.
        """
        check_takes_images(config)
        return preprocessing(card, image_size(config, card), config.in_chans)

    @staticmethod
    def card_of(model: SwinTransformer) -> ModelCard:
        """Returns the card of a model with what prediction needs: preprocessing, and a name for every class.

        Raises:
            ConfigError: the model takes neither 1 nor 3 channels.
            InputError: the model has no head, or takes no images.
        """
        how = Classify.preprocess_of(model.config, model.card)
        if not model.config.num_classes:
            raise InputError(
                "the model has no head (num_classes is 0), so it cannot classify; try load(..., num_classes=...) and "
                "train it"
            )
        card = model.card or ModelCard()
        if card.class_names:
            return card.replace(task=Classify.name, preprocess=how, class_names=_different(card.class_names))
        names = tuple(map(str, range(model.config.num_classes)))
        return card.replace(task=Classify.name, settings={"numbered": True}, preprocess=how, class_names=names)

    def outputs_of(self, info: DataInfo) -> tuple[int, ...]:
        """Returns, for every class of some data, the number of the model's output that stands for it.

        Classes go by their names, or by their synsets where the model's names are those of ImageNet-1k or ImageNet-22k.
        Where the model has as many classes as the data, they go by their order if its names are only numbers, or if
        they are those of ImageNet-1k and the data has none of them.

        Raises:
            DataError: the data has a class that the model does not know.
        """
        assert self.class_names is not None, "a task made by Classify.of"
        names, found = self.class_names, info.class_names
        known = numbers(names)
        unknown = [name for name in found if name not in known]
        imagenet = names == tuple(name for _, name in imagenet_1k())
        if len(found) == len(names) and ((self.numbered and unknown) or (imagenet and len(unknown) == len(found))):
            return tuple(range(len(names)))
        advice = "to teach it these classes, fine-tune it: swindow train DATA --weights CHECKPOINT"
        if unknown and self.numbered:
            raise DataError(f"got {len(found)} classes in {info.name}, the model has {len(names)}; {advice}")
        if unknown:
            raise DataError(
                f"{info.name} has class{'' if len(unknown) == 1 else 'es'} {shortened(unknown)}, which the model does "
                f"not know; it knows {shortened(names)}; {advice}"
            )
        return tuple(known[name] for name in found)


def check_takes_images(config: SwinConfig) -> None:
    """Raises InputError for a model of clips, volumes or sequences, before any image is decoded for it."""
    if config.ndim != 2:
        what, axes = ("clips or volumes", "frames, height, width") if config.ndim == 3 else ("sequences", "length")
        count = "1 axis" if config.ndim == 1 else f"{config.ndim} axes"
        raise InputError(
            f"the model takes {what} ({count}), images have 2; pass tensors (batch, channels, {axes}) to it in Python"
        )


def _different(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes; a name that came before gets a number: "crane", "crane (2)"."""
    found: dict[str, None] = {}
    for name in names:
        number, taken = 1, name
        while taken in found:
            number += 1
            taken = f"{name} ({number})"
        found[taken] = None
    return tuple(found)


TOP = 5  # likeliest classes of which one is right for the top-5 accuracy
ENOUGH = 2 * TOP  # classes: with fewer, most answers would be right
BINS = 15  # of probabilities, for the calibration error


class Confusion:
    """Counts how often images of each class are taken for each class, and adds up what else figures are made of.

    Attributes:
        counts: (classes, classes) int64, true class by likeliest class; None before the first batch.
        loss: the summed cross-entropy (nats), without label smoothing.
        top: images whose class is among the ``TOP`` likeliest.
        bins: (``BINS``, 3) of images by the probability of their likeliest class: number, sum of these probabilities,
            how many are right.
    """

    best = (("accuracy", "high"), ("loss", "low"))

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.loss, self.top = 0.0, 0
        self.bins = torch.zeros(BINS, 3, dtype=torch.float64)

    def update(self, predictions: Sequence[Tensor], targets: Tensor) -> None:
        """Adds a batch: the logarithms of probabilities, (classes,) per image, and the true classes (B,)."""
        log_p = torch.stack(list(predictions))  # (B, classes)
        classes = log_p.shape[1]
        if self.counts is None:
            self.counts = torch.zeros(classes, classes, dtype=torch.int64)
        likeliest = log_p.topk(min(TOP, classes)).indices  # (B, 5)
        right = likeliest[:, 0] == targets
        self.loss += float(F.nll_loss(log_p, targets, reduction="sum"))
        self.top += int((likeliest == targets[:, None]).any(1).sum())
        self.counts.index_put_((targets, likeliest[:, 0]), torch.ones_like(targets), accumulate=True)
        p = log_p.amax(1).double().exp()
        self.bins.index_add_(0, (p * BINS).ceil().long().clamp(1, BINS) - 1, torch.stack([p**0, p, right], 1))

    def merge(self, others: Sequence[Confusion]) -> None:
        """Adds what other processes have counted."""
        for other in others:
            self.loss, self.top, self.bins = self.loss + other.loss, self.top + other.top, self.bins + other.bins
            if other.counts is not None:
                self.counts = other.counts if self.counts is None else self.counts + other.counts

    def compute(self) -> dict[str, Any]:
        """Returns the figures and the table "confusion".

        These are loss (nats), accuracy (fraction), images, for more than ten classes top5 (fraction), and
        calibration_error: how far the probability of the likeliest class is from how often it is right, a mean over
        ``BINS`` bins weighted by their images (Guo et al. 2017, section 2; a fraction).
        """
        assert self.counts is not None, "no image was counted"
        images = int(self.counts.sum())
        return {
            "loss": self.loss / images,
            "accuracy": int(self.counts.trace()) / images,
            **({"top5": self.top / images} if len(self.counts) > ENOUGH else {}),
            "calibration_error": float((self.bins[:, 1] - self.bins[:, 2]).abs().sum()) / images,
            "images": images,
            "confusion": self.counts.tolist(),
        }
