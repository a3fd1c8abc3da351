"""The published augmentation, beside timm's and torchvision's on the same random numbers."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import swindow
from helpers.peers import peer
from swindow.card import Preprocess
from swindow.data import DataInfo, Sample
from swindow.data.augment import Filling, RandAugment, TrivialAugment, color_jitter, erase, mix, operations, policies
from swindow.data.augment.geometric import crop
from swindow.errors import ConfigError, DataError
from swindow.media.image import ImageObject
from swindow.tasks import Batch, Classify, ClassifySettings
from swindow.tasks.classify import Mixed
from swindow.training.progress import Progress

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
    found, share = mix(x, mixup, cutmix, rng)
    assert torch.equal(x, kept)
    wanted, soft = theirs(x.clone(), targets)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    logits = torch.randn(6, 5)
    mixed = Mixed(targets, targets.flip(0), share)
    losses = Classify(ClassifySettings(label_smoothing=0.1)).loss(logits, Batch({}, mixed, [{}] * 6))
    torch.testing.assert_close(losses["loss"][0], F.cross_entropy(logits, soft, reduction="sum"))
    assert rng.random() == chance.random(), "as many numbers drawn"


def test_what_is_drawn_is_what_was_published():
    """Shares over many draws: a quarter of images is as it was, half of the batches is cut, lambda is Beta's."""
    image, rng = photo(0), np.random.default_rng(0)
    unchanged = sum(RandAugment()(image, FILLING, rng) is image for _ in range(2000)) / 2000
    assert abs(unchanged - 0.25) < 0.04
    x = torch.stack((torch.zeros(1, 8, 8), torch.ones(1, 8, 8)))
    cut, shares = 0, []
    for _ in range(3000):
        mixed, own = mix(x, 0.8, 1.0, rng)
        cuts = set(mixed.unique().tolist()) <= {0.0, 1.0}
        cut += cuts
        share = float(mixed[0].eq(0).float().mean()) if cuts else 1 - float(mixed[0].mean())
        assert abs(share - own) < 1e-6
        shares += [] if cuts else [share]
    assert abs(cut / 3000 - 0.5) < 0.05
    assert abs(np.mean(shares) - 0.5) < 0.03
    assert abs(np.std(shares) - np.sqrt(0.25 / 2.6)) < 0.02  # Beta(0.8, 0.8)


def test_nothing_is_drawn_where_nothing_is_asked_for():
    x, rng = torch.randn(4, 3, 8, 8), np.random.default_rng(0)
    assert mix(x, 0.0, 0.0, rng) == (x, 1.0)
    assert rng.random() == np.random.default_rng(0).random()


def test_operations_keep_grey_images_grey():
    filling = Filling(Image.Resampling.BILINEAR, 100)
    for choice in policies.RAND_AUGMENT.values():
        found = choice.applied(photo(0, "L"), 9.0, 1, filling)
        assert (found.mode, found.size) == ("L", (45, 37))
    assert operations.posterize(photo(0), 8, FILLING).size == (45, 37)
    assert not np.asarray(operations.posterize(photo(0), 0, FILLING)).any()


# --- in training ------------------------------------------------------------------------------------------------------


def test_a_task_uses_what_is_asked_for():
    how = Preprocess((32, 32))
    names = ("a", "b", "c")
    samples = [Sample(ImageObject(photo(seed)), seed % 3, str(seed)) for seed in range(4)]
    plain = Classify(ClassifySettings(preprocess=how))
    for settings in ({"auto_augment": "randaugment"}, {"auto_augment": "trivialaugment"}, {"erase": 1.0}):
        task = Classify(ClassifySettings(preprocess=how, **settings))
        assert task.card(DataInfo("x", class_names=names)).settings == settings
        different = 0
        for seed, sample in enumerate(samples * 5):
            one, again = (task.transform(sample, np.random.default_rng(seed), train=True)[0] for _ in range(2))
            assert torch.equal(one.inputs["x"], again.inputs["x"]), "the same generator, the same image"
            shown = plain.transform(sample, None, train=False)[0].inputs["x"]
            different += not torch.equal(one.inputs["x"], shown)
            assert torch.equal(task.transform(sample, None, train=False)[0].inputs["x"], shown)
        assert different > 8
    task = Classify(ClassifySettings(preprocess=how, mixup=0.8, cutmix=1.0))
    examples = [plain.transform(sample, None, train=False)[0] for sample in samples]
    batch = task.collate(examples, np.random.default_rng(0), train=True)
    assert isinstance(batch.targets, Mixed)
    assert batch.targets.others.tolist() == batch.targets.targets.tolist()[::-1]
    assert torch.equal(task.collate(examples, None, train=False).targets, batch.targets.targets)
    pinned = batch.to("cpu")
    assert isinstance(pinned.targets, Mixed)
    assert pinned.targets.share == batch.targets.share


