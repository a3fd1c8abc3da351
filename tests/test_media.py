"""Reading and preparing images: every kind of file works or gives a clear error."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps

from swindow.card import Preprocess
from swindow.errors import DataError
from swindow.media import image as images


def photo(width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


RAMP = np.tile(np.linspace(0, 255, 36), (24, 1)).round().astype(np.uint8)  # the picture of every test of modes
PLAIN = Preprocess((24, 36), "squash", interpolation="bilinear", mean=(0.0,), std=(1.0,))  # leaves values as they are
BYTES = dataclasses.replace(PLAIN, value_range=(0, 255))


def ramp(mode: str) -> Image.Image:
    """The ramp as an image in memory; black is 0, white the largest number of the mode, of "I" 65535 and of "F" 1."""
    grey = Image.fromarray(RAMP)
    if mode == "F":
        return Image.fromarray(RAMP.astype(np.float32) / 255)
    if mode == "I":
        return Image.fromarray(RAMP.astype(np.int32) * 257)
    if mode.startswith("I;16"):
        order = {"I;16B": ">", "I;16N": "="}.get(mode, "<")
        return Image.frombytes(mode, grey.size, (RAMP.astype(f"{order}u2") * 257).tobytes())
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.applyTransform(grey.convert("RGB"), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    if mode == "1":
        return grey.convert("1", dither=Image.Dither.NONE)
    return grey.convert(
        {"La": "LA", "PA": "LA", "RGBa": "RGBA"}.get(mode, "L" if mode in ("LA", "P") else "RGB")
    ).convert(mode)


def tiff(path, values: np.ndarray, bits: int | tuple[int, ...], **tags: int | tuple[int, ...]) -> str:
    """Writes what Pillow reads and does not write. ``values``: (H, W) or (H, W, C), in the file's own type."""
    height, width = values.shape[:2]
    data = values.tobytes()
    if bits == 12:  # two values in three bytes
        pairs = values.reshape(-1, 2).astype(np.uint16)
        data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        data = data.astype(np.uint8).tobytes()
    numbers = {"ImageWidth": width, "ImageLength": height, "BitsPerSample": bits, "Compression": 1}
    numbers |= {"PhotometricInterpretation": 1, "StripOffsets": 8, "SamplesPerPixel": values[0, 0].size}
    numbers |= {"RowsPerStrip": height, "StripByteCounts": len(data), **tags}
    entries, more = [], b""
    start = 8 + len(data)
    for tag, value in sorted((TAGS[name], value) for name, value in numbers.items()):
        value = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(value)}I", *value)
        if len(value) > 1:  # stands after the table
            packed, more = struct.pack("<I", start + 6 + 12 * len(numbers) + len(more)), more + packed
        entries.append(struct.pack("<HHI", tag, 4, len(value)) + packed)
    table = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + more
    path.write_bytes(struct.pack("<2sHI", b"II", 42, start) + data + table)
    return str(path)


TAGS = {"ImageWidth": 256, "ImageLength": 257, "BitsPerSample": 258, "Compression": 259, "SampleFormat": 339}
TAGS |= {"PhotometricInterpretation": 262, "StripOffsets": 273, "SamplesPerPixel": 277, "ExtraSamples": 338}
TAGS |= {"RowsPerStrip": 278, "StripByteCounts": 279}


def off(got: torch.Tensor, expected: np.ndarray = RAMP / 255) -> float:
    """The largest difference in 8-bit grey levels."""
    return float(np.abs(got.numpy() - expected).max()) * 255


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "F"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", [*MODES, "I;16", "I;16B", "I;16L", "I;16N"])  # of "I" the range is not known
def test_every_mode_in_memory_gives_the_same_tensor(mode, channels):
    image = ramp(mode)
    assert image.mode == mode
    how = dataclasses.replace(PLAIN, mean=(0.0,) * channels, std=(1.0,) * channels)
    x = images.prepare(image, how)
    assert x.shape == (channels, 24, 36)
    assert off(x, RAMP > 127 if mode == "1" else RAMP / 255) <= (1.01 if mode == "LAB" else 0.01)


