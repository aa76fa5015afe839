"""The .lic file, byte by byte. A picture is one frame; a sequence is several of one size, quality and profile.

    magic        4    8A 4C 49 43   (not ASCII, then "LIC")
    version      1    02
    flags        1    bit 0: an ICC profile follows the header; bit 1: a sequence; bit 2: an alpha channel follows, or in
                      a sequence some; bits 3, 4: EXIF data, XMP data follow, not in a sequence; bit 5: a sequence with a
                      clock; bit 6: a stored picture, in place of weights, quality, symbols and a range coder's payload; bit 7:
                      latents are quantised dependently (trellis.py), not with bit 6
    width        v    pixels, 1 or more
    height       v    pixels, 1 or more
    weights      4    fingerprint of the entropy weights, which in turn name the transforms
    quality      v    level 0..4096; quality is level / 40.96
    symbols      2    checksum of the decoded latents, little-endian (see `checksum_of`); not in a sequence
    [profile     v+n  length in bytes, then the ICC profile, zlib-compressed]
    [alpha       v+n  length in bytes, then the opacity of all pixels as a file of its own, a grey PNG or lossless WebP]
    [EXIF        v+n  length in bytes, then the data, zlib-compressed]
    [XMP         v+n  likewise]
    payload      n    the range coder's bytes, up to the crc; of a stored picture its colours as a file of its own, a PNG
                      or lossless WebP; in a sequence, what follows below
    crc          4    CRC-32 (zlib) of everything before it, little-endian

    in a sequence, in place of the payload:
    predicted by 4    fingerprint of the entropy weights of predicted frames, of the same transforms as `weights`
    count        v    number of frames, 1 or more
    [plays       v    with a clock: how often it is shown, 0 without end]
    then for every frame
    length       v    2 times the bytes of its payload; plus 1 if it is predicted from the frame before, 0 if it is an
                      intra frame, coded by itself with `weights`; the first frame is one. With bit 7 twice that, plus 1 if
                      its latents are integers all the same
    [duration    v    with a clock: milliseconds]
    [alpha       v+n  with alpha channels: length in bytes, then the opacity as above; 0 if all is opaque, 1 if it is the
                      same as that of the frame before]
    symbols      2    checksum of its latents
    payload      n    the range coder's bytes

v is a varint: 7 bits a byte, least significant first, high bit set on all bytes but the last, no
needless last zero byte. Nothing follows the crc. A plain RGB image below 16384 x 16384 spends 22 bytes
beside its payload, a frame of a sequence 3 to 5. A reader refuses what it does not know: other versions, other flags.
"""

import math
import zlib
from dataclasses import dataclass

from .errors import Corrupt, LicError, NotLic, TooLarge, Unsupported

MAGIC = b"\x8aLIC"
VERSION = 2  # 1: other probability tables, until 0.5.0
LEVELS = 4096  # the integer 0..LEVELS stands for quality 0..100
STRIDE = 64  # image sides are padded to it: latents y live at 1/16, hyper latents z at 1/64
FLAG_PROFILE, FLAG_SEQUENCE, FLAG_ALPHA, FLAG_EXIF, FLAG_XMP, FLAG_CLOCK, FLAG_STORED, FLAG_DEPENDENT = (1 << bit for bit in range(8))
METADATA = ("exif", "xmp")  # what a picture's file may hold besides, as Pillow calls it
FINGERPRINT_BYTES = 4
MAX_PIXELS = 2**26  # default limit on both sides: 67 megapixels
MAX_DEFLATED = 2**24  # bytes of an ICC profile, EXIF or XMP data, decompressed


@dataclass(frozen=True)
class Header:
    """Everything in a .lic file but its frames."""

    width: int
    height: int
    weights: bytes | None  # FINGERPRINT_BYTES long; None: a stored picture, in which nothing is lost
    level: int  # 0..LEVELS; LEVELS of a stored picture
    profile: bytes | None = None  # ICC profile, as it came
    predicted_by: bytes | None = None  # of a sequence: fingerprint of the weights of predicted frames
    exif: bytes | None = None  # not of a sequence; as it came, but for the orientation, which has been applied
    xmp: bytes | None = None  # likewise
    plays: int | None = None  # of a sequence with a clock: how often it is shown, 0 without end

    @property
    def quality(self) -> float:
        """0..100"""
        return self.level * 100 / LEVELS


