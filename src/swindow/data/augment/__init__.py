"""Random changes to training images: geometry, operations, erasing, mixing. All chance comes from a generator."""

from __future__ import annotations

from .erasing import erase
from .geometric import AUGMENTS, Augment
from .mix import mix, soft_targets
from .operations import Filling
from .policies import RandAugment, TrivialAugment

__all__ = ["AUGMENTS", "Augment", "Filling", "RandAugment", "TrivialAugment", "erase", "mix", "soft_targets"]
