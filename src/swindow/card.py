"""What travels with a model's weights and is not weights: the task, class names, preprocessing, data and licence.

Imports no torch, so that the command line can read a card at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pickle
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .errors import ConfigError

FORMAT = 1  # of a card as JSON; a file with a higher number was written by a later version
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CHANNELS = {1: "L", 3: "RGB"}  # channels that an image file can give, as Pillow names them
DEPTH = 32  # of lists and objects inside each other in a task's settings


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

    Raises:
        ConfigError: a value is not of the type or in the range that it should be.
    """

    size: tuple[int, int] = (224, 224)
    fit: Literal["crop", "squash"] = "crop"
    crop_fraction: float = 224 / 256
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _tuples(self, "size", "mean", "std", "value_range")
        channels = len(self.mean) if isinstance(self.mean, tuple) else 0
        shown = self.value_range
        _check(
            "preprocess",
            self,
            size=(_pixels(self.size) and len(self.size) == 2, "height and width in pixels, above 0"),
            fit=(self.fit in ("crop", "squash"), "'crop' or 'squash'"),
            crop_fraction=(_numbers((self.crop_fraction,)) and 0 < self.crop_fraction <= 1, "a fraction above 0"),
            interpolation=(
                self.interpolation in ("nearest", "bilinear", "bicubic"),
                "'nearest', 'bilinear' or 'bicubic'",
            ),
            mean=(channels in CHANNELS and _numbers(self.mean), "1 number (grey) or 3 (RGB)"),
            std=(
                _numbers(self.std) and len(self.std) == channels and all(s > 0 for s in self.std),
                "numbers above 0, as many as mean has",
            ),
            value_range=(
                shown is None or (_numbers(shown) and len(shown) == 2 and shown[0] < shown[1]),
                "two numbers, black below white",
            ),
        )

    @property
    def channels(self) -> int:
        """Channels of the result: 1 or 3."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return _known(self)

    @classmethod
    def default(cls, size: int | tuple[int, ...] = 224, channels: int = 3) -> Preprocess:
        """Returns ImageNet's values for a size (pixels: a square's side, or height and width) and 1 or 3 channels.

        Raises:
            ConfigError: the model takes neither 1 nor 3 channels, so that no image file fits it.
        """
        if channels not in CHANNELS:
            raise ConfigError(f"the model takes {channels} channels; image files give 1 or 3, so pass tensors to it")
        grey = channels == 1  # the mean over ImageNet's channels
        height, width = (size, size) if isinstance(size, int) else size
        return cls((height, width), mean=(0.449,) if grey else IMAGENET_MEAN, std=(0.226,) if grey else IMAGENET_STD)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Which share of a data set was held out from training: enough to draw the same images again.

    Attributes:
        share: of every class, or of all samples where ``stratified`` is False (fraction).
        seed: decides which samples.
        stratified: whether every class gives the same share.
        fingerprint: of the data that was split (``Dataset.fingerprint``); the split is only known for that data.

    Raises:
        ConfigError: a value is not of the type or in the range that it should be.
    """

    share: float
    seed: int
    stratified: bool = True
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        _check(
            "split",
            self,
            share=(_numbers((self.share,)) and 0 < self.share < 1, "a fraction between 0 and 1"),
            seed=(type(self.seed) is int and self.seed >= 0, "a whole number from 0"),
            stratified=(isinstance(self.stratified, bool), "true or false"),
            fingerprint=(isinstance(self.fingerprint, (str, type(None))), "a text"),
        )


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
        data: what the weights were trained on, one after the other: "ImageNet-1k, then photos".
        licence: of the weights; of those that training began with, where it is not known of the result.
        description: what else there is to say: accuracy, who trained them and how, what they are not for.
        format: of the card as JSON.

    Raises:
        ConfigError: a value is not of the type or in the range that it should be.

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
    description: str | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        _tuples(self, "class_names", "input_size")
        names = self.class_names
        texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        _check(
            "model card",
            self,
            format=(type(self.format) is int and 0 < self.format <= FORMAT, f"a number up to {FORMAT}"),
            settings=(isinstance(self.settings, Mapping), "an object"),
            class_names=(names is None or texts, "a list of texts"),
            preprocess=(isinstance(self.preprocess, (Preprocess, type(None))), "a Preprocess"),
            input_size=(self.input_size is None or _pixels(self.input_size), "a list of pixels per axis, above 0"),
            split=(isinstance(self.split, (HeldOut, type(None))), "a HeldOut"),
            task=(isinstance(self.task, (str, type(None))), "a text"),
            data=(isinstance(self.data, (str, type(None))), "a text"),
            licence=(isinstance(self.licence, (str, type(None))), "a text"),
            description=(isinstance(self.description, (str, type(None))), "a text"),
        )
        object.__setattr__(self, "settings", _json(self.settings))

    def replace(self, **fields: Any) -> ModelCard:
        """Returns a card with some fields changed."""
        return dataclasses.replace(self, **fields)

    def after(self, before: ModelCard | None) -> ModelCard:
        """Returns the card of weights that training made from others: it keeps their licence, and names their data too.

        Args:
            before: the card of those that training began with; None: there were none, or nothing is known of them.

        Example:
            >>> start = ModelCard(data="ImageNet-1k", licence="MIT")
            >>> tuned = ModelCard(data="photos").after(start)
            >>> tuned.data, tuned.licence
            ('ImageNet-1k, then photos', 'MIT')
        """
        if before is None:
            return self
        known = [data for data in (before.data, self.data) if data]
        if len(known) == 2 and f", then {before.data}".endswith(f", then {self.data}"):  # the same data once more
            known = known[:1]
        return self.replace(data=", then ".join(known) or None, licence=self.licence or before.licence)

    def pixels(self, axes: int) -> tuple[int, ...] | None:
        """Returns the size of images in pixels per axis; None: it is not known for so many axes."""
        sizes = (self.input_size, self.preprocess.size if self.preprocess else None)
        return next((size for size in sizes if size is not None and len(size) == axes), None)

    def to_dict(self) -> dict[str, Any]:
        """Returns what is known, as JSON values."""
        return _known(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """Returns the card of JSON values as ``to_dict`` gives them.

        Raises:
            ConfigError: a value is not of the type it should be, or the card is of a later format.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"model card: got {reprlib.repr(values)}, expected an object")
        # A field that this version does not know is left out: within a format, writers add only what readers can do
        # without, and raise the number for anything else. It is an error inside ``preprocess`` and ``split``, where
        # leaving it out would prepare images, or draw a split, otherwise than in training.
        known = {
            field.name: values[field.name] for field in dataclasses.fields(cls) if values.get(field.name) is not None
        }
        cls(format=known.get("format", FORMAT))  # first: in a later format all else may mean something else
        for name, kind in (("preprocess", Preprocess), ("split", HeldOut)):
            if name in known:
                known[name] = _part(kind, name, known[name])
        return cls(**known)


def preprocessing(card: ModelCard | None, size: int | tuple[int, ...] = 224, channels: int = 3) -> Preprocess:
    """Returns how images are prepared for a model: as its card says, else ``Preprocess.default(size, channels)``.

    ``sizes.image_size(config, card)`` is the size for a model.

    Example:
        >>> preprocessing(None, size=256).size
        (256, 256)
    """
    return card.preprocess if card and card.preprocess else Preprocess.default(size, channels)


def name_of(function: Callable[..., Any]) -> str:
    """Returns a name for a picklable function or object, which changes where what it does changes with its settings."""
    kind = function if isinstance(function, type) or hasattr(function, "__qualname__") else type(function)
    try:
        digits = hashlib.sha256(pickle.dumps(function)).hexdigest()[:8]
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # what pickle raises for lambdas, locks, ...
        raise ConfigError(
            f"augment: got {function!r}, which cannot be sent to another process ({error}); try a function of a module"
        ) from error
    return f"{kind.__module__}.{kind.__qualname__} {digits}"


def _part(kind: type[Any], name: str, values: Any) -> Any:
    """A part of a card from JSON values; every field must be known and every field without a default given."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"model card: {name} is {reprlib.repr(values)}, expected an object")
    fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(kind)}
    odd = [field for field in values if field not in fields]
    odd += [field for field, needed in fields.items() if needed and field not in values]
    if odd:
        raise ConfigError(
            f"model card: {name} has fields {reprlib.repr(list(values))}, expected some of {list(fields)}"
        )
    return kind(**values)


