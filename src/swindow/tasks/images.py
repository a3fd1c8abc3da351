"""What all tasks on images share: the model, preparation, augmentation."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..card import ModelCard, Preprocess, name_of, preprocessing
from ..checkpoints import Parts, adapted
from ..config import SwinConfig
from ..data import AUGMENTS, DataInfo, Sample
from ..data.augment import POLICIES, called, color_jitter, erase, mix
from ..errors import ConfigError, DataError, InputError
from ..media import convert, prepare, to_tensor
from ..models import SwinTransformer, create
from ..models.assemble import assemble
from ..models.init import fan_in_
from ..sizes import image_size
from ..variants import variant_config
from .class_outputs import different, outputs_of
from .task import Batch, Example

Self = TypeVar("Self", bound="ImageTask")

# What a classifier's forward does not use, and DistributedDataParallel would wait for: the norms of a backbone's maps
# and the merging after the last stage.
UNUSED: dict[str, Any] = {"out_norms": False, "final_merge": False}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """What decides how images are prepared and changed, and which model learns from them.

    Attributes:
        variant: the architecture of a new model; weights to start from bring their own.
        drop_path_rate: stochastic depth of the last block (fraction); None: as in the variant or the weights.
        preprocess: how an image becomes the model's input.
        init: how random weights are drawn: "published", or "fan_in" (``models.init.fan_in_``).
        frozen_stages: as of SwinConfig, in training only; None: everything is trained.
        linear_probe: only the head is trained.
        augment: the augmentation of training images, one of ``data.AUGMENTS``, or a function (``data.augment.called``).
        color_jitter: how much brightness, contrast and saturation of training images change (``augment.color_jitter``).
        auto_augment: what else is changed at random in training images, one of ``data.POLICIES``.
        erase: probability that a rectangle of a training image becomes noise (fraction).
        mixup, cutmix: alpha of the Beta distribution of the share with which training images are mixed; 0: not mixed.
        label_smoothing: share of the target spread over all classes (fraction).
    """

    variant: str | None = None
    drop_path_rate: float | None = None
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  frozen
    init: str = "published"
    frozen_stages: int | None = None
    linear_probe: bool = False
    augment: str | Callable[[Any], Any] = "none"
    color_jitter: float = 0.0
    auto_augment: str = "none"
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.augment) and self.augment not in AUGMENTS:
            raise ConfigError(f"augment: got {self.augment!r}, expected one of {', '.join(AUGMENTS)}, or a function")
        if callable(self.augment) and (self.color_jitter or self.auto_augment != "none"):
            raise ConfigError("got a function for augment, and color_jitter or auto_augment; expected only one of them")
        if self.auto_augment not in POLICIES:
            raise ConfigError(f"auto_augment: got {self.auto_augment!r}, expected one of {', '.join(POLICIES)}")
        if self.init not in ("published", "fan_in"):
            raise ConfigError(f"init: got {self.init!r}, expected 'published' or 'fan_in'")
        if not 0 <= self.erase <= 1:
            raise ConfigError(f"erase: got {self.erase!r}, expected a probability from 0 to 1")
        for name in ("mixup", "cutmix", "color_jitter"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected a finite number of at least 0")
        if self.variant is not None:
            check_takes_images(variant_config(self.variant))
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing: got {self.label_smoothing!r}, expected a fraction below 1")


class Mixed(NamedTuple):
    """The targets of images of which each is mixed with another.

    Attributes:
        targets: (B, ...) of the images.
        others: (B, ...) of those they are mixed with.
        share: of each image that is its own (fraction).
    """

    targets: Tensor
    others: Tensor
    share: float


@dataclasses.dataclass(frozen=True)
class ImageTask(abc.ABC):
    """A task on images, without what it learns: losses, decoding and metric.

    Attributes:
        settings: what decides how it is learned.
        class_names: the names of the model's outputs; None: their numbers.
        numbered: whether the class names are only the numbers of the outputs, as the model has no names.
    """

    settings: ImageSettings = ImageSettings()
    class_names: tuple[str, ...] | None = None
    numbered: bool = False
    name: ClassVar[str]

    def build(self, info: DataInfo, parts: Parts | None = None) -> SwinTransformer | Any:
        """Returns a new model on the CPU. What classification does not use of weights is in its ``load_report``.

        Raises:
            ConfigError: there is neither a variant nor weights.
            InputError: the model takes no images.
        """
        s, classes = self.settings, len(info.class_names)
        if parts is None and s.variant is None:
            raise ConfigError(f"{self.name}: got neither a variant nor weights, expected one of them")
        config = parts.config if parts else variant_config(s.variant or "")
        stages = len(config.depths) if s.linear_probe else -1 if s.frozen_stages is None else s.frozen_stages
        fields: dict[str, Any] = {"num_classes": classes, "frozen_stages": stages}
        if s.drop_path_rate is not None:
            fields["drop_path_rate"] = s.drop_path_rate
        if parts is None:
            model = create(s.variant or "", in_chans=s.preprocess.channels, **fields)
            if s.init == "fan_in":
                fan_in_(model)
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

    def photo(self, sample: Sample) -> Example:
        """Returns the image as it is, (H, W, C) uint8, for what prepares it itself.

        Raises:
            DataError: it has more than 8 bits per channel.
        """
        image = convert(sample.media.decode(), self.settings.preprocess)
        if image.mode == "F":
            raise DataError(
                f"{sample.key or 'image'}: more than 8 bits per channel, which the exported file cannot take"
            )
        values = np.array(image).reshape(image.height, image.width, -1)
        return Example({"x": torch.from_numpy(values)}, sample.target, {"key": sample.key})

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

    def plain(self: Self) -> Self:
        """Returns the task with geometric changes of training images only."""
        off: dict[str, Any] = {"color_jitter": 0.0, "auto_augment": "none", "erase": 0.0, "mixup": 0.0, "cutmix": 0.0}
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **off))

    @abc.abstractmethod
    def tensor(self, targets: Sequence[Any]) -> Tensor:
        """Returns the targets of a batch as one tensor."""

    @abc.abstractmethod
    def label(self, target: Tensor, class_names: Sequence[str]) -> str:
        """Returns the target of one image in words."""

    def collate(self, examples: Sequence[Example], rng: np.random.Generator | None, train: bool) -> Batch:
        """Returns images (B, C, H, W) and their targets (B, ...); ``Mixed`` where images are mixed."""
        x = torch.stack([example.inputs["x"] for example in examples])
        targets = self.tensor([example.target for example in examples])
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
        for x, own, other in zip(batch.inputs["x"], found.targets, found.others, strict=True):
            pixels = ((x * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()  # (H, W, C)
            image = Image.fromarray(pixels.squeeze()).convert("RGB")
            shares = [(own, found.share), (other, 1 - found.share)] if found.share < 1 else [(own, 1.0)]
            lines = [f"{self.label(t, class_names)}{f' {share:.0%}' if len(shares) > 1 else ''}" for t, share in shares]
            pictures.append((image, (", ".join(lines),)))
        return pictures

    def units(self, batch: Batch) -> dict[str, float]:
        """Returns the number of images."""
        return {"images": len(batch)}

    def at(self: Self, size: tuple[int, int]) -> Self:
        """Returns the task with images of another size, in pixels."""
        how = dataclasses.replace(self.settings.preprocess, size=size)
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, preprocess=how))

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

    @staticmethod
    def preprocess_of(config: SwinConfig, card: ModelCard | None) -> Preprocess:
        """Returns how images are prepared for a model: as its card says, else as ImageNet's, in the size it is for.

        Raises:
            ConfigError: the model takes neither 1 nor 3 channels.
            InputError: the model takes no images.
        """
        check_takes_images(config)
        return preprocessing(card, image_size(config, card), config.in_chans)

    @classmethod
    @abc.abstractmethod
    def of(cls: type[Self], card: ModelCard) -> Self:
        """Returns the task of a trained model, as its card describes it."""

    @classmethod
    def card_of(cls, model: SwinTransformer) -> ModelCard:
        """Returns the card of a model with what prediction needs: preprocessing, and a name for every class.

        Raises:
            ConfigError: the model takes neither 1 nor 3 channels.
            InputError: the model has no head, or takes no images.
        """
        how = cls.preprocess_of(model.config, model.card)
        if not model.config.num_classes:
            raise InputError(
                "the model has no head (num_classes is 0), so it cannot classify; try load(..., num_classes=...) and "
                "train it"
            )
        card = model.card or ModelCard()
        if card.class_names:
            return card.replace(task=cls.name, preprocess=how, class_names=different(card.class_names))
        names = tuple(map(str, range(model.config.num_classes)))
        return card.replace(task=cls.name, settings={"numbered": True}, preprocess=how, class_names=names)

    def outputs_of(self, info: DataInfo) -> tuple[int, ...]:
        """Returns, for every class of some data, the number of the model's output (``class_outputs.outputs_of``).

        Raises:
            DataError: the data has a class that the model does not know.
        """
        assert self.class_names is not None, "a task made by Classify.of"
        return outputs_of(self.class_names, self.numbered, info)


def check_takes_images(config: SwinConfig) -> None:
    """Raises InputError for a model of clips, volumes or sequences, before any image is decoded for it."""
    if config.ndim != 2:
        what, axes = ("clips or volumes", "frames, height, width") if config.ndim == 3 else ("sequences", "length")
        count = "1 axis" if config.ndim == 1 else f"{config.ndim} axes"
        raise InputError(
            f"the model takes {what} ({count}), images have 2; pass tensors (batch, channels, {axes}) to it in Python"
        )
