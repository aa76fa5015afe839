import zlib

import pytest

from lic import container
from lic.container import Header, pack, unpack
from lic.errors import Corrupt, LicError, NotLic, TooLarge, Unsupported

HEADER = Header(width=768, height=512, weights=b"\x01\x23\x45\x67", level=2048, symbols=0xBEEF)
GOLDEN = bytes.fromhex("8a4c4943 01 00 8006 8004 01234567 8010 efbe") + b"payload" + bytes.fromhex("84260930")


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_golden_bytes():
    assert pack(HEADER, b"payload") == GOLDEN
    assert unpack(GOLDEN) == (HEADER, b"payload")


def test_overhead_is_at_most_24_bytes():
    assert len(pack(HEADER, b"")) == 22
    assert len(pack(Header(2**21 - 1, 2**21 - 1, b"abcd", 4096, 0xFFFF), b"")) <= 24


def test_profile_round_trip():
    header = Header(1, 1, b"abcd", 0, 0, profile=b"profile" * 1000)
    data = pack(header, b"x")
    assert unpack(data) == (header, b"x")
    assert len(data) < 100


@pytest.mark.parametrize("data", [GOLDEN, pack(Header(3, 5, b"abcd", 1, 2, b"icc"), b"payload")])
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
        (GOLDEN[:4] + b"\x02" + GOLDEN[5:], Unsupported, "format version 2"),
        (GOLDEN[:5] + b"\x80" + GOLDEN[6:], Unsupported, "unknown flags 0x80"),
        (GOLDEN + b"\0", Corrupt, "checksum"),
        (sealed(b"\x8aLIC\x01\x00"), Corrupt, "width"),
        (sealed(b"\x8aLIC\x01\x00\x00\x01abcd\x00\x00\x00"), Corrupt, "without pixels"),
        (sealed(b"\x8aLIC\x01\x00\x80\x00\x01abcd\x00\x00\x00"), Corrupt, "padded width"),
        (sealed(b"\x8aLIC\x01\x00\x01\xff\xff\xff\xff\xff\x01abcd\x00\x00\x00"), Corrupt, "endless height"),
        (sealed(b"\x8aLIC\x01\x00\x01\x01abcd\x81\x20\x00\x00"), Corrupt, "quality"),
        (sealed(b"\x8aLIC\x01\x00\x01\x01abcd\x00\x00"), Corrupt, "truncated in its checksum"),
        (sealed(b"\x8aLIC\x01\x01\x01\x01abcd\x00\x00\x00\x7fabc"), Corrupt, "truncated in its profile"),
        (sealed(b"\x8aLIC\x01\x01\x01\x01abcd\x00\x00\x00\x03abc"), Corrupt, "ICC profile"),
        (sealed(b"\x8aLIC\x01\x01\x01\x01abcd\x00\x00\x00\x08" + zlib.compress(b"")), Corrupt, "ICC profile"),
    ],
)
def test_each_check_has_its_own_error(data, error, words):
    with pytest.raises(error, match=words):
        unpack(data)


def test_profile_bomb_is_refused():
    bomb = zlib.compress(bytes(container.MAX_PROFILE + 1), 9)
    body = b"\x8aLIC\x01\x01\x01\x01abcd\x00\x00\x00" + container._varint(len(bomb)) + bomb
    with pytest.raises(Corrupt, match="ICC profile"):
        unpack(sealed(body))
    with pytest.raises(LicError, match="over the limit"):
        pack(Header(1, 1, b"abcd", 0, 0, profile=bytes(container.MAX_PROFILE + 1)), b"")


def test_size_limit():
    container.check_size(8192, 8192)
    with pytest.raises(TooLarge, match="max-pixels"):
        container.check_size(8193, 8192)
