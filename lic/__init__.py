"""lic: a learned image codec. `lic.encode(image) -> bytes`, `lic.decode(bytes) -> image`.

torch is imported on first use, so that `import lic`, `lic --help` and `lic info` are quick.
"""

from .defaults import QUALITY
from .errors import BadWeights, Corrupt, LicError, MissingWeights, NotLic, TooLarge, Unsupported

__version__ = "0.30.0"
__all__ = [
    "BadWeights", "Codec", "Corrupt", "LicError", "MissingWeights", "NotLic", "TooLarge", "Unsupported",
    "decode", "encode", "open",
]  # fmt: skip


def __getattr__(name: str):
    if name == "Codec":
        from .codec import Codec

        return Codec
    raise AttributeError(f"module 'lic' has no attribute {name!r}")


def encode(image, quality: float = QUALITY, **options) -> bytes:
    """A Pillow image -> the bytes of a .lic file. quality: 0..100; options: those of `Codec`."""
    from .codec import Codec

    return Codec(**options).encode(image, quality)


def decode(data: bytes, **options):
    """The bytes of a .lic file -> a Pillow image. Raises LicError for any bad input; options: those of `Codec`."""
    from .codec import Codec

    return Codec(**options).decode(data)


def open(path, **options):
    """A .lic file -> a Pillow image; see `decode`."""
    from pathlib import Path

    return decode(Path(path).read_bytes(), **options)
