"""The published augmentation, beside timm's and torchvision's on the same random numbers."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.peers import peer
from swindow.data.augment import Filling, RandAugment, TrivialAugment, erase, mix, operations, policies, soft_targets

GREY = (124, 116, 104)
FILLING = Filling(Image.Resampling.BICUBIC, GREY)


def photo(seed, mode="RGB", size=(45, 37)):
    """Something with edges, flat parts and noise."""
    rng = np.random.default_rng(seed)
    values = np.add.outer(np.arange(size[1]) * 5, np.arange(size[0]) * 3)[..., None] + rng.integers(0, 90, 3)
    values[5:15, 8:20] = rng.integers(0, 256, 3)
    values = (values + rng.integers(-20, 20, values.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(values if mode == "RGB" else values[..., 0])


def same(one, other):
    return one.mode == other.mode and np.array_equal(np.asarray(one), np.asarray(other))


class Chance:
    """Python's ``random`` and NumPy's, as far as timm uses them, from the generator that we use."""

    def __init__(self, rng):
        self.rng = rng

    def random(self):
        return self.rng.random()

    def gauss(self, mean, std):
        return self.rng.normal(mean, std)

    def uniform(self, low, high):
        return self.rng.uniform(low, high)

    def randint(self, low, high):
        return int(self.rng.integers(high - low + 1)) + low

    def choice(self, known, count, **_):
        return [known[number] for number in self.rng.integers(len(known), size=count)]


@pytest.mark.parametrize("seed", range(60))
def test_rand_augment_is_timms(seed, monkeypatch):
    peer("timm")
    from timm.data import auto_augment

    theirs = auto_augment.rand_augment_transform(
        "rand-m9-mstd0.5-inc1", {"img_mean": GREY, "interpolation": Image.Resampling.BICUBIC}
    )
    chance = Chance(np.random.default_rng(seed))
    monkeypatch.setattr(auto_augment, "random", chance)
    monkeypatch.setattr(auto_augment, "np", types.SimpleNamespace(random=chance))
    rng = np.random.default_rng(seed)
    image = photo(seed)
    assert same(RandAugment()(image, FILLING, rng), theirs(image))
    assert rng.random() == chance.random(), "as many numbers drawn"


@pytest.mark.parametrize("name", policies.RAND_AUGMENT)
def test_every_operation_of_rand_augment_is_timms(name):
    peer("timm")
    from timm.data import auto_augment

    theirs = dict(zip(policies.RAND_AUGMENT, auto_augment._RAND_INCREASING_TRANSFORMS, strict=True))[name]
    operation, argument, signed = policies.RAND_AUGMENT[name]
    for magnitude in (0.0, 0.3, 5.5, 9.0, 9.9) if name == "posterize" else (0.0, 0.3, 5.5, 9.0, 10.0):
        for sign in (1, -1) if signed else (1,):
            level = auto_augment.LEVEL_TO_ARG[theirs]
            values = () if level is None else level(magnitude, {})
            assert (argument is None) == (values == ())
            value = argument(magnitude, sign) if argument else 0.0
            if values:  # theirs has a sign of its own
                near = min(abs(value - one) for one in (values[0], -values[0], 2 - values[0], max(0.1, 2 - values[0])))
                assert near < 1e-12
            arguments = () if not values else (value,)
            for mode, colour in (("RGB", GREY), ("L", 118)):
                image = photo(3, mode)
                wanted = auto_augment.NAME_TO_OP[theirs](
                    image, *arguments, fillcolor=colour, resample=Image.Resampling.BICUBIC
                )
                found = operation(image, value, Filling(Image.Resampling.BICUBIC, colour))
                assert same(found, wanted), (magnitude, sign, mode)


@pytest.mark.parametrize("seed", range(80))
def test_trivial_augment_is_torchvisions(seed, monkeypatch):
    peer("torchvision")
    from torchvision.transforms import autoaugment

    chance = np.random.default_rng(seed)
    draws = types.SimpleNamespace(**{name: getattr(torch, name) for name in ("linspace", "tensor", "arange", "long")})
    draws.linspace = lambda *of: torch.linspace(*of, dtype=torch.float64)  # in fp32 a shift of 16 pixels is one of 15
    draws.randint = lambda high, size, dtype=None: torch.tensor(chance.integers(high))
    monkeypatch.setattr(autoaugment, "torch", draws)
    rng, image = np.random.default_rng(seed), photo(seed)
    found = TrivialAugment()(image, Filling(Image.Resampling.NEAREST, 0 if image.mode == "L" else (0, 0, 0)), rng)
    assert same(found, autoaugment.TrivialAugmentWide()(image))
    assert rng.random() == chance.random(), "as many numbers drawn"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (2, 3)])
def test_erasing_is_timms(seed, size, monkeypatch):
    peer("timm")
    from timm.data import random_erasing

    chance = Chance(np.random.default_rng(seed))
    monkeypatch.setattr(random_erasing, "random", chance)

    def noise(per_pixel, rand_color, patch_size, **_):
        return torch.from_numpy(chance.rng.standard_normal(tuple(patch_size), dtype=np.float32))

    monkeypatch.setattr(random_erasing, "_get_pixels", noise)
    x = torch.randn(3, *size)
    kept, rng = x.clone(), np.random.default_rng(seed)
    found = erase(x, 0.7, rng)
    assert torch.equal(x, kept)
    assert torch.equal(found, random_erasing.RandomErasing(0.7, mode="pixel", device="cpu")(x.clone()))
    assert rng.random() == chance.random(), "as many numbers drawn"


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_mixing_is_timms(seed, mixup, cutmix, monkeypatch):
    peer("timm")
    from timm.data import mixup as module

    chance = np.random.default_rng(seed)

    class Numbers:
        def rand(self):
            return 0.0 if not hasattr(self, "asked") and setattr(self, "asked", True) is None else chance.random()

        def beta(self, a, b):
            return chance.beta(a, b)

        def randint(self, low, high, size=None):
            return int(chance.integers(low, high))

    monkeypatch.setattr(module, "np", types.SimpleNamespace(random=Numbers(), sqrt=np.sqrt, clip=np.clip))
    theirs = module.Mixup(mixup, cutmix, switch_prob=0.5, label_smoothing=0.1, num_classes=5)
    x, targets = torch.randn(6, 3, 17, 24), torch.arange(6) % 5
    kept, rng = x.clone(), np.random.default_rng(seed)
    found, soft = mix(x, soft_targets(targets, 5, 0.1), mixup, cutmix, rng)
    assert torch.equal(x, kept)
    wanted, wanted_targets = theirs(x.clone(), targets)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(soft, wanted_targets, rtol=0, atol=1e-6)
    assert torch.allclose(soft.sum(1), torch.ones(6))
    assert rng.random() == chance.random(), "as many numbers drawn"


def test_what_is_drawn_is_what_was_published():
    """Shares over many draws: a quarter of images is as it was, half of the batches is cut, lambda is Beta's."""
    image, rng = photo(0), np.random.default_rng(0)
    unchanged = sum(RandAugment()(image, FILLING, rng) is image for _ in range(2000)) / 2000
    assert abs(unchanged - 0.25) < 0.04
    x, targets = torch.stack((torch.zeros(1, 8, 8), torch.ones(1, 8, 8))), torch.eye(2)
    cut, shares = 0, []
    for _ in range(3000):
        mixed, soft = mix(x, targets, 0.8, 1.0, rng)
        cuts = set(mixed.unique().tolist()) <= {0.0, 1.0}
        cut += cuts
        share = float(mixed[0].eq(0).float().mean()) if cuts else 1 - float(mixed[0].mean())
        assert abs(share - float(soft[0, 0])) < 1e-6, "the share of an image is that of its target"
        shares += [] if cuts else [share]
    assert abs(cut / 3000 - 0.5) < 0.05
    assert abs(np.mean(shares) - 0.5) < 0.03
    assert abs(np.std(shares) - np.sqrt(0.25 / 2.6)) < 0.02  # Beta(0.8, 0.8)


def test_nothing_is_drawn_where_nothing_is_asked_for():
    x, targets, rng = torch.randn(4, 3, 8, 8), torch.eye(4), np.random.default_rng(0)
    assert mix(x, targets, 0.0, 0.0, rng) == (x, targets)
    assert rng.random() == np.random.default_rng(0).random()


def test_operations_keep_grey_images_grey():
    filling = Filling(Image.Resampling.BILINEAR, 100)
    for choice in policies.RAND_AUGMENT.values():
        found = choice.applied(photo(0, "L"), 9.0, 1, filling)
        assert (found.mode, found.size) == ("L", (45, 37))
    assert operations.posterize(photo(0), 8, FILLING).size == (45, 37)
    assert not np.asarray(operations.posterize(photo(0), 0, FILLING)).any()
