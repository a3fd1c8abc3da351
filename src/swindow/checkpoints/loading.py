"""From a source of weights to a model that is filled, and a report of what was done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..card import ModelCard, Preprocess
from ..class_names import imagenet_1k
from ..config import PerAxis, SwinConfig, check_fields
from ..errors import CheckpointError, ConfigError
from ..models import SwinTransformer
from ..models.init import SkipInit, linear
from ..models.meta import meta_model
from ..sizes import image_size
from ..variants import VARIANTS, variant_config, variant_of
from ..weights import Published
from .architecture import Architecture, architecture, settle
from .checks import check_fits
from .layouts import OWN
from .neighbours import Hints, hints
from .recognise import Reading, recognise
from .report import LoadReport
from .sources import Source, open_source
from .tensors import Resize, adapt, check_resize, fill, named

KEY = "swindow"  # our entry in the header of a safetensors file: config and card
CARRIED = "swindow.card"  # that in files of other layouts
CARRIED_BEFORE = "swindow.metadata"  # as it was called before cards had a format number
PRETRAINING = ("mask_token", "decoder.")  # our names of what SimMIM has beside its backbone
IMAGENET_22K = 21_841
IMAGENET_1K = 1000
ROWS_OF_1K = Path(__file__).with_name("imagenet_22k_to_1k.txt")


def load(
    source: str | Path | Mapping[str, Any],
    layout: str | None = None,
    config: SwinConfig | Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    window_size: Any = None,
    input_size: int | tuple[int, ...] | None = None,
    table_resize: Resize = "bicubic",
    dtype: torch.dtype | None = torch.float32,
    **fields: Any,
) -> SwinTransformer | Any:
    """Returns the model that some weights are of, whichever library wrote them, in eval mode on the CPU.

    It is a SwinTransformer; a SimMIM where the weights are of pre-training, with a decoder.
    Layout and architecture are recognised from keys and shapes. Every tensor is accounted for: ``model.load_report``
    says what was taken, dropped, resized, newly initialised, and what no file says and was assumed; whatever cannot be
    explained is an error. No code in a file is run. Large files are mapped into memory, not read twice: do not write
    to a file, in place, while a model made of it is in use (``swindow.save`` never does).

    Args:
        source: the path of a .safetensors, .pth, .pt, .bin or .ckpt file; a folder with config.json and weights, in
            several files too; a published name, for instance ``"swin_tiny.ms_in1k"``, timm's and torchvision's names
            too (``swindow weights`` lists them): downloaded once; ``"hf://org/name"`` or ``"hf://org/name@revision"``;
            or a state dict, key to tensor.
        layout: whose names the keys are, one of ``swindow.list_layouts()``; None: recognised.
        config: what shapes cannot tell, or what is to be otherwise than in that library: a SwinConfig, or a dict of
            some of its fields, for instance ``{"window_size": 8}``.
        num_classes: another number of classes: the head is replaced by a newly initialised one and the class names
            and the task are dropped (for 1000 of ImageNet-22k's 21,841, by the rows of those classes, as in the
            official code, and the names are those of ImageNet-1k); 0 removes the head. Of a SimMIM's weights, the
            mask token and the decoder are dropped.
        in_chans: another number of input channels: the patch embedding is adapted, the sum over channels kept, and the
            preprocessing, made for the old number, is dropped.
        window_size: other windows, as in SwinConfig: tables of position biases are resized, a continuous bias keeps
            the windows that it was trained with.
        input_size: the size of images, in pixels (an int, or one per axis), that the weights are for. It settles what
            depends on it: windows that the library shrinks to its maps when a model is built; tables of another size
            are resized.
        table_resize: how tables are resized: ``"bicubic"``, or ``"geometric"`` as in SimMIM (needs scipy).
        dtype: of the model's weights; None: as in the source.
        **fields: other fields of SwinConfig that tensors leave open, for instance ``drop_path_rate=0.1`` or
            ``frozen_stages=2``; the same as in ``config``, and above it.

    Raises:
        CheckpointError: the source is absent, broken, refused, or of another kind; or it leaves something open: then
            the message names the argument that settles it.
        ConfigError: an argument is wrong.

    Example:
        >>> import tempfile, swindow
        >>> path = tempfile.mkdtemp() + "/model.safetensors"
        >>> left_out = swindow.save(swindow.create("swin_nano", num_classes=10), path)
        >>> swindow.load(path, num_classes=3).load_report.initialised
        ('head.weight', 'head.bias')
    """
    if config is not None and not isinstance(config, (SwinConfig, Mapping)):
        raise ConfigError(f"config: got {config!r}, expected a SwinConfig or a dict of its fields")
    known = {**(config.to_dict() if isinstance(config, SwinConfig) else config or {}), **fields}
    wanted = Wanted(known, layout, num_classes, in_chans, window_size, input_size, table_resize, dtype)
    found = open_source(source)
    row = found.published
    if row is not None and VARIANTS[row.variant].get("similarity") == "cosine":  # no tensor tells these windows
        meant = variant_config(row.variant)
        windows = {"window_size": meant.window_size, "pretrained_window_size": meant.pretrained_window_size}
        wanted = dataclasses.replace(wanted, config={**windows, **wanted.config})
    about = hints(found.neighbours)
    about.certain = found.whole_folder
    model = load_tensors(found, about, wanted)
    return model if row is None else _named(model, row)


def _named(model: SwinTransformer | Any, row: Published) -> SwinTransformer | Any:
    """A model of published weights, with what the table knows of them on its card."""
    card = (model.card or ModelCard()).replace(data=row.data, licence=row.licence)
    if row.resize and card.preprocess is not None:
        how = dataclasses.replace(card.preprocess, crop_fraction=row.pixels / row.resize)
        card = card.replace(preprocess=how)
    model.card = card
    for known in ("class_names", "preprocess"):  # by the name of the weights, not assumed
        model.load_report.assumed.pop(known, None)
    return model


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the caller of ``load`` says; its arguments, ``config`` as SwinConfig fields."""

    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layout: str | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    window_size: Any = None
    input_size: int | tuple[int, ...] | None = None
    table_resize: Resize = "bicubic"
    dtype: torch.dtype | None = torch.float32

    def __post_init__(self) -> None:
        check_resize(self.table_resize)
        check_fields(self.config)
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ConfigError(f"dtype: got {self.dtype!r}, expected a floating type, such as torch.float32, or None")


