"""Sequences of frames: through whole files with tiny weights, through the command line, and damaged."""

import dataclasses
import json

import numpy as np
import pytest
from command import lic
from conftest import TINY, alike
from PIL import Image
from test_cli import TINY_OPTIONS, pixels

from lic import container, image
from lic.codec import Codec
from lic.errors import BadWeights, Corrupt, LicError, MissingWeights, TooLarge, Unsupported


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec("tiny", device="cpu", weights_folder=TINY)


@pytest.fixture(scope="module")
def film(sample) -> list[Image.Image]:
    """Two frames that drift, a cut, and two that stand still but for noise."""
    noise = np.random.default_rng(0).integers(-2, 3, (100, 130, 3))
    still = np.asarray(sample.crop((200, 20, 330, 120)), dtype=int)
    noisy = [Image.fromarray((still + k * noise).clip(0, 255).astype(np.uint8)) for k in range(2)]
    return [sample.crop((50 + 3 * k, 100, 180 + 3 * k, 200)) for k in range(2)] + noisy


@pytest.fixture(scope="module")
def data(codec, film) -> bytes:
    return codec.encode_sequence(film, 60)


def kinds(data: bytes) -> str:
    return "".join("IP"[frame.predicted] for frame in container.unpack(data)[1])


def test_frames_come_back_in_order_and_one_by_one(codec, film, data):
    decoded = list(codec.decode_sequence(data))
    assert len(decoded) == len(film)
    for k, (before, after) in enumerate(zip(film, decoded, strict=True)):
        assert after.size == before.size
        errors = [np.abs(np.asarray(after, dtype=int) - np.asarray(other, dtype=int)).mean() for other in film]
        assert errors[k] == min(errors) or k == 3  # the noise is less than the error
        assert alike(codec.decode(data, k + 1), after)


def test_a_cut_is_intra_and_the_others_are_predicted(data):
    assert kinds(data) == "IPIP"


def test_gop_bounds_what_follows_an_intra_frame(codec, film):
    assert kinds(codec.encode_sequence(film[2:3] * 5, 60, 1, gop=2)) == "IPIPI"
    assert kinds(codec.encode_sequence(film[2:3] * 3, 60, 1, gop=1)) == "III"
    assert kinds(codec.encode_sequence([*film[:2], *film[2:3] * 4], 60, 1, gop=3)) == "IPIPPI"  # counted from the cut


def test_what_stands_still_costs_little(codec, film):
    _, (first, *others) = container.unpack(codec.encode_sequence(film[2:3] * 3, 60))
    assert all(len(frame.payload) < 0.3 * len(first.payload) for frame in others)


def test_a_frame_is_coded_like_a_picture(codec, film, data):
    """The integers of an intra frame are those of a still file; a picture decodes as a sequence of one."""
    still = codec.encode(film[0], 60)
    _, (picture,) = container.unpack(still)
    assert picture == container.unpack(data)[1][0]
    (only,) = codec.decode_sequence(still)
    assert alike(only, codec.decode(still))
    assert alike(only, codec.decode(data, 1))


def test_frames_are_taken_and_given_one_at_a_time(codec, film):
    alive = []

    def watched():
        for picture in film[:2]:
            alive.append(picture)
            yield picture

    frames = codec.decode_sequence(codec.encode_sequence(watched(), 20))
    assert len(alive) == 2
    assert next(frames).size == film[0].size


def test_every_truncation_and_every_flipped_byte_is_a_lic_error(codec, film):
    pictures = image.at_rate([picture.crop((0, 0, 64, 64)) for picture in film[:2]], 25)
    data = codec.encode_sequence(pictures, 30)

    def decode(data):
        return list(codec.decode_sequence(data))

    for length in range(len(data)):
        with pytest.raises(LicError):
            decode(data[:length])
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            with pytest.raises(LicError):
                decode(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])


def test_damage_behind_a_mended_crc_is_still_noticed(codec, data):
    header, frames = container.unpack(data)
    rng = np.random.default_rng(0)

    def with_second(**changes):
        return container.pack(header, [frames[0], dataclasses.replace(frames[1], **changes), *frames[2:]])

    for _ in range(20):
        damaged = bytearray(frames[1].payload)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        with pytest.raises(Corrupt):
            codec.decode(with_second(payload=bytes(damaged)), 2)
    with pytest.raises(Corrupt):
        codec.decode(with_second(predicted=False), 2)
    with pytest.raises(Corrupt):
        codec.decode(with_second(symbols=frames[1].symbols ^ 1), 2)
    with pytest.raises(Corrupt):  # the frame before is another
        codec.decode(container.pack(header, [frames[0], frames[1], frames[3]]), 3)
    codec.decode(with_second(payload=b""), 3)  # an intra frame does not care
    with pytest.raises(MissingWeights, match="00000000"):
        codec.decode(container.pack(dataclasses.replace(header, predicted_by=bytes(4)), frames), 1)
    with pytest.raises(TooLarge):
        codec.decode(container.pack(dataclasses.replace(header, width=2**31, height=2**31), frames), 1)