def _check(what: str, part: Any, **fields: tuple[bool, str]) -> None:
    """Raises ConfigError for the first field that is not right, with what is expected of it."""
    for name, (right, expected) in fields.items():
        if not right:
            raise ConfigError(f"{what}: {name} is {reprlib.repr(getattr(part, name))}, expected {expected}")


def _tuples(part: Any, *names: str) -> None:
    """Makes tuples of lists, which JSON gives."""
    for name in names:
        if isinstance(getattr(part, name), list):
            object.__setattr__(part, name, tuple(getattr(part, name)))


def _numbers(values: object) -> bool:
    """Whether it is a tuple of numbers, none of them infinite or NaN."""
    return isinstance(values, tuple) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e30 for v in values
    )


def _pixels(values: object) -> bool:
    """Whether it is a tuple of numbers of pixels."""
    return isinstance(values, tuple) and all(type(v) is int and 0 < v < 2**31 for v in values)


def _known(part: Any) -> dict[str, Any]:
    """The fields that are not empty, as JSON values."""
    found = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if value is not None and value != {}:
            found[field.name] = _known(value) if dataclasses.is_dataclass(value) else _json(value)
    return found


def _json(value: Any, depth: int = DEPTH) -> Any:
    """A copy of JSON values, with lists for tuples. Raises ConfigError for anything else."""
    if isinstance(value, Mapping) and depth and all(isinstance(key, str) for key in value):
        return {key: _json(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and depth:
        return [_json(item, depth - 1) for item in value]
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(f"model card: got {reprlib.repr(value)}, expected JSON values, {DEPTH} deep at most")