def load_tensors(found: Source, about: Hints, wanted: Wanted) -> SwinTransformer | Any:
    """``load`` for a source that is open; ``about`` is what lies beside it."""
    reading = recognise(found.name, found.tensors, wanted.layout or (OWN.name if KEY in found.metadata else None))
    size = _pixels(wanted.input_size, reading)
    if KEY in found.metadata:
        kind, card = _own(found, reading, wanted.config)
    else:
        kind = architecture(found.name, reading, about, wanted.config, size)
        card = _card(found, reading, about, kind)
    model = _empty(kind.config)
    check_fits(found.name, reading, named(model))
    left: dict[str, str] = {}
    if wanted.num_classes and kind.config.decoder_stride:
        left = {name: "only pre-training needs it" for name in reading.tensors if name.startswith(PRETRAINING)}
        kind.config = kind.config.replace(mask_token=False, decoder_stride=0)
        model = _empty(kind.config)
    tensors = {name: tensor for name, tensor in reading.tensors.items() if name not in left}
    window_size = _for_size(reading, kind.config, wanted.window_size, size)
    tensors, config, resized = adapt(tensors, kind.config, wanted.in_chans, window_size, wanted.table_resize)
    fresh = _without_norm(reading, config)
    model = model if config == kind.config else _empty(config)
    values = {**tensors, **fresh}
    fill(model, {name: value.to(wanted.dtype or value.dtype) for name, value in values.items()})
    if "patch_embed.proj.weight" in resized:
        card = card.replace(preprocess=None)
    if wanted.num_classes not in (None, config.num_classes):  # what is left is of the weights, their split too
        card = card.replace(class_names=None, task=None, settings={})
        kind.assumed.pop("class_names", None)
    head, made, rows = ({}, (), {}) if wanted.num_classes is None else replace_head(model, wanted.num_classes)
    if rows:
        card = card.replace(class_names=[name for _, name in imagenet_1k()])
    model.card = None if card == ModelCard() else card
    dropped = {
        **found.beside,
        **reading.dropped,
        **{key: "worked out anew from sizes" for *_, key, _ in reading.buffers},
        **{key: why for name, why in {**left, **head}.items() for key in reading.origin.get(name, (name,))},
    }
    resized, initialised = {**resized, **rows}, (*fresh, *made)
    matched = sum(name in tensors and name not in {*resized, *initialised} for name in named(model))
    model.load_report = LoadReport(
        found.name, reading.layout.name, matched, dropped, resized, initialised, kind.assumed
    )
    return model.eval()


