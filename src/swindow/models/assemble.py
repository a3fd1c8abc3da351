"""A model of tensors that are there already: nothing is initialised, and nothing copied."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..config import SwinConfig
from .init import reset_linear
from .meta import meta_model
from .simmim import SwinModel

BACKBONE = "backbone."  # before the names of a SimMIM's backbone


def named(model: SwinModel) -> dict[str, Tensor]:
    """Returns a model's tensors by name, the names of a SimMIM's backbone being those of a SwinTransformer.

    Example:
        >>> from swindow.models import create
        >>> sorted(named(create("swin_nano", num_classes=3)))[-2:]
        ['stages.2.blocks.1.norm2.bias', 'stages.2.blocks.1.norm2.weight']
    """
    return {name.removeprefix(BACKBONE): tensor for name, tensor in model.state_dict().items()}


@functools.lru_cache(maxsize=16)  # weights of one model are often read several times: converted, resumed, compared
def shapes(config: SwinConfig) -> Mapping[str, torch.Size]:
    """Returns the shapes of a model's tensors, by the names of ``named``; nothing is initialised or takes memory.

    Example:
        >>> shapes(SwinConfig(embed_dim=8, depths=(1,), num_heads=(1,), num_classes=5))["head.weight"]
        torch.Size([5, 8])
    """
    return {name: tensor.shape for name, tensor in named(meta_model(config)).items()}


def assemble(config: SwinConfig, tensors: Mapping[str, Tensor]) -> SwinModel:
    """Returns the model of a config with these tensors, by the names of ``named``, which it shares.

    Raises:
        RuntimeError: they are not those of the model.
    """
    model = meta_model(config)
    full = {name.removeprefix(BACKBONE): name for name in model.state_dict()}
    model.load_state_dict({full[name]: tensor for name, tensor in tensors.items()}, assign=True)
    return model


def initial(config: SwinConfig, names: Iterable[str], like: Tensor) -> dict[str, Tensor]:
    """Returns newly initialised tensors of a model, without making the others.

    Args:
        config: of the model.
        names: of the tensors, as in ``named``: of linear layers, norms, a decoder or a mask token.
        like: gives their type and device.
    """
    wanted = list(names)
    if not wanted:
        return {}
    model = meta_model(config)
    full = {name.removeprefix(BACKBONE): name for name in model.state_dict()}
    found: dict[str, Tensor] = {}
    layers: dict[str, nn.Module] = {}
    for name in wanted:
        where, _, which = full[name].rpartition(".")
        if where not in layers and where:
            layer = layers[where] = model.get_submodule(where).to_empty(device="cpu", recurse=False)
            reset_linear(layer) if isinstance(layer, nn.Linear) else layer.reset_parameters()  # type: ignore[operator]
        if where:
            found[name] = layers[where].get_parameter(which).detach()
        else:
            found[name] = nn.init.trunc_normal_(torch.empty(config.embed_dim), std=0.02)  # the mask token
    return {name: tensor.to(like) for name, tensor in found.items()}
