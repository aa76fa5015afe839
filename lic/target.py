"""A picture in so many bytes, or as near to the original as asked for: a search on one number, the quality.

Bytes grow with quality nearly as a power does, and decibels along a straight line, so a few steps along a secant are
enough: first without the encoder's search, which costs little and tells where to begin, then with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from . import image
from .container import LEVELS
from .errors import LicError
from .evaluate import metrics

TRIES = 8  # encodings of either kind, if none of them is near enough
ROUGH = 4  # how much further off is near enough before the search
LOSSLESS = 99.0  # dB, in place of infinitely many


@dataclass(frozen=True)
class Target:
    """What a file shall be; `excess` says by how much it is more than that, in units where quality makes a straight line."""

    excess: Callable[[bytes], float]
    slope: float  # of that by quality level, typically
    near: float  # how much of it is near enough, on the right side
    most: bool  # the right side: True, nothing above 0, or False, nothing below
    missed: Callable[[float], str]  # what to say if no quality meets it, by the excess of what comes nearest

    def met(self, excess: float) -> bool:
        return excess <= 0 if self.most else excess >= 0


def at_most(size: float) -> Target:
    """A file of that many bytes."""

    def missed(excess: float) -> str:
        return f"no quality gives so few bytes: the fewest are {size * 2**excess:.0f}"

    return Target(lambda data: math.log2(len(data) / size), 5.0 / LEVELS, 0.02, True, missed)


def at_least(psnr: float, codec, picture: Image.Image) -> Target:
    """A PSNR of so many dB, RGB, of what `codec` decodes."""
    original = image.to_samples(picture, codec.convert).rgb

    def excess(data: bytes) -> float:
        return min(metrics.psnr(original, image.to_samples(codec.decode(data)).rgb), LOSSLESS) - psnr

    def missed(excess: float) -> str:
        return f"no quality gives so many dB: the most are {psnr + excess:.2f}"

    return Target(excess, 15.0 / LEVELS, 0.05, False, missed)


def encode(
    codec, picture: Image.Image, effort: int, *, size: float | None = None, bpp: float | None = None, psnr: float | None = None
) -> bytes:
    """The bytes of a .lic file of at most `size` bytes, or `bpp` bits per pixel, or of at least `psnr` dB; one of them is given.

    As near to it as 1.4 % or 0.05 dB, in general; LicError if no quality meets it.
    """
    goals = [value for value in (size, bpp, psnr) if value is not None]
    if len(goals) != 1:
        raise LicError("ask for one of size, bpp and psnr")
    (value,) = goals
    if not 0 < value < math.inf:  # a NaN fails too
        raise LicError(f"{value:g} is nothing to aim at")
    target = at_least(psnr, codec, picture) if psnr else at_most(size or bpp * math.prod(picture.size) / 8)
    level = LEVELS // 2
    for spent in sorted({0, effort}):
        tried = _approach(target, lambda level, spent=spent: codec.encode(picture, 100 * level / LEVELS, spent), level, spent == effort)
        level = min(tried, key=lambda level: abs(tried[level][0]))
    met = [(abs(excess), -level if target.most else level, data) for level, (excess, data) in tried.items() if target.met(excess)]
    if not met:
        raise LicError(target.missed(tried[level][0]))
    return min(met)[2]


def _approach(target: Target, coded: Callable[[int], bytes], level: int | None, exactly: bool) -> dict[int, tuple[float, bytes]]:
    """What quality levels give, from `level` on, until one is near enough: excess and bytes of each."""
    near, tried = target.near * (1 if exactly else ROUGH), {}
    aim = near / (-2 if target.most else 2)
    while level is not None and level not in tried:
        data = coded(level)
        tried[level] = excess, _ = target.excess(data), data
        if abs(excess - aim) <= near / 2:
            break
        if len(tried) >= TRIES and any(target.met(excess) for excess, _ in tried.values()):
            break
        level = _next({level: excess - aim for level, (excess, _) in tried.items()}, target.slope)
    return tried


def _next(off: dict[int, float], slope: float) -> int | None:
    """Where to try next, given how far off levels were; None if nothing is left between them."""
    below, above = (max((k for k in off if off[k] < 0), default=None), min((k for k in off if off[k] >= 0), default=None))
    if below is None or above is None:
        last = min(off, key=lambda level: abs(off[level]))
        return min(max(last - round(len(off) * off[last] / slope), 0), LEVELS)  # further and further
    if above - below < 2:
        return None
    between = below + round((above - below) * off[below] / (off[below] - off[above]))
    return min(max(between, below + 1), above - 1)
