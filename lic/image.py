"""Pillow images <-> arrays of samples. What cannot be kept is refused by name, never dropped."""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

from .container import MAX_PIXELS, METADATA, check_size
from .errors import LicError, Unsupported

# what Pillow may try on untrusted bytes: no format that runs a program of its own (EPS starts Ghostscript)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF", "JPEG2000", "QOI", "TGA", "ICO", "PCX")
FRAME_TIME = 100  # milliseconds, of a frame that does not say
WRITTEN = {  # how, by format
    "PNG": {"compress_level": 4},  # Pillow's own 6 takes twice as long and more, for files of photographs 3 to 4 % smaller
    "WEBP": {"lossless": True, "exact": True},
}
_REFUSED = {
    "I;16": "16-bit samples", "I;16L": "16-bit samples", "I;16B": "16-bit samples", "I;16N": "16-bit samples",
    "I": "16-bit or 32-bit samples", "F": "floating-point samples", "CMYK": "CMYK colour", "LAB": "Lab colour", "HSV": "HSV colour",
}  # fmt: skip
# of the tags of TIFF those that do not say how pixels are stored
DESCRIPTIVE = {
    Base.ImageDescription, Base.Make, Base.Model, Base.XResolution, Base.YResolution, Base.ResolutionUnit, Base.Software,
    Base.DateTime, Base.Artist, Base.HostComputer, Base.Copyright, IFD.Exif, IFD.GPSInfo,
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


def open_bytes(data: bytes, max_pixels: int = MAX_PIXELS, convert: bool = False) -> Image.Image:
    """Image file bytes -> a loaded Pillow image; every failure is a LicError.

    convert: let Pillow cut samples of colours to 8 bits, which is refused otherwise.
    """
    with _reading("the image"):
        Image.init()
        image = opened(data, [name for name in FORMATS if name in Image.OPEN])
        check_size(*image.size, max_pixels)
        if not convert:
            _refuse_deep(image, data)
        image.load()
    return image


def opened(data: bytes, formats: Sequence[str]) -> Image.Image:
    """Image.open of an image file's bytes, whose size has been or will be checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_size is our guard
        return Image.open(io.BytesIO(data), formats=formats)


def _refuse_deep(image: Image.Image, data: bytes = b"") -> None:
    """Raise Unsupported for colour samples of more than 8 bits, which Pillow would cut to 8 without a word. Before load().

    data: of AVIF and JPEG 2000 only the file itself tells.
    """
    if image.mode not in _REFUSED and _is_deep(image, data):  # those are told by to_samples, more precisely
        raise Unsupported("more than 8 bits per sample are not kept (see --convert)")


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


def frames(image: Image.Image, convert: bool = False) -> Iterator[Image.Image]:
    """The frames of an animation as pictures, one at a time; convert: see open_bytes."""
    for k in range(frame_count(image)):
        with _reading(f"frame {k + 1}"):
            image.seek(k)
            if not convert:
                _refuse_deep(image)
            picture = image.copy()
        yield picture


def clock(image: Image.Image) -> tuple[int, int]:
    """How many milliseconds a frame is shown, 0 if it does not say, and how often the animation is played, 0 without end."""
    said = image.info.get("duration", 0), image.info.get("loop", 1)
    known = all(isinstance(value, int | float) and 0 <= value < 2**31 for value in said)
    duration, plays = map(round, said) if known else (0, 1)
    return duration, plays


def at_rate(pictures: Iterable[Image.Image], fps: float) -> Iterator[Image.Image]:
    """The same as frames of an animation, so many of them in a second; without end where they were none before."""
    for k, picture in enumerate(pictures):
        before, plays = clock(picture)
        picture.info |= {"duration": round((k + 1) * 1000 / fps) - round(k * 1000 / fps), "loop": plays if before else 0}
        yield picture


class Samples(NamedTuple):
    """What is kept of a picture, upright."""

    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None  # opacity, (H, W) uint8, unless all is opaque
    profile: bytes | None  # ICC
    exif: bytes | None = None
    xmp: bytes | None = None


def to_samples(image: Image.Image, convert: bool = False) -> Samples:
    """A Pillow image -> its samples.

    Grey, palette and bilevel images become RGB, which loses nothing. Colours that are fully transparent follow their
    surroundings: nobody sees them, and so they cost next to nothing. Raises Unsupported for what cannot be kept.

    convert: make 8-bit RGB of more bits, of CMYK and of grey with a profile, the latter two in sRGB.
    """
    if frame_count(image) > 1:
        raise Unsupported(f"{frame_count(image)} frames: an animation, not a picture")
    scaled = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))  # to 16 bits, by Pillow
    convertible = scaled or image.mode == "CMYK"
    if image.mode in _REFUSED and not (convert and convertible):
        raise Unsupported(f"{_REFUSED[image.mode]} (mode {image.mode}) are not kept" + " (see --convert)" * convertible)
    with _reading("the image"):
        if not convert:
            _refuse_deep(image)
        exif = _exif_of_tiff(image) if image.format == "TIFF" else None
        with suppress(Exception):  # EXIF data that nobody can read say nothing of an orientation
            image = ImageOps.exif_transpose(image)
        if convert:
            image = _converted(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
        profile = image.info.get("icc_profile") or None
        if _is_grey(profile):
            raise Unsupported("an ICC profile for grey samples is not kept (see --convert)")
        rgb, alpha = np.asarray(image.convert("RGB")), None
        if image.mode == "RGBA" and image.getextrema()[3] != (255, 255):
            alpha = np.asarray(image.getchannel("A"))
            rgb = _filled(rgb, alpha)
        exif, xmp = exif or image.info.get("exif"), image.info.get("xmp")  # as they are now: not turned any more
        return Samples(rgb, alpha, profile, exif or None, xmp or None)


def _is_grey(profile: bytes | None) -> bool:
    return bool(profile) and profile[16:20] == b"GRAY"


def _converted(image: Image.Image) -> Image.Image:
    """The same with 8 bits a sample, and RGB in place of CMYK and of what a profile for grey samples says."""
    info, profile = dict(image.info), image.info.get("icc_profile")
    if image.mode.startswith("I"):
        if "transparency" in info:
            raise Unsupported("16-bit samples of grey of which one is transparent")
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "CMYK" or _is_grey(profile):
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        image, to = image.convert("L") if _is_grey(profile) else image, ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, io.BytesIO(profile), to, outputMode="RGB") if profile else image.convert("RGB")
        if alpha:
            image.putalpha(alpha)
        info = {key: value for key, value in info.items() if key not in ("icc_profile", "transparency")}
    image.info = info
    return image


def _exif_of_tiff(image: Image.Image) -> bytes | None:
    """Such a file's own tags are its EXIF data."""
    with suppress(Exception):  # see _reading: they are not needed to read the pixels
        exif = Image.Exif()
        exif.load(image.getexif().tobytes())
        for tag in set(exif) - DESCRIPTIVE:
            del exif[tag]
        return exif.tobytes() if exif else None


def _filled(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with the colours around them where alpha (H, W) is 0: by a pyramid of means down and up again."""
    weight = alpha[..., None] / np.float32(255)
    colour, levels = rgb * weight, []
    while max(weight.shape[:2]) > 1:
        levels.append((colour, weight))
        h, w, _ = weight.shape
        colour, weight = (
            np.pad(x, ((0, h % 2), (0, w % 2), (0, 0))).reshape(-(-h // 2), 2, -(-w // 2), 2, -1).sum((1, 3)) for x in (colour, weight)
        )
        colour, weight = (x / np.maximum(weight, 1) for x in (colour, weight))
    colour = colour / np.maximum(weight, 1e-9)
    for fine, there in reversed(levels):
        h, w, _ = there.shape
        colour = fine + (1 - there) * colour.repeat(2, 0).repeat(2, 1)[:h, :w]
    return np.where(alpha[..., None] > 0, rgb, colour.round().clip(0, 255).astype(np.uint8))


def from_samples(samples: Samples) -> Image.Image:
    """The inverse of to_samples."""
    rgb, alpha, *rest = samples
    image = Image.fromarray(rgb if alpha is None else np.dstack((rgb, alpha)))
    image.info |= {name: data for name, data in zip(("icc_profile", *METADATA), rest, strict=True) if data}
    return image


def to_bytes(image: Image.Image, format: str, others: Sequence[Image.Image] = ()) -> bytes:
    """A Pillow image -> the bytes of a lossless image file in a format of Pillow's; metadata in PNG and WebP only.

    others: the following frames of an animation, in PNG and WebP. Without a clock every frame is shown for FRAME_TIME milliseconds.
    """
    options = dict(WRITTEN.get(format, {}))
    if image.mode == "RGBA" and format in ("PPM", "BMP"):
        raise LicError(f"{format} cannot hold this image's transparency; decode to PNG")
    if profile := image.info.get("icc_profile"):
        if format in ("PPM", "BMP"):
            raise LicError(f"{format} cannot hold this image's ICC profile; decode to PNG")
        options["icc_profile"] = profile
    if format in ("PNG", "WEBP"):
        options |= {name: image.info[name] for name in METADATA if name in image.info}
    if others:
        durations = [clock(frame)[0] for frame in (image, *others)]
        timed = {"duration": durations, "loop": clock(image)[1]} if any(durations) else {"duration": FRAME_TIME, "loop": 0}
        options |= {"save_all": True, "append_images": others, **timed}
    out = io.BytesIO()
    try:
        if format == "PNG" and "xmp" in options:
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
        image.save(out, format, **options)
    except (OSError, ValueError, RuntimeError) as error:  # WebP ends at 16383 pixels a side, say, and its clock after 24 days
        raise LicError(f"cannot write {format}: {error}") from error
    return out.getvalue()
