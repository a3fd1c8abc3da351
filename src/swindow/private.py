"""The interfaces of PyTorch that are not public and that we use, each with what happens where it is missing.

They are looked up once, when this module is imported. Nothing else in the package names one of them, but
for the counters of ``explain.cost``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = TypeVar("Made", bound=Callable[..., Any])


def _find(*path: str) -> Any:
    """``torch.a.b`` for a path "a", "b"; None where there is none."""
    found: Any = torch
    for name in path:
        found = getattr(found, name, None)
    return found


def _assume(found: Callable[[], Any] | None) -> Callable[[], Any]:
    """A question about PyTorch's state; the careful answer, yes, where it cannot be asked."""
    return found or (lambda: True)


# --- whether somebody records or transforms what is called ------------------------------------------------------------

_functorch_active = _assume(_find("_C", "_are_functorch_transforms_active"))
_dispatch_modes = _assume(_find("_C", "_len_torch_dispatch_stack"))
_export_modes = _assume(_find("_ops", "_len_torch_dispatch_stack_pre_dispatch"))  # of make_fx, before dispatch
_function_modes = _assume(_find("_C", "_len_torch_function_stack"))
_graph_task = _find("_C", "_current_graph_task_id")
_dispatch_keys = _find("_C", "_dispatch_keys")
_saved_tensor_hooks = _find("_C", "_autograd", "_top_saved_tensors_default_hooks")
_tracing = _assume(_find("jit", "is_tracing"))
_global_hooks = tuple(
    [True] if hooks is None else hooks  # hooks by number; the careful answer where they are kept elsewhere
    for hooks in (
        _find("nn", "modules", "module", "_global_forward_hooks"),
        _find("nn", "modules", "module", "_global_forward_pre_hooks"),
        _find("nn", "modules", "module", "_global_backward_hooks"),
        _find("nn", "modules", "module", "_global_backward_pre_hooks"),
    )
)


def forward_mode() -> bool:
    """Returns whether derivatives in forward mode are computed or functions transformed (``torch.func``)."""
    level: int = getattr(torch.autograd.forward_ad, "_current_level", 0)
    return level >= 0 or _functorch_active()


def in_backward() -> bool:
    """Returns whether this thread is in the middle of a backward pass; no, where that cannot be asked."""
    return _graph_task is not None and _graph_task() != -1


def is_batched(gradient: Tensor) -> bool:
    """Returns whether a gradient stands for many: ``is_grads_batched``, ``functional.jacobian(vectorize=True)``."""
    return _dispatch_keys is None or "Batched" in str(_dispatch_keys(gradient))


def has_saved_tensor_hooks() -> bool:
    """Returns whether somebody keeps what backward needs elsewhere, for instance a checkpoint."""
    return _saved_tensor_hooks is None or _saved_tensor_hooks(False) is not None


def is_tracing() -> bool:
    """Returns whether ``torch.jit.trace`` records what is called."""
    return bool(_tracing())


def has_dispatch_modes() -> bool:
    """Returns whether a mode sees every operation of this thread, for instance FlopCounterMode or FakeTensorMode.

    Also while any thread is inside ``make_fx(pre_dispatch=True)``, whose modes PyTorch keeps for the whole process.
    """
    return bool(_dispatch_modes() or _export_modes())


def has_modes() -> bool:
    """Returns whether a mode sees every operation or every function that is called; see ``has_dispatch_modes``."""
    return has_dispatch_modes() or bool(_function_modes())


def has_global_hooks() -> bool:
    """Returns whether a hook sees every module that is called."""
    return any(_global_hooks)


def has_hooks(module: nn.Module) -> bool:
    """Returns whether somebody sees or changes the calls of a module."""
    state = module.__dict__
    try:
        hooks = state["_forward_hooks"] or state["_forward_pre_hooks"]
        return bool(hooks or state["_backward_hooks"] or state["_backward_pre_hooks"] or "forward" in state)
    except KeyError:  # this PyTorch keeps them elsewhere
        return True


def hooks_of(module: nn.Module) -> list[Any]:
    """Returns where a module keeps its hooks, of every kind that this PyTorch has."""
    return [value for name, value in vars(module).items() if name.endswith("_hooks")]


