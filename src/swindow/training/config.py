"""The settings of a training run. Imports no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; the defaults train a small data set from scratch.

    Attributes:
        variant: the model, a name that 'swindow variants' lists; by default one that suits the data.
        weights: a checkpoint to start from instead of random weights; it brings its own architecture.
        out: the folder for everything the run makes. A run that was stopped there goes on.
        epochs: passes over the training images.
        batch_size: images per step, over all processes and accumulated parts together.
        grad_checkpointing: work out again in backward what the inside of a block needs, instead of keeping it: less
            memory, more time, the same result.
        accumulate: parts that a batch is worked through in, to save memory; the result stays the same.
        lr: the highest learning rate, reached after the warm-up; what suits the data by default.
        min_lr: the learning rate at the end of the cosine.
        warmup_epochs: epochs over which the learning rate grows linearly from nearly 0.
        weight_decay: AdamW's weight decay; not applied to biases, norms and position tables.
        clip: largest norm of the gradient.
        label_smoothing: share of the target spread over all classes (fraction).
        drop_path_rate: stochastic depth of the last block (fraction); the variant's own by default.
        image_size: side of the images in pixels; what suits the data and the variant by default.
        value_range: the values that stand for black and white in float and 16-bit images; by default 0 and 1 for
            floats, 0 and the largest number of the bit depth for integers. 8-bit images ignore it.
        augment: augmentation: photo (random resized crop, flip), affine (small moves), none; auto suits the data.
        held_out: share of every class held out for evaluation (fraction), where the data has no split of its own.
        seed: decides the split, the initial weights, the order of images and every random change.
        device: where to run, for instance cpu, cuda or cuda:1; auto takes a GPU if there is one.
        precision: fp32, bf16 (autocast), or auto: bf16 on GPUs that have it.
        workers: processes that read images; by default none for data in memory, else up to 4. Changes no result.
        save_minutes: how often a long epoch is saved so that a killed run loses little.
        verify: decode every image once before training, so that broken ones are reported and skipped.
    """

    variant: str | None = None
    weights: Path | None = None
    out: Path = Path("runs/train")
    epochs: int = 30
    batch_size: int = 32
    grad_checkpointing: bool = False
    accumulate: int = 1
    lr: float | None = None
    min_lr: float = 1e-5
    warmup_epochs: float = 2.0
    weight_decay: float = 0.05
    clip: float = 5.0
    label_smoothing: float = 0.1
    drop_path_rate: float | None = None
    image_size: int | None = None
    value_range: tuple[float, float] | None = None
    augment: Literal["auto", "photo", "affine", "none"] = "auto"
    held_out: float = 0.2
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int | None = None
    save_minutes: float = 5.0
    verify: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        if self.weights is not None:
            object.__setattr__(self, "weights", Path(self.weights))
        if self.variant is not None and self.weights is not None:
            raise ConfigError("got both variant and weights; a checkpoint brings its own architecture, so give one")
        for field in ("epochs", "batch_size", "accumulate", "image_size"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{field}: got {value!r}, expected an int of at least 1")
        for field in ("lr", "clip"):
            if getattr(self, field) is not None and not getattr(self, field) > 0:
                raise ConfigError(f"{field}: got {getattr(self, field)!r}, expected a number above 0")
        for field in ("min_lr", "warmup_epochs", "weight_decay", "save_minutes", "seed", "workers"):
            value = getattr(self, field)
            if value is not None and not value >= 0:
                raise ConfigError(f"{field}: got {value!r}, expected a number of at least 0")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out: got {self.held_out!r}, expected a fraction between 0 and 1")
        for field in ("label_smoothing", "drop_path_rate"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(f"{field}: got {value!r}, expected a fraction from 0 up to, not including, 1")
        for field, known in (("augment", ("auto", "photo", "affine", "none")), ("precision", ("auto", "fp32", "bf16"))):
            if getattr(self, field) not in known:
                raise ConfigError(f"{field}: got {getattr(self, field)!r}, expected one of {', '.join(known)}")

    def identity(self) -> dict[str, Any]:
        """Returns the settings that decide the result, as JSON values: a stopped run goes on only where they agree."""
        free = ("out", "workers", "save_minutes", "verify", "grad_checkpointing")
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items() if k not in free}
