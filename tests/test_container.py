import zlib
from dataclasses import replace

import pytest

from lic import container
from lic.container import Frame, Header, pack, unpack
from lic.errors import Corrupt, LicError, NotLic, TooLarge, Unsupported

HEADER = Header(width=768, height=512, weights=b"\x01\x23\x45\x67", level=2048)
FRAME = Frame(0xBEEF, b"payload")
GOLDEN = bytes.fromhex("8a4c4943 02 00 8006 8004 01234567 8010 efbe") + b"payload" + bytes.fromhex("67a4174b")
SEQUENCE_HEADER = Header(16, 8, b"abcd", 1, predicted_by=b"efgh")
SEQUENCE = [Frame(0xBEEF, b"payload"), Frame(0x1234, b"", True), Frame(0x5678, b"xy")]
GOLDEN_SEQUENCE = b"".join((
    bytes.fromhex("8a4c4943 02 02 10 08"), b"abcd", b"\1", b"efgh", bytes.fromhex("03 0e efbe"), b"payload",
    bytes.fromhex("01 3412  04 7856"), b"xy", bytes.fromhex("623c5ab3"),
))  # fmt: skip


STORED_HEADER = Header(768, 512, None, 4096)
STORED = bytes.fromhex("8a4c4943 02 40 8006 8004") + b"payload"
SEQUENCE_START = b"\x8aLIC\x02\x02\x10\x08abcd\x01efgh"
TIMED_START = b"\x8aLIC\x02\x26\x10\x08abcd\x01efgh"  # with alpha channels, too


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_golden_bytes():
    assert pack(HEADER, [FRAME]) == GOLDEN
    assert unpack(GOLDEN) == (HEADER, [FRAME])
    assert pack(STORED_HEADER, [Frame(0, b"payload")]) == sealed(STORED)
    assert unpack(sealed(STORED)) == (STORED_HEADER, [Frame(0, b"payload")])
    assert pack(SEQUENCE_HEADER, SEQUENCE) == GOLDEN_SEQUENCE
    assert unpack(GOLDEN_SEQUENCE) == (SEQUENCE_HEADER, SEQUENCE)


def test_overhead_is_at_most_24_bytes():
    assert len(pack(HEADER, [Frame(0xBEEF, b"")])) == 22
    assert len(pack(Header(2**21 - 1, 2**21 - 1, b"abcd", 4096), [Frame(0xFFFF, b"")])) <= 24


def test_profile_round_trip():
    for predicted_by in (None, b"efgh"):
        header = Header(1, 1, b"abcd", 0, b"profile" * 1000, predicted_by)
        data = pack(header, [Frame(0, b"x")])
        assert unpack(data) == (header, [Frame(0, b"x")])
        assert len(data) < 100


def test_alpha_is_stored_as_it_is():
    header, frame = Header(1, 1, b"abcd", 0), replace(FRAME, alpha=b"png")
    data = pack(header, [frame])
    assert data[:-4] == bytes.fromhex("8a4c4943 02 04 01 01") + b"abcd" + bytes.fromhex("00 efbe 03") + b"pngpayload"
    assert unpack(data) == (header, [frame])
    both = Header(3, 5, b"abcd", 1, b"icc")
    assert unpack(pack(both, [frame])) == (both, [frame])


def test_frames_have_clocks_and_alpha_channels():
    assert pack(FULL_HEADER, FULL)[:-4] == b"".join((
        bytes.fromhex("8a4c4943 02 26 10 08"), b"abcd", b"\1", b"efgh", bytes.fromhex("04 02"),
        bytes.fromhex("0e ac02 03"), b"png", bytes.fromhex("efbe"), b"payload",
        bytes.fromhex("01 28 01 3412"), bytes.fromhex("04 00 00 7856"), b"xy", bytes.fromhex("00 05 03"), b"png", bytes.fromhex("0000"),
    ))  # fmt: skip
    assert unpack(pack(FULL_HEADER, FULL)) == (FULL_HEADER, FULL)


