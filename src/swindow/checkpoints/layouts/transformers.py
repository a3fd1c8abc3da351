"""transformers: the names in files of every version, and those of models in memory since version 5 (5.23 was read)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...card import CHANNELS, ModelCard, Preprocess
from ...config import SwinConfig
from ...errors import CheckpointError
from ..evidence import Evidence
from ..sidecar import Sidecars, pair, prepared, tuples, windows
from .layout import Layout
from .official import BACKBONE_ONLY, MERGE
from .rearrange import FLAT_GRID, JOINED, VECTOR
from .table import Rows, Table, Via, under

BLOCK: Rows = {
    "norm1.*": "layernorm_before.*",
    "norm2.*": "layernorm_after.*",
    "attn.proj.*": "attention.output.dense.*",
    "mlp.fc1.*": "intermediate.dense.*",
    "mlp.fc2.*": "output.dense.*",
}
V1: Rows = {
    **BLOCK,
    "attn.qkv.*": Via(("attention.self.query.*", "attention.self.key.*", "attention.self.value.*"), JOINED),
    "attn.position_bias.table": "attention.self.relative_position_bias_table",
}
V2: Rows = {
    **BLOCK,
    "attn.qkv.weight": Via(
        ("attention.self.query.weight", "attention.self.key.weight", "attention.self.value.weight"), JOINED
    ),
    "attn.q_bias": "attention.self.query.bias",
    "attn.v_bias": "attention.self.value.bias",
    "attn.similarity.logit_scale": "attention.self.logit_scale",
    "attn.position_bias.mlp.0.*": "attention.self.continuous_position_bias_mlp.0.*",
    "attn.position_bias.mlp.2.weight": "attention.self.continuous_position_bias_mlp.2.weight",
}
V1_IN_MEMORY: Rows = {
    "norm1.*": "layernorm_before.*",
    "norm2.*": "layernorm_after.*",
    "attn.qkv.*": Via(("attention.q_proj.*", "attention.k_proj.*", "attention.v_proj.*"), JOINED),
    "attn.position_bias.table": "attention.relative_position_bias.relative_position_bias_table",
    "attn.proj.*": "attention.o_proj.*",
    "mlp.fc1.*": "mlp.fc1.*",
    "mlp.fc2.*": "mlp.fc2.*",
}

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers

# Its names of what is ours, one to one.
FIELDS = {
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


def sidecar(files: Sidecars) -> Evidence | None:
    """Returns what config.json and preprocessor_config.json say; None where they are of another library."""
    about = files.get(CONFIG, {})
    return _described(CONFIG, about, files.get(PROCESSOR)) if about.get("model_type") in ("swin", "swinv2") else None


def live(model: nn.Module) -> Evidence | None:
    """Returns what the config of a live model says; None where it has none of this library."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "model_type", None) in ("swin", "swinv2"):
            return _described("its config", config.to_dict(), None)
    return None


