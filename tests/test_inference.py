"""From images to answers: streams, batches, threads, views, ensembles, and a model that nobody notices being used."""

from __future__ import annotations

import itertools
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from PIL import Image, ImageOps

import swindow
from helpers.folders import make_folder
from swindow import ConfigError, DataError, Failure, InputError, ModelCard, Prediction, Predictor, Preprocess
from swindow.inference.runtimes import ModelRuntime
from swindow.media import ImageFile, ImageObject, prepare

NAMES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")


def model_of(seed=0, size=(32, 32), names=NAMES, **fields):
    torch.manual_seed(seed)
    model = swindow.create("swin_nano", num_classes=len(names), **fields).eval()
    torch.nn.init.normal_(model.head.weight, std=0.5)
    model.card = ModelCard(class_names=names, preprocess=Preprocess(size))
    return model


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Thirteen images of different sizes and contents."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    found = []
    for i in range(13):
        pixels = rng.integers(0, 255, (30 + 3 * i, 50 - i, 3), np.uint8)
        Image.fromarray(pixels).resize((60, 40 + i)).save(folder / f"{i}.png")
        found.append(str(folder / f"{i}.png"))
    return found


@torch.no_grad()
def by_hand(model, images, size=None):
    """Probabilities (B, classes), one image at a time."""
    how = model.card.preprocess if size is None else Preprocess((size, size))
    return torch.cat([model(prepare(image, how)[None]).softmax(-1) for image in images])


def check(answers, expected, paths):
    assert [answer.image for answer in answers] == paths
    for answer, p in zip(answers, expected, strict=True):
        found = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert [found[name] for name in NAMES] == pytest.approx(p.tolist(), abs=1e-5)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 13, 100])
@pytest.mark.parametrize("runtime", ["auto", "eager", "deploy"])
def test_answers_are_those_of_the_model_in_the_order_of_the_images(paths, batch_size, runtime):
    model = model_of()
    answers = list(Predictor.open(model, runtime=runtime)(paths, batch_size, top=7))
    check(answers, by_hand(model, paths), paths)


def test_a_broken_image_is_an_item_of_the_stream(paths, tmp_path):
    (tmp_path / "b.jpg").write_text("no image")
    model, mixed = model_of(), [*paths[:2], str(tmp_path / "b.jpg"), *paths[2:5], "absent.png", paths[5]]
    answers = list(Predictor.open(model)(mixed, batch_size=2, top=7))
    assert [answer.image for answer in answers] == mixed
    assert [type(answer) for answer in answers] == [
        Prediction, Prediction, Failure, Prediction, Prediction, Prediction, Failure, Prediction
    ]  # fmt: skip
    assert isinstance(answers[2].error, DataError)
    assert str(answers[6].error) == "absent.png: there is no such file"
    good = [answer for answer in answers if isinstance(answer, Prediction)]
    check(good, by_hand(model, paths[:6]), paths[:6])
    returned = swindow.predict(model, mixed, errors="return")
    assert [(type(answer), answer.image) for answer in returned] == [(type(answer), answer.image) for answer in answers]
    with pytest.raises(DataError, match="not an image"):
        swindow.predict(model, mixed)
    assert [type(answer) for answer in Predictor.open(model)(["a", "b"])] == [Failure, Failure]


def test_one_path_or_image_is_a_list_of_one(paths):
    model = model_of()
    [by_path] = swindow.predict(model, paths[0], top=2)
    with Image.open(paths[0]) as image:
        [by_image] = swindow.predict(model, image, top=2)
    copy = Image.fromarray(np.asarray(Image.open(paths[0])))
    [by_copy] = swindow.predict(model, copy, top=2)
    assert len(by_path.classes) == 2
    assert by_path == by_image == swindow.predict(model, [paths[0]], top=2)[0]
    assert by_copy.image is None
    assert by_copy.probabilities == by_path.probabilities
    for wrong in (np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 8)):
        with pytest.raises(InputError, match="expected the path of an image or a PIL image"):
            swindow.predict(model, [wrong])
    with pytest.raises(ConfigError, match="errors"):
        swindow.predict(model, paths[0], errors="ignore")


def test_an_endless_stream_is_read_only_a_little_ahead(paths):
    taken, before = [], set(threading.enumerate())  # PyTorch has threads of its own

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield paths[i % 13]

    stream = Predictor.open(model_of())(endless(), batch_size=4)
    answers = list(itertools.islice(stream, 10))
    assert [answer.image for answer in answers] == paths[:10]
    assert len(taken) <= 16
    stream.close()
    assert not [thread for thread in set(threading.enumerate()) - before if "ThreadPool" in thread.name]


def test_several_threads_read(paths, monkeypatch):
    """Two images that each wait until the other is being read."""
    barrier = threading.Barrier(2, timeout=30)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    decode = ImageFile.decode
    monkeypatch.setattr(ImageFile, "decode", lambda self: (barrier.wait(), decode(self))[1])
    assert len(list(Predictor.open(model_of())(paths[:2]))) == 2


