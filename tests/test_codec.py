"""Round trips through whole files, with tiny weights (fixture `tiny`: a Codec) and with the shipped ones."""

import dataclasses
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import DATA, TINY, alike
from PIL import Image

import lic
from lic import container, stored, weights
from lic.codec import Codec
from lic.defaults import ENTROPY
from lic.errors import Corrupt, LicError, MissingWeights, TooLarge, Unsupported


def psnr(a, b) -> float:
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return float(10 * np.log10(255**2 / max(np.mean(difference**2), 1e-9)))


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (130, 1), (63, 65), (64, 64), (200, 100)])
def test_any_size(tiny, sample, size):
    picture = sample.crop((90, 60, 90 + size[0], 60 + size[1]))
    data = tiny.encode(picture, 90, 1)
    decoded = tiny.decode(data)
    assert decoded.size == size
    assert decoded.mode == "RGB"
    assert psnr(decoded, picture) > 17
    assert data == tiny.encode(picture, 90, 1)


@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_constant_images(tiny, colour):
    picture = Image.new("RGB", (100, 80), colour)
    assert psnr(tiny.decode(tiny.encode(picture, 100)), picture) > 17


def test_what_is_like_no_photograph_is_not_made_larger_by_context():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (128, 64)))
    codec = Codec("lite", store=False)
    data = codec.encode(stripes, 100, effort=0)
    by_itself = Codec("lite", "hyperprior", store=False).encode(stripes, 100, effort=0)
    assert data == by_itself  # 12 bits a pixel; by context it would be 29
    assert psnr(codec.decode(data), stripes.convert("RGB")) > 25
    by_default, without_context = (Codec(entropy=name, store=False).encode(stripes, 100, effort=0) for name in (ENTROPY, "hyperprior"))
    assert len(by_default) <= len(without_context)


def test_a_drawing_is_stored_as_it_is_where_that_is_smaller(drawing, sample):
    codec, learned = (Codec("tiny", "hyperprior", "cpu", weights_folder=TINY, store=store) for store in (True, False))
    data = codec.encode(drawing, 60, effort=0)
    assert len(data) < len(learned.encode(drawing, 60, effort=0))
    header, frames = container.unpack(data)
    assert not header.weights
    for decoded in (codec.decode(data), codec.decode(data, 1), *codec.decode_sequence(data)):
        assert np.array_equal(np.asarray(decoded), np.asarray(drawing))
    assert codec.encode(sample, 60, effort=0) == learned.encode(sample, 60, effort=0)
    clear = drawing.copy()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.info["icc_profile"] = b"a profile"
    decoded = codec.decode(codec.encode(clear, 60, effort=0))
    seen = np.asarray(clear)[..., 3] > 0
    assert np.array_equal(np.asarray(decoded)[seen], np.asarray(clear)[seen])
    assert decoded.info["icc_profile"] == b"a profile"
    with pytest.raises(LicError, match="there is no frame 2"):
        codec.decode(data, 2)
    with pytest.raises(TooLarge):
        Codec(max_pixels=10).decode(data)
    with pytest.raises(Corrupt, match="colours"):
        codec.decode(container.pack(dataclasses.replace(header, width=151), frames))
    rng = np.random.default_rng(0)
    for _ in range(200):  # behind a mended crc
        damaged = bytearray(frames[0].payload)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        with suppress(LicError):
            assert codec.decode(container.pack(header, [dataclasses.replace(frames[0], payload=bytes(damaged))])).size == drawing.size


def test_alpha_is_kept_without_loss(tiny, sample):
    alpha = np.zeros((100, 150), np.uint8)
    alpha[10:90, 20:120] = np.linspace(0, 255, 100).astype(np.uint8)
    picture = sample.crop((0, 0, 150, 100))
    picture.putalpha(Image.fromarray(alpha))
    data = tiny.encode(picture, 90)
    decoded = tiny.decode(data)
    assert decoded.mode == "RGBA"
    assert np.array_equal(np.asarray(decoded)[..., 3], alpha)
    seen = alpha > 0
    assert psnr(np.asarray(decoded)[seen][:, :3], np.asarray(picture)[seen][:, :3]) > 17
    header, frames = container.unpack(data)
    other = stored.pack_alpha(alpha[1:])
    with pytest.raises(Corrupt, match="alpha channel"):
        tiny.decode(container.pack(header, [dataclasses.replace(frames[0], alpha=other)]))


def test_noise_survives(tiny, noise_image):
    for quality in (0, 33.3, 100):
        assert tiny.decode(tiny.encode(noise_image, quality)).size == noise_image.size


def test_golden_files(tiny, entropy_name, sample):
    """Files of this version, committed: they must decode, to these pixels but for a level of rounding.

    Made by `python tests/data/make_golden.py`; only a new format version may change them.
    """
    decoded = tiny.decode((DATA / f"golden-{entropy_name}.lic").read_bytes())
    assert alike(decoded, Image.open(DATA / f"golden-{entropy_name}.png"))


def test_a_golden_file_of_a_stored_picture():
    decoded, drawing = lic.open(DATA / "golden-stored.lic"), Image.open(DATA / "golden-stored.png")
    assert container.unpack((DATA / "golden-stored.lic").read_bytes())[0].weights is None
    assert decoded.mode == drawing.mode == "RGBA"
    assert decoded.tobytes() == drawing.tobytes()


