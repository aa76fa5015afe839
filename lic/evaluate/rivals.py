"""Other codecs that a machine may have: each encodes a Pillow image at some quality to bytes, and decodes them."""

import io
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from ..errors import LicError


class Rival(NamedTuple):
    """encode: (picture, quality) -> bytes; decode: bytes -> picture."""

    encode: Callable
    decode: Callable
    qualities: tuple[float, ...]
    library: str  # the package it comes from
    missing: Callable[[], str]  # why it cannot run here; empty if it can
    settings: str


def _pillow(format: str, knob: str, qualities: tuple, feature: str = "", **options) -> Rival:
    def encode(picture, quality):
        out = io.BytesIO()
        value = [quality] if knob == "quality_layers" else int(quality)
        picture.save(out, format, **{knob: value}, **options)
        return out.getvalue()

    def decode(data):
        return Image.open(io.BytesIO(data)).convert("RGB")

    def missing():
        return "" if not feature or features.check(feature) else f"this Pillow was built without {feature}"

    return Rival(encode, decode, qualities, "pillow", missing, " ".join(f"{k}={v}" for k, v in options.items()))


def _imagecodecs(name: str, knob: str, qualities: tuple, **options) -> Rival:
    @cache
    def functions():
        codecs = import_module("imagecodecs")
        return getattr(codecs, f"{name}_encode"), getattr(codecs, f"{name}_decode")

    def encode(picture, quality):
        return bytes(functions()[0](np.asarray(picture), **{knob: quality}, **options))

    def decode(data):
        return Image.fromarray(functions()[1](data))

    def missing():
        if find_spec("imagecodecs") is None:
            return "it needs imagecodecs: pip install 'lic[eval]'"
        available = getattr(import_module("imagecodecs"), name.upper()).available
        return "" if available else f"this imagecodecs was built without {name}"

    return Rival(encode, decode, qualities, "imagecodecs", missing, " ".join(f"{k}={v}" for k, v in options.items()))


_AVIF = partial(_pillow, "AVIF", "quality", (5, 12, 22, 34, 48, 64, 80), "avif", subsampling="4:4:4", speed=4, max_threads=1,
                autotiling=False)  # fmt: skip
_JPEG = partial(_pillow, "JPEG", "quality", (5, 10, 20, 35, 50, 70, 85, 93), optimize=True)

RIVALS = {
    "jpeg": _JPEG(subsampling=0),
    "jpeg420": _JPEG(subsampling=2),
    "webp": _pillow("WEBP", "quality", (0, 10, 25, 40, 60, 80, 90, 95), "webp", method=6),
    # AV1 for PSNR: libavif's own tuning, for the eye, needs 5 to 8 % more bytes at equal PSNR. Speed 4 is the slowest that is
    # bearable, 4 s of a 2.5 GHz core for 0.4 megapixels: 2 saves 4 % in 10 s, 6 costs 9 % in 0.7 s. One thread and no tiles,
    # or the bytes depend on the machine.
    "avif": _AVIF(advanced={"tune": "psnr"}),
    "avif-ssim": _AVIF(advanced={"tune": "ssim"}),  # for comparison with what we tune for MS-SSIM: 6 % fewer bytes by that
    "jpeg2000": _pillow("JPEG2000", "quality_layers", (200, 100, 64, 40, 24, 16, 10), "jpg_2000",
                        quality_mode="rates", irreversible=True),
    "jxl": _imagecodecs("jpegxl", "distance", (12, 8, 5, 3.2, 2.0, 1.2, 0.7), effort=7),
    "heif": _imagecodecs("heif", "level", (10, 20, 30, 40, 50, 60, 70, 80, 90)),
}  # fmt: skip


def available() -> list[str]:
    """The names of those that can run here."""
    return [name for name, rival in RIVALS.items() if not rival.missing()]


def get(name: str) -> Rival:
    """The rival of that name, if it can run here."""
    if name not in RIVALS:
        raise LicError(f"cannot compare with {name!r}; known: {', '.join(RIVALS)}")
    if reason := RIVALS[name].missing():
        raise LicError(f"cannot compare with {name}: {reason}")
    return RIVALS[name]


def version(name: str) -> str:
    """Library, its version and the settings: what a measurement of a rival depends on."""
    rival = get(name)
    return f"{rival.library} {metadata.version(rival.library)} {rival.settings}".strip()
