"""What lies beside the weights of transformers and timm: config.json, preprocessor_config.json; read and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..card import ModelCard, Preprocess
from ..config import SwinConfig
from ..errors import CheckpointError, ConfigError
from ..variants import variant_config, variant_of

RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers

# transformers' names of what is ours, one to one.
TRANSFORMERS = {
    "embed_dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "num_channels": "in_chans",
    "mlp_ratio": "mlp_ratio",
    "hidden_dropout_prob": "drop_rate",
    "attention_probs_dropout_prob": "attn_drop_rate",
    "drop_path_rate": "drop_path_rate",
    "layer_norm_eps": "norm_eps",
}

# timm's names of published SwinV2 models, whose windows no tensor tells.
TIMM = {
    "swinv2_tiny_window8_256": "swinv2_tiny_w8",
    "swinv2_tiny_window16_256": "swinv2_tiny_w16",
    "swinv2_small_window8_256": "swinv2_small_w8",
    "swinv2_small_window16_256": "swinv2_small_w16",
    "swinv2_base_window8_256": "swinv2_base_w8",
    "swinv2_base_window16_256": "swinv2_base_w16",
    "swinv2_base_window12_192": "swinv2_base_w12_192",
    "swinv2_base_window12to16_192to256": "swinv2_base_w12to16",
    "swinv2_base_window12to24_192to384": "swinv2_base_w12to24",
    "swinv2_large_window12_192": "swinv2_large_w12_192",
    "swinv2_large_window12to16_192to256": "swinv2_large_w12to16",
    "swinv2_large_window12to24_192to384": "swinv2_large_w12to24",
}


@dataclasses.dataclass
class Hints:
    """What is known of a model from beside its weights.

    Attributes:
        source: where from, for messages.
        fields: SwinConfig fields that tensors tell too, or that shapes cannot tell.
        window: the window that the model was asked for; it may have been shrunk to its maps.
        trained: SwinV2's pretrained windows, per stage.
        input_size: pixels per axis.
        card: class names and preprocessing.
        certain: whether they belong to the weights, being of one folder that was asked for.
        assumed: what could not be taken from there, for the report.
    """

    source: str = ""
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    window: Any = None
    trained: tuple[Any, ...] | None = None
    input_size: tuple[int, ...] | None = None
    card: ModelCard = ModelCard()  # noqa: RUF009  frozen
    certain: bool = True
    assumed: dict[str, str] = dataclasses.field(default_factory=dict)


def hints(neighbours: Mapping[str, Mapping[str, Any]]) -> Hints:
    """Reads config.json and preprocessor_config.json. Raises CheckpointError where they make no sense."""
    about = neighbours.get("config.json", {})
    try:
        if about.get("model_type") in ("swin", "swinv2"):
            return _of_transformers(about, neighbours.get("preprocessor_config.json"))
        if "architecture" in about and isinstance(about.get("pretrained_cfg"), Mapping):
            return _of_timm(about)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"config.json: cannot be understood ({error}); correct it or give config=") from error
    return Hints()


def _of_transformers(about: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Hints:
    act = about.get("hidden_act", "gelu")
    if act != "gelu":
        raise CheckpointError(f"config.json: got hidden_act {act!r}, expected 'gelu': Swin Transformers have no other")
    if abs(float(about.get("layer_norm_eps", 1e-5)) - 1e-5) > 1e-12:
        raise CheckpointError(
            f"config.json: got layer_norm_eps {about['layer_norm_eps']}, expected 1e-5: transformers uses another "
            "for some of its norms only, which swindow does not have"
        )
    fields = {ours: _tuple(about[theirs]) for theirs, ours in TRANSFORMERS.items() if theirs in about}
    patch = about.get("patch_size", 4)
    found = Hints("config.json", {**fields, "patch_size": _two(patch)})
    found.window = _two(about.get("window_size", 7))
    found.input_size = _two(about.get("image_size", 224))
    trained = about.get("pretrained_window_sizes")
    if trained and any(trained):
        found.trained = tuple(trained)
    if str((about.get("architectures") or [""])[0]).endswith("Backbone"):
        chosen = [i % (len(about["depths"]) + 1) for i in about.get("out_indices") or ()]
        if 0 in chosen:
            raise CheckpointError('config.json: got the stem in out_features, expected stages, "stage1" and on')
        found.fields["out_indices"] = tuple(i - 1 for i in chosen) or None
    names = about.get("id2label", {})
    labels = [str(names[key]) for key in sorted(names, key=int)]
    if labels and not all(label == f"LABEL_{i}" for i, label in enumerate(labels)):
        found.card = found.card.replace(class_names=labels)
    odd = {} if processor is None else _odd(processor)
    if odd:
        found.assumed["preprocess"] = (
            f"the library's defaults: preprocessor_config.json has {odd}, which swindow cannot do"
        )
    elif processor is not None:
        _prepare(
            found,
            "preprocessor_config.json",
            **_resizing(processor),
            interpolation=RESAMPLE.get(processor.get("resample", 3), "bicubic"),
            **{
                ours: tuple(map(float, processor[theirs]))
                for theirs, ours in (("image_mean", "mean"), ("image_std", "std"))
                if theirs in processor
            },
        )
    return found


def _prepare(found: Hints, file: str, **how: Any) -> None:
    """Puts how images are prepared on the card, or says what of it swindow cannot do."""
    try:
        found.card = found.card.replace(preprocess=Preprocess(**how))
    except ConfigError as error:
        found.assumed["preprocess"] = f"the library's defaults: {file} asks for what swindow cannot do ({error})"


def _odd(processor: Mapping[str, Any]) -> dict[str, Any]:
    """What a preprocessor_config.json asks for that our preprocessing does not do."""
    usual: dict[str, Any] = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    if isinstance(processor.get("size"), Mapping) and "shortest_edge" in processor["size"]:
        usual["do_center_crop"] = True
    odd = {key: processor[key] for key, value in usual.items() if key in processor and processor[key] is not value}
    if abs(float(processor.get("rescale_factor", 1 / 255)) - 1 / 255) > 1e-6:
        odd["rescale_factor"] = processor["rescale_factor"]
    if processor.get("resample", 3) not in RESAMPLE:
        odd["resample"] = processor["resample"]
    if any(not isinstance(processor.get(key, ()), (list, tuple)) for key in ("image_mean", "image_std")):
        odd["image_mean"] = processor.get("image_mean")
    return odd


def _resizing(processor: Mapping[str, Any]) -> dict[str, Any]:
    """How transformers' image processor resizes: the whole image, or its short side and then the centre cut out."""
    size = processor.get("size", 224)
    if isinstance(size, Mapping) and "shortest_edge" in size:
        crop = processor.get("crop_size", size["shortest_edge"])
        cut = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else _two(crop)
        return {"size": cut, "fit": "crop", "crop_fraction": min(1.0, min(cut) / size["shortest_edge"])}
    return {"size": (size["height"], size["width"]) if isinstance(size, Mapping) else _two(size), "fit": "squash"}


