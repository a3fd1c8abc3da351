"""How long a model takes, compared with the least it could take: the time of its matrix products.

These are the linear layers of its blocks, run through ``F.linear`` alone at the same sizes.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import private
from ..errors import ConfigError, nearest
from ..models import SwinTransformer
from ..models.block import SwinBlock
from ..sizes import image_size
from ..timing import Call, interleaved, ratio
from .file_runtimes import open_file


def matrix_products(model: SwinTransformer, x: Tensor, training: bool = False, prepacked: bool = False) -> Call:
    """Returns a function that computes the products of the blocks' linear layers alone, for images ``x``.

    Args:
        model: the model; its weights are used, its inputs are replaced by noise.
        x: images (B, in_chans, *pixels).
        training: whether to compute the gradients of inputs, weights and biases too.
        prepacked: whether weights are prepacked for oneDNN (fp32 on a CPU, inference).
    """
    work: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor], _: Tensor) -> None:  # with hooks, layers are called as they are
        leaves = (torch.randn_like(inputs[0]), layer.weight, layer.bias)
        work.append(tuple(t if t is None else t.detach().clone().requires_grad_(training) for t in leaves))  # type: ignore[arg-type]

    blocks = [m for m in model.modules() if isinstance(m, SwinBlock)]
    layers = [named for block in blocks for named in block.named_modules() if isinstance(named[1], nn.Linear)]
    hooks = [m.register_forward_hook(note) for name, m in layers if "position_bias" not in name]  # reads no tokens
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()

    if prepacked:
        packed = [(t, private.onednn_packed(weight), bias) for t, weight, bias in work]
        return lambda: [private.onednn_linear(t, weight, bias) for t, weight, bias in packed if weight is not None]

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


def bench_file(
    path: str | Path,
    size: int | None,
    batch: int,
    runtimes: Sequence[str] = ("auto",),
    rounds: int = 10,
    threads: int | None = None,
    trust: bool = False,
    frames: int | None = None,
) -> list[dict[str, Any]]:
    """Times an exported file in some runtimes, beside the bare matrix products of its model in PyTorch.

    Args:
        path: the file.
        size: height and width of the images, in pixels (of a file that takes photos, of the photos); None: what the
            file is for.
        batch: images at a time.
        runtimes: as of ``Predictor.open``.
        rounds: how often each is called.
        threads, trust: as of ``Predictor.open``.
        frames: of clips; None: as many as the file is for.

    Returns:
        As ``bench``.
    """
    opened = [open_file(path, name, threads=threads, trust=trust) for name in runtimes]
    card, about = opened[0][1]
    config = about.config
    sides = about.size or image_size(config, card)
    sides = tuple(size or side for side in sides)
    if len(sides) == 3:
        sides = (frames or (about.size or image_size(config, card))[0], *sides[1:])
    x = torch.randn(batch, config.in_chans, *sides)
    if about.photos:
        x = torch.randint(0, 256, (batch, *sides, config.in_chans), dtype=torch.uint8)
    cases: dict[str, Call] = {}
    for runtime, _ in opened:
        cases[runtime.name] = functools.partial(runtime.outputs, x)
    inside = torch.randn(batch, config.in_chans, *(about.size or sides))
    cases["products"] = matrix_products(SwinTransformer(config).eval(), inside)
    seconds = interleaved(cases, rounds)
    return [_row(name, batch, seconds[name], seconds["products"]) for name in cases if name != "products"]


def _row(name: str, batch: int, seconds: Sequence[float], products: Sequence[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "way": name,
        "batch": batch,
        "seconds": median,
        "images_per_second": batch / median,
        "products": ratio(seconds, products)._asdict(),
    }