def _pixels(size: int | tuple[int, ...] | None, reading: Reading) -> PerAxis | None:
    """``input_size``, per axis."""
    if size is None:
        return None
    axes = reading.tensors["patch_embed.proj.weight"].ndim - 2
    pixels = tuple(size) if isinstance(size, (tuple, list)) else (size,) * axes
    if len(pixels) != axes or not all(isinstance(p, int) and not isinstance(p, bool) and p > 0 for p in pixels):
        raise ConfigError(f"input_size: got {size!r}, expected pixels above 0: an int, or one for each of {axes} axes")
    return pixels


def _own(found: Source, reading: Reading, known: Mapping[str, Any]) -> tuple[Architecture, ModelCard]:
    """What our own description of a file says; it must be of that file's tensors."""
    try:
        about = json.loads(found.metadata[KEY])
        fields, values = dict(about["config"]), about["card" if "card" in about else "metadata"]  # the older name
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{found.name}: its description is broken; expected a file written by swindow.save"
        ) from error
    fields.pop("mask_token", None)  # once it could be without a decoder; now it follows from it
    try:
        config = SwinConfig.from_dict({**fields, **known})
    except ConfigError as error:
        raise CheckpointError(f"{found.name}: its config is not one this version knows: {error}") from error
    width, blocks = (
        reading.tensors["patch_embed.proj.weight"].shape[0],
        sum(k.endswith("norm1.weight") for k in reading.tensors),
    )
    hidden = reading.tensors.get("stages.0.blocks.0.mlp.fc1.weight", torch.empty(0)).shape[0]
    if (config.embed_dim, sum(config.depths)) != (width, blocks) or not -1 < width * config.mlp_ratio - hidden < 2:
        raise CheckpointError(f"{found.name}: its config is not that of its tensors; the file is broken")
    card = _read_card(found.name, values)
    try:
        check_names(card, config)
    except ConfigError as error:
        raise CheckpointError(f"{found.name}: {error}; the file is broken") from error
    return Architecture(config, card.input_size, {}), card


def _read_card(source: str, values: Any) -> ModelCard:
    """The card of JSON values. Raises CheckpointError where it is broken or of a later format."""
    try:
        return ModelCard.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}; try a newer version of swindow, or get the file again") from error


def check_names(card: ModelCard, config: SwinConfig) -> None:
    """Raises ConfigError where a card names another number of classes than the head has."""
    names = card.class_names
    if names is not None and config.num_classes and len(names) != config.num_classes:
        raise ConfigError(f"model card: got {len(names)} class names, expected {config.num_classes}, one per output")


def _empty(config: SwinConfig) -> SwinTransformer | Any:
    """A model that waits for its weights: nothing is initialised or takes memory."""
    try:
        return meta_model(config)
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes that no computer counts to
        raise CheckpointError(f"the model that is described is too large: {config}") from error


def _for_size(reading: Reading, config: SwinConfig, window_size: Any, size: PerAxis | None) -> Any:
    """The windows to load a model with: those asked for, as the library shrinks them for images of a size."""
    if size is None or reading.layout.settles is None or not (window_size is None or isinstance(window_size, int)):
        return window_size
    nominal = tuple(window_size or max(w[axis] for w in config.window_size) for axis in range(config.ndim))
    return settle(reading, config.to_dict(), nominal, size)


def _without_norm(reading: Reading, config: SwinConfig) -> dict[str, Tensor]:
    """The final norm of a backbone that has none: 1 and 0."""
    if str(config.num_stages - 1) in {str(i) for i in config.out_stages if config.out_norms}:
        return {}
    width = config.width(config.num_stages - 1)
    like = reading.tensors["patch_embed.proj.weight"]
    fresh = {"norm.weight": like.new_ones(width), "norm.bias": like.new_zeros(width)}
    return {name: value for name, value in fresh.items() if name not in reading.tensors}


