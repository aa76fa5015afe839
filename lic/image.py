"""Pillow images <-> arrays of samples. What cannot be kept is refused by name, never dropped."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .container import MAX_PIXELS, check_size
from .errors import LicError, Unsupported

# what Pillow may try on untrusted bytes: no format that runs a program of its own (EPS starts Ghostscript)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF", "JPEG2000", "QOI", "TGA", "ICO", "PCX")
_REFUSED = {
    "I;16": "16-bit samples", "I;16L": "16-bit samples", "I;16B": "16-bit samples", "I;16N": "16-bit samples",
    "I": "16-bit or 32-bit samples", "F": "floating-point samples", "CMYK": "CMYK colour", "LAB": "Lab colour", "HSV": "HSV colour",
}  # fmt: skip


@contextmanager
def _reading(what: str):
    """Every failure within is a LicError: of damaged files Pillow raises nearly anything."""
    try:
        yield
    except LicError:
        raise
    except UnidentifiedImageError as error:
        raise LicError("not an image that Pillow can read") from error
    except Exception as error:
        raise LicError(f"cannot read {what}: {error or type(error).__name__}") from error


def open_bytes(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Image file bytes -> a loaded Pillow image; every failure is a LicError."""
    with _reading("the image"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_size is our guard
            Image.init()
            image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
        check_size(*image.size, max_pixels)
        _refuse_deep(image, data)
        image.load()
    return image


def _refuse_deep(image: Image.Image, data: bytes = b"") -> None:
    """Raise Unsupported for colour samples of more than 8 bits, which Pillow would cut to 8 without a word. Before load().

    data: of AVIF and JPEG 2000 only the file itself tells.
    """
    if image.mode not in _REFUSED and _is_deep(image, data):  # those are told by to_samples, more precisely
        raise Unsupported("more than 8 bits per sample are not supported yet")


def _is_deep(image: Image.Image, data: bytes) -> bool:
    if image.format == "AVIF":  # high_bitdepth in the AV1 codec configuration box
        at = data.find(b"av1C")
        return at >= 0 and bool(data[at + 6 : at + 7] and data[at + 6] & 0x40)
    if image.format == "JPEG2000":  # Ssiz of the first component in the SIZ marker segment
        at = data.find(b"\xff\x51")
        return at >= 0 and bool(data[at + 40 : at + 41] and data[at + 40] & 0x7F > 7)
    for tile in getattr(image, "tile", ()):  # a picture made in memory has none
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if str(arguments[0]) in ("BGR;15", "BGR;16"):  # bits of the whole pixel
            return False
        if ";16" in str(arguments[0]) or (image.format == "PPM" and len(arguments) > 1 and arguments[1] > 255):
            return True
    return False


def frame_count(image: Image.Image) -> int:
    """More than 1 for an animation."""
    with _reading("how many frames there are"):
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a JPEG with further views behind it


def frames(image: Image.Image) -> Iterator[Image.Image]:
    """The frames of an animation as pictures, one at a time."""
    for k in range(frame_count(image)):
        with _reading(f"frame {k + 1}"):
            image.seek(k)
            _refuse_deep(image)
            picture = image.copy()
        yield picture


def to_samples(image: Image.Image) -> tuple[np.ndarray, bytes | None]:
    """A Pillow image -> RGB samples (H, W, 3) uint8, upright, and its ICC profile.

    Grey, palette and bilevel images become RGB, which loses nothing; an alpha channel is accepted only
    if it is opaque everywhere. Raises Unsupported for the rest.
    """
    if frame_count(image) > 1:
        raise Unsupported(f"{frame_count(image)} frames: an animation, not a picture")
    if image.mode in _REFUSED:
        raise Unsupported(f"{_REFUSED[image.mode]} (mode {image.mode}) are not supported yet")
    with _reading("the image"):
        _refuse_deep(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getextrema()[3] != (255, 255):
                raise Unsupported("transparency (alpha) is not supported yet")
        profile = image.info.get("icc_profile") or None
        if profile and profile[16:20] == b"GRAY":
            raise Unsupported("an ICC profile for grey samples is not supported yet")
        with suppress(Exception):  # EXIF data that nobody can read say nothing of an orientation
            image = ImageOps.exif_transpose(image)
        return np.asarray(image.convert("RGB")), profile


def from_samples(samples: np.ndarray, profile: bytes | None) -> Image.Image:
    """RGB samples (H, W, 3) uint8 -> a Pillow image with that ICC profile."""
    image = Image.fromarray(samples)
    if profile:
        image.info["icc_profile"] = profile
    return image


def to_bytes(image: Image.Image, format: str) -> bytes:
    """A Pillow image -> the bytes of a lossless image file in a format of Pillow's."""
    options = {"lossless": True} if format == "WEBP" else {}
    if profile := image.info.get("icc_profile"):
        if format in ("PPM", "BMP"):
            raise LicError(f"{format} cannot hold this image's ICC profile; decode to PNG")
        options["icc_profile"] = profile
    out = io.BytesIO()
    try:
        image.save(out, format, **options)
    except (OSError, ValueError) as error:  # WebP ends at 16383 pixels a side, say
        raise LicError(f"cannot write {format}: {error}") from error
    return out.getvalue()
