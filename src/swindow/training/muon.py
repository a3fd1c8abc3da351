"""Muon for the matrices of a model, AdamW for all else. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Newton and Schulz's iteration, with the coefficients of the authors, which are those of torch.optim.Muon too.
A, B, C = 3.4445, -4.7750, 2.0315
STEPS = 5
RMS = 0.2  # of an update over the learning rate, as AdamW's have (Liu et al. 2025, arXiv 2502.16982)
MATRIX = re.compile(r"(?:^|\.)stages\.\d+\.(?:.*\.)?(qkv|proj|fc1|fc2|reduction)\.weight$")


class Muon(torch.optim.AdamW):
    """Muon for groups of parameters with ``"pieces"``, AdamW for the others.

    The update of a matrix is its momentum, approximately orthogonalised, so that all of its directions learn equally
    fast. It is scaled to the size of AdamW's updates, so learning rate and weight decay can be those of AdamW.
    torch.optim.Muon does the same for one matrix, but in bfloat16, which is slow on a processor without such
    instructions (docs/decisions/0011-muon-in-fp32.md).

    Args:
        groups: as for AdamW. ``"pieces"`` marks a group of matrices (rows, columns): the number of blocks of rows that
            are orthogonalised apart.
        lr: learning rate.
        momentum: of the matrices, from 0 up to, not including, 1.
        **adamw: the other arguments of torch.optim.AdamW.

    Raises:
        ValueError: ``momentum`` is out of range.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 1e-3, momentum: float = 0.95, **adamw: Any
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: got {momentum!r}, expected a fraction below 1")
        super().__init__(groups, lr=lr, **adamw)
        for group in self.param_groups:
            if "pieces" in group:
                group["momentum"] = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if "pieces" not in group]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if "pieces" in group:
                self._matrices(group)
        return loss

    def _matrices(self, group: dict[str, Any]) -> None:
        """The step of a group of matrices. Those of one shape go together: a GPU has fewer kernels to start."""
        lr, momentum = group["lr"], group["momentum"]
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                by_shape.setdefault(weight.shape, []).append((weight, weight.grad))
        for matrices in by_shape.values():
            changes = []
            for weight, gradient in matrices:
                state = self.state[weight]
                if not state:
                    state.update(step=torch.zeros(()), momentum=torch.zeros_like(weight))  # AdamW expects a step
                state["step"] += 1
                state["momentum"].lerp_(gradient, 1 - momentum)
                changes.append(gradient.lerp(state["momentum"], momentum))  # Nesterov's
            pieces = torch.stack(changes).unflatten(1, (group["pieces"], -1))  # (weights, pieces, rows, columns)
            scale = -lr * RMS * math.sqrt(max(pieces.shape[2:]))
            for (weight, _), change in zip(matrices, orthogonal(pieces).flatten(1, 2), strict=True):
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(change, alpha=scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """Returns matrices with approximately orthonormal rows or columns, whichever are fewer: U V^T of the SVD U S V^T.

    Five steps of Newton and Schulz's iteration bring singular values near 1 (0.7 to 1.2); the smallest stay below.

    Args:
        matrices: (..., rows, columns), any float dtype.

    Returns:
        (..., rows, columns) in fp32.
    """
    x = matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if tall else x


def matrices_apart(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the groups of ``parameter_groups``, with the matrices inside the stages in groups of their own.

    Parameters, learning rates and weight decay stay the same; groups of matrices have ``"pieces"``. Queries, keys and
    values, which are one parameter, are three matrices. The patch embedding, position tables and the head are not
    among them.
    """
    pieces = {
        id(parameter): 3 if match[1] == "qkv" else 1
        for name, parameter in model.named_parameters()
        if (match := MATRIX.search(name)) and parameter.ndim == 2
    }
    found = []
    for group in groups:
        for count in (None, 1, 3):
            some = [parameter for parameter in group["params"] if pieces.get(id(parameter)) == count]
            if some:
                found.append({**group, "params": some, **({} if count is None else {"pieces": count})})
    return found