def _of_timm(about: Mapping[str, Any]) -> Hints:
    how, arguments = about["pretrained_cfg"], about.get("model_args") or {}
    found = Hints("config.json")
    if about["architecture"] in TIMM:
        variant = variant_config(TIMM[about["architecture"]])
        found.window, found.trained = variant.window_size[0], variant.pretrained_window_size
    if "window_size" in arguments:
        found.window = _tuple(arguments["window_size"])
    if "pretrained_window_sizes" in arguments:
        found.trained = _tuple(arguments["pretrained_window_sizes"])
    size = _two(how["input_size"][1:]) if "input_size" in how else None
    found.input_size = _two(arguments["img_size"]) if "img_size" in arguments else size
    if size is not None:
        _prepare(
            found,
            "config.json",
            size=found.input_size,
            fit="squash" if how.get("crop_mode") == "squash" else "crop",
            crop_fraction=float(how.get("crop_pct") or 0.9),
            interpolation=how.get("interpolation", "bicubic"),
            **{key: tuple(how[key]) for key in ("mean", "std") if key in how},
        )
    names = about.get("label_names") or how.get("label_names")
    if names:
        found.card = found.card.replace(class_names=list(map(str, names)))
    return found


# --- written ----------------------------------------------------------------------------------------------------------


def for_transformers(config: SwinConfig, card: ModelCard, side: int) -> dict[str, dict[str, Any]]:
    """The JSON files beside transformers' weights, by name."""
    v2 = config.similarity == "cosine"
    prefix = "Swinv2" if v2 else "Swin"
    kind = "Backbone" if config.out_norms else "ForImageClassification" if config.num_classes else "Model"
    kind = "ForMaskedImageModeling" if config.decoder_stride else kind
    trained = [w[0] for w in config.pretrained_window_size or ()]
    about: dict[str, Any] = {
        "architectures": [prefix + kind],
        "model_type": prefix.lower(),
        **{theirs: getattr(config, ours) for theirs, ours in TRANSFORMERS.items()},
        "hidden_act": "gelu",
        "patch_size": config.patch_size[0],
        "window_size": config.window_size[0][0],
        "image_size": side,
        "qkv_bias": bool(config.qkv_bias),
        "use_absolute_embeddings": config.absolute_position_size is not None,
        "out_features": [f"stage{i + 1}" for i in config.out_stages],
        **({"encoder_stride": config.decoder_stride} if config.decoder_stride else {}),
        **({"pretrained_window_sizes": trained or [0] * config.num_stages} if v2 else {}),
    }
    if config.num_classes:
        names = card.class_names or [f"LABEL_{i}" for i in range(config.num_classes)]
        about["id2label"] = {str(i): name for i, name in enumerate(names)}
        about["label2id"] = {name: i for i, name in enumerate(names)}
    files = {"config.json": about}
    how = card.preprocess
    if how is not None:
        size = dict(zip(("height", "width"), how.size))
        resizing: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": size}
        if how.fit == "crop":
            short = round(min(how.size) / how.crop_fraction)
            resizing = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": short}}
            resizing |= {"do_center_crop": True, "crop_size": size}
        files["preprocessor_config.json"] = {
            **resizing,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "resample": next(n for n, name in RESAMPLE.items() if name == how.interpolation),
            "rescale_factor": 1 / 255,
            "image_mean": how.mean,
            "image_std": how.std,
        }
    return files


