"""The public functions that join layers: models with checkpoints, checkpoints with one another, images with both."""

from __future__ import annotations

from .conversion import Conversion, convert
from .models import adopt, create, inflate, load
from .prediction import predict

__all__ = ["Conversion", "adopt", "convert", "create", "inflate", "load", "predict"]
