"""Weights in files: any library's layout in and out as parts of a model, and a report of what was done."""

from __future__ import annotations

from .adaptation import adapted
from .adoption import adopted
from .files import replacing
from .inflation import inflated
from .layouts import names as list_layouts
from .loading import load_parts
from .parts import Parts, Request
from .report import LoadReport
from .saving import save
from .summary import describe

__all__ = [
    "LoadReport",
    "Parts",
    "Request",
    "adapted",
    "adopted",
    "describe",
    "inflated",
    "list_layouts",
    "load_parts",
    "replacing",
    "save",
]
