"""The settings of a training run. Imports no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError

_KNOWN: dict[str, tuple[str | None, ...]] = {
    "augment": ("auto", "photo", "affine", "none"),
    "auto_augment": (None, "none", "randaugment", "trivialaugment"),
    "precision": ("auto", "fp32", "bf16"),
    "product": (None, "torch", "onednn"),
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; the defaults train a small data set from scratch.

    Attributes:
        variant: the model to train, one of those that 'swindow variants' lists; by default one that suits the data.
        weights: a checkpoint to start from, or the name of published weights; it decides the architecture too. By
            default the weights are random.
        out: the folder for everything that the run writes. If a run was stopped there, it goes on.
        epochs: passes over the training images.
        batch_size: images per step of the optimizer, in all processes and all accumulated parts together.
        grad_checkpointing: compute the inside of each block again in the backward pass instead of storing it: less
            memory, more time, the same result.
        accumulate: process each batch in so many parts, one after the other, and add up their gradients: less memory,
            the same result.
        lr: the highest learning rate, reached at the end of the warm-up; by default one that suits the data.
        min_lr: the learning rate at the end of training; it falls to that along a cosine.
        warmup_epochs: epochs in which the learning rate rises linearly from near 0.
        weight_decay: weight decay of AdamW; not applied to biases, norms and position bias tables.
        layer_decay: how much slower each layer learns than the next one, for fine-tuning, for instance 0.8; by default
            all layers learn at the same rate.
        clip: gradients whose norm is larger are scaled down to this norm.
        label_smoothing: fraction of each target that is spread evenly over all classes.
        drop_path_rate: stochastic depth: the probability that the last block is skipped; it rises linearly to that
            from 0 in the first block. By default the rate of the variant.
        image_size: height and width in pixels that images are resized or cropped to; by default what the weights were
            trained on, or what suits the data and the variant.
        value_range: the values of black and white in images of floats or 16-bit integers; 8-bit images ignore it.
            By default 0 and 1 for floats, 0 and the largest value of the bit depth for integers.
        augment: random changes of the training images: photo (random resized crop and flip), affine (small shifts,
            rotations and scalings) or none; auto chooses what suits the data.
        auto_augment: more random changes of the training images: randaugment (two of 15 operations, each half of the
            time), trivialaugment (one of 14, of any strength) or none; by default what suits the data.
        erase: the probability that a rectangle of a training image becomes noise; by default what suits the data.
        mixup: blend training images of a batch in pairs: the alpha of the Beta distribution of the shares, 0 for none;
            by default what suits the data.
        cutmix: put a rectangle of one training image into another: alpha as of mixup, 0 for none; by default what
            suits the data. Where both are above 0, each is taken for half of the batches.
        image_column: the column of a table that holds the images; by default guessed by its name.
        label_column: the column of a table that holds the classes; by default guessed by its name.
        held_out: fraction of the images of each class that is used for evaluation and not for training; ignored where
            the data has a split of its own.
        seed: seed of the split, the initial weights, the order of the images and all augmentation.
        device: where to run, for instance cpu, cuda or cuda:1; auto takes a GPU if there is one.
        precision: fp32, or bf16 for mixed precision; auto takes bf16 on GPUs that support it, else fp32.
        product: what multiplies matrices in fp32 on a CPU: torch or onednn; by default what the environment variable
            SWINDOW_PRODUCT says, else what was measured to suit the processor. The two round differently.
        workers: processes that read images; the result does not depend on it. By default 0 for data in memory, else
            the number of cores, at most 4.
        save_minutes: minutes between two saved states of the run within an epoch; the end of each epoch is saved too.
        verify: decode every image once before training, so that broken ones are reported and skipped.
    """

    variant: str | None = None
    weights: str | Path | None = None
    out: Path = Path("runs/train")
    epochs: int = 30
    batch_size: int = 32
    grad_checkpointing: bool = False
    accumulate: int = 1
    lr: float | None = None
    min_lr: float = 1e-5
    warmup_epochs: float = 2.0
    weight_decay: float = 0.05
    layer_decay: float | None = None
    clip: float = 5.0
    label_smoothing: float = 0.1
    drop_path_rate: float | None = None
    image_size: int | None = None
    value_range: tuple[float, float] | None = None
    augment: Literal["auto", "photo", "affine", "none"] = "auto"
    auto_augment: Literal["none", "randaugment", "trivialaugment"] | None = None
    erase: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    image_column: str | None = None
    label_column: str | None = None
    held_out: float = 0.2
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    product: Literal["torch", "onednn"] | None = None
    workers: int | None = None
    save_minutes: float = 5.0
    verify: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        if self.weights is not None:
            object.__setattr__(self, "weights", str(self.weights))  # ``Path`` would take a slash out of hf://
        if self.variant is not None and self.weights is not None:
            raise ConfigError("got both variant and weights; a checkpoint brings its own architecture, so give one")
        for field in ("epochs", "batch_size", "accumulate", "image_size"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{field}: got {value!r}, expected an int of at least 1")
        for field in ("lr", "clip"):
            if getattr(self, field) is not None and not getattr(self, field) > 0:
                raise ConfigError(f"{field}: got {getattr(self, field)!r}, expected a number above 0")
        for field in ("min_lr", "warmup_epochs", "weight_decay", "save_minutes", "seed", "workers", "mixup", "cutmix"):
            value = getattr(self, field)
            if value is not None and not value >= 0:
                raise ConfigError(f"{field}: got {value!r}, expected a number of at least 0")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay: got {self.layer_decay!r}, expected a factor above 0, at most 1")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out: got {self.held_out!r}, expected a fraction between 0 and 1")
        for field in ("label_smoothing", "drop_path_rate"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(f"{field}: got {value!r}, expected a fraction from 0 up to, not including, 1")
        if self.erase is not None and not 0 <= self.erase <= 1:
            raise ConfigError(f"erase: got {self.erase!r}, expected a probability from 0 to 1")
        for field, known in _KNOWN.items():
            if getattr(self, field) not in known:
                names = ", ".join(str(name) for name in known if name is not None)
                raise ConfigError(f"{field}: got {getattr(self, field)!r}, expected one of {names}")

    def identity(self) -> dict[str, Any]:
        """Returns the settings that decide the result, as JSON values: a stopped run goes on only where they agree."""
        free = ("out", "workers", "save_minutes", "verify", "grad_checkpointing")
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items() if k not in free}
