"""Which matrix product runs on which processor: PyTorch's own ``F.linear`` or oneDNN's, and where.

On x86 processors ``F.linear`` in fp32 calls MKL. MKL does not use all that processors of other makers than Intel
can do; oneDNN does. Which one is faster follows from a table, never from a timing while the program runs: the two round
differently, and a resumed run has to give what an uninterrupted one gives. The environment variable ``SWINDOW_PRODUCT``
or ``model.set_kernel(..., product=)`` overrides the table.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import private
from ..errors import ConfigError, nearest
from . import fast_path, recompute

PRODUCTS = ("torch", "onednn")
VARIABLE = "SWINDOW_PRODUCT"


class Processor(NamedTuple):
    """What the table is read by.

    Attributes:
        vendor: as the processor names itself, for instance "AuthenticAMD"; empty: unknown.
        family: the maker's number of its generation; 0: unknown.
        capability: the widest instructions that PyTorch uses, for instance "AVX512".
        bf16: whether it multiplies bfloat16 (AVX512-BF16 or AMX).
    """

    vendor: str
    family: int
    capability: str
    bf16: bool = False

    def __str__(self) -> str:
        family = f" family {self.family}" if self.family else ""
        return f"{self.vendor or 'unknown processor'}{family}, {self.capability}{', bf16' if self.bf16 else ''}"


class Area(NamedTuple):
    """Sizes of products: at most so many rows of tokens, at least so many weights, and multiplications (both times)."""

    rows: int
    weights: int
    multiplications: int = 0

    def holds(self, rows: int, weights: int) -> bool:
        """Returns whether a product is in it."""
        return rows <= self.rows and weights >= self.weights and rows * weights >= self.multiplications

    def holds_some(self, weights: int) -> bool:
        """Returns whether a product with so many weights can be in it."""
        return self.holds(self.rows, weights)

    def __str__(self) -> str:
        limits = (
            f"up to {self.rows:,} rows" if self.rows < ALL.rows else "",
            f"from {self.weights:,} weights" if self.weights else "",
            f"from {self.multiplications / 1e6:g} million multiplications" if self.multiplications else "",
        )
        return f" ({', '.join(filter(None, limits))})" if any(limits) else ""


ALL, NONE = Area(2**62, 0), Area(0, 2**62)
LARGE, MEDIUM = Area(2**62, 0, 25_000_000), Area(2**62, 0, 5_000_000)  # a call of oneDNN takes 15 us before it starts


class Choice(NamedTuple):
    """Where oneDNN multiplies in fp32; elsewhere ``F.linear`` does.

    Attributes:
        plain: the weights as they are, without gradients.
        packed: the weights prepacked, in ``deploy()``.
        training: the output and the gradient of the input in training.
        weight_gradient: the gradient of the weight in training.
        gelu: whether GELU is applied inside the product where oneDNN computes it.
        bf16: whether attention and MLP run in blocks in bfloat16 too, where the processor multiplies it.
    """

    plain: Area
    packed: Area
    training: Area
    weight_gradient: Area
    gelu: bool
    bf16: bool = False

    def __str__(self) -> str:
        areas = {
            "inference": self.plain,
            "prepacked weights": self.packed,
            "training": self.training,
            "gradients of weights": self.weight_gradient,
        }
        ours = [f"{name}{area}" for name, area in areas.items() if area != NONE]
        theirs = [name for name, area in areas.items() if area == NONE]
        extras = (", GELU inside" if self.gelu else "", "; bf16 in blocks" if self.bf16 else "")
        if not ours:
            return f"fp32 products by PyTorch{''.join(extras)}"
        if len(set(areas.values())) == 1:
            return f"fp32 products by oneDNN{self.plain}{''.join(extras)}"
        rest = f"; by PyTorch: {', '.join(theirs)}" if theirs else ""
        return f"fp32 products by oneDNN: {', '.join(ours)}{extras[0]}{rest}{extras[1]}"


class Row(NamedTuple):
    """A choice, the processors it is for, and where it was measured."""

    vendor: str
    families: range
    capability: str
    choice: Choice
    measured: str


TORCH = Choice(NONE, NONE, NONE, NONE, gelu=False)
ONEDNN = Choice(ALL, ALL, ALL, ALL, gelu=False)
# The first row that fits counts; where none does, F.linear multiplies.
TABLE = (
    Row(
        "AuthenticAMD",
        range(26, 100),
        "AVX512",
        Choice(MEDIUM, MEDIUM, MEDIUM, MEDIUM, gelu=True),
        "2 cores of an AMD EPYC, family 26 by its rate, 2026-11: oneDNN 500 GFLOP/s, MKL 210; not bf16",
    ),
    Row(
        "AuthenticAMD",
        range(25, 26),
        "AVX512",
        Choice(LARGE, MEDIUM, LARGE, NONE, gelu=False, bf16=True),
        "2 cores of an AMD EPYC of family 25 model 17 (Zen 4), 2026-11: oneDNN 205 GFLOP/s, MKL 190, weight gradients "
        "by MKL 1.02 times as fast; GELU inside saves nothing",
    ),
    Row(
        "AuthenticAMD",
        range(100),
        "AVX2",
        Choice(Area(128, 2**20), Area(512, 2**17), NONE, NONE, gelu=False),
        "2 cores of an AMD EPYC with AVX2, 2026-11: benchmarks/results/speed-tried.md",
    ),
)


@functools.cache
def processor() -> Processor:
    """Returns what this machine's processor says about itself."""
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # Windows says "AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD", macOS "i386" or "arm"
        text = platform.processor()
    vendor = re.search(r"AuthenticAMD|GenuineIntel|HygonGenuine|CentaurHauls", text)
    family = re.search(r"(?:cpu family\s*:|Family)\s*(\d+)", text)
    bf16 = capability == "AVX512" and re.search(r"\b(avx512_bf16|amx_bf16)\b", text) is not None
    return Processor(vendor[0] if vendor else "", int(family[1]) if family else 0, capability, bf16)