@dataclass(frozen=True)
class Frame:
    """One frame: the only one of a picture, or one of a sequence."""

    symbols: int  # 16-bit checksum of the decoded latents; 0 of a stored picture
    payload: bytes
    predicted: bool = False  # from the frame before; otherwise an intra frame, which stands alone
    duration: int = 0  # milliseconds, of a sequence with a clock
    alpha: bytes | None = None  # image file of the opacity, more than one byte, unless all is opaque
    dependent: bool = False  # latents are quantised dependently


def checksum_of(latents: bytes) -> int:
    """The `symbols` field: low 16 bits of the CRC-32 of all latents, or of twice their values if quantised
    dependently, channel by channel, as little-endian int16."""
    return zlib.crc32(latents) & 0xFFFF


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise TooLarge if an image has more than `max_pixels` pixels, or is so thin that it costs as much as twice as many would."""
    padded = math.prod(-(-side // STRIDE) * STRIDE for side in (width, height))
    if width * height > max_pixels or padded > 2 * max_pixels + STRIDE**2:
        raise TooLarge(f"{width}x{height} has more than {max_pixels} pixels, the limit, or is too thin for it (see --max-pixels)")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


class _Cursor:
    """Reads fields off the front of a file."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int, what: str) -> bytes:
        if count > len(self.data) - self.at:
            raise Corrupt(f"truncated in its {what}")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.data[self.at :]

    def symbols(self) -> int:
        return int.from_bytes(self.take(2, "checksum"), "little")

    def varint(self, what: str) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise Corrupt(f"damaged: padded {what}")
                return value
        raise Corrupt(f"damaged: endless {what}")


def pack(header: Header, frames: list[Frame]) -> bytes:
    """Header and frames, just one unless header.predicted_by says that it is a sequence -> the whole file."""
    timed = header.plays is not None
    alphas = [frame.alpha or b"" for frame in frames]
    dependent = any(frame.dependent for frame in frames)
    sections = (header.profile, header.predicted_by, any(alphas), header.exif, header.xmp, timed, not header.weights, dependent)
    flags = sum(1 << bit for bit, there in enumerate(sections) if there)
    parts = [MAGIC, bytes([VERSION, flags]), _varint(header.width), _varint(header.height)]
    if header.weights:
        parts += [header.weights, _varint(header.level)]
    if not header.predicted_by:
        (frame,) = frames
        parts += [frame.symbols.to_bytes(2, "little")] if header.weights else []
    if header.profile:
        parts += _deflated(header.profile, "ICC profile")
    if any(alphas) and not header.predicted_by:
        parts += [_varint(len(frame.alpha)), frame.alpha]
    if header.exif:
        parts += _deflated(header.exif, "EXIF data")
    if header.xmp:
        parts += _deflated(header.xmp, "XMP data")
    if header.predicted_by:
        parts += [header.predicted_by, _varint(len(frames)), *([_varint(header.plays)] if timed else [])]
        for frame, alpha, before in zip(frames, alphas, [b"", *alphas], strict=False):
            length = 2 * len(frame.payload) + frame.predicted
            length = 2 * length + (not frame.dependent) if dependent else length
            parts += [_varint(length), *([_varint(frame.duration)] if timed else [])]
            if any(alphas):
                parts += [b"\1"] if alpha and alpha == before else [_varint(len(alpha)), alpha]
            parts += [frame.symbols.to_bytes(2, "little"), frame.payload]
    else:
        parts += [frame.payload]
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(4, "little")


