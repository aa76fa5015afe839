"""Parts of a picture as lossless image files of their own, within the .lic file: its opacity, or all its colours."""

import io
from contextlib import suppress

import numpy as np
from PIL import Image

from .errors import Corrupt, LicError
from .image import opened

WAYS = (  # whichever is smallest; WebP's method 6 would take six times as long and more, for 1 % fewer bytes at best
    ("PNG", {"optimize": True}),
    ("WEBP", {"lossless": True, "method": 4}),
    ("WEBP", {"lossless": True, "method": 5, "quality": 100}),
)
FLAT = 6  # bits per pixel of a PNG that is quickly made: drawings took up to 2, photographs 6.4 and more


def pack_alpha(alpha: np.ndarray | None) -> bytes | None:
    """Opacity (H, W) uint8 -> the bytes of a grey picture, PNG or lossless WebP, whichever is smaller; None -> None."""
    if alpha is None:
        return None
    image = Image.fromarray(alpha)
    if np.isin(alpha, (0, 255)).all():
        image = image.convert("1", dither=Image.Dither.NONE)
    return _packed(image)


def pack_colours(rgb: np.ndarray, alpha: np.ndarray | None) -> bytes | None:
    """Colours (H, W, 3) uint8 -> the bytes of a PNG or lossless WebP, whichever is smaller; None for photographs and the like.

    What alpha says is fully transparent becomes black.
    """
    image, quick = Image.fromarray(rgb if alpha is None else rgb * (alpha[..., None] > 0)), io.BytesIO()
    image.save(quick, "PNG", compress_level=1)
    return None if 8 * quick.tell() > FLAT * image.width * image.height else _packed(image)


def _packed(image: Image.Image) -> bytes:
    packed = []
    for format, options in WAYS:
        with suppress(OSError, ValueError, KeyError):  # WebP ends at 16383 pixels a side, and not every Pillow has it
            out = io.BytesIO()
            image.save(out, format, **options)
            packed.append(out.getvalue())
    return min(packed, key=len)


def unpack_alpha(data: bytes, width: int, height: int) -> np.ndarray:
    """The inverse of pack_alpha, of a picture of that size; anything else is Corrupt."""
    return _unpacked(data, (width, height), ("1", "L", "RGB"), "L", "alpha channel")  # WebP has no grey


def unpack_colours(data: bytes, width: int, height: int) -> np.ndarray:
    """The inverse of pack_colours, likewise."""
    return _unpacked(data, (width, height), ("RGB",), "RGB", "colours")


def _unpacked(data: bytes, size: tuple[int, int], modes: tuple[str, ...], mode: str, what: str) -> np.ndarray:
    try:
        image = opened(data, ("PNG", "WEBP"))
        if image.size != size or image.mode not in modes:
            raise Corrupt(f"damaged: {what} of another size or kind than the picture's")
        return np.asarray(image.convert(mode))
    except LicError:
        raise
    except Exception as error:  # see _reading
        raise Corrupt(f"damaged: {what}") from error
