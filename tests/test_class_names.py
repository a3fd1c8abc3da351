"""Names of classes: ImageNet's, those that a file lists, and which a checkpoint of another library gets."""

from __future__ import annotations

import importlib.util
import json
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import swindow
from swindow import CheckpointError, ConfigError, ModelCard
from swindow.checkpoints.adaptation import ROWS_OF_1K
from swindow.class_names import imagenet_1k, imagenet_22k, numbers, read_names
from swindow.data import DataInfo
from swindow.errors import DataError
from swindow.tasks import Classify

SYNSETS, NAMES = zip(*imagenet_1k())
SYNSETS_22K, NAMES_22K = zip(*imagenet_22k())


def inside(package, *parts):
    """A file of a library, which is not imported; skips the test where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0], *parts)


def of_timm(name):
    """The synsets that a file of timm lists."""
    return inside("timm", "data", "_info", name).read_text().split()


def lemmas(synsets=SYNSETS):
    """The synonyms of every class, as timm lists them."""
    lines = inside("timm", "data", "_info", "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    known = dict(line.split("\t", 1) for line in lines if line)
    return [known[synset] for synset in synsets]


def test_it_imports_no_torch():
    code = (
        "import sys, swindow.class_names as c; c.imagenet_1k(); c.imagenet_22k(); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_imagenet_is_as_timm_and_torchvision_list_it():
    assert list(SYNSETS) == of_timm("imagenet_synsets.txt")
    alone = {"n02012849": "crane bird", "n03710721": "maillot tank suit"}  # as in torchvision
    for synset, name, synonyms in zip(SYNSETS, NAMES, lemmas(), strict=True):
        assert name == alone.get(synset, synonyms.split(", ")[0])
    theirs = runpy.run_path(str(inside("torchvision", "models", "_meta.py")))["_IMAGENET_CATEGORIES"]
    assert list(NAMES) == theirs
    assert len(set(NAMES)) == len(set(SYNSETS)) == 1000


def test_imagenet_22k_is_in_the_order_of_the_official_rows():
    """Which rows of such a head are the classes of ImageNet-1k, the official code says: an order that is not timm's."""
    rows = [int(row) for row in ROWS_OF_1K.read_text().split()]
    teddy = SYNSETS.index("n04399382")  # is not in ImageNet-22k; the official list has a garment, "chemise, teddy"
    found = [SYNSETS_22K[row] for row in rows]
    assert found.pop(teddy) == "n03013580"
    assert found == [synset for synset in SYNSETS if synset != "n04399382"]
    # Google's list, as the official imagenet22k_dataset.py says: "map 21841->9205; 21842->15027".
    google = of_timm("imagenet21k_goog_synsets.txt")
    assert len(google) == 21_843
    without_images = (google[9205], google[15027])
    google[9205], google[15027] = google[21_841:]
    assert list(SYNSETS_22K) == google[:21_841]
    # timm's list has the same classes, and the same order as far as the first of those without images.
    timm = of_timm("imagenet22k_synsets.txt")
    assert sorted(SYNSETS_22K) == timm
    assert not set(without_images) & set(timm)
    assert list(SYNSETS_22K[:9205]) == timm[:9205]
    assert not any(ours == theirs for ours, theirs in zip(SYNSETS_22K[9205:], timm[9205:], strict=True))


def test_names_of_imagenet_22k_are_timms_lemmas_and_differ():
    assert len(set(NAMES_22K)) == len(set(SYNSETS_22K)) == 21_841
    of_1k = dict(imagenet_1k())
    synonyms = [text.split(", ") for text in lemmas(SYNSETS_22K)]
    first = [of_1k.get(synset, words[0]) for synset, words in zip(SYNSETS_22K, synonyms, strict=True)]
    shared = Counter(first)
    second = [name if shared[name] == 1 else ", ".join(words[:2]) for name, words in zip(first, synonyms, strict=True)]
    still = Counter(second)
    expected = [
        name if still[name] == 1 else f"{words[0]} ({synset})"
        for synset, name, words in zip(SYNSETS_22K, second, synonyms, strict=True)
    ]
    assert list(NAMES_22K) == expected
    named = dict(imagenet_22k())
    same = [synset for synset in SYNSETS if named.get(synset) == of_1k[synset]]
    assert len(same) > 850
    assert all(shared[of_1k[synset]] > 1 for synset in set(SYNSETS) - set(same) - {"n04399382"})