def test_metadata_are_stored_behind_the_alpha_channel():
    data = pack(WITH_METADATA, [replace(FRAME, alpha=b"alpha")])
    exif, xmp = (bytes([len(x)]) + x for x in (zlib.compress(b"exif", 9), zlib.compress(b"xmp", 9)))
    assert data[:-4] == bytes.fromhex("8a4c4943 02 1c 03 05") + b"abcd" + bytes.fromhex("01 efbe 05") + b"alpha" + exif + xmp + b"payload"
    assert unpack(data) == (WITH_METADATA, [replace(FRAME, alpha=b"alpha")])
    stored = replace(WITH_METADATA, weights=None, level=4096), [Frame(0, b"payload", alpha=b"alpha")]
    assert unpack(pack(*stored)) == stored


FULL_HEADER = replace(SEQUENCE_HEADER, plays=2)
FULL = [
    replace(SEQUENCE[0], duration=300, alpha=b"png"), replace(SEQUENCE[1], duration=40, alpha=b"png"), SEQUENCE[2],
    Frame(0, b"", duration=5, alpha=b"png"),
]  # fmt: skip
WITH_METADATA = Header(3, 5, b"abcd", 1, exif=b"exif", xmp=b"xmp")
WITH_ALPHA = pack(Header(3, 5, b"abcd", 1, b"icc"), [replace(FRAME, alpha=b"alpha")])
METADATA = pack(WITH_METADATA, [replace(FRAME, alpha=b"alpha")])
SOME = [GOLDEN, pack(Header(3, 5, b"abcd", 1, b"icc"), [FRAME]), WITH_ALPHA, METADATA, GOLDEN_SEQUENCE]
SOME += [pack(FULL_HEADER, FULL), sealed(STORED)]