def for_timm(config: SwinConfig, card: ModelCard, side: int) -> dict[str, dict[str, Any]]:
    """The config.json with which ``timm.create_model("local-dir:FOLDER")`` builds and fills the model."""
    v2, how = config.similarity == "cosine", card.preprocess or Preprocess(crop_fraction=0.9)
    variant = variant_of(config)
    published = {ours: theirs for theirs, ours in TIMM.items()}
    default = "swinv2_tiny_window8_256" if v2 else "swin_tiny_patch4_window7_224"
    windows = [max(w) for w in config.window_size]
    trained = [w[0] for w in config.pretrained_window_size or ()]
    return {
        "config.json": {
            "architecture": published.get(variant or "", default),
            "num_classes": config.num_classes,
            "num_features": config.width(config.num_stages - 1),
            "global_pool": "avg",
            "pretrained_cfg": {
                "input_size": [config.in_chans, side, side],
                "fixed_input_size": True,
                "interpolation": how.interpolation,
                "crop_pct": how.crop_fraction,
                "crop_mode": "squash" if how.fit == "squash" else "center",
                "mean": how.mean,
                "std": how.std,
                "num_classes": config.num_classes,
                "first_conv": "patch_embed.proj",
                "classifier": "head.fc",
                **({"label_names": card.class_names} if card.class_names else {}),
            },
            "model_args": {
                "img_size": side,
                "patch_size": config.patch_size[0],
                "embed_dim": config.embed_dim,
                "depths": config.depths,
                "num_heads": config.num_heads,
                "mlp_ratio": config.mlp_ratio,
                "window_size": max(windows) if v2 or len(set(windows)) == 1 else windows,
                **({"pretrained_window_sizes": trained} if trained else {}),
                **({"head_dim": config.head_dim} if config.head_dim and not v2 else {}),
            },
        }
    }


def _two(value: Any) -> tuple[int, ...]:
    """An int or a pair as a pair."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(type(v) is int and 0 < v < 2**31 for v in pair):
        raise ValueError(f"{value!r}, expected numbers above 0")
    return pair


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, (list, tuple)) else value