def test_numbers_of_imagenet_22k():
    known = numbers(NAMES_22K)
    assert len(known) == 2 * 21_841
    assert known["n02123045"] == known["tabby, tabby cat"] == SYNSETS_22K.index("n02123045")
    assert known["n15102894"] == 15_027
    assert numbers(lemmas(SYNSETS_22K))["n02123045"] == known["n02123045"]  # with all synonyms
    for other in ([*NAMES_22K[:-1], "cat"], sorted(NAMES_22K), lemmas(of_timm("imagenet22k_synsets.txt"))):
        assert "n02123045" not in numbers(other)  # timm's order is another


def test_numbers_of_classes():
    known = numbers(NAMES)
    assert (known["tabby"], known["n02123045"], len(known)) == (281, 281, 2000)
    assert numbers(lemmas())["n02012849"] == 134  # as transformers' config.json has them, "crane" twice
    other = [*NAMES[:-1], "cat"]
    assert numbers(other) == {name: i for i, name in enumerate(other)}
    assert numbers(NAMES[:10]) == {name: i for i, name in enumerate(NAMES[:10])}


# --- a file of names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "cat\nhot dog\nчиж\n".encode()),
        ("names.txt", "cat\nhot dog\nчиж".encode()),
        ("names.txt", "\ufeffcat\r\nhot dog\r\nчиж\r\n\r\n".encode()),
        ("names.json", json.dumps(["cat", "hot dog", "чиж"]).encode()),
    ],
    ids=["lines", "no line end", "BOM and CRLF", "JSON"],
)
def test_names_of_a_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_names(tmp_path / name, 3) == read_names(str(tmp_path / name), 3) == ("cat", "hot dog", "чиж")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"cat\ndog\n", "got 2 class names, "),
        ("a.txt", b"", "got 0 class names, "),
        ("a.txt", b"cat\ndog\ncat\n", "names 1 and 3 are both 'cat'"),
        ("a.txt", b"cat\n\ndog\n", "name 2 is empty"),
        ("a.txt", b"c\xff\n", "cannot be read as class names"),
        ("a.json", b"[", "cannot be read as class names"),
        ("a.json", b"[" * 100_000, "cannot be read as class names"),
        ("a.json", b'{"0": "cat"}', "is no list of names"),
        ("a.json", b"[1, 2, 3]", "is no list of names"),
    ],
)
def test_files_that_are_no_lists_of_names(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name}: .*{message}.*expected"):
        read_names(tmp_path / name, 3)


def test_names_that_are_not_there(tmp_path):
    for path, message in ((tmp_path, "directory"), (tmp_path / "none", "No such file"), ("a\0", "null")):
        with pytest.raises(ConfigError, match=message):
            read_names(path, 3)


# --- a checkpoint without names ---------------------------------------------------------------------------------------

SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "drop_path_rate": 0.0}


def small(classes=1000, **fields):
    return swindow.SwinTransformer(swindow.SwinConfig(num_classes=classes, **{**SMALL, **fields})).eval()


@pytest.fixture
def nameless(tmp_path):
    """The path of a file of timm's layout with 1000 classes."""
    swindow.save(small(), tmp_path / "nameless.pth", "timm")
    return tmp_path / "nameless.pth"


@pytest.mark.parametrize("layout", ["timm", "microsoft", "torchvision", "mmpretrain"])
def test_1000_classes_without_names_are_those_of_imagenet(tmp_path, layout):
    swindow.save(small(), tmp_path / "m.pth", layout, input_size=32)
    found = swindow.load(tmp_path / "m.pth")
    assert found.card.class_names == NAMES
    assert found.load_report.assumed["class_names"] == (
        "those of ImageNet-1k, as the file has 1000 classes and no names; --names FILE gives others"
    )
    again = swindow.load(tmp_path / "m.pth", num_classes=10)
    assert again.card.class_names is None
    assert "class_names" not in again.load_report.assumed


def test_other_classes_get_no_names(tmp_path):
    own, ten, clips = small(), small(10), small(patch_size=(2, 4, 4))
    for name, model, layout in (("own", own, "swindow"), ("ten", ten, "timm"), ("clips", clips, "video")):
        swindow.save(model, tmp_path / f"{name}.safetensors", layout)
        found = swindow.load(tmp_path / f"{name}.safetensors")
        assert found.card is None or found.card.class_names is None
        assert "class_names" not in found.load_report.assumed


