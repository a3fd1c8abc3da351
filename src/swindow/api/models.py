"""Models from names, from weights, from models of other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ..checkpoints import Request, adopted, inflated, load_parts
from ..config import SwinConfig
from ..errors import ConfigError
from ..inference.opening import model_of
from ..models import SimMIM, SwinTransformer, require_swin
from ..models import create as untrained
from ..models.assemble import assemble, named
from ..models.init import SeededInit
from ..variants import variant_config
from ..weights import PUBLISHED, default_of, published

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..config import SwinConfigFields


def create(
    variant: str, pretrained: bool | str = False, *, seed: int | None = None, **fields: Unpack[SwinConfigFields]
) -> SwinTransformer | Any:
    """Returns a model of a named variant, in training mode: untrained, or with published weights.

    It is a SwinTransformer; a SimMIM where ``decoder_stride`` is above 0.

    Args:
        variant: a name from ``swindow.list_variants()``; with ``pretrained`` also a published name, for instance timm's
            ``"swin_tiny_patch4_window7_224.ms_in1k"``.
        pretrained: whether to take published weights, downloaded once unless they come with the package; True: the best
            of the variant on ImageNet-1k by those who trained it first (of swin_nano ours), or a tag, for instance
            ``"ms_in22k"`` (``swindow weights`` lists them).
        seed: of random weights, from 0 to 2**63 - 1: all of an untrained model, a new head of a pretrained one. They
            are drawn from a generator of their own: PyTorch's global one keeps its state, and the same seed gives the
            same weights, also in several threads at once. None: from the global generator.
        **fields: any field of SwinConfig, for instance ``num_classes=10``, ``in_chans=1`` or ``window_size=8``; of a
            pretrained model, those that ``swindow.load`` takes.

    Raises:
        ConfigError: no variant, field or tag has that name (the nearest are named), or a value is out of range.
        CheckpointError: the weights cannot be downloaded.

    Example:
        >>> sum(p.numel() for p in create("swin_tiny").parameters())
        28288354
    """
    if pretrained is False:
        return untrained(variant, seed=seed, **fields)
    row = published(variant)  # by a name of theirs
    if row is None:
        variant_config(variant)  # a name that is none is told as such
        row = default_of(variant)
    fields.setdefault("drop_path_rate", variant_config(row.variant).drop_path_rate)
    if pretrained is not True:
        known = {other.tag: other for other in PUBLISHED if other.variant == row.variant}
        if pretrained not in known:
            names = " or ".join(known)
            raise ConfigError(f"pretrained: got {pretrained!r}, expected True or, for {row.variant}, {names}")
        row = known[pretrained]
    with nullcontext() if seed is None else SeededInit(seed):
        return load(row.name, **fields).train()


def load(
    source: str | Path | Mapping[str, Any],
    layout: str | None = None,
    config: SwinConfig | Mapping[str, Any] | None = None,
    *,
    input_size: int | tuple[int, ...] | None = None,
    table_resize: Literal["bicubic", "geometric"] | None = None,
    part: str | None = None,
    mmap: bool = False,
    verify: bool = True,
    dtype: torch.dtype | None = torch.float32,
    **fields: Unpack[SwinConfigFields],
) -> SwinTransformer | Any:
    """Returns the model that some weights are of, whichever library wrote them, in eval mode on the CPU.

    It is a SwinTransformer; a SimMIM where the weights are of pre-training, with a decoder.
    Layout and architecture are recognised from keys and shapes. Every tensor is accounted for: ``model.load_report``
    says what was taken, dropped, resized, newly initialised, and what no file says and was assumed; whatever cannot be
    explained is an error. No code in a file is run.

    Args:
        source: the path of a .safetensors, .pth, .pt, .bin or .ckpt file; a folder with config.json and weights, in
            several files too; a published name, for instance ``"swin_tiny.ms_in1k"``, timm's and torchvision's names
            too (``swindow weights`` lists them): downloaded once; ``"hf://org/name"`` or ``"hf://org/name@revision"``;
            or a state dict, key to tensor.
        layout: whose names the keys are, one of ``swindow.list_layouts()``; None: recognised.
        config: what shapes cannot tell of the weights, or what is to be otherwise than in that library: a SwinConfig,
            or a dict of some of its fields, for instance ``{"window_size": 8}``.
        input_size: the size of images, in pixels (an int, or one per axis), that the weights are for. It settles what
            depends on it: windows that the library shrinks to its maps when a model is built; tables of another size
            are resized.
        table_resize: how tables are resized: ``"bicubic"`` (also None), or ``"geometric"`` as in SimMIM (needs scipy).
        part: which of several state dicts in one file, for instance ``"state_dict_ema"``, ``"teacher"`` or
            ``"student"``; None: the raw weights before their moving average, the teacher before the student.
        mmap: whether a file is mapped into memory instead of copied, which saves time and memory where it is large (the
            tensors of a state dict: shared instead of copied).
            Do not write to the file, in place, while the model is in use: the system may end the process (SIGBUS).
        verify: whether the checksums in a file of ``torch.save`` are verified, for which all of it is read.
        dtype: of the model's weights; None: as in the source.
        **fields: fields of SwinConfig that the model is to have. Weights are changed where these say so:
            ``num_classes``: another number of classes gets a newly initialised head, and the class names and the task
            are dropped (1000 of ImageNet-22k's 21,841 keep the rows of those classes, as in the official code, and get
            the names of ImageNet-1k); 0 removes the head. Of a SimMIM's weights, the mask token and the decoder are
            dropped.
            ``in_chans``: the patch embedding is adapted, the sum over channels kept, and the preprocessing, made for
            the old number, is dropped.
            ``window_size``: tables of position biases are resized, a continuous bias keeps the windows that it was
            trained with.
            ``out_norms``, ``out_indices``: norms of the maps that the weights do not have are newly initialised, those
            that are not asked for are dropped.
            ``decoder_stride``: the head is dropped; mask token and decoder are newly initialised.
            All others say what the weights leave open, as in ``config`` and above it: ``drop_path_rate=0.1``,
            ``frozen_stages=2``.

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
        >>> backbone = swindow.load(path, num_classes=0, out_norms=True, out_indices=(1, 2))
        >>> [tuple(y.shape) for y in backbone.pyramid(torch.zeros(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8)]
    """
    if config is not None and not isinstance(config, (SwinConfig, Mapping)):
        raise ConfigError(f"config: got {config!r}, expected a SwinConfig or a dict of its fields")
    known = config.to_dict() if isinstance(config, SwinConfig) else config or {}
    request = Request(
        config=known,
        layout=layout,
        input_size=input_size,
        table_resize=table_resize or "bicubic",
        part=part,
        mmap=mmap,
        verify=verify,
        dtype=dtype,
        fields={**fields},
    )
    return model_of(load_parts(source, request))


def adopt(theirs: nn.Module) -> SwinTransformer | Any:
    """Returns our model with the weights of a live model of another library, in the same mode and on the same device.

    It is a SwinTransformer; a SimMIM for a model of pre-training, with a decoder. Weights whose arrangement is the same
    in both share memory: training one changes the other. Windows, sizes, epsilon and stochastic depth are read off the
    model; other dropout is not, and nothing is frozen. ``model.load_report`` says which layout it was.

    Args:
        theirs: an instance of timm's, torchvision's, transformers', MONAI's or the official Swin Transformer; also a
            larger model with one in it, of which the rest is left.

    Raises:
        CheckpointError: it is none of these, or not finite.
    """
    if isinstance(theirs, (SwinTransformer, SimMIM)):
        return theirs
    return model_of(adopted(theirs)).train(theirs.training)


def inflate(model: SwinTransformer, window_frames: int = 8, patch_frames: int = 2) -> SwinTransformer | Any:
    """Returns a video model with the weights of an image model: a clip of one image gives the logits of the image.

    The patch embedding's kernel is repeated over the frames of a patch and divided by their number; bias tables are
    repeated over time, and a continuous bias does not look at time yet. Merging stays one of height and width. Clips
    are (B, in_chans, T, H, W), T any number of frames.

    The video model is in eval mode.

    Args:
        model: an image model, for instance from ``swindow.load``; it is not changed.
        window_frames: tokens of a window along time (8 for the published video models).
        patch_frames: frames of a patch (2 for the published video models).

    Raises:
        InputError: the model is a SimMIM.
        ConfigError: the model is no image model, or a number is below 1.

    Example:
        >>> import swindow
        >>> video = inflate(swindow.create("swin_nano", num_classes=3))
        >>> video(torch.zeros(1, 3, 5, 32, 32)).shape
        torch.Size([1, 3])
    """
    require_swin(model, "inflate")
    video = assemble(*inflated(model.config, named(model), window_frames, patch_frames))
    if model.card is not None:
        # the size is of images; how many frames a clip has is not known
        video.card = model.card.replace(input_size=None, description=None)
    return video.eval()
