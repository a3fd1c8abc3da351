"""The linear layer of every block: nn.Linear in all but how its product is computed and how it starts."""

from __future__ import annotations

from torch import Tensor, nn

from .. import kernels


class Linear(nn.Linear):
    """x W^T + b."""

    def reset_parameters(self) -> None:
        """Starts as published: weights normal of standard deviation 0.02 (truncated at 2: nowhere), biases 0."""
        nn.init.normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., out) for tokens (..., in)."""
        return kernels.linear(x, self.weight, self.bias)
