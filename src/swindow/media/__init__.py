"""Reading and preparing what models look at: images."""

from .image import MAX_PIXELS, ImageFile, convert, fit, picture, prepare, read, to_tensor

__all__ = ["MAX_PIXELS", "ImageFile", "convert", "fit", "picture", "prepare", "read", "to_tensor"]