def test_images_of_several_prepared_sizes_share_batches_of_their_own(paths):
    """Each model of an ensemble prepares images in its own way."""
    first, second = model_of(), model_of(1, (48, 40))
    calls = []

    class Counting(ModelRuntime):
        def __call__(self, inputs):
            calls.append(tuple(inputs["x"].shape))
            return super().__call__(inputs)

    pairs = [(Counting(model), model.card) for model in (first, second)]
    answers = list(Predictor(*pairs[0], pairs[1:])(paths, batch_size=8, top=7))
    check(answers, (by_hand(first, paths) + by_hand(second, paths)) / 2, paths)
    assert sorted(calls) == [(5, 3, 32, 32), (5, 3, 48, 40), (8, 3, 32, 32), (8, 3, 48, 40)]


# --- the caller's model -----------------------------------------------------------------------------------------------


def test_eight_threads_equal_one_and_the_model_is_not_touched(paths):
    model = model_of(drop_path_rate=0.5, drop_rate=0.5)
    expected = by_hand(model, paths)
    model.train()
    model.stages[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    seen = []
    model.norm.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    predictor = Predictor.open(model, runtime="deploy")

    def one(i):
        if i % 2:
            return list(predictor(paths, batch_size=3, top=7))
        return swindow.predict(model, paths, top=7, batch_size=5)

    stop = threading.Event()

    def watch():
        while not stop.is_set():
            assert {name: module.training for name, module in model.named_modules()} == modes

    with ThreadPoolExecutor(9) as pool:
        watching = pool.submit(watch)
        found = list(pool.map(one, range(8)))
        stop.set()
        watching.result()
    for answers in found:
        check(answers, expected, paths)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert set(seen) == {False}  # hooks are called, by the twin
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_predictor_follows_the_weights_of_a_live_model(paths):
    model = model_of()
    predictor = Predictor.open(model)
    before = list(predictor(paths[0], top=7))
    with torch.no_grad():
        model.head.weight.mul_(-1)
        model.head.bias.mul_(-1)
    after = list(predictor(paths[0], top=7))
    assert after != before
    check(after, by_hand(model, paths[:1]), paths[:1])


def test_devices_precisions_and_runtimes(paths):
    model = model_of()
    expected = by_hand(model, paths)
    half = list(Predictor.open(model, device="cpu", precision="bf16")(paths, top=7))
    for answer, p in zip(half, expected, strict=True):
        found = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert [found[name] for name in NAMES] == pytest.approx(p.tolist(), abs=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    check(swindow.predict(model.double(), paths, top=7), expected, paths)
    check(swindow.predict(model.float().deploy(), paths, top=7), expected, paths)
    for wrong, match in (
        ({"device": "nonsense"}, "device 'nonsense'"),
        ({"precision": "int8"}, "precision: got 'int8'"),
        ({"runtime": "onnx"}, "runtime: got 'onnx'"),
        ({"names": ["a", "b"]}, "names: got 2 different ones, expected 7"),
        ({"sizes": [0]}, "sizes: got 0"),
    ):
        with pytest.raises(ConfigError, match=match):
            Predictor.open(model, **wrong)
    with pytest.raises(ConfigError, match="deployed model cannot be moved"):
        Predictor.open(model.deploy(), precision="bf16")
    for wrong in ({"batch_size": 0}, {"top": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            swindow.predict(model, paths, **wrong)


def test_a_checkpoint_is_deployed_and_a_predictor_can_be_given_for_a_model(paths, tmp_path):
    model = model_of()
    swindow.save(model, tmp_path / "m.safetensors")
    predictor = Predictor.open(tmp_path / "m.safetensors", device="cpu")
    assert type(predictor.views.members[0].runtime.model).__name__ == "DeployedTransformer"
    check(swindow.predict(predictor, paths, top=7), by_hand(model, paths), paths)
    with pytest.raises(ConfigError, match=r"Predictor\.open"):
        swindow.predict(predictor, paths, device="cpu")


def test_names_from_a_file_or_numbers(paths, tmp_path):
    model = model_of()
    (tmp_path / "names.txt").write_text("\n".join("αβγδεζη") + "\n", encoding="utf-8")
    [answer] = Predictor.open(model, names=tmp_path / "names.txt")(paths[0], top=7)
    assert sorted(answer.classes) == list("αβγδεζη")
    model.card = None
    [answer] = swindow.predict(model, paths[0], top=7)
    assert sorted(answer.classes) == list("0123456")


# --- views and ensembles ----------------------------------------------------------------------------------------------


def test_flipped_views_are_averaged(paths):
    model = model_of()
    with torch.no_grad():
        x = torch.stack([prepare(path, model.card.preprocess) for path in paths])
        expected = (model(x).softmax(-1) + model(x.flip(-1)).softmax(-1)) / 2
    check(list(Predictor.open(model, flip=True)(paths, 4, top=7)), expected, paths)


def test_sizes_are_averaged(paths):
    model = model_of()
    expected = (by_hand(model, paths, 32) + by_hand(model, paths, 48) + by_hand(model, paths, 40)) / 3
    check(list(Predictor.open(model, sizes=(32, 48, 40))(paths, 4, top=7)), expected, paths)


def test_an_ensemble_matches_classes_by_their_names(paths):
    first, second = model_of(), model_of(1, (24, 24), NAMES[::-1])
    other = model_of(2, (24, 24), (*NAMES[:-1], "hen"))
    expected = (by_hand(first, paths) + by_hand(second, paths).flip(-1)) / 2
    check(list(Predictor.open(first, second)(paths, top=7)), expected, paths)
    with pytest.raises(DataError, match="the models know different classes, for instance 'gnu', 'hen'"):
        Predictor.open(first, other)


def test_models_that_cannot_answer_say_so_before_any_image_is_read():
    with pytest.raises(InputError, match="no head"):
        swindow.predict(swindow.create("swin_nano", num_classes=0), ["absent.png"])
    with pytest.raises(InputError, match=r"clips or volumes"):
        swindow.predict(swindow.create("swin3d_tiny", depths=(1, 1, 1, 1), embed_dim=24), ["absent.png"])
    with pytest.raises(ConfigError, match="4 channels"):
        swindow.predict(swindow.create("swin_nano", in_chans=4), ["absent.png"])


def test_a_folder_as_data_gives_the_same_answers_as_its_files(tmp_path):
    root = make_folder(tmp_path, each=3)
    model = model_of()
    samples = swindow.data.folder(root).train
    stream = Predictor.open(model).stream(samples[i] for i in range(len(samples)))
    found = {sample.key: p.exp() for sample, p in stream}
    expected = by_hand(model, [root / key for key in found])
    assert torch.allclose(torch.stack(list(found.values())), expected, atol=1e-5)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_names_that_are_given_do_not_change_which_classes_of_an_ensemble_belong_together(paths):
    first, second = model_of(), model_of(1, (24, 24), NAMES[::-1])
    expected = (by_hand(first, paths) + by_hand(second, paths).flip(-1)) / 2
    labels = tuple(name.upper() for name in NAMES)
    for answer, p in zip(Predictor.open(first, second, names=labels)(paths, top=7), expected, strict=True):
        found = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert [found[name] for name in labels] == pytest.approx(p.tolist(), abs=1e-5)


def test_classes_of_one_name_are_told_apart(paths):
    [answer] = swindow.predict(model_of(names=("crane", "crane", "fox")), paths[0], top=3)
    assert sorted(answer.classes) == ["crane", "crane (2)", "fox"]


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_image_that_was_opened_is_its_file(tmp_path, mode, orientation):
    rng = np.random.default_rng(0)
    shape = (20, 40, 3) if mode == "RGB" else (20, 40)
    pixels = rng.integers(0, 2**16 if mode == "I;16" else 2**8, shape, np.uint16 if mode == "I;16" else np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    by_path = ImageFile(str(tmp_path / "a.tif")).decode()
    by_object = ImageObject(Image.open(tmp_path / "a.tif")).decode()
    assert by_object.size == by_path.size
    assert np.array_equal(np.asarray(by_object), np.asarray(by_path))


def test_whatever_a_decoder_raises_is_a_failure(paths, tmp_path, monkeypatch):
    answers = swindow.predict(model_of(), [paths[0], str(tmp_path / ("x" * 300)), paths[1]], errors="return")
    assert [type(answer) for answer in answers] == [Prediction, Failure, Prediction]
    assert "cannot be read" in str(answers[1].error)
    for kind in (RuntimeError("Failed to decode"), struct.error("required argument is not an integer")):
        monkeypatch.setattr(ImageOps, "exif_transpose", mock.Mock(side_effect=kind))
        exif = Image.Exif()
        exif[274] = 6
        Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", exif=exif)
        answers = swindow.predict(model_of(), [paths[0], tmp_path / "b.jpg", paths[1]], errors="return")
        assert [type(answer) for answer in answers] == [Prediction, Failure, Prediction]


def test_a_source_that_fails_loses_no_answers(paths):
    def source():
        yield from paths[:5]
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(iter(Predictor.open(model_of())(source(), batch_size=4)))
    assert [answer.image for answer in found] == paths[:5]


def test_models_with_tensors_of_other_kinds_and_models_that_are_converted(paths):
    model = model_of()
    torch.nn.utils.prune.l1_unstructured(model.head, "weight", 0.3)
    model.norm.register_forward_hook(lambda module, inputs, output: setattr(module, "kept", output))
    model(torch.zeros(1, 3, 32, 32))
    check(swindow.predict(model, paths, top=7), by_hand(model, paths), paths)
    model = model_of()
    predictor = Predictor.open(model)
    expected = by_hand(model, paths)
    model.double()
    check(list(predictor(paths, top=7)), expected, paths)


def test_wrong_arguments_are_found_before_the_first_answer_is_asked_for(paths):
    with pytest.raises(ConfigError, match="top"):
        Predictor.open(model_of())(paths, top=0)
    with pytest.raises(ConfigError, match="batch_size"):
        Predictor.open(model_of())(paths, batch_size=0)