def test_names_of_a_file_are_kept(tmp_path):
    model, names = small(), tuple(f"class {i}" for i in range(1000))
    model.card = ModelCard(class_names=names)
    for path, layout in (("m.safetensors", "timm"), ("timm", "timm"), ("transformers", "transformers")):
        swindow.save(model, tmp_path / path, layout, input_size=32)
        found = swindow.load(tmp_path / path)
        assert found.card.class_names == names
        assert "class_names" not in found.load_report.assumed


def test_placeholders_of_transformers_are_no_names(tmp_path):
    swindow.save(small(), tmp_path / "folder", "transformers", input_size=32)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["id2label"]["7"] == "LABEL_7"
    found = swindow.load(tmp_path / "folder")
    assert found.card.class_names == NAMES
    assert "class_names" in found.load_report.assumed


def test_assumed_names_are_saved(nameless, tmp_path):
    model = swindow.load(nameless)
    swindow.save(model, tmp_path / "own.safetensors")
    swindow.save(model, tmp_path / "timm.safetensors", "timm")
    swindow.save(model, tmp_path / "folder", "transformers", input_size=32)
    about = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (about["id2label"]["281"], len(about["label2id"]), about["label2id"]["tabby"]) == ("tabby", 1000, 281)
    for path in ("own.safetensors", "timm.safetensors", "folder"):
        found = swindow.load(tmp_path / path)
        assert found.card.class_names == NAMES
        assert "class_names" not in found.load_report.assumed
    with pytest.raises(CheckpointError, match="is there already"):
        swindow.convert(nameless, tmp_path / "own.safetensors")


def test_rows_of_imagenet_22k_have_names():
    found = swindow.load(small(21_841).state_dict(), num_classes=1000, config={"window_size": 4})
    assert found.card.class_names == NAMES


# --- data for such a model --------------------------------------------------------------------------------------------


def outputs(model, info):
    return Classify.of(Classify.card_of(model)).outputs_of(info)


def test_folders_named_by_synsets_are_the_classes_of_imagenet(nameless, tmp_path):
    model = swindow.load(nameless)
    assert outputs(model, DataInfo("val", class_names=SYNSETS)) == tuple(range(1000))
    assert outputs(model, DataInfo("some", class_names=(SYNSETS[281], SYNSETS[7]))) == (281, 7)
    assert outputs(model, DataInfo("cats", class_names=("tabby", "tiger cat"))) == (281, 282)
    swindow.save(model, tmp_path / "own.safetensors")
    own = swindow.load(tmp_path / "own.safetensors")
    assert outputs(own, DataInfo("val", class_names=SYNSETS[5:7])) == (5, 6)


def test_order_decides_only_where_the_data_has_none_of_the_names(nameless):
    model = swindow.load(nameless)
    numbered = DataInfo("val", class_names=tuple(f"{i:04}" for i in range(1000)))
    assert outputs(model, numbered) == tuple(range(1000))
    refused = [
        DataInfo("val", class_names=numbered.class_names[:999]),
        DataInfo("val", class_names=(*numbered.class_names[:999], "tabby")),
        DataInfo("val", class_names=(*SYNSETS[:999], "n00000000")),
    ]
    for info in refused:
        with pytest.raises(DataError, match="which the model does not know"):
            outputs(model, info)
    model.card = model.card.replace(class_names=tuple(f"class {i}" for i in range(1000)))  # as the user said
    with pytest.raises(DataError, match="which the model does not know"):
        outputs(model, numbered)


def test_long_lists_of_classes_are_shortened_and_the_error_says_what_to_type(nameless):
    model = swindow.load(nameless)
    with pytest.raises(DataError) as caught:
        outputs(model, DataInfo("pets", class_names=tuple(f"pet {i}" for i in range(30))))
    message = str(caught.value)
    assert message.startswith("pets has classes 'pet 0', 'pet 1', ")
    assert "'pet 9' ... and 20 more, which the model does not know; it knows 'tench', " in message
    assert "... and 990 more; " in message
    assert message.endswith("fine-tune it: swindow train DATA --weights CHECKPOINT")
    model = swindow.create("swin_nano", num_classes=3)
    with pytest.raises(DataError, match=r"got 2 classes in pets, the model has 3; .*train DATA --weights CHECKPOINT$"):
        outputs(model, DataInfo("pets", class_names=("cat", "dog")))
