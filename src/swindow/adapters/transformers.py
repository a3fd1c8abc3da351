"""Our model as a backbone of transformers: in UperNet, Mask2Former, DETR, ... (needs transformers 5 or newer)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from ..config import SwinConfig
from ..errors import InputError
from ..models import SwinTransformer, require_swin
from . import freeze_unused


class SwindowConfig(BackboneConfigMixin, PreTrainedConfig):
    """transformers' description of a backbone of ours; ``config.json`` files hold it as model type "swindow".

    Attributes:
        architecture: the fields of a SwinConfig, as JSON values. Its ``out_indices`` are settled by ``out_features``
            where these are given.
        stage_names: "stem", "stage1", ...: stage i of ours is "stage{i + 1}".
    """

    model_type = "swindow"

    architecture: dict[str, Any] | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        swin = SwinConfig.from_dict(self.architecture or {})
        self.stage_names = ["stem", *(f"stage{i + 1}" for i in range(swin.num_stages))]
        features, indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        if features is None and indices is None:
            indices = [i + 1 for i in swin.out_stages]
        self.set_output_features_output_indices(out_features=features, out_indices=indices)
        if 0 in self.out_indices:
            raise InputError('SwindowConfig: got the stem in out_features, expected stages, "stage1" and on')
        self.architecture = swin.replace(num_classes=0).to_dict()
        self.hidden_size = swin.width(swin.num_stages - 1)
        super().__post_init__(**kwargs)


class SwindowBackbone(BackboneMixin, PreTrainedModel):
    """A SwinTransformer behind transformers' backbone protocol.

    Args:
        config: what to build, with random weights. ``SwindowBackbone.of`` takes a model as it is.

    Attributes:
        model: the SwinTransformer.
    """

    config_class = SwindowConfig
    main_input_name = "pixel_values"
    has_attentions = False

    def __init__(self, config: SwindowConfig) -> None:
        super().__init__(config)
        stages = tuple(i - 1 for i in config.out_indices)
        swin = SwinConfig.from_dict(config.architecture or {}).replace(out_indices=stages)
        self.num_features = [swin.embed_dim, *(swin.width(i) for i in range(swin.num_stages))]
        self.model = freeze_unused(SwinTransformer(swin))
        self.post_init()

    @classmethod
    def of(cls, model: SwinTransformer) -> SwindowBackbone:
        """Returns a backbone with a copy of the model's weights, without its head.

        Give the model ``out_norms=True`` (``swindow.create``) for heads that want normalised maps, as UperNet does.
        """
        require_swin(model, "SwindowBackbone.of")
        backbone = cls(SwindowConfig(architecture=model.config.to_dict()))
        weights = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
        backbone.model.load_state_dict(weights)
        return backbone

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, return_dict: bool | None = None
    ) -> BackboneOutput | tuple[tuple[Tensor, ...], ...]:
        """Returns the pyramid's maps, (B, C_i, H_i, W_i) each, as ``feature_maps`` for images (B, in_chans, H, W).

        ``hidden_states``, where asked for, are the same maps. Attention maps are not given here: see
        ``swindow explain``.
        """
        maps = tuple(self.model.pyramid(pixel_values))
        hidden = maps if output_hidden_states else None
        if return_dict is False:
            return (maps,) if hidden is None else (maps, hidden)
        return BackboneOutput(feature_maps=maps, hidden_states=hidden)

    def train(self, mode: bool = True) -> SwindowBackbone:
        """Sets training or evaluation mode; what is frozen or not used stays so (``from_pretrained`` unfreezes it)."""
        super().train(mode)
        freeze_unused(self.model)
        return self

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.model:
            self.model.reset_parameters()


AutoConfig.register("swindow", SwindowConfig)
AutoBackbone.register(SwindowConfig, SwindowBackbone)
