"""Reading and preparing images: every kind of file works or gives a clear error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from swindow.card import CHANNELS, Preprocess
from swindow.errors import DataError
from swindow.media import image as images


def photo(width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "LA", "1", "I;16", "YCbCr", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_8_bit_grey_or_rgb(mode, channels):
    image = photo().convert("L").convert("I").convert("I;16") if mode == "I;16" else photo().convert(mode)
    converted = images.convert(image, channels)
    assert converted.mode == CHANNELS[channels]
    assert np.asarray(converted).std() > 5  # the picture is still in it


def test_16_bit_grey_keeps_its_brightness():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    got = np.asarray(images.convert(Image.fromarray(values), 1))
    np.testing.assert_allclose(got, values / 257, atol=1)


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert images.convert(image, 3).getpixel((0, 0)) == (255, 255, 255)


def test_read_turns_upright(tmp_path):
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # lay on its side
    image.save(tmp_path / "a.jpg", exif=exif)
    assert images.read(tmp_path / "a.jpg").size == (2, 4)


def test_read_takes_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.convert(images.read(tmp_path / "a.gif"), 3).getpixel((0, 0))[0] > 200


def test_read_says_what_is_wrong(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    photo().save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for name, expected in [
        ("text.jpg", "not an image"),
        ("cut.jpg", "broken"),
        ("no.png", "no such file"),
        ("", "folder"),
    ]:
        with pytest.raises(DataError, match=expected) as error:
            images.read(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    photo().save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="refused"):
        images.read(tmp_path / "a.png")


def test_a_real_bomb_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # 50 kB that unfold into 400 million pixels
    with pytest.raises(DataError, match="refused"):
        images.read(tmp_path / "bomb.png")


def test_crop_is_the_centre_and_squash_the_whole():
    image = Image.new("L", (300, 100))
    image.paste(255, (100, 0, 200, 100))
    whole = np.asarray(images.fit(image, Preprocess((50, 50), "squash", mean=(0.5,), std=(0.5,))))
    centre = np.asarray(images.fit(image, Preprocess((50, 50), "crop", 1.0, mean=(0.5,), std=(0.5,))))
    assert 0.3 < (whole > 127).mean() < 0.36
    assert (centre > 127).mean() == 1


def test_fit_equals_resize_then_crop_inside():
    """Only at the border of the cut, where the outside would have a share in the filter, may pixels differ."""
    image, how = photo(320, 256), Preprocess((112, 112), crop_fraction=112 / 128)
    resized = image.resize((160, 128), Image.Resampling.BICUBIC).crop((24, 8, 136, 120))
    ours, theirs = np.asarray(images.fit(image, how), int), np.asarray(resized, int)
    assert abs(ours - theirs)[2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000)])
def test_extreme_sizes_work(size):
    assert images.prepare(Image.new("RGB", size), Preprocess((32, 32))).shape == (3, 32, 32)


def test_to_tensor_normalises_and_puts_channels_first():
    image = Image.new("RGB", (5, 4), (255, 0, 128))
    x = images.to_tensor(image, Preprocess((4, 5), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5)))
    assert x.shape == (3, 4, 5)
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([1.0, -2.0, (128 / 255 - 0.5) / 0.5]))