def test_bad_arguments(codec, film, data):
    with pytest.raises(LicError, match="frame 2: 10x10 pixels, but the first frame has 130x100"):
        codec.encode_sequence([film[0], film[0].resize((10, 10))])
    with pytest.raises(LicError, match="at least one frame"):
        codec.encode_sequence([])
    with pytest.raises(LicError, match="gop"):
        codec.encode_sequence(film, gop=0)
    profiled = film[0].copy()
    profiled.info["icc_profile"] = b"another"
    with pytest.raises(LicError, match="frame 2: another ICC profile"):
        codec.encode_sequence([film[0], profiled])
    with pytest.raises(Unsupported, match="frame 2: CMYK"):
        codec.encode_sequence([film[0], Image.new("CMYK", film[0].size)])
    with pytest.raises(LicError, match="sequence of 4 frames"):
        codec.decode(data)
    for number in (0, 5):
        with pytest.raises(LicError, match=f"no frame {number}"):
            codec.decode(data, number)
    with pytest.raises(MissingWeights, match="tiny-nonsense"):
        Codec("tiny", device="cpu", weights_folder=TINY, temporal="nonsense").encode_sequence(film)


def test_models_of_different_transforms_are_refused(codec, film):
    mixed = Codec("tiny", device="cpu", weights_folder=TINY)
    mixed.temporal_name = "lite-hyperprior"
    with pytest.raises(BadWeights, match="different transforms"):
        mixed.encode_sequence(film)