FILES = {
    "png": "1 L LA P RGB RGBA I;16",
    "tif": "1 L LA P PA RGB RGBA CMYK LAB I;16 I;16B F",
    "im": "1 L LA RGB RGBA CMYK YCbCr I;16 I;16B I;16L F",  # IFUNC Image Memory
    "jpg": "L RGB CMYK",
    "jp2": "L LA RGB RGBA I;16",
    "webp": "RGB RGBA",
    "bmp": "1 L RGB",
    "ppm": "1 L RGB",
    "tga": "1 L LA P RGB RGBA",
    "gif": "P",
    "spi": "F",  # SPIDER
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix in FILES for mode in FILES[suffix].split()])
@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")
def test_every_mode_in_a_file_gives_the_same_tensor(tmp_path, suffix, mode):
    if suffix == "im" and ".im" not in Image.registered_extensions():
        pytest.skip("Pillow 15 removes this format")
    path = tmp_path / f"a.{suffix}"
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}, "spi": {"format": "SPIDER"}}
    ramp(mode).save(path, **options.get(suffix, {}))
    with Image.open(path) as image:
        assert image.mode in {
            mode,
            "I" if (suffix, mode) == ("png", "I;16") else mode,
            "RGB" if suffix == "webp" else mode,
        }
    x = images.prepare(path, PLAIN)
    assert off(x, RAMP > 127 if mode == "1" else RAMP / 255) <= (1.01 if mode == "LAB" else 0.01)
    torch.testing.assert_close(images.prepare(Image.open(path), PLAIN), x, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("values", "bits", "tags"),
    [
        ((RAMP / 255 * 4095).round().astype(np.uint16), 12, {}),
        (RAMP.astype("<f4") / 255, 32, {"SampleFormat": 3, "PhotometricInterpretation": 0}),  # what no tag means
        (65535 - RAMP.astype("<u2") * 257, 16, {"PhotometricInterpretation": 0}),  # white is zero
        (255 - RAMP, 8, {"PhotometricInterpretation": 0}),
        (np.stack([RAMP, np.full_like(RAMP, 255)], -1), (8, 8), {"ExtraSamples": 1}),  # mode "La"
        (np.stack([RAMP] * 3, -1).astype("<u2") * 257, (16, 16, 16), {"PhotometricInterpretation": 2}),
    ],
    ids=["12 bits", "float32, white is zero", "16 bits, white is zero", "white is zero", "La", "16-bit RGB"],
)
def test_tiffs_of_every_depth_give_the_same_tensor(tmp_path, values, bits, tags):
    assert off(images.prepare(tiff(tmp_path / "a.tif", values, bits, **tags), PLAIN)) <= 0.07  # 12 bits: half a level


def test_12_bits_keep_their_levels(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    how = dataclasses.replace(PLAIN, size=(64, 64))
    x = images.prepare(tiff(tmp_path / "a.tif", values, 12), how)
    np.testing.assert_allclose(x[0].numpy(), values / 4095, atol=1e-6)
    (tmp_path / "a.pgm").write_bytes(b"P5 64 64 4095\n" + values.astype(">u2").tobytes())
    np.testing.assert_allclose(images.prepare(tmp_path / "a.pgm", how)[0].numpy(), values / 4095, atol=1e-5)
    Image.fromarray(values).save(tmp_path / "camera.png")  # 12 bits in a file of 16
    how = dataclasses.replace(how, value_range=(0, 4095))
    np.testing.assert_allclose(images.prepare(tmp_path / "camera.png", how)[0].numpy(), values / 4095, atol=1e-6)


@pytest.mark.parametrize("brightest", [1, 255, 256, 4095, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_does_not_depend_on_its_own_maximum(tmp_path, suffix, brightest):
    values = (RAMP / 255 * brightest).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    x = images.prepare(tmp_path / f"a.{suffix}", PLAIN)
    np.testing.assert_allclose(x[0].numpy(), values / 65535, atol=1e-6)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-1000.0, 400.0)])
def test_float_files_and_bytes_give_the_same_tensor(tmp_path, value_range):
    """Through the sharpest resampling, of noise: what overshoots is cut off alike."""
    values = np.random.default_rng(0).integers(0, 256, (60, 50), dtype=np.uint8)
    values[:30] //= 4
    Image.fromarray(values).save(tmp_path / "a.png")
    black, white = value_range
    Image.fromarray((values / 255 * (white - black) + black).astype(np.float32)).save(tmp_path / "a.tif")
    given = None if value_range == (0, 1) else value_range
    for size, fit in (((100, 90), "squash"), ((41, 33), "crop"), ((16, 16), "crop")):
        how = dataclasses.replace(PLAIN, size=size, fit=fit, interpolation="bicubic", value_range=given)
        expected = images.prepare(tmp_path / "a.png", how).numpy()
        assert off(images.prepare(tmp_path / "a.tif", how), expected) < 1.05  # 8 bits are rounded twice


