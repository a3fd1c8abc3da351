"""Weights in files: any library's layout in, any library's layout out, and a report of what was done."""

from __future__ import annotations

from .adoption import adopt
from .conversion import Conversion, convert
from .describing import describe
from .files import replacing
from .inflation import inflate
from .layouts import names as list_layouts
from .loading import load, replace_head
from .report import LoadReport
from .saving import save
from .tensors import named

__all__ = [
    "Conversion",
    "LoadReport",
    "adopt",
    "convert",
    "describe",
    "inflate",
    "list_layouts",
    "load",
    "named",
    "replace_head",
    "replacing",
    "save",
]
