"""A model in evaluation mode beside the caller's own, which is not switched: other threads may train or use it."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from .. import private
from .swin import SwinTransformer


def evaluation_twin(model: SwinTransformer) -> SwinTransformer:
    """Returns a copy of the modules in evaluation mode, with the same parameters, buffers and hooks.

    It takes some milliseconds and no memory for weights. Nothing of the model is changed, ``requires_grad`` of frozen
    parameters included.
    """
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for module in model.modules():  # tensors that are neither: those of pruning, or that a hook keeps
        shared |= {id(value): value for value in vars(module).values() if isinstance(value, Tensor)}
        shared |= {id(hooks): hooks for hooks in private.hooks_of(module)}
    shared |= {id(value): value for value in (model.config, model.card, model.load_report)}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        module.training = False  # eval() would freeze the shared parameters, too, where the config says so
    return twin
