"""Reading and preparing what models look at: images."""

from .image import MAX_PIXELS, ImageBytes, ImageFile, ImageObject, convert, fit, picture, prepare, read, to_tensor
from .sheet import contact_sheet

__all__ = [
    "MAX_PIXELS",
    "ImageBytes",
    "ImageFile",
    "ImageObject",
    "contact_sheet",
    "convert",
    "fit",
    "picture",
    "prepare",
    "read",
    "to_tensor",
]