@functools.cache
def row(of: Processor) -> Row | None:
    """Returns the row of the table for a processor; None where it was not measured: ``F.linear`` multiplies there."""
    fits = (r for r in TABLE if r.vendor == of.vendor and of.family in r.families and r.capability == of.capability)
    return next(fits, None)


def choice(product: str | None = None) -> Choice:
    """Returns where oneDNN multiplies: as asked for, else as the environment says, else by the table.

    Args:
        product: "torch" (``F.linear`` everywhere), "onednn" (oneDNN everywhere), or None.

    Raises:
        ConfigError: there is no such product.
    """
    if product is not None and not isinstance(product, str):
        raise ConfigError(f"product: got {product!r}, expected one of {', '.join(PRODUCTS)}")
    return _choice(product, os.environ.get(VARIABLE))


@functools.cache
def _choice(product: str | None, variable: str | None) -> Choice:
    for name, where in ((product, "product"), (variable, VARIABLE)):
        if name not in (None, "", *PRODUCTS):
            hint = nearest(str(name), PRODUCTS)
            raise ConfigError(f"{where}: got {name!r}{hint}, expected one of {', '.join(PRODUCTS)}")
    name = product or variable
    if not private.has_onednn_linear() or name == "torch":
        return TORCH
    if name == "onednn":
        return ONEDNN
    found = row(processor())
    return TORCH if found is None else found.choice


def bf16_in_blocks(product: str | None = None) -> bool:
    """Returns whether attention and MLP run in blocks in bfloat16: where the choice says so and the processor can."""
    return choice(product).bf16 and processor().bf16


def description(product: str | None = None) -> str:
    """Returns the processor and its products in one line, as a run's state records them.

    Example:
        >>> description("torch").partition("; ")[2]
        'fp32 products by PyTorch'
    """
    return f"{processor()}; {choice(product)}"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, product: str | None = None, gelu: bool = False) -> Tensor:
    """Returns x W^T + b, (..., out) for tokens (..., in), by the product that suits the processor, with gradients.

    Args:
        x: (..., in), on a CPU.
        weight: (out, in).
        bias: (out,) or None.
        product: as of ``choice``.
        gelu: whether the exact GELU follows.
    """
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if x.dtype == weight.dtype == torch.float32 and x.numel() > 0:
        chosen, rows = choice(product), x.numel() // x.shape[-1]
        source = recompute.saved(x) if trains else None
        if source is not None and (source.recomputes or chosen.training.holds(rows, weight.numel())):
            y: Tensor = _Linear.apply(x, weight, bias, chosen, source)  # type: ignore[no-untyped-call]
            return F.gelu(y) if gelu else y
        if not trains and chosen.plain.holds(rows, weight.numel()):
            fused = gelu and chosen.gelu
            y = private.onednn_linear(x, weight, bias, fused)
            return private.gelu_(y) if gelu and not fused else y
    y = F.linear(x, weight, bias)
    if not gelu:
        return y
    return F.gelu(y) if trains else private.gelu_(y)


def input_gradient(gradient: Tensor, weight: Tensor, chosen: Choice) -> Tensor:
    """Returns dX = dY W, (rows, in), for dY (rows, out) and W (out, in)."""
    if gradient.dtype == torch.float32 and chosen.training.holds(len(gradient), weight.numel()):
        return private.onednn_linear(gradient, weight.t(), None)
    return gradient @ weight


def weight_gradient(gradient: Tensor, x: Tensor, chosen: Choice) -> Tensor:
    """Returns dW = dY^T X, (out, in), for dY (rows, out) and X (rows, in)."""
    if gradient.dtype == torch.float32 and chosen.weight_gradient.holds(len(x), gradient.shape[1] * x.shape[1]):
        if gradient.shape[1] > x.shape[1]:  # oneDNN copies its second factor: the smaller one
            return private.onednn_linear(x.t(), gradient.t(), None).t()
        return private.onednn_linear(gradient.t(), x.t(), None)
    return gradient.t() @ x


class _Linear(torch.autograd.Function):
    """x W^T + b, forward and backward by oneDNN where the choice says so."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, chosen: Choice, source: recompute.Saved
    ) -> Tensor:
        ctx.save_for_backward(weight, *source.tensors)
        ctx.chosen, ctx.restore = chosen, source.restore
        if chosen.training.holds(x.numel() // x.shape[-1], weight.numel()):
            return private.onednn_linear(x, weight, bias)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        rows, shape = gradient.reshape(-1, gradient.shape[-1]), (*gradient.shape[:-1], weight.shape[1])
        chosen = TORCH if fast_path.needs_plain_backward(gradient) else ctx.chosen
        d_x = d_weight = None
        if wants_x:
            d_x = input_gradient(rows, weight, chosen).view(shape)
        if wants_weight:
            x = ctx.restore(*tensors)
            d_weight = weight_gradient(rows, x.flatten(0, -2), chosen)
        return d_x, d_weight, rows.sum(0) if wants_bias else None, None, None