def test_what_a_float_image_has_beyond_black_and_white_is_kept_and_told_once(tmp_path):
    values = np.linspace(-1, 1, 36 * 24, dtype=np.float32).reshape(24, 36)
    Image.fromarray(values).save(tmp_path / "a.tif")
    images._warn_of_range.cache_clear()
    with pytest.warns(UserWarning, match="value_range"):
        x = images.prepare(tmp_path / "a.tif", PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images.prepare(tmp_path / "a.tif", PLAIN)
    np.testing.assert_allclose(x[0].numpy(), values, atol=1e-6)
    how = dataclasses.replace(PLAIN, size=(12, 18), interpolation="bicubic")
    smaller = images.prepare(tmp_path / "a.tif", how)[0].numpy()
    assert smaller.min() < -0.95
    assert (np.diff(smaller, axis=0) > 0).all()
    how = dataclasses.replace(PLAIN, value_range=(-1, 1))
    np.testing.assert_allclose(images.prepare(tmp_path / "a.tif", how)[0].numpy(), values / 2 + 0.5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:float images have values")
def test_no_pixel_decides_how_another_is_read():
    values = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    other = values.copy()
    other[0, 0] = 1000
    how = dataclasses.replace(PLAIN, size=(64, 64), interpolation="bicubic")
    for change in (None, (0, 1000)):
        how = dataclasses.replace(how, value_range=change)
        one, two = (images.prepare(Image.fromarray(v), how)[0] for v in (values, other))
        assert torch.equal(one[8:, 8:], two[8:, 8:])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", [PLAIN, BYTES])
def test_values_that_are_not_finite_are_an_error_with_the_name(tmp_path, bad, how):
    values = RAMP.astype(np.float32)
    values[3, 4] = bad
    for name in ("a.tif", "a.pfm"):
        Image.fromarray(values).save(tmp_path / name)
        for image in (tmp_path / name, Image.open(tmp_path / name)):
            with pytest.raises(DataError, match=rf"{name}: 1 of 864 values are not finite"):
                images.prepare(image, how)
        with pytest.raises(DataError, match=name):  # where files are verified
            images.read(tmp_path / name)
    with pytest.raises(DataError, match="image: 1 of"):
        images.fit(Image.fromarray(values), how)


@pytest.mark.parametrize(("kind", "signed"), [("<i2", 2), ("<i4", 2), ("<u4", 1)])
def test_integers_without_a_known_range_need_one(tmp_path, kind, signed):
    bits = np.dtype(kind).itemsize * 8
    top = 2 ** (bits - signed + 1) - 1
    values = (RAMP / 255 * top).astype(kind)
    path = tiff(tmp_path / "a.tif", values, bits, SampleFormat=signed)
    with pytest.raises(DataError, match=r"a.tif.*value_range"):
        images.prepare(path, PLAIN)
    assert off(images.prepare(path, dataclasses.replace(PLAIN, value_range=(0, top)))) < 0.01
    with pytest.raises(DataError, match=r"image: .*value_range"):
        images.prepare(ramp("L").convert("I"), PLAIN)
    assert off(images.prepare(ramp("L").convert("I"), BYTES)) < 0.01


def test_a_range_is_for_deep_images_alone(tmp_path):
    assert torch.equal(
        images.prepare(ramp("L"), dataclasses.replace(PLAIN, value_range=(50, 60))), images.prepare(ramp("L"), PLAIN)
    )
    colour = np.stack([RAMP] * 3, -1).astype("<u2")  # 8 bits in 16: Pillow would give zeros
    path = tiff(tmp_path / "a.tif", colour, (16, 16, 16), PhotometricInterpretation=2)
    with pytest.raises(DataError, match=r"a.tif: colour of 16 bits.*value_range"):
        images.prepare(path, BYTES)


def test_a_range_cuts_off_what_lies_beyond():
    values = np.array([[-5, 0, 5, 10, 15]], np.float32)
    how = Preprocess((1, 5), "squash", interpolation="bicubic", mean=(0.0,), std=(1.0,), value_range=(0, 10))
    assert images.prepare(Image.fromarray(values), how).flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_pictures_are_for_people():
    for mode in ("F", "I;16", "L"):
        shown = images.picture(images.fit(ramp(mode), PLAIN))
        assert shown.mode == "RGB"
        assert (np.asarray(shown) == RAMP[..., None]).all()
    assert np.asarray(images.picture(Image.new("F", (1, 1), -3))).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("P" if mode == "PA" else "RGB", (2, 2), 1)
    image.putalpha(0)
    image = image.convert({"La": "LA"}.get(mode, mode)).convert(mode)
    assert images.convert(image, Preprocess()).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I;16", "L", "RGB"])
def test_a_transparent_value_is_white(tmp_path, mode):
    image = ramp(mode)
    image.save(tmp_path / "a.png", transparency=image.getpixel((0, 0)))  # of black
    expected = np.where(RAMP == 0, 1, RAMP / 255)
    assert off(images.prepare(tmp_path / "a.png", PLAIN), expected) < 0.01


def rotated(path, orientation: int) -> np.ndarray:
    """Writes a picture of 6 x 4 pixels that is upright once it is turned as its EXIF says; returns it upright."""
    upright = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    lying, exif = Image.fromarray(upright), Image.Exif()
    exif[0x0112] = back
    lying.info["exif"] = exif.tobytes()
    lying = ImageOps.exif_transpose(lying)
    exif[0x0112] = orientation
    lying.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {"quality": 100}))
    return upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_file_and_a_pil_image_are_turned_upright_once(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    upright = rotated(path, orientation)
    how = dataclasses.replace(PLAIN, size=(4, 6))
    with Image.open(path) as image:
        for given in (path, image, images.read(path), images.read(image), ImageOps.exif_transpose(image)):
            assert off(images.prepare(given, how), upright / 255) <= 6  # of a JPEG
        if suffix != "tif":  # turned by Pillow itself
            assert image.getexif().get(0x0112, 1) == orientation, "the caller's image has changed"
    assert images.ImageFile(str(path)).size == upright.shape


def test_a_handle_is_small_and_knows_its_size_without_decoding(tmp_path, monkeypatch):
    sizes = {}
    for suffix in ("jpg", "tif", "webp", "png"):
        for orientation in (1, 6):
            path = tmp_path / f"{orientation}.{suffix}"
            sizes[path] = rotated(path, orientation).shape
    handles = {pickle.loads(pickle.dumps(images.ImageFile(str(path)))): size for path, size in sizes.items()}
    for handle, size in handles.items():
        assert handle.decode().size == size[::-1]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for handle, size in handles.items():
        assert handle.size == size
    with pytest.raises(DataError, match="no such file"):
        images.ImageFile(str(tmp_path / "no.png")).size  # noqa: B018


def test_broken_pil_images_are_data_errors(tmp_path):
    photo(200, 200).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    for name in ("cut.jpg", ""):
        image = Image.open(io.BytesIO(whole[: len(whole) // 2]))
        image.filename = name
        with pytest.raises(DataError, match=f"{name or 'image'}: a broken image"):
            images.prepare(image, PLAIN)


def test_media_comes_without_torch():
    code = "import sys, swindow.media; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_read_takes_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.convert(images.read(tmp_path / "a.gif"), Preprocess()).getpixel((0, 0))[0] > 200


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
    for mode in ("RGB", "F"):
        assert images.prepare(Image.new(mode, size), Preprocess((32, 32))).shape == (3, 32, 32)


def test_to_tensor_normalises_and_puts_channels_first():
    image = Image.new("RGB", (5, 4), (255, 0, 128))
    x = images.to_tensor(image, Preprocess((4, 5), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5)))
    assert x.shape == (3, 4, 5)
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([1.0, -2.0, (128 / 255 - 0.5) / 0.5]))


def png_of_16_bits(path, values):
    """Writes (H, W, 3) uint16 as a PNG, which Pillow does not."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_a_range_for_colour_of_16_bits_is_an_error(tmp_path):
    """Pillow has reduced it to 8 bits by then: the darkest 4096 of 65536 values would be 16 grey levels."""
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3))
    png_of_16_bits(tmp_path / "a.png", values)
    found = images.prepare(tmp_path / "a.png", dataclasses.replace(PLAIN, size=(8, 8), mean=(0,) * 3, std=(1,) * 3))
    np.testing.assert_allclose(found.numpy(), values.transpose(2, 0, 1) / 65535, atol=1 / 255)
    for image in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        with pytest.raises(DataError, match=r"a\.png: colour of 16 bits per channel"):
            images.prepare(image, dataclasses.replace(PLAIN, value_range=(0, 4095)))
