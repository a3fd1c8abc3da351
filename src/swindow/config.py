"""The description of a Swin Transformer: one frozen, validated dataclass. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from .errors import ConfigError, nearest

PerAxis = tuple[int, ...]  # one number per axis of the grid: (H, W) or (T, H, W)
PerStage = tuple[PerAxis, ...]  # one such tuple per stage


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """All that defines a Swin Transformer's architecture (Swin section 3.3 names the variants).

    Shorthands are expanded when the object is built, so that every field reads in its canonical form: an int for
    ``patch_size`` becomes two axes; ``window_size`` is one int, or one entry per stage (each an int or a tuple of one
    int per axis).

    Attributes:
        embed_dim: channels C after the patch embedding; stage i has ``C * 2**i``.
        depths: blocks per stage. Every second block of a stage is shifted.
        num_heads: attention heads per stage; each must divide the stage's channels where there is no ``head_dim``.
        head_dim: channels per attention head, one int or one per stage; None: the stage's channels over its heads.
        window_size: tokens per window side, per stage and axis (M in the paper).
        pretrained_window_size: the window that a continuous position bias was trained with, per stage and axis, as
            ``window_size``; offsets are normalised by it. None: ``window_size``. A table ignores it.
        patch_size: pixels per patch side and axis; its length is the number of axes (2: images, 3: video, volumes).
        in_chans: channels of the input.
        num_classes: outputs of the classification head; 0 builds no head, and ``forward`` returns the pooled features.
        mlp_ratio: hidden width of a block's MLP over its input width.
        qkv_bias: whether the query, key and value projection has a bias; ``"qv"``: queries and values only.
        patch_norm: whether a LayerNorm follows the patch embedding.
        absolute_position_size: grid (tokens per axis) of a learned absolute position embedding; None: there is none.
        similarity: of queries and keys: ``"dot"`` is QK^T / sqrt(d), ``"cosine"`` their cosine times a learned scale.
        position_bias: ``"table"`` learns a number per offset, ``"continuous"`` a function of log-spaced offsets.
        norm_placement: ``"pre"`` normalises what goes into a residual branch, ``"post"`` what comes out of it.
        merge_norm: patch merging normalises the 4C channels before (``"pre"``) or the 2C after (``"post"``) its layer.
        extra_norm_period: a LayerNorm more at the end of every so many blocks of a stage; 0: none (SwinV2 huge, giant).
        merge_axes: the axes that patch merging halves; None: the last two (H and W).
        final_merge: whether a patch merging follows the last stage too; only decoders use its result (MONAI).
        mask_token: whether there is a learned token that stands for hidden patches (SimMIM). None: where there is a
            decoder; nothing else uses it.
        decoder_stride: pixels per side that SimMIM's decoder draws for each token of the last map; 0: no decoder. Above
            0 the model is a SimMIM, without a head.
        drop_rate: dropout after the embedding, the projections and inside the MLPs (fraction).
        attn_drop_rate: dropout of attention probabilities (fraction).
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first (fraction).
        out_indices: the stages, from 0, whose maps ``pyramid`` returns; None: all.
        out_norms: whether each of these maps goes through a LayerNorm of its own, as detectors want it; the last
            stage's then takes the place of the final norm.
        frozen_stages: how much is not trained: 0 the patch embedding, n that and the first n stages; -1: nothing.
        patch_remainder: pixels that fill no patch are completed with zeros (``"pad"``) or left out (``"drop"``).
        shrink: what happens where a map is smaller than the window: ``None`` keeps the window and pads the map,
            ``"axis"`` takes w = min(w, g) on each axis, ``"min"`` takes w = min(grid) on every axis and shifts nothing.
        shift_single: whether an axis that one window covers is shifted all the same.
        mask_padding: whether padding tokens are kept out of the softmax.
        norm_eps: epsilon of every LayerNorm.

    Raises:
        ConfigError: a field has the wrong type, length or range; the message says which and what would do.

    Example:
        >>> SwinConfig(embed_dim=96, depths=(2, 2), num_heads=(3, 6), window_size=7).window_size
        ((7, 7), (7, 7))
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    head_dim: tuple[int, ...] | None = None
    window_size: PerStage = 7  # type: ignore[assignment]  # the field has the canonical type, shorthands are expanded
    pretrained_window_size: PerStage | None = None
    patch_size: PerAxis = 4  # type: ignore[assignment]
    in_chans: int = 3
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    qkv_bias: bool | Literal["qv"] = True
    patch_norm: bool = True
    absolute_position_size: PerAxis | None = None
    similarity: Literal["dot", "cosine"] = "dot"
    position_bias: Literal["table", "continuous"] = "table"
    norm_placement: Literal["pre", "post"] = "pre"
    merge_norm: Literal["pre", "post"] = "pre"
    extra_norm_period: int = 0
    merge_axes: PerAxis = None  # type: ignore[assignment]
    final_merge: bool = False
    mask_token: bool = None  # type: ignore[assignment]
    decoder_stride: int = 0
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    out_indices: tuple[int, ...] | None = None
    out_norms: bool = False
    frozen_stages: int = -1
    patch_remainder: Literal["pad", "drop"] = "pad"
    shrink: Literal["axis", "min"] | None = None
    shift_single: bool = False
    mask_padding: bool = True
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        def put(field: str, value: Any) -> None:
            object.__setattr__(self, field, value)  # the object is frozen

        put("depths", _ints("depths", self.depths, least=1))
        put("num_heads", _ints("num_heads", self.num_heads, least=1, length=len(self.depths)))
        if self.head_dim is not None:
            given: Any = self.head_dim
            each = (given,) * self.num_stages if isinstance(given, int) else given
            put("head_dim", _ints("head_dim", each, least=1, length=len(self.depths)))
        patch: Any = self.patch_size
        patch = (patch,) * 2 if isinstance(patch, int) else patch
        put("patch_size", _ints("patch_size", patch, least=1))
        if self.ndim > 3:
            raise ConfigError(f"patch_size: got {self.patch_size}, expected 1 to 3 axes")
        put("window_size", self._windows("window_size"))
        if self.pretrained_window_size is not None:
            put("pretrained_window_size", self._windows("pretrained_window_size"))
        merge: Any = self.merge_axes
        put("merge_axes", _ints("merge_axes", tuple(range(self.ndim))[-2:] if merge is None else merge, least=0))
        token: Any = self.mask_token
        put("mask_token", self.decoder_stride != 0 if token is None else token)
        if self.out_indices is not None:
            put("out_indices", _ints("out_indices", self.out_indices, least=0))
        if self.absolute_position_size is not None:
            size = _ints("absolute_position_size", self.absolute_position_size, least=1, length=self.ndim)
            put("absolute_position_size", size)
        self._check()

    def _windows(self, field: str) -> PerStage:
        """The window of every stage, expanded from an int or one entry per stage."""
        given: Any = getattr(self, field)
        if isinstance(given, int):
            given = (given,) * self.num_stages
        if not isinstance(given, (tuple, list)) or len(given) != self.num_stages:
            one = tuple(given) if isinstance(given, (tuple, list)) and len(given) == self.ndim else (7,) * self.ndim
            raise ConfigError(
                f"{field}: got {given!r}, expected one int or one entry for each of the {self.num_stages} stages; try "
                f"{field}={(one,) * self.num_stages}"
            )
        counts = {len(window) if isinstance(window, (tuple, list)) else self.ndim for window in given}
        if len(counts) == 1 and self.ndim not in counts:  # windows that are right for another number of axes
            (count,) = counts
            raise ConfigError(
                f"got patch_size {self.patch_size} of {_axes(self.ndim)} and in {field} {given[0]!r} of "
                f"{_axes(count)}, expected one number per axis in both; try another, for instance "
                f"patch_size={(self.patch_size[0],) * count}"
            )
        axes = ((w,) * self.ndim if isinstance(w, int) else w for w in given)
        return tuple(_ints(f"{field}[{i}]", w, least=1, length=self.ndim) for i, w in enumerate(axes))

    def _check(self) -> None:
        """Raises ConfigError where a field is out of its range."""
        for field, least in _LEAST.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{field}: got {value!r}, expected an int of at least {least}")
        for field in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ConfigError(f"{field}: got {value!r}, expected a fraction from 0 up to, not including, 1")
        for field in ("mlp_ratio", "norm_eps"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigError(f"{field}: got {value!r}, expected a finite number above 0")
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise ConfigError(f"mlp_ratio: got {self.mlp_ratio}, which leaves no hidden channel of {self.embed_dim}")
        for field, known in _CHOICES.items():
            value = getattr(self, field)
            if not any(value is k or (isinstance(k, str) and value == k) for k in known):
                raise ConfigError(f"{field}: got {value!r}, expected {_either(known)}")
        if self.mask_token != (self.decoder_stride > 0):
            raise ConfigError(
                f"got mask_token={self.mask_token} and decoder_stride={self.decoder_stride}, expected both or neither; "
                "try mask_token=True, decoder_stride=32 for SimMIM"
            )
        for i, heads in enumerate(self.num_heads):
            if self.head_dim is None and self.width(i) % heads:
                raise ConfigError(
                    f"num_heads[{i}]: got {heads}, which does not divide the {self.width(i)} channels of stage {i}; "
                    "try another number, or head_dim="
                )
        if max(self.out_stages) >= self.num_stages or list(self.out_stages) != sorted(set(self.out_stages)):
            raise ConfigError(
                f"out_indices: got {self.out_indices}, expected rising numbers below the {self.num_stages} stages"
            )
        if self.frozen_stages > self.num_stages:
            raise ConfigError(f"frozen_stages: got {self.frozen_stages}, expected at most {self.num_stages}")
        if any(axis >= self.ndim for axis in self.merge_axes) or len(set(self.merge_axes)) < len(self.merge_axes):
            raise ConfigError(f"merge_axes: got {self.merge_axes}, expected different axes below {self.ndim}")

    @property
    def ndim(self) -> int:
        """Axes of the grid: 2 for images, 3 for video and volumes."""
        return len(self.patch_size)

    @property
    def num_stages(self) -> int:
        """Stages of the hierarchy; patch merging stands between two of them."""
        return len(self.depths)

    @property
    def out_stages(self) -> tuple[int, ...]:
        """``out_indices`` written out."""
        return tuple(range(self.num_stages)) if self.out_indices is None else self.out_indices

    @property
    def head_dims(self) -> tuple[int, ...]:
        """``head_dim`` written out."""
        return self.head_dim or tuple(self.width(i) // heads for i, heads in enumerate(self.num_heads))

    def width(self, stage: int) -> int:
        """Channels of a stage: ``embed_dim * 2**stage``; as in an index, -1 is the last one.

        Raises:
            ConfigError: there is no such stage.
        """
        if not -self.num_stages <= stage < self.num_stages:
            raise ConfigError(f"width: got stage {stage}, expected one of {self.num_stages}, from 0")
        return self.embed_dim * 2 ** (stage % self.num_stages)

    def replace(self, **fields: Any) -> SwinConfig:
        """Returns a copy with some fields changed; another number of axes needs ``merge_axes`` too.

        Raises:
            ConfigError: a field is unknown (the nearest are named) or a value is wrong.
        """
        return SwinConfig.from_dict({**self.to_dict(), **fields})

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a plain dict (tuples stay tuples; JSON makes them lists, ``from_dict`` undoes it)."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SwinConfig:
        """Builds a config from a dict, for instance one read from JSON. Raises ConfigError for an unknown field."""
        check_fields(fields)
        return cls(**{name: _tuples(value) for name, value in fields.items()})


class SwinConfigFields(TypedDict, total=False):
    """The fields of SwinConfig as keyword arguments, with the shorthands that it takes."""

    embed_dim: int
    depths: Sequence[int]
    num_heads: Sequence[int]
    head_dim: int | Sequence[int] | None
    window_size: int | Sequence[int | Sequence[int]]
    pretrained_window_size: int | Sequence[int | Sequence[int]] | None
    patch_size: int | Sequence[int]
    in_chans: int
    num_classes: int
    mlp_ratio: float
    qkv_bias: bool | Literal["qv"]
    patch_norm: bool
    absolute_position_size: Sequence[int] | None
    similarity: Literal["dot", "cosine"]
    position_bias: Literal["table", "continuous"]
    norm_placement: Literal["pre", "post"]
    merge_norm: Literal["pre", "post"]
    extra_norm_period: int
    merge_axes: Sequence[int] | None
    final_merge: bool
    mask_token: bool | None
    decoder_stride: int
    drop_rate: float
    attn_drop_rate: float
    drop_path_rate: float
    out_indices: Sequence[int] | None
    out_norms: bool
    frozen_stages: int
    patch_remainder: Literal["pad", "drop"]
    shrink: Literal["axis", "min"] | None
    shift_single: bool
    mask_padding: bool
    norm_eps: float


def check_fields(names: Iterable[object]) -> None:
    """Raises ConfigError for a name that no field of SwinConfig has; the nearest are named."""
    known = [field.name for field in dataclasses.fields(SwinConfig)]
    for name in names:
        if name == "pretrained":
            raise ConfigError(
                "'pretrained' is no field of SwinConfig, but an argument of swindow.create; "
                'swindow.load takes a name: swindow.load("swin_tiny.ms_in1k")'
            )
        if name not in known:
            raise ConfigError(
                f"{name!r} is no field of SwinConfig{nearest(str(name), known)}; fields: {', '.join(known)}"
            )


_LEAST: dict[str, int] = {
    "embed_dim": 1,
    "in_chans": 1,
    "num_classes": 0,
    "extra_norm_period": 0,
    "decoder_stride": 0,
    "frozen_stages": -1,
}
_CHOICES: dict[str, tuple[object, ...]] = {
    "qkv_bias": (True, False, "qv"),
    "patch_norm": (True, False),
    "similarity": ("dot", "cosine"),
    "position_bias": ("table", "continuous"),
    "norm_placement": ("pre", "post"),
    "merge_norm": ("pre", "post"),
    "final_merge": (True, False),
    "mask_token": (True, False),
    "out_norms": (True, False),
    "patch_remainder": ("pad", "drop"),
    "shrink": (None, "axis", "min"),
    "shift_single": (True, False),
    "mask_padding": (True, False),
}


def _either(known: tuple[object, ...]) -> str:
    """``'a', 'b' or 'c'``."""
    return f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"


def _axes(count: int) -> str:
    """``1 axis``, ``2 axes``."""
    return f"{count} ax{'i' if count == 1 else 'e'}s"


def _tuples(value: Any) -> Any:
    """Lists as tuples, at any depth (JSON knows no tuples)."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _ints(field: str, value: Any, least: int, length: int | None = None) -> tuple[int, ...]:
    """``value`` as a tuple of ints, or ConfigError."""
    fits = isinstance(value, (tuple, list)) and len(value) > 0 and length in (None, len(value))
    if not fits or not all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in value):
        many = "a tuple" if length is None else f"a tuple of {length}"
        raise ConfigError(f"{field}: got {value!r}, expected {many} of ints of at least {least}")
    return tuple(value)
