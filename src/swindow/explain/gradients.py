"""What gradients tell: which places speak for a class, and which pixels a token depends on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import PerAxis, SwinConfig
from ..errors import InputError
from ..models import SwinTransformer
from ..models.twin import evaluation_twin
from .attention import Floats, token_at
from .capturing import Capture, capture


def grad_cam(model: SwinTransformer, image: Tensor, target: int | None = None, layer: str | None = None) -> Floats:
    """Returns which places of an image speak for a class: (*pixels) from 0 to 1, in image coordinates.

    Grad-CAM (Selvaraju et al. 2017, section 3): the channels of a map, each weighted with the class's gradient averaged
    over the map, are added up, and what is negative is left out. The result is interpolated linearly between tokens
    and divided by its largest value; it is all 0 where nothing speaks for the class.

    Args:
        model: a model with a head; it is handed back as it was.
        image: (in_chans, *pixels) floating, prepared as the model takes it.
        target: the class, from 0; by default the likeliest.
        layer: the map to use, a name that ``capture`` records; by default the last, normalised one, (B, *grid, C).

    Raises:
        InputError: the model has no head, there is no such class or layer, or the image does not fit.
    """
    check_class(model, target)
    with _tracked(model, image) as (seen, _):
        logits = seen.model(seen.image)[0]
        last = f"out_norms.{len(model.stages) - 1}"
        maps = seen[layer or (last if last in seen.names else "norm")]
        if maps.ndim != image.ndim + 1:
            raise InputError(f"grad_cam: {layer!r} is no map, its shape is {tuple(maps.shape)}")
        chosen = int(logits.argmax()) if target is None else target
        (gradient,) = torch.autograd.grad(logits[chosen], maps, allow_unused=True)
        if gradient is None:
            raise InputError(f"grad_cam: the class does not depend on {layer!r}; try a block before it")
    return _spread(_weighted(maps[0].detach(), gradient[0]), model, tuple(image.shape[1:]))


def receptive_field(model: SwinTransformer, image: Tensor, pixel: Sequence[int]) -> dict[str, Floats]:
    """Returns which pixels the token at a pixel depends on after every block: name to (*pixels), in image coordinates.

    The empirical receptive field: the gradient of the token, along one fixed random direction of its channels, with
    respect to the image; absolute, summed over the image's channels. It is exactly 0 where no path leads.

    Args:
        model: any model of ours; it is handed back as it was.
        image: (in_chans, *pixels) floating, prepared as the model takes it.
        pixel: row and column of the token in the image (frame first for clips), from 0.

    Returns:
        ``patch_embed`` and the name of every block, in order, to (*pixels) float64, at least 0.

    Raises:
        InputError: the image does not fit, or there is no such pixel.
    """
    found = {}
    if next(model.parameters()).dtype == torch.float16:
        model = copy.deepcopy(model).float()  # in fp16 small gradients would become 0
    with _tracked(model, image) as (seen, x):
        seen.model.features(x)
        tokens = {record.name: token_at(seen, record, pixel) for record in seen.blocks}
        for name, token in {"patch_embed": tokens[seen.blocks[0].name], **tokens}.items():
            y = seen[name][(0, *token)]  # (C,)
            # A sum of channels would not do: it is constant after a norm.
            direction = torch.randn(len(y), generator=torch.Generator().manual_seed(0)).to(y)
            (gradient,) = torch.autograd.grad(y @ direction, x, retain_graph=True)
            found[name] = gradient[0].cpu().double().abs().sum(0).numpy()
    return found


def reshape_transform(tokens: Tensor) -> Tensor:
    """Returns a map (B, *grid, C) as (B, C, *grid), the order that pytorch-grad-cam takes.

    Example:
        ``GradCAM(model=model, target_layers=[model.norm], reshape_transform=explain.reshape_transform)``
    """
    return tokens.movedim(-1, 1)


@contextmanager
def _tracked(model: SwinTransformer, image: Tensor) -> Iterator[tuple[Capture, Tensor]]:
    """Yields a record for a pass in evaluation mode, with gradients down to the image, and the image (1, ...).

    The record's model is a twin of the one given: that is what to call.
    """
    if image.ndim != model.config.ndim + 1:
        raise InputError(
            f"got an image of shape {tuple(image.shape)}, expected ({model.config.in_chans} channels, *pixels); "
            "try image[0] of a batch"
        )
    weight = next(model.parameters())
    with torch.inference_mode(False), torch.enable_grad(), capture(evaluation_twin(model)) as seen:
        x = image.detach().to(weight.device, weight.dtype if image.is_floating_point() else None)[None].clone()
        if x.is_floating_point():
            x.requires_grad_()
        seen.image = x
        yield seen, x


def check_class(model: SwinTransformer, target: int | None) -> None:
    """Raises InputError unless a model has a head, with that class."""
    classes = model.config.num_classes
    if not classes or (target is not None and not 0 <= target < classes):
        raise InputError(f"grad_cam: got class {target}, but the model has {classes} classes")


def _weighted(maps: Tensor, gradient: Tensor) -> Tensor:
    """The class's map (*grid), at least 0, of tokens and their gradients (*grid, C)."""
    return (maps * gradient.flatten(0, -2).mean(0)).sum(-1).relu()


def _spread(values: Tensor, model: SwinTransformer, pixels: PerAxis) -> Floats:
    """A map (*grid) interpolated to (*pixels) and divided by its largest value."""
    covered = [side * n for side, n in zip(_token_side(tuple(values.shape), model.config, pixels), values.shape)]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[values.ndim]
    x = F.interpolate(values.cpu().double()[None, None], covered, mode=mode)[0, 0]
    x = x[tuple(slice(size) for size in pixels)]
    x = F.pad(x, [v for size, n in zip(reversed(pixels), reversed(x.shape)) for v in (0, size - n)])  # patches left out
    return (x / x.max().clamp(min=torch.finfo(x.dtype).tiny)).numpy()


def _token_side(grid: PerAxis, config: SwinConfig, pixels: PerAxis) -> PerAxis:
    """Pixels per token side, per axis, of the first map in the hierarchy that has this grid."""
    drops, token = config.patch_remainder == "drop", config.patch_size
    n = tuple(size // p if drops else -(-size // p) for size, p in zip(pixels, token))
    while n != grid:
        n = tuple(-(-size // 2) if axis in config.merge_axes else size for axis, size in enumerate(n))
        token = tuple(2 * side if axis in config.merge_axes else side for axis, side in enumerate(token))
    return token
