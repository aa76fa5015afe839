"""Integer probability tables: what a symbol's probability is, for the coder and for models that ask.

A latent with table (scale index s, mean m in 2^-MEAN_BITS) is seen relative to base = floor(m): symbol 1 + L + d
for d = y - base in -L..L+1, symbol 0, the escape, for all others. Its frequency is 1 + floor of (2^24 - symbols)
times the distribution's mass over its bin; the tails beyond the last bins belong to the escape. All of it is computed with
Python's unbounded integers or below 2^63, from constants of correctly rounded decimal arithmetic: the tables are the
same on every machine and part of the format.
"""

from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .gaussian import MEAN_BITS, SCALES, SHAPE, SIGMA_LOW, STEP

PRECISION = 24  # bits of a probability, fixed by the coder's library
GRID, REACH = 256, 6  # the normal distribution is tabulated at multiples of 1/GRID up to REACH deviations


@cache
def sigmas() -> list[int]:
    """Standard deviation of every scale, in 2^-16 units."""
    with localcontext() as context:
        context.prec = 40
        low, step = Decimal(str(SIGMA_LOW)), Decimal(str(STEP))
        return [int((low * (step * i).exp() * 65536).to_integral_value()) for i in range(SCALES)]


@cache
def normal_cdf() -> np.ndarray:
    """2^32 (Phi(i / GRID) - 1/2) for i = 0 .. GRID REACH, int64, by Simpson's rule in fixed point."""
    one = 1 << 96
    with localcontext() as context:
        context.prec = 60
        c = Decimal(1) / (8 * GRID * GRID)  # the density is exp(-c j^2) at half grid points j
        ratio = int((-c).exp() * one)
        decay = int((-2 * c).exp() * one)
        norm = int(Decimal(2**32) / (6 * GRID) * one / (2 * Decimal("3.14159265358979323846264338327950288419716939937")).sqrt())
    density = [one]
    for _ in range(2 * GRID * REACH):  # exp(-c (j+1)^2) = exp(-c j^2) exp(-c) exp(-2 c j)
        density.append(density[-1] * ratio >> 96)
        ratio = ratio * decay >> 96
    total, out = 0, [0]
    for i in range(0, 2 * GRID * REACH, 2):
        total += density[i] + 4 * density[i + 1] + density[i + 2]
        out.append((total * norm >> 96) + (1 << 95) >> 96)
    return np.array(out, dtype=np.int64)


def _cdf(x: np.ndarray, sigma: int) -> np.ndarray:
    """2^32 Phi(x / sigma) for x int64 in units of 1/32, sigma in 2^-16, interpolated on the grid."""
    u = np.minimum((np.abs(x) << 35) // sigma, (REACH * GRID << 16) - 1)  # |x| / sigma in units of 2^-16 / GRID
    i, t = u >> 16, u & 0xFFFF
    half = normal_cdf()[i] + ((normal_cdf()[i + 1] - normal_cdf()[i]) * t >> 16)
    return (1 << 31) + np.where(x < 0, -half, half)


def _shaped(x: np.ndarray, sigma: int) -> np.ndarray:
    """2^32 P(latent - mean < x), x and sigma as for _cdf."""
    return sum(share * _cdf(x, sigma * width // 20) for share, width in SHAPE) >> 3


@cache
def half_width(index: int) -> int:
    """L of a scale: its table has bins for d = -L .. L + 1."""
    return (5 * sigmas()[index] >> 16) + 1


@cache
def half_widths() -> np.ndarray:
    """L of every scale, int64."""
    return np.array([half_width(index) for index in range(SCALES)])


@cache
def frequencies(index: int) -> np.ndarray:
    """Tables of scale `index`, row by row for a mean 0, 1, ... / 2^MEAN_BITS above its base: int64, every entry >= 1, sums 2^24."""
    L, fraction = half_width(index), np.arange(1 << MEAN_BITS, dtype=np.int64)[:, None]
    edges = 32 * np.arange(-L, L + 3, dtype=np.int64) - 16 - (fraction << 5 - MEAN_BITS)
    free = (1 << PRECISION) - (2 * L + 3)
    cumulative = _shaped(edges, sigmas()[index]) * free >> 32
    bins = np.diff(cumulative)
    return np.concatenate((free - bins.sum(1, keepdims=True), bins), 1) + 1


@cache
def _all(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """All tables one after the other, where each begins (by index << MEAN_BITS | fraction), and L of every scale; int64."""
    tables = [table for index in range(SCALES) for table in frequencies(index)]
    begins = np.cumsum([0] + [len(table) for table in tables[:-1]])
    return tuple(torch.as_tensor(x, device=device) for x in (np.concatenate(tables), begins, half_widths()))


def frequency(mean: Tensor, index: Tensor, y: Tensor) -> Tensor:
    """2^PRECISION P(symbol of y) by the tables (mean, index); all int64 of one shape. Of an escaped y, the escape's."""
    entries, begins, widths = _all(mean.device)
    L, d = widths[index], y - (mean >> MEAN_BITS)
    symbol = torch.where((d < -L) | (d > L + 1), 0, d + L + 1)
    return entries[begins[index << MEAN_BITS | mean & (1 << MEAN_BITS) - 1] + symbol]