def parameters_of(module: nn.Module) -> Iterable[Tensor | None]:
    """Returns a layer's own parameters, None where it has none of a name, without the cost of ``parameters()``."""
    found: dict[str, Tensor | None] | None = module.__dict__.get("_parameters")
    return module.parameters(recurse=False) if found is None else found.values()


def constant_while_compiling(function: Made) -> Made:
    """Decorates a function that ``torch.compile`` calls, once, and takes the result of for a constant.

    As ``torch.compiler.assume_constant_result``, which imports the compiler. Where the mark means nothing, the compiler
    looks into the function.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# --- operations -------------------------------------------------------------------------------------------------------

_linear_pointwise = _find("ops", "mkldnn", "_linear_pointwise") if torch.backends.mkldnn.is_available() else None
_reorder = _find("ops", "mkldnn", "_reorder_linear_weight") if _linear_pointwise else None
_gelu = _find("ops", "aten", "gelu_")
_gelu_backward = _find("ops", "aten", "gelu_backward", "grad_input")
_layer_norm_backward = _find("ops", "aten", "native_layer_norm_backward")
_softmax_backward = _find("ops", "aten", "_softmax_backward_data")


def has_onednn_linear() -> bool:
    """Returns whether oneDNN's matrix product can be called."""
    return _linear_pointwise is not None


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """Returns x W^T + b by oneDNN, (..., out), without a gradient. The weight (out, in) may be from ``onednn_packed``.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        gelu: whether the exact GELU follows.
    """
    assert _linear_pointwise is not None
    bias = None if bias is None else bias.contiguous()  # it reads it as if it were
    result: Tensor = _linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
    return result


def onednn_packed(weight: Tensor) -> Tensor | None:
    """Returns a copy of a weight (out, in) as oneDNN reads it; None where PyTorch cannot make one."""
    return None if _reorder is None else _reorder(weight)


def gelu_(x: Tensor) -> Tensor:
    """Applies the exact GELU in place."""
    return F.gelu(x) if _gelu is None else _gelu(x)


def gelu_backward_(gradient: Tensor, x: Tensor) -> Tensor:
    """Returns the gradient of x, in place of the given one of the exact GELU(x)."""
    if _gelu_backward is not None:
        return _gelu_backward(gradient, x, grad_input=gradient)
    slope = 0.5 * (1 + (x * 0.5**0.5).erf()) + x * (-0.5 * x * x).exp() * (0.5 / torch.pi) ** 0.5
    return gradient.mul_(slope)


def softmax_backward(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """Returns the gradient of the logits, given that of their softmax over the last axis."""
    if _softmax_backward is not None:
        return _softmax_backward(gradient, probabilities, -1, probabilities.dtype)
    return probabilities * (gradient - (gradient * probabilities).sum(-1, keepdim=True))


def layer_norm_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of x (..., C), weight (C,) and bias (C,), given that of their LayerNorm over the last axis.

    None where one is not wanted; mean and rstd (..., 1) are what ``torch.native_layer_norm`` returned.
    """
    if _layer_norm_backward is not None:
        found = _layer_norm_backward(gradient, x, weight.shape, mean, rstd, weight, bias, list(wanted))
    else:
        unit, d_unit = (x - mean) * rstd, gradient * weight  # (..., C)
        d_x = rstd * (d_unit - d_unit.mean(-1, keepdim=True) - unit * (d_unit * unit).mean(-1, keepdim=True))
        found = d_x, (gradient * unit).flatten(0, -2).sum(0), gradient.flatten(0, -2).sum(0)
    return tuple(t if wants else None for t, wants in zip(found, wanted))


# --- sizes ------------------------------------------------------------------------------------------------------------


def has_static_value(size: Any) -> bool:
    """Returns whether a size is a number and not a symbol that stays open, while torch.compile looks at the code."""
    from torch.fx.experimental import symbolic_shapes

    has = getattr(symbolic_shapes, "has_static_value", None)  # not in PyTorch 2.6 and 2.7
    return has is not None and bool(has(size))