def unpack(data: bytes) -> tuple[Header, list[Frame]]:
    """The whole file -> header and frames. Checks everything that can be checked without decoding."""
    cursor = _Cursor(data)
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise NotLic("not a .lic file")
    cursor.take(len(MAGIC), "magic")
    version, flags = cursor.take(2, "header")
    if version != VERSION:
        raise Unsupported(f"format version {version}; this program reads version {VERSION}")
    sequence = flags & FLAG_SEQUENCE
    stored, dependent = flags & FLAG_STORED, bool(flags & FLAG_DEPENDENT)
    known = FLAG_SEQUENCE | FLAG_CLOCK if sequence else FLAG_EXIF | FLAG_XMP | FLAG_STORED
    if flags & ~(FLAG_PROFILE | FLAG_ALPHA | FLAG_DEPENDENT | known) or (stored and dependent):
        raise Unsupported(f"unknown flags {flags:#04x}: written by a newer version, or damaged")
    if len(data) < cursor.at + 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise Corrupt("damaged or truncated: the checksum does not match")
    cursor.data = data[:-4]
    width, height = cursor.varint("width"), cursor.varint("height")
    if not width or not height:
        raise Corrupt("damaged: an image without pixels")
    weights = None if stored else cursor.take(FINGERPRINT_BYTES, "weights")
    level = LEVELS if stored else cursor.varint("quality")
    if level > LEVELS:
        raise Corrupt("damaged: quality out of range")
    symbols = 0 if stored or sequence else cursor.symbols()
    profile = _inflated(cursor, "ICC profile") if flags & FLAG_PROFILE else None
    if sequence:
        predicted_by = cursor.take(FINGERPRINT_BYTES, "weights")
        plays, frames = _frames(cursor, bool(flags & FLAG_CLOCK), bool(flags & FLAG_ALPHA), dependent)
        return Header(width, height, weights, level, profile, predicted_by, plays=plays), frames
    alpha = cursor.take(cursor.varint("alpha channel"), "alpha channel") if flags & FLAG_ALPHA else None
    exif = _inflated(cursor, "EXIF data") if flags & FLAG_EXIF else None
    xmp = _inflated(cursor, "XMP data") if flags & FLAG_XMP else None
    frame = Frame(symbols, cursor.rest(), alpha=alpha, dependent=dependent)
    return Header(width, height, weights, level, profile, None, exif, xmp), [frame]


def _frames(cursor: _Cursor, timed: bool, with_alpha: bool, dependent: bool) -> tuple[int | None, list[Frame]]:
    """How often a sequence is shown, and its frames, up to the end of the data, whatever number the file claims."""
    frames, alpha, count = [], None, cursor.varint("number of frames")
    plays = cursor.varint("clock") if timed else None
    for _ in range(count):
        length = cursor.varint("frames")
        integers = not dependent or bool(length & 1)
        length = length >> 1 if dependent else length
        duration = cursor.varint("clock") if timed else 0
        size = cursor.varint("alpha channel") if with_alpha else 0
        if size != 1:
            alpha = cursor.take(size, "alpha channel") if size else None
        elif alpha is None:
            raise Corrupt("damaged: an alpha channel like none before")
        symbols, payload = cursor.symbols(), cursor.take(length >> 1, "frames")
        frames.append(Frame(symbols, payload, bool(length & 1), duration, alpha, not integers))
    if not frames or frames[0].predicted:
        raise Corrupt("damaged: a sequence without a first frame")
    if cursor.rest():
        raise Corrupt("damaged: data left over after the last frame")
    return plays, frames


def _deflated(data: bytes, what: str) -> list[bytes]:
    if len(data) > MAX_DEFLATED:
        raise LicError(f"{what} of {len(data)} bytes is over the limit of {MAX_DEFLATED}")
    deflated = zlib.compress(data, 9)
    return [_varint(len(deflated)), deflated]


def _inflated(cursor: _Cursor, what: str) -> bytes:
    deflated = cursor.take(cursor.varint(what), what)
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(deflated, MAX_DEFLATED)
    except zlib.error as error:
        raise Corrupt(f"damaged: {what}") from error
    if not decompressor.eof or decompressor.unused_data or not data:
        raise Corrupt(f"damaged: {what}")
    return data
