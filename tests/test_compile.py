"""torch.compile without graph breaks or needless recompilation, torch.export with open sizes; both are right."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

from helpers.definition import V2, difference, randomise
from swindow import SwinConfig, SwinTransformer

SMALL = SwinConfig(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=7, num_classes=5, drop_path_rate=0.1)
V2_SMALL = SMALL.replace(**V2, window_size=8)
VIDEO = SMALL.replace(patch_size=(2, 4, 4), window_size=((4, 3, 3),) * 2, merge_axes=(1, 2))
KINDS = {
    "v1": (SMALL, (60, 50)),
    "v1 as torchvision": (SMALL.replace(mask_padding=False, patch_remainder="drop"), (60, 50)),
    "v1 as transformers": (SMALL.replace(mask_padding=False, shrink="min"), (60, 50)),
    "v1 as a detector": (SMALL.replace(shift_single=True, mask_padding=False, absolute_position_size=(9, 9)), (60, 50)),
    "v2": (V2_SMALL, (60, 50)),
    "v2 with extra norms": (V2_SMALL.replace(extra_norm_period=2, attn_drop_rate=0.1), (64, 64)),
    "video": (VIDEO, (9, 30, 26)),
    "volume": (SMALL.replace(patch_size=(2, 2, 2), window_size=4, merge_axes=(0, 1, 2), in_chans=1), (13, 18, 20)),
    "audio": (SMALL.replace(patch_size=(4,), window_size=8, merge_axes=(0,), in_chans=1), (300,)),
}
ONE_STAGE = {"depths": (2,), "num_heads": (2,)}  # compiling takes long; what is between stages is in v1's
OPEN = {
    "v1": ((256, 256), SMALL),
    "v2": ((256, 256), V2_SMALL.replace(**ONE_STAGE, window_size=8)),
    "video": ((32, 64, 64), VIDEO.replace(**ONE_STAGE, window_size=((4, 3, 3),))),
}


@pytest.fixture(autouse=True)
def _afresh():
    torch.compiler.reset()


class Counting:
    """A backend that counts how often it is asked to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph


def build(config):
    return randomise(SwinTransformer(config))


def images(config, size, batch=2):
    return torch.randn(batch, config.in_chans, *size)


SLOWEST = ("video", "volume", "v2 with extra norms", "v1 as transformers")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOWEST)) for kind in KINDS])
def test_training_compiles_whole_and_once(kind):
    config, size = KINDS[kind]
    model, backend = build(config), Counting()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        compiled(images(config, size)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert backend.graphs == 1
    model.eval()
    x = images(config, size)
    assert difference(compiled(x), model(x)) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v1", "v2"])
@torch.no_grad()
def test_other_sizes_recompile_at_most_once(kind):
    """Padded or not, square or not, more windows or fewer: the second compilation leaves the sizes open."""
    smallest, config = OPEN[kind]
    model, backend = build(config).eval(), Counting()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for factor, uneven in ((1, 0), (1.2, 0), (1.3, 1), (1.75, 4), (2, 0)):
        x = images(config, [round(size * factor) + uneven * i for i, size in enumerate(smallest)], batch=1)
        assert difference(compiled(x), model(x)) <= 2e-5
    assert backend.graphs <= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v2", "video"])
@torch.no_grad()
def test_the_real_compiler_gives_the_same(kind):
    config, size = OPEN[kind][1], KINDS[kind][1]
    model, x = build(config).eval(), images(config, size)
    assert difference(torch.compile(model, fullgraph=True)(x), model(x)) <= 2e-5


@pytest.mark.slow
def test_the_real_compiler_gives_the_same_gradients():
    config, size = KINDS["v1"]
    model, x = build(config).eval(), images(config, size)
    results = []
    for function in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        y = function(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for p in model.parameters())])
    for expected, found in zip(*results, strict=True):
        assert difference(found, expected) <= 1e-4
    assert difference(results[1][0], results[0][0]) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPEN)
@torch.no_grad()
def test_export_leaves_batch_and_sizes_open(kind):
    smallest, config = OPEN[kind]
    model = build(config).eval()
    shapes = {0: Dim("batch", max=64)} | {
        axis: Dim(f"pixels{axis}", min=size, max=2048) for axis, size in enumerate(smallest, start=2)
    }
    example = images(config, [size + 8 * i for i, size in enumerate(smallest)])
    exported = torch.export.export(model, (example,), dynamic_shapes=(shapes,)).module()
    for batch, more in ((1, 0), (3, 13), (2, 28)):
        x = images(config, [size + more for size in smallest], batch)
        assert difference(exported(x), model(x)) <= 2e-5
