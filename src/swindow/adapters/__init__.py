"""Our model in other libraries' backbone protocols: ``adapters.transformers`` and ``adapters.torchvision``.

Each module needs the library that it is named after, which swindow itself does not.
"""

from __future__ import annotations

from ..models import SwinTransformer, require_swin


def freeze_unused(model: SwinTransformer) -> SwinTransformer:
    """Returns the model, in which nothing is trained any more that ``pyramid`` does not use.

    That is head and final norm, and what follows the last stage of ``config.out_indices``: such weights never get a
    gradient, which distributed training takes for an error.
    """
    require_swin(model, "adapters")
    last = model.config.out_stages[-1]
    for module in (model.head, model.norm, model.stages[last].merge, *list(model.stages)[last + 1 :]):
        module.requires_grad_(False)
    return model