def _card(found: Source, reading: Reading, about: Hints, kind: Architecture) -> ModelCard:
    """What travels with foreign weights: size, class names, preprocessing; where no file says it, the library's."""
    config, card = kind.config, about.card
    key = CARRIED if CARRIED in found.metadata else CARRIED_BEFORE
    if key in found.metadata:
        try:
            values = json.loads(found.metadata[key])
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{found.name}: its model card is no JSON; get the file again") from error
        carried = _read_card(found.name, values)
        card = ModelCard.from_dict({**card.to_dict(), **carried.to_dict()})
    if card.preprocess is None:
        kind.assumed |= about.assumed
    if kind.input_size is not None:
        card = card.replace(input_size=kind.input_size)
    elif card.input_size is None and config.ndim == 2 and variant_of(config) is not None:
        card = card.replace(input_size=image_size(config))
    names = found.about.get("CLASSES") or (found.about.get("dataset_meta") or {}).get("classes")
    if isinstance(names, (list, tuple)) and card.class_names is None:
        card = card.replace(class_names=tuple(map(str, names)))
    if (
        card.class_names is None
        and config.num_classes == IMAGENET_1K
        and config.ndim == 2
        and reading.layout.name != OWN.name
    ):
        card = card.replace(class_names=[name for _, name in imagenet_1k()])
        kind.assumed["class_names"] = (
            "those of ImageNet-1k, as the file has 1000 classes and no names; --names FILE gives others"
        )
    if len(card.class_names or ()) != config.num_classes:
        card = card.replace(class_names=None)
    if card.preprocess is None and config.ndim == 2 and config.in_chans == 3 and reading.layout.name != OWN.name:
        side = image_size(config, card)
        how = dict(reading.layout.preprocess)
        if min(side) >= 384:  # published models of this size were fine-tuned without a crop
            how |= {"crop_fraction": 1.0} if reading.layout.name == "timm" else {"fit": "squash"}
        preprocess = Preprocess((side[0], side[1]), **how)
        card = card.replace(preprocess=preprocess)
        way = (
            "the whole image"
            if preprocess.fit == "squash"
            else f"the centre {preprocess.crop_fraction:.3f} of the short side"
        )
        why = f" ({about.assumed['preprocess']})" if "preprocess" in about.assumed else ""
        kind.assumed["preprocess"] = f"{way}, to {side[0]} pixels, bicubic; ImageNet's mean and deviation{why}"
    return card


def replace_head(model: SwinTransformer, num_classes: int) -> tuple[dict[str, str], tuple[str, ...], dict[str, str]]:
    """Gives a model a head for another number of classes, in place; 0 removes it. Its card is left as it is.

    Where ImageNet-22k's classes become 1000, the head keeps the rows of those.

    Returns:
        keys of the model that were dropped, with the reason; keys newly initialised; keys cut out of the old head, with
        what is left.
    """
    old = model.config.num_classes
    if num_classes == old:
        return {}, (), {}
    model.config = model.config.replace(num_classes=num_classes)
    if (old, num_classes) == (IMAGENET_22K, IMAGENET_1K):
        rows = torch.tensor([int(row) for row in ROWS_OF_1K.read_text().split()])
        with SkipInit():
            head = linear(model.config.width(model.config.num_stages - 1), num_classes, device="meta")
        cut = {f"head.{name}": "the rows of ImageNet-1k's classes" for name, _ in head.named_parameters()}
        head.load_state_dict({key: value[rows] for key, value in model.head.state_dict().items()}, assign=True)
        model.head = head
        return {}, (), cut
    dropped = {f"head.{name}": "num_classes was given" for name, _ in model.head.named_parameters()}
    width, like = model.config.width(model.config.num_stages - 1), model.patch_embed.proj.weight
    model.head = linear(width, num_classes, dtype=like.dtype, device=like.device) if num_classes else nn.Identity()
    return dropped, tuple(f"head.{name}" for name, _ in model.head.named_parameters()), {}
