"""What travels with a model's weights and is not weights: the task, class names, preprocessing, data and licence.

Imports no torch, so that the command line can read a card at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from .errors import ConfigError

FORMAT = 1  # of a card as JSON; a file with a higher number was written by a later version
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CHANNELS = {1: "L", 3: "RGB"}  # channels that an image file can give, as Pillow names them


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input.

    Attributes:
        size: height and width of the result, in pixels.
        fit: ``"crop"`` keeps the proportions and cuts the centre out, ``"squash"`` stretches the whole image.
        crop_fraction: with ``"crop"``, the side of the cut over the image's short side; the official 224 / 256.
        interpolation: "nearest", "bilinear" or "bicubic" (antialiased).
        mean, std: per channel, for values from 0 to 1; their length is the number of channels, 1 (grey) or 3 (RGB).
        value_range: the values of a float or 16-bit file that stand for black and white; what lies beyond becomes
            black or white. None: 0 and 1 for floats, with nothing cut off; 0 and the largest number of its bit depth
            for integers (``media.convert`` has the details). 8-bit images ignore it.
    """

    size: tuple[int, int] = (224, 224)
    fit: Literal["crop", "squash"] = "crop"
    crop_fraction: float = 224 / 256
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for field in ("size", "mean", "std", "value_range"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, tuple(getattr(self, field)))  # JSON gives lists
        if len(self.mean) not in CHANNELS or len(self.std) != len(self.mean):
            raise ConfigError(f"mean and std: got {self.mean} and {self.std}, expected 1 or 3 numbers in each")
        if len(self.size) != 2 or min(self.size) < 1 or not 0 < self.crop_fraction <= 1 or min(self.std) <= 0:
            raise ConfigError(f"got {self}, expected size >= 1, 0 < crop_fraction <= 1 and std > 0")
        if self.interpolation not in ("nearest", "bilinear", "bicubic") or self.fit not in ("crop", "squash"):
            raise ConfigError(
                f"got {self}, expected interpolation 'nearest', 'bilinear' or 'bicubic' and fit 'crop' or 'squash'"
            )
        if self.value_range is not None and not (
            len(self.value_range) == 2
            and all(map(math.isfinite, self.value_range))
            and self.value_range[0] < self.value_range[1]
        ):
            raise ConfigError(f"value_range: got {self.value_range}, expected two numbers, black below white")

    @property
    def channels(self) -> int:
        """Channels of the result: 1 or 3."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items() if v is not None}

    @classmethod
    def default(cls, size: int = 224, channels: int = 3) -> Preprocess:
        """Returns ImageNet's values for a size in pixels and 1 or 3 channels.

        Raises:
            ConfigError: the model takes neither 1 nor 3 channels, so that no image file fits it.
        """
        if channels not in CHANNELS:
            raise ConfigError(f"the model takes {channels} channels; image files give 1 or 3, so pass tensors to it")
        grey = channels == 1  # the mean over ImageNet's channels
        return cls((size, size), mean=(0.449,) if grey else IMAGENET_MEAN, std=(0.226,) if grey else IMAGENET_STD)

    @classmethod
    def of(cls, metadata: Mapping[str, Any], size: int = 224, channels: int = 3) -> Preprocess:
        """Returns what a model's metadata says, else ``default``."""
        return cls(**metadata["preprocess"]) if "preprocess" in metadata else cls.default(size, channels)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Which share of a data set was held out from training: enough to draw the same images again.

    Attributes:
        share: of every class, or of all samples where ``stratified`` is False (fraction).
        seed: decides which samples.
        stratified: whether every class gives the same share.
        fingerprint: of the data that was split (``Dataset.fingerprint``); the split is only known for that data.
    """

    share: float
    seed: int
    stratified: bool = True
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"held_out: got {self.share}, expected a fraction between 0 and 1")


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What travels with weights; None where nothing is known.

    Attributes:
        task: the task's name, for instance "classify".
        settings: the task's settings, as JSON values; the task checks them when it is built.
        class_names: the names of the classes, in the order of the model's outputs.
        preprocess: how an image becomes the model's input.
        input_size: pixels per axis of the images the weights were trained on.
        split: what was held out from training; None where the data had a split of its own, or where it is not known.
        data: what the weights were trained on.
        licence: of the weights.
        format: of the card as JSON.

    Example:
        >>> card = ModelCard(class_names=("cat", "dog"), data="photos")
        >>> ModelCard.from_dict(card.to_dict()) == card
        True
    """

    task: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    input_size: tuple[int, ...] | None = None
    split: HeldOut | None = None
    data: str | None = None
    licence: str | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        for field in ("class_names", "input_size"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, tuple(getattr(self, field)))
        names, size = self.class_names, self.input_size
        wrong = {
            "class_names": names is not None and not all(isinstance(name, str) for name in names),
            "input_size": size is not None
            and not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in size),
            "settings": not isinstance(self.settings, Mapping),
            "format": not isinstance(self.format, int) or isinstance(self.format, bool) or self.format < 1,
            **{field: not isinstance(getattr(self, field), (str, type(None))) for field in ("task", "data", "licence")},
        }
        for field, bad in wrong.items():
            if bad:
                raise ConfigError(f"model card: {field} is {getattr(self, field)!r}, not of the type it should be")

    def replace(self, **fields: Any) -> ModelCard:
        """Returns a card with some fields changed."""
        return dataclasses.replace(self, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Returns what is known, as JSON values."""
        found: dict[str, Any] = {"format": self.format}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Preprocess):
                value = value.to_dict()
            elif isinstance(value, HeldOut):
                value = dataclasses.asdict(value)
            elif isinstance(value, tuple):
                value = list(value)
            if value is not None and value != {}:
                found[field.name] = value
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """Returns the card of JSON values as ``to_dict`` gives them.

        Raises:
            ConfigError: a value is not of the type it should be, a field is unknown, or the card is of a later format.
        """
        number = values.get("format", FORMAT) if isinstance(values, Mapping) else None
        if isinstance(number, int) and number > FORMAT:
            raise ConfigError(
                f"model card: format {number}, this version reads up to {FORMAT}; try a newer version of swindow"
            )
        try:
            fields = dict(values)
            if isinstance(fields.get("preprocess"), Mapping):
                fields["preprocess"] = Preprocess(**fields["preprocess"])
            if isinstance(fields.get("split"), Mapping):
                fields["split"] = HeldOut(**fields["split"])
            for field, kind in (("preprocess", Preprocess), ("split", HeldOut)):
                if not isinstance(fields.get(field), (kind, type(None))):
                    raise ConfigError(f"model card: {field} is {fields[field]!r}, expected an object")
            for field in ("class_names", "input_size"):
                if not isinstance(fields.get(field), (list, tuple, type(None))):
                    raise ConfigError(f"model card: {field} is {fields[field]!r}, expected a list")
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model card: {error}") from error