def _described(source: str, about: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Evidence:
    if about.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(
            f"{source}: got hidden_act {about['hidden_act']!r}, expected 'gelu': Swin Transformers have no other"
        )
    if abs(float(about.get("layer_norm_eps", 1e-5)) - 1e-5) > 1e-12:
        raise CheckpointError(
            f"{source}: got layer_norm_eps {about['layer_norm_eps']}, expected 1e-5: transformers uses another "
            "for some of its norms only, which swindow does not have"
        )
    fields = {ours: tuples(about[theirs]) for theirs, ours in FIELDS.items() if theirs in about}
    fields["patch_size"] = pair(about.get("patch_size", 4))
    if str((about.get("architectures") or [""])[0]).endswith("Backbone"):
        chosen = [i % (len(about["depths"]) + 1) for i in about.get("out_indices") or ()]
        if 0 in chosen:
            raise CheckpointError(f'{source}: got the stem in out_features, expected stages, "stage1" and on')
        fields["out_indices"] = tuple(i - 1 for i in chosen) or None
    card, assumed = _preprocessing(processor)
    names = about.get("id2label", {})
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    if labels and labels != tuple(f"LABEL_{i}" for i in range(len(labels))):
        card = card.replace(class_names=labels)
    return Evidence(
        source,
        fields,
        window=pair(about.get("window_size", 7)),
        trained={i: window for i, window in enumerate(windows(about.get("pretrained_window_sizes") or ())) if window},
        input_size=pair(about.get("image_size", 224)),
        card=card,
        assumed=assumed,
    )


def _preprocessing(processor: Mapping[str, Any] | None) -> tuple[ModelCard, dict[str, str]]:
    """A card with what preprocessor_config.json asks for, and what of it swindow cannot do."""
    if processor is None:
        return ModelCard(), {}
    odd = _odd(processor)
    if odd:
        return ModelCard(), {"preprocess": f"the library's defaults: {PROCESSOR} has {odd}, which swindow cannot do"}
    statistics = {
        ours: tuple(map(float, processor[theirs]))
        for theirs, ours in (("image_mean", "mean"), ("image_std", "std"))
        if theirs in processor
    }
    interpolation = RESAMPLE.get(processor.get("resample", 3), "bicubic")
    return prepared(PROCESSOR, **_resizing(processor), interpolation=interpolation, **statistics)


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
        cut = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else pair(crop)
        return {"size": cut, "fit": "crop", "crop_fraction": min(1.0, min(cut) / size["shortest_edge"])}
    return {"size": (size["height"], size["width"]) if isinstance(size, Mapping) else pair(size), "fit": "squash"}


def files_of(config: SwinConfig, card: ModelCard, side: int) -> dict[str, dict[str, Any]]:
    """Returns the JSON files of a folder with a model, by name: with them its library builds and fills it."""
    v2 = config.similarity == "cosine"
    prefix = "Swinv2" if v2 else "Swin"
    kind = "Backbone" if config.out_norms else "ForImageClassification" if config.num_classes else "Model"
    kind = "ForMaskedImageModeling" if config.decoder_stride else kind
    trained = [w[0] for w in config.pretrained_window_size or ()]
    about: dict[str, Any] = {
        "architectures": [prefix + kind],
        "model_type": prefix.lower(),
        **{theirs: getattr(config, ours) for theirs, ours in FIELDS.items()},
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
    how = card.preprocess
    if how is None and config.in_chans in CHANNELS:
        how = Preprocess.default(side, config.in_chans)  # as swindow prepares images for such a model
    return {CONFIG: about, **({} if how is None else {PROCESSOR: _processor(how)})}


def _processor(how: Preprocess) -> dict[str, Any]:
    """How images are prepared, as preprocessor_config.json says it."""
    size = dict(zip(("height", "width"), how.size))
    resizing: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": size}
    if how.fit == "crop":
        short = round(min(how.size) / how.crop_fraction)
        resizing = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": short}}
        resizing |= {"do_center_crop": True, "crop_size": size}
    return {
        **resizing,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": next(n for n, name in RESAMPLE.items() if name == how.interpolation),
        "rescale_factor": 1 / 255,
        "image_mean": how.mean,
        "image_std": how.std,
    }


def _layout(name: str, title: str, body: str, block: Rows, cosine: bool = False, backbone: bool = False) -> Layout:
    rows: Rows = {
        "patch_embed.proj.*": f"{body}embeddings.patch_embeddings.projection.*",
        "patch_embed.norm.*": f"{body}embeddings.norm.*",
        "position_embed.embedding": Via(f"{body}embeddings.position_embeddings", FLAT_GRID),
        **under("stages.{i}.blocks.{j}.", f"{body}encoder.layers.{{i}}.blocks.{{j}}.", block),
        **under("stages.{i}.merge.", f"{body}encoder.layers.{{i}}.downsample.", MERGE),
        "norm.*": f"{body}layernorm.*",
    }
    heads: Rows = {
        "head.*": "classifier.*",
        "mask_token": Via(f"{body}embeddings.mask_token", VECTOR),
        "decoder.proj.*": "decoder.0.*",
    }
    norms: Rows = {"out_norms.{i}.*": "hidden_states_norms.stage{i+1}.*"}
    rows = {**rows, **(norms if backbone else heads)}
    in_memory = name == "transformers_5"  # where a backbone has its prefix; its files have none
    attention = "attention." if in_memory else "attention.self."
    bias = "relative_position_bias." if in_memory else ""
    return Layout(
        name,
        title,
        Table(rows),
        anchor="embeddings.patch_embeddings.projection.weight",
        body=body,
        bare="headless" if not backbone else "never" if in_memory else "always",
        inside=("hidden_states_norms.",),
        cosine=cosine,
        out_norms=None if cosine else backbone,
        # Its v1 backbone alone partitions always: no window is shrunk, and a single one is shifted.
        rule={"shrink": None if backbone else "min", "shift_single": backbone, "mask_padding": False},
        buffers={
            f"{attention}{bias}relative_position_index": "index",
            **({f"{attention}relative_coords_table": "coordinates"} if cosine else {}),
        },
        settles="min_down" if cosine else None,
        norm_optional=True,
        needs_patch_norm=True,
        left_out=BACKBONE_ONLY if backbone else {},
        preprocess={"fit": "squash"},
        folder=None if in_memory else files_of,
        folder_only=not in_memory,
        writes_buffers=False,  # it works them out itself
    )


TRANSFORMERS = (
    _layout("transformers", "transformers, Swin", "swin.", V1),
    _layout("transformers", "transformers, Swin as a backbone", "swin.", V1, backbone=True),
    _layout("transformers", "transformers, SwinV2", "swinv2.", V2, cosine=True),
    _layout("transformers_5", "state dicts of transformers 5, Swin", "swin.", V1_IN_MEMORY),
    _layout(
        "transformers_5", "state dicts of transformers 5, Swin as a backbone", "swin.", V1_IN_MEMORY, backbone=True
    ),
)