def test_loss_of_mixed_images_reaches_both_classes():
    logits = torch.randn(4, 5, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3])
    batch = Batch({}, Mixed(targets, targets.flip(0), 0.3), [{}] * 4)
    losses = Classify(ClassifySettings()).loss(logits, batch)
    (gradient,) = torch.autograd.grad(losses["loss"][0], logits)
    wanted = 0.3 * F.one_hot(targets, 5) + 0.7 * F.one_hot(targets.flip(0), 5)
    torch.testing.assert_close(gradient, logits.softmax(1) - wanted)
    right = (logits.argmax(1) == targets.flip(0)).sum()
    assert int(losses["accuracy"][0]) == int(right)


@pytest.mark.parametrize(
    ("field", "value"),
    [("auto_augment", "rand"), ("erase", 1.5), ("erase", -0.1), ("mixup", -1.0), ("cutmix", float("inf"))],
)
def test_wrong_settings(field, value):
    with pytest.raises(ConfigError, match=f"{field}: got {value!r}, expected"):
        ClassifySettings(**{field: value})


def test_deep_images_are_refused_with_advice():
    deep = Image.fromarray(np.zeros((8, 8), np.float32))
    task = Classify(
        ClassifySettings(preprocess=Preprocess((8, 8), mean=(0.5,), std=(1.0,)), auto_augment="randaugment")
    )
    with pytest.raises(DataError, match="images of 8 bits, got one of more bits; try auto_augment='none'"):
        task.transform(Sample(ImageObject(deep), 0, "x"), np.random.default_rng(0), train=True)


def test_a_run_with_everything_resumes_exactly(tmp_path):
    """Bit for bit, with all of it on, stopped after every epoch; the first line says what is on."""
    settings = {"variant": "swin_nano", "image_size": 16, "batch_size": 256, "held_out": 0.3, "seed": 3, "workers": 0}
    settings |= {"auto_augment": "randaugment", "erase": 0.25, "mixup": 0.8, "cutmix": 1.0, "device": "cpu"}
    notes = []

    class Listening(Progress):
        def note(self, line):
            notes.append(line)

    whole = swindow.train("digits", swindow.TrainConfig(out=tmp_path / "a", epochs=2, **settings), progress=Listening())
    assert "auto_augment randaugment, erase 0.25, mixup 0.8, cutmix 1" in notes[0]

    class Stopping(Progress):
        def saved(self, step):
            raise KeyboardInterrupt

    for _ in range(3):
        try:
            parts = swindow.train(
                "digits", swindow.TrainConfig(out=tmp_path / "b", epochs=2, **settings), progress=Stopping()
            )
        except KeyboardInterrupt:
            continue
    one, other = (load_file(result.out / "model.safetensors") for result in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_color_jitter_is_torchvisions(seed, mode, monkeypatch):
    peer("torchvision")
    from torchvision.transforms import ColorJitter

    chance, rng, image = np.random.default_rng(seed), np.random.default_rng(seed), photo(seed, mode)

    def drawn(brightness, contrast, saturation, hue):
        assert hue is None
        ranges, order, factors = (brightness, contrast, saturation), chance.permutation(3).tolist(), [None] * 3
        for number in order:
            factors[number] = chance.uniform(*ranges[number])
        return torch.tensor([*order, 3]), *factors, None

    monkeypatch.setattr(ColorJitter, "get_params", staticmethod(drawn))
    amount = 0.4 if seed % 2 else 1.5  # at more than 1 a factor may be 0, not less
    assert same(color_jitter(image, amount, rng), ColorJitter(amount, amount, amount)(image))
    assert rng.random() == chance.random(), "as many numbers drawn"


@pytest.mark.parametrize("seed", range(10))
def test_pad_and_crop_is_torchvisions(seed):
    peer("torchvision")
    from torchvision.transforms import functional

    chance, rng, image = np.random.default_rng(seed), np.random.default_rng(seed), photo(seed, size=(32, 40))
    x, y = (int(chance.integers(-(side // 8), side // 8 + 1)) for side in (32, 40))
    padded = functional.pad(image, [4, 5])
    wanted = functional.crop(padded, y + 5, x + 4, 40, 32)
    wanted = functional.hflip(wanted) if chance.random() < 0.5 else wanted
    how = Preprocess((40, 32), crop_fraction=1.0)
    assert same(crop(image, how, rng), wanted)
    assert rng.random() == chance.random(), "as many numbers drawn"


def test_statistics_of_pad_and_crop():
    how, rng = Preprocess((32, 32), crop_fraction=1.0), np.random.default_rng(0)
    marked = np.zeros((32, 32, 3), np.uint8)
    marked[16, 12] = 255
    places = [np.argwhere(np.asarray(crop(Image.fromarray(marked), how, rng))[..., 0])[0] for _ in range(4000)]
    rows, columns = np.array(places).T
    assert np.bincount(rows)[12:21].tolist() == pytest.approx([4000 / 9] * 9, abs=90)  # 4.5 standard deviations
    assert (columns < 8).sum() == 0
    assert (columns >= 16).mean() == pytest.approx(0.5, abs=0.04)  # 8 to 16, flipped 15 to 23


def test_color_jitter_takes_8_bits():
    with pytest.raises(DataError, match="got one of more bits; try color_jitter=0"):
        color_jitter(Image.new("F", (8, 8)), 0.4, np.random.default_rng(0))
