"""What there is to know of a library's files: names, prefixes, and how the library takes sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ...card import ModelCard
from ...config import SwinConfig
from .table import Table


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to lay out a Swin Transformer's weights in a file.

    Attributes:
        name: what ``load`` and ``save`` call it.
        title: whose files these are, for people.
        table: their names and ours.
        anchor: the name, after ``body``, of the patch embedding's weight: by it files are recognised.
        body: the prefix before the backbone's names where a classifier stands beside it. A file that holds the
            backbone alone may do without.
        bare: when a file is written without ``body``: "never", "headless" (without classifier and decoder), "always".
        heads: what keys start with that stand beside the backbone, also in a file without ``body``, and are not read.
        inside: parts of keys that are never outside the model, whatever stands before them.
        axes: numbers of axes of the models.
        cosine: True for SwinV2 only, False for Swin only, None for both.
        out_norms: True for models with a norm per map only, False for those without, None for both.
        decoder: True for SimMIM's pre-training models only, False for those without a decoder, None for both.
        rule: the SwinConfig fields that stand for how this library takes sizes.
        buffers: what it saves beside weights, by block (``buffers``): ending of the key to the function's name.
        settles: how it shrinks windows when a model is built: None, "axis" or "min"; "min_down" rounds maps down.
        norm_optional: whether it has models without a final norm.
        stage_norms: whether it has norms per stage only; a final norm is then that of the last stage.
        one_window: whether all stages have one window.
        merges_all: whether merging halves all axes, and follows the last stage too; else H and W, and it does not.
        needs_patch_norm: whether its patch embedding always has a norm.
        head_dims: whether its Swin (not SwinV2) may have heads of any number of channels.
        needs_size: whether its files hold masks for one size of image.
        left_out: our keys that it has no place for and does well without, and why.
        fits: whether keys (with ``body``) look like this library's, where another has the same names.
        assumed: what no file of it says, and what is taken instead.
        preprocess: its documented way to prepare images: fit, crop_fraction.
        preprocess_large: what is otherwise at 384 pixels and more, where published models were tuned without a crop.
        folder: makes the JSON files, by name, of a folder that it loads, from config, card and pixels per side; None:
            it loads files.
        folder_only: whether it is written as a folder also where the path has a suffix.
        writes_buffers: whether its strict loading wants the buffers in the file.
    """

    name: str
    title: str
    table: Table
    anchor: str = "patch_embed.proj.weight"
    body: str = ""
    bare: str = "never"
    heads: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    axes: tuple[int, ...] = (2,)
    cosine: bool | None = None
    out_norms: bool | None = None
    decoder: bool | None = None
    rule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    buffers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settles: str | None = None
    norm_optional: bool = False
    stage_norms: bool = False
    one_window: bool = False
    merges_all: bool = False
    needs_patch_norm: bool = False
    head_dims: bool = False
    needs_size: bool = False
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fits: Callable[[Collection[str]], bool] = lambda keys: True
    assumed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    preprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocess_large: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"fit": "squash"})
    folder: Callable[[SwinConfig, ModelCard, int], dict[str, dict[str, Any]]] | None = None
    folder_only: bool = False
    writes_buffers: bool = True

    @property
    def head(self) -> str:
        """The first part of the name of its classifier; "" where it has none."""
        names = (row.theirs[0].text for row in self.table.rows if row.ours[0].text == "head.weight")
        return next(names, "").partition(".")[0]

    def is_folder(self, path: Path) -> bool:
        """Whether it is written as a folder at that path, not as a file."""
        return self.folder_only or (self.folder is not None and path.suffix == "")