@pytest.mark.parametrize("path", sorted(DATA.glob("earlier-*.lic")), ids=lambda path: path.stem)
def test_files_of_earlier_versions(path):
    """Made from the same piece of the sample, quality 70, by the default model of that version, or the one in its name
    (that of 0.30.0 from a drawing, which has entries of its own).

    Weights that replace others: the others stay in weights/older, or the changelog says what no longer decodes, and this goes.
    """
    assert alike(Codec().decode(path.read_bytes()), Image.open(path.with_suffix(".png")))


def test_every_truncation_and_every_flipped_byte_is_a_lic_error(tiny, sample):
    data = tiny.encode(sample.crop((64, 100, 192, 200)), 30)
    for length in range(len(data)):
        with pytest.raises(LicError):
            tiny.decode(data[:length])
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            with pytest.raises(LicError):
                tiny.decode(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])


def test_damage_behind_a_mended_crc_is_still_noticed(tiny, sample):
    """Payload damage that the CRC does not see must fail in the coder or at the latents' checksum, in one family."""
    header, (frame,) = container.unpack(tiny.encode(sample.crop((64, 100, 192, 200)), 60))
    payload = frame.payload
    rng = np.random.default_rng(0)
    for _ in range(12):  # every model is tried, so a few each
        damaged = bytearray(payload)
        damaged[rng.integers(len(payload))] ^= 1 << rng.integers(8)
        with pytest.raises(Corrupt):
            tiny.decode(container.pack(header, [dataclasses.replace(frame, payload=bytes(damaged))]))
    for length in range(0, len(payload), 50):
        with pytest.raises(Corrupt):
            tiny.decode(container.pack(header, [dataclasses.replace(frame, payload=payload[:length])]))


def test_lies_about_the_size_are_noticed(tiny, sample):
    header, frames = container.unpack(tiny.encode(sample.crop((0, 0, 100, 100)), 60))
    with pytest.raises(TooLarge):
        tiny.decode(container.pack(dataclasses.replace(header, width=2**31, height=2**31), frames))
    with pytest.raises(Corrupt):
        tiny.decode(container.pack(dataclasses.replace(header, width=300), frames))
    with pytest.raises(MissingWeights, match="00000000"):
        tiny.decode(container.pack(dataclasses.replace(header, weights=bytes(4)), frames))


def test_bad_arguments(tiny, sample):
    for quality in (-1, 100.1, float("nan")):
        with pytest.raises(LicError, match="quality"):
            tiny.encode(sample, quality)
    with pytest.raises(MissingWeights):
        Codec(entropy="nonsense").encode(sample)
    with pytest.raises(TooLarge):
        Codec(model="tiny", weights_folder=TINY, max_pixels=10).encode(sample)
    with pytest.raises(Unsupported):
        tiny.encode(Image.new("CMYK", (8, 8)))


def test_profile_travels(tiny, sample):
    picture = sample.copy()
    picture.info["icc_profile"] = b"not really a profile, but bytes are bytes"
    assert tiny.decode(tiny.encode(picture, 10)).info["icc_profile"] == picture.info["icc_profile"]


def test_metadata_are_kept_if_asked_for(sample):
    picture = sample.crop((0, 0, 64, 64))
    plain = picture.copy()
    picture.info |= {"exif": b"bytes are", "xmp": b"bytes"}
    for keep in ((), ("exif",), ("exif", "xmp")):
        codec = Codec("tiny", "hyperprior", "cpu", TINY, keep=keep)
        data = codec.encode(picture, 10)
        assert codec.decode(data).info == {name: picture.info[name] for name in keep}
        assert (data == codec.encode(plain, 10)) == (not keep)
    with pytest.raises(Unsupported, match="metadata"):
        codec.encode_sequence([picture, picture])
    with pytest.raises(LicError, match="'gps'"):
        Codec(keep=("exif", "gps"))


def test_shipped_weights_through_the_api(sample):
    sizes, qualities = [], []
    for quality in (0, 25, 50, 75, 100):
        data = lic.encode(sample, quality=quality)
        sizes.append(len(data))
        qualities.append(psnr(lic.decode(data), sample))
    assert sizes == sorted(set(sizes))
    assert qualities == sorted(set(qualities))
    assert qualities[0] > 22
    assert qualities[-1] > 32
    hyperprior = lic.encode(sample, quality=50, entropy="hyperprior")
    assert sizes[2] < len(hyperprior)


def test_open_and_codec_agree(sample, tmp_path):
    path = tmp_path / "x.lic"
    codec = lic.Codec()
    path.write_bytes(codec.encode(sample, 20))
    assert alike(lic.open(path), codec.decode(path.read_bytes()))
    with pytest.raises(AttributeError):
        _ = lic.nonsense


def test_callers_may_be_in_inference_mode(sample):
    """Weights that are loaded there must serve the search later, which needs gradients."""
    picture = sample.crop((0, 0, 128, 96))
    for cached in (weights.load_models, weights._load_transforms):
        cached.cache_clear()
    with torch.inference_mode():
        data = Codec("tiny", "hyperprior", "cpu", TINY).encode(picture, 50)
        inside = Codec("tiny", "hyperprior", "cpu", TINY).decode(data)
        frames = Codec("tiny", "hyperprior", "cpu", TINY).encode_sequence([picture, picture], 50)
    assert Codec("tiny", "hyperprior", "cpu", TINY).encode(picture, 50) == data
    assert Codec("tiny", "hyperprior", "cpu", TINY).encode_sequence([picture, picture], 50) == frames
    assert alike(inside, Codec("tiny", "hyperprior", "cpu", TINY).decode(data))
