"""How long a model takes, beside the shortest it could take: the time of its bare matrix products.

Times on a shared machine say little; ratios of times taken in turns, in one process, say much. The limit is what the
linear layers of the blocks take through ``F.linear`` alone, at the same sizes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .errors import ConfigError, nearest
from .models import SwinTransformer
from .models.attention import QueryValueBias
from .models.block import SwinBlock

Call = Callable[[], Any]


class Ratio(NamedTuple):
    """A time over another's, round by round: the median and the quartiles."""

    median: float
    low: float
    high: float


def interleaved(cases: Mapping[str, Call], rounds: int, warm: int = 2, pause: float = 0) -> dict[str, list[float]]:
    """Calls every case in turn, ``rounds`` times over, and returns their seconds; ``warm`` rounds before do not count.

    A slow moment of the machine falls on one round of all cases, not on all rounds of one. ``pause`` (s) before each
    call lets threads of the one before fall asleep, where cases have threads of different libraries.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(warm + rounds):
        for name, call in cases.items():
            time.sleep(pause)
            start = time.perf_counter()
            call()
            _wait()
            if i >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> Ratio:
    """Returns the times of a case over those of another, taken in turns with it."""
    each = [a / b for a, b in zip(seconds, base, strict=True)]
    low, median, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return Ratio(median, low, high)


def matrix_products(model: SwinTransformer, x: Tensor, training: bool = False, prepacked: bool = False) -> Call:
    """Returns a function that computes the products of the blocks' linear layers alone, for images ``x``.

    Args:
        model: the model; its weights are used, its inputs are replaced by noise.
        x: images (B, in_chans, *pixels).
        training: whether to compute the gradients of inputs, weights and biases too.
        prepacked: whether weights are prepacked for oneDNN (fp32 on a CPU, inference).
    """
    work: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor], _: Tensor) -> None:
        bias = layer.full_bias() if isinstance(layer, QueryValueBias) else layer.bias
        leaves = (torch.randn_like(inputs[0]), layer.weight, bias)
        work.append(tuple(t if t is None else t.detach().clone().requires_grad_(training) for t in leaves))  # type: ignore[arg-type]

    layers = [m for block in model.modules() if isinstance(block, SwinBlock) for m in block.modules()]
    hooks = [m.register_forward_hook(note) for m in layers if isinstance(m, nn.Linear)]
    with torch.no_grad(), kernels.using("reference"):
        model(x)
    for hook in hooks:
        hook.remove()

    if prepacked:
        packed = [(t, torch.ops.mkldnn._reorder_linear_weight(weight), bias) for t, weight, bias in work]
        return lambda: [torch.ops.mkldnn._linear_pointwise(*three, "none", [], "") for three in packed]

    def forward() -> None:
        for t, weight, bias in work:
            F.linear(t, weight, bias)

    def both() -> None:
        for leaves in work:
            y = F.linear(*leaves)
            torch.autograd.grad(y, [t for t in leaves if t is not None], y)

    return both if training else torch.no_grad()(forward)


def ways(model: SwinTransformer, x: Tensor) -> dict[str, Callable[[], Call]]:
    """Returns, by name, what makes each way to run a model on images ``x``: eager, deploy, compile, train."""

    def inference(run: Callable[[Tensor], Tensor]) -> Call:
        return lambda: torch.no_grad()(run)(x)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).float().square().mean().backward()

    return {
        "eager": lambda: inference(model),
        "deploy": lambda: inference(model.deploy()),
        "compile": lambda: inference(torch.compile(model)),
        "train": lambda: step,
    }


def bench(
    model: SwinTransformer,
    size: Sequence[int],
    batch: int,
    names: Sequence[str] = ("eager", "deploy"),
    rounds: int = 10,
) -> list[dict[str, Any]]:
    """Times ways to run a model beside its bare matrix products.

    Args:
        model: the model, on its device.
        size: pixels per axis of the images.
        batch: images at a time.
        names: of ``eager``, ``deploy``, ``compile``, ``train``.
        rounds: how often each is called.

    Returns:
        For each way: its name, median seconds, images per second, and its ratio to the matrix products (of forward and
        backward for ``train``).

    Raises:
        ConfigError: there is no such way.
    """
    weight = model.patch_embed.proj.weight
    x = torch.randn(batch, model.config.in_chans, *size, dtype=weight.dtype, device=weight.device)
    makers = ways(model, x)
    for name in names:
        if name not in makers:
            raise ConfigError(f"bench: unknown way {name!r}{nearest(name, makers)}; known: {', '.join(makers)}")
    rows = []
    for training in (False, True):
        chosen = [name for name in names if (name == "train") == training]
        if chosen:
            model.train(training)
            cases = {"products": matrix_products(model, x, training)} | {name: makers[name]() for name in chosen}
            seconds = interleaved(cases, rounds)
            rows += [_row(name, batch, seconds[name], seconds["products"]) for name in chosen]
    model.zero_grad(set_to_none=True)
    model.eval()
    return rows


def _row(name: str, batch: int, seconds: Sequence[float], products: Sequence[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "way": name,
        "batch": batch,
        "seconds": median,
        "images_per_second": batch / median,
        "products": ratio(seconds, products)._asdict(),
    }


def _wait() -> None:
    """Waits for a GPU's work to end."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
