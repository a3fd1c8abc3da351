"""The one rule that decides whether a layer may be computed in another way than by calling it.

What is computed is the same. But whoever looks on, or has put something in place of a layer, has to see the layers as
they are: exporters and compilers, FLOP counters, hooks, quantised or adapted layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import private

_OURS = __name__.partition(".")[0]
_PER_SAMPLE = {nn.Linear, nn.GELU, nn.Dropout, nn.LayerNorm, nn.Identity, nn.ReLU, nn.Sequential}
_FORWARDS = {kind: kind.forward for kind in (nn.Linear, nn.GELU, nn.Dropout, nn.LayerNorm)}


def may_run(x: Tensor, *modules: nn.Module) -> bool:
    """Returns whether modules may be computed in another way for an input ``x``.

    Not while tracing, scripting, compiling or exporting; not under a dispatch or function mode, a functorch transform
    or forward-mode differentiation; not with a hook on a module or on all; not on tensors of a subclass; and a layer of
    PyTorch has to be of exactly its class, with plain parameters: quantised, wrapped and parametrised layers are not.
    Nor for an empty input, for which there is nothing to save.
    """
    return _is_plain(x) and not is_watched() and x.numel() > 0 and all(is_bare(module) for module in modules)


def is_watched() -> bool:
    """Returns whether somebody records, transforms or compiles what is called in this thread."""
    return (
        torch.compiler.is_compiling()
        or private.is_tracing()
        or private.has_modes()
        or private.forward_mode()
        or private.has_global_hooks()
    )


def is_bare(module: nn.Module) -> bool:
    """Returns whether a module and all in it are as they were built: of our or PyTorch's classes, without hooks."""
    if private.has_hooks(module):
        return False
    for parameter in private.parameters_of(module):
        if parameter is not None and not _is_plain(parameter):
            return False
    kind = type(module)
    if kind in _FORWARDS:
        return kind.forward is _FORWARDS[kind] and (kind is not nn.GELU or module.approximate == "none")
    ours = all(_package(where) == _OURS for where in (kind, kind.forward))  # a function in its place is not
    return ours and all(map(is_bare, module.children()))


def _package(where: Any) -> str:
    return str(getattr(where, "__module__", "")).partition(".")[0]


def needs_plain_backward(gradient: Tensor) -> bool:
    """Returns whether a backward pass has to be PyTorch's own: it is differentiated again, or vectorised (vmap)."""
    return torch.is_grad_enabled() or private.is_batched(gradient)


def differentiably(f: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Returns the gradients of the inputs of ``f`` by PyTorch's own rules, so that they can be differentiated again.

    None for inputs that require none.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [x.view_as(x) for x in inputs]  # so that the gradient ends here, where one is the other's history
        wanted = [x for x in inputs if x.requires_grad]
        found = iter(torch.autograd.grad(f(*inputs), wanted, gradient, create_graph=again))
    return tuple(next(found) if x.requires_grad else None for x in inputs)


def is_per_sample(module: nn.Module) -> bool:
    """Returns whether a module gives a sample the same result whatever else is in the batch, and nobody looks on.

    It consists of our modules and a few of PyTorch's, without hooks, replaced ``forward`` or active dropout.
    """
    for part in module.modules():
        kind: Any = type(part)
        known = kind in _PER_SAMPLE or _package(kind) == _OURS
        if not known or _package(kind.forward) not in (_OURS, "torch") or private.has_hooks(part):
            return False
        if isinstance(part, nn.Dropout) and part.training and part.p > 0:
            return False
    return True


def is_plain_mlp(layers: nn.Module) -> bool:
    """Returns whether a module is two linear layers with biases around a GELU, with nothing dropped now."""
    names, kinds = ("fc1", "act", "drop1", "fc2", "drop2"), (nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.Dropout)
    found: dict[str, Any] = dict(layers.named_children())
    if tuple(found) != names or any(type(part) is not kind for part, kind in zip(found.values(), kinds)):
        return False
    if any(found[name].training and found[name].p for name in ("drop1", "drop2")):
        return False
    return found["fc1"].bias is not None and found["fc2"].bias is not None


def _is_plain(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided
