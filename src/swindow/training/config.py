"""The settings of a training run. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ..card import name_of
from ..errors import ConfigError

_KNOWN: dict[str, tuple[str, ...]] = {
    "init": ("published", "fan_in"),
    "augment": ("photo", "crop", "affine", "none"),
    "auto_augment": ("none", "randaugment", "trivialaugment"),
    "balance": ("none", "loss", "sampling"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "product": ("torch", "onednn"),
}
_WHOLE = ("epochs", "batch_size", "accumulate", "image_size", "repeats", "patience", "limit")
_POSITIVE = ("lr", "head_lr", "clip")
_FROM_0 = (
    "min_lr", "warmup_lr", "warmup_epochs", "weight_decay", "save_minutes", "seed", "workers", "mixup", "cutmix",
    "color_jitter", "lr_base_size", "plain_epochs",
)  # fmt: skip
_BELOW_1 = ("label_smoothing", "drop_path_rate", "ema")


# What a run that goes on may change: nothing that the model, its optimizer or the split is made of.
CHANGEABLE = (
    "epochs", "lr", "min_lr", "warmup_lr", "warmup_epochs", "lr_base_size", "weight_decay", "clip", "patience",
    "label_smoothing", "augment", "color_jitter", "auto_augment", "erase", "mixup", "cutmix", "plain_epochs", "repeats",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run. What is None is decided by the recipe, see ``training.recipes``.

    Attributes:
        recipe: the name of a recipe, one of those that 'swindow recipes' lists; by default one that suits the data.
        variant: the model to train, one of those that 'swindow variants' lists.
        weights: a checkpoint to start from, or the name of published weights; it decides the architecture too. By
            default the weights are random.
        init: how random weights are drawn: published (standard deviation 0.02), or fan_in (1 over the square root of a
            layer's inputs), with which narrow models learn faster.
        out: the folder for everything that the run writes. If a run was stopped there, it goes on.
        epochs: passes over the training images.
        batch_size: images per step of the optimizer, in all processes and all accumulated parts together.
        grad_checkpointing: compute the inside of each block again in the backward pass instead of storing it: less
            memory, more time, the same result.
        accumulate: process each batch in so many parts, one after the other, and add up their gradients: less memory,
            the same result, except that mixup, cutmix and stochastic depth draw anew for each part.
        optimizer: adamw, sgd (momentum 0.9, Nesterov), muon (for matrices; adamw for all else), or a class of
            torch.optim by its name; in Python also the class.
        optimizer_options: more arguments for the optimizer, for instance {"betas": (0.9, 0.95)}.
        lr: the highest learning rate, reached at the end of the warm-up.
        head_lr: the highest learning rate of the classification head; by default that of all other parameters.
        min_lr: the learning rate at the end of training; it falls to that along a cosine.
        warmup_lr: the learning rate at the start of the warm-up.
        warmup_epochs: epochs in which the learning rate rises linearly.
        lr_base_size: the batch size that all learning rates are given for: they are multiplied by batch_size over it
            (512 in the official recipes); 0: they are used as given.
        weight_decay: weight decay of the optimizer; not applied to biases, norms and position bias tables.
        layer_decay: how much slower each layer learns than the next one, for fine-tuning, for instance 0.8; 1: all
            layers learn at the same rate.
        clip: gradients whose norm is larger are scaled down to this norm.
        ema: also keep an exponential moving average of the weights with this decay per step, for instance 0.999. It
            is evaluated beside the weights and written to ema.safetensors. 0: none.
        frozen_stages: keep the patch embedding and so many of the first stages as they are; -1: train everything.
        linear_probe: train the classification head only.
        label_smoothing: fraction of each target that is spread evenly over all classes.
        balance: for classes of unequal size: loss weights each class by the inverse of its number of images, sampling
            draws images so that all classes are equally frequent.
        drop_path_rate: stochastic depth: the probability that the last block is skipped; it rises linearly to that
            from 0 in the first block. By default the rate of the variant.
        image_size: height and width in pixels that images are resized or cropped to; by default what the weights were
            trained on, or what suits the data and the variant.
        value_range: the values of black and white in images of floats or 16-bit integers; 8-bit images ignore it.
            By default 0 and 1 for floats, 0 and the largest value of the bit depth for integers.
        augment: random changes of the training images: photo (random resized crop and flip), crop (shift by up to an
            eighth of the image, and flip), affine (small shifts, rotations and scalings) or none. In Python also a
            picklable function of an image, see docs/training.md.
        color_jitter: change brightness, contrast and saturation by factors of up to 1 - x to 1 + x, for instance 0.4.
        auto_augment: more random changes of the training images: randaugment (two of 15 operations, each half of the
            time), trivialaugment (one of 14, of any strength) or none.
        erase: the probability that a rectangle of a training image becomes noise.
        mixup: blend training images of a batch in pairs: the alpha of the Beta distribution of the shares, 0 for none.
        cutmix: put a rectangle of one training image into another: alpha as of mixup, 0 for none. Where both are above
            0, each is taken for half of the batches.
        repeats: put each image into a batch so many times, each time changed in another way; an epoch stays as long,
            so it sees fewer different images (repeated augmentation).
        plain_epochs: in so many of the last epochs leave out color_jitter, auto_augment, erase, mixup and cutmix.
        patience: stop when no epoch of the last so many was better than the best before; by default train all epochs.
        image_column: the column of a table that holds the images; by default guessed by its name.
        label_column: the column of a table that holds the classes; by default guessed by its name.
        label_separator: what stands between the labels of an image in a text of a table, where images have several;
            by default a text is one class.
        limit: use about so many training and so many held-out images, evenly from all classes: for a quick try.
        fraction: use this fraction of the training images of each class; all held-out images are used.
        held_out: fraction of the images of each class that is used for evaluation and not for training; ignored where
            the data has a split of its own.
        seed: seed of the split, the initial weights, the order of the images and all augmentation.
        device: where to run, for instance cpu, cuda or cuda:1; auto takes a GPU if there is one.
        precision: fp32, or bf16 or fp16 for mixed precision (fp16 with a gradient scaler); auto takes bf16 on GPUs
            that support it, else fp32.
        product: what multiplies matrices in fp32 on a CPU: torch or onednn; by default what the environment variable
            SWINDOW_PRODUCT says, else what was measured to suit the processor. The two round differently.
        workers: processes that read images; the result does not depend on it. By default 0 for data in memory, else
            the number of cores, at most 4.
        save_minutes: minutes between two saved states of the run within an epoch; the end of each epoch is saved too.
        verify: decode every image once before training, so that broken ones are reported and skipped.
    """

    recipe: str | None = None
    variant: str | None = None
    weights: str | Path | None = None
    init: Literal["published", "fan_in"] | None = None
    out: Path = Path("runs/train")
    epochs: int | None = None
    batch_size: int | None = None
    grad_checkpointing: bool = False
    accumulate: int = 1
    optimizer: str | type | None = None
    optimizer_options: Mapping[str, Any] | None = None
    lr: float | None = None
    head_lr: float | None = None
    min_lr: float | None = None
    warmup_lr: float | None = None
    warmup_epochs: float | None = None
    lr_base_size: int | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    clip: float | None = None
    ema: float | None = None
    frozen_stages: int | None = None
    linear_probe: bool = False
    label_smoothing: float | None = None
    balance: Literal["none", "loss", "sampling"] = "none"
    drop_path_rate: float | None = None
    image_size: int | None = None
    value_range: tuple[float, float] | None = None
    augment: str | Callable[..., Any] | None = None
    color_jitter: float | None = None
    auto_augment: Literal["none", "randaugment", "trivialaugment"] | None = None
    erase: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    repeats: int | None = None
    plain_epochs: int | None = None
    patience: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    limit: int | None = None
    fraction: float | None = None
    held_out: float = 0.2
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    product: Literal["torch", "onednn"] | None = None
    workers: int | None = None
    save_minutes: float = 5.0
    verify: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        if self.weights is not None:
            object.__setattr__(self, "weights", str(self.weights))  # ``Path`` would take a slash out of hf://
        if self.weights is not None and type(self) is TrainConfig:
            for field in ("variant", "init"):
                if getattr(self, field) is not None:
                    raise ConfigError(
                        f"got both {field} and weights; a checkpoint brings its own architecture, so give one"
                    )
        self._check(dict.fromkeys(_WHOLE, "an int of at least 1"), lambda x: isinstance(x, int) and x >= 1)
        self._check(dict.fromkeys(_POSITIVE, "a number above 0"), lambda x: x > 0)
        self._check(dict.fromkeys(_FROM_0, "a number of at least 0"), lambda x: x >= 0)
        self._check({"layer_decay": "a factor above 0, at most 1"}, lambda x: 0 < x <= 1)
        self._check({"fraction": "a fraction above 0, at most 1"}, lambda x: 0 < x <= 1)
        self._check({"held_out": "a fraction between 0 and 1"}, lambda x: 0 < x < 1)
        self._check(dict.fromkeys(_BELOW_1, "a fraction from 0 up to, not including, 1"), lambda x: 0 <= x < 1)
        self._check({"erase": "a probability from 0 to 1"}, lambda x: 0 <= x <= 1)
        self._check({"frozen_stages": "an int of at least -1"}, lambda x: isinstance(x, int) and x >= -1)
        for field, known in _KNOWN.items():
            if not (field == "augment" and callable(self.augment)):
                self._check({field: f"one of {', '.join(known)}"}, known.__contains__)

    def _check(self, expected: Mapping[str, str], good: Callable[[Any], bool]) -> None:
        """Raises ConfigError for a field that is set to something else than expected."""
        for field, what in expected.items():
            value = getattr(self, field)
            if value is not None and not good(value):
                raise ConfigError(f"{field}: got {value!r}, expected {what}")

    def identity(self) -> dict[str, Any]:
        """Returns the settings that decide the result, as JSON values: a stopped run goes on only where they agree."""
        free = ("out", "recipe", "workers", "save_minutes", "verify", "grad_checkpointing")
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in free}
        for name in ("augment", "optimizer"):
            if callable(found[name]):
                found[name] = name_of(found[name])
        return {k: str(v) if isinstance(v, Path) else v for k, v in found.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(TrainConfig):
    """The settings of a run in which all that a recipe says is decided; ``choice.choose`` makes them."""

    init: Literal["published", "fan_in"]
    epochs: int
    batch_size: int
    optimizer: str | type
    lr: float
    min_lr: float
    warmup_lr: float
    warmup_epochs: float
    lr_base_size: int
    weight_decay: float
    layer_decay: float
    clip: float
    ema: float
    label_smoothing: float
    repeats: int
    plain_epochs: int
