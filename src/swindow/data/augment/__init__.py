"""Random changes to training images: geometry, operations, erasing, mixing. All chance comes from a generator."""

from __future__ import annotations

from .custom import called
from .erasing import erase
from .geometric import AUGMENTS, Augment
from .mix import mix
from .operations import Filling
from .policies import POLICIES, RandAugment, TrivialAugment, color_jitter

__all__ = [
    "AUGMENTS",
    "POLICIES",
    "Augment",
    "Filling",
    "RandAugment",
    "TrivialAugment",
    "called",
    "color_jitter",
    "erase",
    "mix",
]