@pytest.mark.parametrize("data", SOME)
def test_every_truncation_every_flipped_bit_and_every_extension_is_an_error(data):
    for length in range(len(data)):
        with pytest.raises(LicError):
            unpack(data[:length])
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises(LicError):
                unpack(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    for extra in (b"\0", b"more", data):
        with pytest.raises(LicError):
            unpack(data + extra)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", NotLic, "not a .lic file"),
        (b"\x89PNG\r\n\x1a\n", NotLic, "not a .lic file"),
        (b"\x8aL", Corrupt, "truncated"),
        (GOLDEN[:5], Corrupt, "truncated"),
        (GOLDEN[:4] + b"\x01" + GOLDEN[5:], Unsupported, "format version 1"),
        (GOLDEN[:5] + b"\xc0" + GOLDEN[6:], Unsupported, "unknown flags 0xc0"),
        (GOLDEN[:5] + b"\x20" + GOLDEN[6:], Unsupported, "unknown flags 0x20"),
        (GOLDEN[:5] + b"\x42" + GOLDEN[6:], Unsupported, "unknown flags 0x42"),
        (GOLDEN[:5] + b"\x0a" + GOLDEN[6:], Unsupported, "unknown flags 0x0a"),
        (GOLDEN[:5] + b"\x12" + GOLDEN[6:], Unsupported, "unknown flags 0x12"),
        (sealed(b"\x8aLIC\x02\x08\x01\x01abcd\x00\x00\x00\x7fabc"), Corrupt, "truncated in its EXIF data"),
        (sealed(b"\x8aLIC\x02\x10\x01\x01abcd\x00\x00\x00\x03abc"), Corrupt, "damaged: XMP data"),
        (sealed(b"\x8aLIC\x02\x04\x01\x01abcd\x00\x00\x00\x7fabc"), Corrupt, "truncated in its alpha channel"),
        (GOLDEN + b"\0", Corrupt, "checksum"),
        (sealed(b"\x8aLIC\x02\x00"), Corrupt, "width"),
        (sealed(b"\x8aLIC\x02\x00\x00\x01abcd\x00\x00\x00"), Corrupt, "without pixels"),
        (sealed(b"\x8aLIC\x02\x00\x80\x00\x01abcd\x00\x00\x00"), Corrupt, "padded width"),
        (sealed(b"\x8aLIC\x02\x00\x01\xff\xff\xff\xff\xff\x01abcd\x00\x00\x00"), Corrupt, "endless height"),
        (sealed(b"\x8aLIC\x02\x00\x01\x01abcd\x81\x20\x00\x00"), Corrupt, "quality"),
        (sealed(b"\x8aLIC\x02\x00\x01\x01abcd\x00\x00"), Corrupt, "truncated in its checksum"),
        (sealed(SEQUENCE_START), Corrupt, "number of frames"),
        (sealed(SEQUENCE_START + b"\x00"), Corrupt, "without a first frame"),
        (sealed(SEQUENCE_START + b"\x01\x01ss"), Corrupt, "without a first frame"),
        (sealed(SEQUENCE_START + b"\xff\xff\xff\xff\x0f\x02ss1"), Corrupt, "truncated in its frames"),
        (sealed(SEQUENCE_START + b"\x01\x04ss1"), Corrupt, "truncated in its frames"),
        (sealed(SEQUENCE_START + b"\x02\x02ss1\x01s"), Corrupt, "truncated in its checksum"),
        (sealed(SEQUENCE_START + b"\x01\x02ss12"), Corrupt, "left over"),
        (sealed(TIMED_START + b"\x01"), Corrupt, "truncated in its clock"),
        (sealed(TIMED_START + b"\x01\x00\x02"), Corrupt, "truncated in its clock"),
        (sealed(TIMED_START + b"\x01\x00\x02\x28\x01ss1"), Corrupt, "like none before"),
        (sealed(TIMED_START + b"\x01\x00\x02\x28\x09ss1"), Corrupt, "truncated in its alpha channel"),
        (sealed(b"\x8aLIC\x02\x01\x01\x01abcd\x00\x00\x00\x7fabc"), Corrupt, "truncated in its ICC profile"),
        (sealed(b"\x8aLIC\x02\x01\x01\x01abcd\x00\x00\x00\x03abc"), Corrupt, "ICC profile"),
        (sealed(b"\x8aLIC\x02\x01\x01\x01abcd\x00\x00\x00\x08" + zlib.compress(b"")), Corrupt, "ICC profile"),
    ],
)
def test_each_check_has_its_own_error(data, error, words):
    with pytest.raises(error, match=words):
        unpack(data)


def test_profile_bomb_is_refused():
    bomb = zlib.compress(bytes(container.MAX_DEFLATED + 1), 9)
    body = b"\x8aLIC\x02\x01\x01\x01abcd\x00\x00\x00" + container._varint(len(bomb)) + bomb
    with pytest.raises(Corrupt, match="ICC profile"):
        unpack(sealed(body))
    with pytest.raises(LicError, match="over the limit"):
        pack(Header(1, 1, b"abcd", 0, bytes(container.MAX_DEFLATED + 1)), [FRAME])


def test_size_limit():
    container.check_size(8192, 8192)
    with pytest.raises(TooLarge, match="max-pixels"):
        container.check_size(8193, 8192)
    container.check_size(1, 1, 1)
    container.check_size(1, 2**20)
    with pytest.raises(TooLarge, match="thin"):  # codecs pad to multiples of 64
        container.check_size(2**26, 1)


def test_frames_of_a_sequence_may_differ_in_how_they_are_quantised():
    header = Header(8, 8, b"abcd", 5, predicted_by=b"efgh")
    frames = [Frame(1, bytes(200), dependent=True), Frame(2, b"yy", predicted=True), Frame(3, b"", predicted=True, dependent=True)]
    assert unpack(pack(header, frames)) == (header, frames)
    whole = [replace(frame, dependent=False) for frame in frames]
    assert unpack(pack(header, whole)) == (header, whole)
