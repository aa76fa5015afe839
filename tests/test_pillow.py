"""Pillow with lic.pillow: open, load, seek and save."""

import io
import subprocess
import sys
from functools import cache

import pytest
from conftest import DATA, TINY, alike
from PIL import Image, UnidentifiedImageError

from lic import pillow
from lic.codec import Codec


@pytest.fixture(autouse=True)
def tiny_codec(monkeypatch):
    make = cache(lambda *keep, **options: Codec("tiny", "hyperprior", weights_folder=TINY, keep=keep, **options))
    monkeypatch.setattr(pillow, "_codec", make)
    return make()


def saved(image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "LIC", **options)
    return out.getvalue()


def test_open_is_lazy_and_load_decodes(tiny_codec, sample):
    script = f"""import sys, lic.pillow
from PIL import Image
print(Image.open({str(DATA / "golden-local.lic")!r}).size)
assert 'torch' not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "(127, 100)\n"
    data = tiny_codec.encode(sample, 60)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("LIC", "RGB", sample.size)
    assert image.info["quality"] == pytest.approx(60, abs=0.02)
    assert alike(image, tiny_codec.decode(data))


def test_a_stored_picture(drawing):
    image = Image.open(io.BytesIO(saved(drawing, quality=40, effort=0)))
    assert image.info["quality"] == 100
    assert image.tobytes() == drawing.tobytes()


def test_what_has_more_bits_is_converted_if_asked_for():
    deep = Image.new("I;16", (40, 30), 40000)
    with pytest.raises(ValueError, match="see --convert"):
        saved(deep)
    assert Image.open(io.BytesIO(saved(deep, convert=True))).getpixel((9, 9)) == (156, 156, 156)


def test_save_round_trip(tmp_path, tiny_codec, sample):
    sample.save(tmp_path / "a.lic", quality=80, effort=0, icc_profile=b"a profile of some length")
    assert (tmp_path / "a.lic").read_bytes() != saved(sample, quality=20, effort=0)
    with Image.open(tmp_path / "a.lic") as image:
        assert image.info["icc_profile"] == b"a profile of some length"
        image.load()
        assert saved(image, quality=80, effort=0)  # the profile comes along
    assert "icc_profile" not in sample.info
    exif = Image.Exif()
    exif[0x010F] = "maker"
    for given in (exif, exif.tobytes()):
        with Image.open(io.BytesIO(saved(sample, effort=0, exif=given, xmp=b"<x/>"))) as image:
            assert image.getexif()[0x010F] == "maker"
            assert image.info["xmp"] == b"<x/>"
            assert "exif" not in Image.open(io.BytesIO(saved(image, effort=0))).info
    half = sample.copy()
    half.putalpha(128)
    assert Image.open(io.BytesIO(saved(half))).convert("RGBA").getpixel((0, 0))[3] == 128
    with pytest.raises(ValueError, match="quality"):
        saved(sample, quality=101)


def test_frames(tiny_codec, sample):
    frames = [sample.crop((k, 60, k + 96, 124)) for k in (0, 104, 208)]
    data = saved(frames[0], save_all=True, append_images=frames[1:])
    image = Image.open(io.BytesIO(data))
    assert (image.n_frames, image.is_animated) == (3, True)
    for k in (2, 0, 1):
        image.seek(k)
        assert image.tell() == k
        assert [alike(image, tiny_codec.decode(data, other + 1)) for other in range(3)] == [other == k for other in range(3)]
    with pytest.raises(EOFError):
        image.seek(3)
    assert "duration" not in image.info
    timed = Image.open(io.BytesIO(saved(frames[0], save_all=True, append_images=frames[1:], duration=[10, 20, 30], loop=2, effort=0)))
    for k in (1, 2, 0):
        timed.seek(k)
        assert (timed.info["duration"], timed.info["loop"]) == (10 * (k + 1), 2)
    assert Image.open(io.BytesIO(saved(frames[0], save_all=True, append_images=frames[1:], duration=7, effort=0))).info["duration"] == 7
    assert "duration" not in frames[0].info
    half = frames[1].copy()
    half.putalpha(128)
    mixed = Image.open(io.BytesIO(saved(frames[0], save_all=True, append_images=[half], effort=0)))
    assert mixed.mode == "RGBA"
    for k, opacity in enumerate((255, 128)):
        mixed.seek(k)
        assert mixed.getpixel((5, 5))[3] == opacity
    with pytest.raises(ValueError, match="durations"):
        saved(frames[0], save_all=True, append_images=frames[1:], duration=[10, 20])


def test_damaged_files(tiny_codec, sample):
    data = tiny_codec.encode(sample.crop((0, 0, 64, 64)), 50)
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data[:-1]))
    tiny_codec.folders = ()
    with Image.open(DATA / "golden-local.lic") as other, pytest.raises(OSError, match="no weights"):
        other.load()