def test_the_command_line_in_processes_of_its_own(codec, film, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, picture in enumerate(film):
        picture.save(f"in{k}.png")
    done = lic("encode", *TINY_OPTIONS, "-q", "60", *(f"in{k}.png" for k in range(4)), "film.lic")
    assert b"130x100, 4 frames" in done.stderr
    assert kinds((tmp_path / "film.lic").read_bytes()) == "IPIP"
    facts = json.loads(lic("info", "--json", "film.lic").stdout)
    assert facts["frames"] == 4
    assert facts["gop_structure"] == "IPIP"
    assert facts["bits_per_pixel"] == round(8 * facts["bytes"] / (130 * 100 * 4), 4)
    lic("verify", "--weights", TINY, "film.lic")
    lic("decode", "--weights", TINY, "film.lic", "frames", LIC_THREADS="1")
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [f"000{k}.png" for k in range(1, 5)]
    lic("decode", "--weights", TINY, "--frame", 4, "film.lic", "one.ppm")
    assert alike(pixels(tmp_path / "one.ppm"), pixels(tmp_path / "frames" / "0004.png"))
    assert "no frame 5" in lic("decode", "--weights", TINY, "--frame", 5, "film.lic", "one.png", code=1).stderr.decode()
    assert "sequence of 4 frames" in lic("decode", "--weights", TINY, "film.lic", "film.gif", code=2).stderr.decode()
    assert "call it something.lic" in lic("encode", *TINY_OPTIONS, "in0.png", "in1.png", "in2.png", code=2).stderr.decode()
    film[0].resize((9, 9)).save("small.png")
    assert "frame 2: 9x9" in lic("encode", *TINY_OPTIONS, "in0.png", "small.png", "x.lic", code=1).stderr.decode()
    assert "gone.png: No such file" in lic("encode", *TINY_OPTIONS, "in0.png", "gone.png", "x.lic", code=1).stderr.decode()
    (tmp_path / "damaged.lic").write_bytes((tmp_path / "film.lic").read_bytes()[:-9])
    assert "damaged.lic: damaged" in lic("decode", "damaged.lic", "frames2", code=1).stderr.decode()
    assert not (tmp_path / "x.lic").exists()
    assert not (tmp_path / "frames2").exists()


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animation_is_a_sequence_and_comes_back(film, tmp_path, suffix):
    source, coded = tmp_path / f"film{suffix}", tmp_path / "film.lic"
    film[0].save(source, save_all=True, append_images=film[1:3], duration=[40, 70, 1000], loop=3, lossless=True)
    lic("encode", *TINY_OPTIONS, "--gop", "2", "-e", "0", source, coded)
    header, frames = container.unpack(coded.read_bytes())
    assert (header.plays, [frame.duration for frame in frames]) == (3, [40, 70, 1000])
    facts = json.loads(lic("info", "--json", coded).stdout)
    assert (facts["milliseconds"], facts["plays"]) == (1110, 3)
    lic("decode", "--weights", TINY, coded, tmp_path / "frames")
    lic("decode", "--weights", TINY, coded, tmp_path / "again.webp")
    (tmp_path / "again.png").write_bytes(lic("decode", "--weights", TINY, coded, "-").stdout)
    for again in ("again.png", "again.webp"):
        with Image.open(tmp_path / again) as animation:
            shown = list(image.frames(animation))
        assert [image.clock(picture) for picture in shown] == [(40, 3), (70, 3), (1000, 3)]
        assert all(alike(picture.convert("RGB"), pixels(tmp_path / "frames" / f"000{k}.png")) for k, picture in enumerate(shown, 1))
    assert "an animation, not a picture" in lic("encode", *TINY_OPTIONS, source, source, tmp_path / "x.lic", code=1).stderr.decode()


def test_a_rate_of_frames_is_a_clock(film, tmp_path):
    paths = [tmp_path / f"{k}.webp" for k in range(4)]
    for path, picture in zip(paths, film, strict=True):
        picture.save(path, lossless=True)
    found = []
    for options in ((), ("--fps", "30"), ("--fps", "0.5")):
        lic("encode", *TINY_OPTIONS, "-e", "0", *options, *paths, tmp_path / "film.lic")
        header, frames = container.unpack((tmp_path / "film.lic").read_bytes())
        found.append((header.plays, [frame.duration for frame in frames]))
    assert found == [(None, [0] * 4), (0, [33, 34, 33, 33]), (0, [2000] * 4)]
    assert "single picture" in lic("encode", *TINY_OPTIONS, "--fps", "25", paths[0], tmp_path / "x.lic", code=1).stderr.decode()


def test_what_frames_say_of_time_is_kept_as_far_as_it_can_be(codec, film):
    def coded(*said, loop=None):
        pictures = [film[2].crop((0, 0, 40, 40)) for _ in said]
        for picture, duration in zip(pictures, said, strict=True):
            picture.info |= {"duration": duration} if duration is not None else {}
            picture.info |= {"loop": loop} if loop is not None else {}
        data = codec.encode_sequence(pictures, 30, 0)
        header, frames = container.unpack(data)
        assert [picture.info.get("duration") for picture in codec.decode_sequence(data)] == [
            None if header.plays is None else frame.duration for frame in frames
        ]
        return header.plays, [frame.duration for frame in frames]

    assert coded(None, None) == (None, [0, 0])
    assert coded(0, 0, loop=0) == (None, [0, 0])
    assert coded(0, 33.4, loop=0) == (0, [0, 33])
    assert coded(20, None) == (1, [20, 0])
    assert coded(20, -5) == (1, [20, 0])
    assert coded("fast", float("nan")) == (None, [0, 0])


def test_frames_have_opacities_of_their_own(codec, film, tmp_path):
    opacity = Image.radial_gradient("L").resize(film[0].size)
    pictures = [picture.copy() for picture in film]
    for picture, alpha in zip(pictures, (None, opacity, opacity, opacity.transpose(Image.Transpose.FLIP_TOP_BOTTOM)), strict=True):
        if alpha:
            picture.putalpha(alpha)
    data = codec.encode_sequence(image.at_rate(pictures, 20), 50, 0)
    _, frames = container.unpack(data)
    assert frames[0].alpha is None
    assert len(data) < sum(len(frame.payload) + len(frame.alpha or b"") for frame in frames) - len(frames[1].alpha) + 100  # stored once
    decoded = list(codec.decode_sequence(data))
    assert [picture.mode for picture in decoded] == ["RGB", *["RGBA"] * 3]
    assert all(
        np.array_equal(after.getchannel("A"), before.getchannel("A")) for after, before in list(zip(decoded, pictures, strict=True))[1:]
    )
    assert np.array_equal(codec.decode(data, 3).getchannel("A"), opacity)
    (tmp_path / "film.lic").write_bytes(data)
    for name in ("film.webp", "film.png"):
        lic("decode", "--weights", TINY, tmp_path / "film.lic", tmp_path / name)
        with Image.open(tmp_path / name) as animation:
            shown = [picture.convert("RGBA") for picture in image.frames(animation)]
        assert len(shown) == 4
        assert all(
            np.array_equal(after.getchannel("A"), before.convert("RGBA").getchannel("A"))
            for after, before in zip(shown, pictures, strict=True)
        )


@pytest.mark.parametrize(
    ("plays", "durations", "refused"),
    [
        (70_000, [40, 40], ["WEBP"]),
        (0, [2**31 - 1] * 2, ["PNG", "WEBP"]),
        (2**34, [40, 40], []),  # what is longer counts as unknown
        (1, [2**34, 40], []),
    ],
)
def test_a_clock_that_a_format_cannot_hold_is_told(codec, film, plays, durations, refused):
    header, frames = container.unpack(codec.encode_sequence([film[2].crop((0, 0, 40, 40))] * 2, 30, 0))
    frames = [dataclasses.replace(frame, duration=duration) for frame, duration in zip(frames, durations, strict=True)]
    first, second = codec.decode_sequence(container.pack(dataclasses.replace(header, plays=plays), frames))
    for format in ("PNG", "WEBP"):
        if format in refused:
            with pytest.raises(LicError, match=f"cannot write {format}"):
                image.to_bytes(first, format, [second])
        else:
            assert image.to_bytes(first, format, [second])
