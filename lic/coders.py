"""Integer probability tables and the range coder. The only module that knows `constriction`.

A latent with table (scale index s, mean m in 2^-MEAN_BITS) is coded relative to base = floor(m): symbol 1 + L + d
for d = y - base in -L..L+1, symbol 0 is the escape, followed by d in an Exp-Golomb code of equiprobable bits.
Its frequency is 1 + floor of (2^24 - symbols) times a Gaussian's mass over its bin; the tails beyond the last bins
belong to the escape. All of it is computed with Python's unbounded integers or below 2^63, from constants of
correctly rounded decimal arithmetic: the tables are the same on every machine and part of the format.
"""

from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import torch
from constriction import stream
from torch import Tensor

from .entropy.gaussian import MEAN_BITS, SCALES, SIGMA_HIGH, SIGMA_LOW
from .errors import Corrupt

PRECISION = 24  # bits of a probability, fixed by constriction
GRID, REACH = 256, 6  # the normal distribution is tabulated at multiples of 1/GRID up to REACH deviations
ESCAPE_BITS = 17  # an escaped magnitude is below 2^ESCAPE_BITS


@cache
def sigmas() -> list[int]:
    """Standard deviation of every scale, in 2^-16 units."""
    with localcontext() as context:
        context.prec = 40
        low, high = Decimal(str(SIGMA_LOW)), Decimal(str(SIGMA_HIGH))
        step = (high / low).ln() / (SCALES - 1)
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


@cache
def half_width(index: int) -> int:
    """L of a scale: its table has bins for d = -L .. L + 1."""
    return (5 * sigmas()[index] >> 16) + 1


@cache
def frequencies(index: int, fraction: int) -> np.ndarray:
    """Table of scale `index` and a mean `fraction` / 2^MEAN_BITS above its base: int64, every entry >= 1, sum 2^24."""
    L = half_width(index)
    edges = 32 * np.arange(-L, L + 3, dtype=np.int64) - 16 - (fraction << 5 - MEAN_BITS)
    free = (1 << PRECISION) - (2 * L + 3)
    cumulative = _cdf(edges, sigmas()[index]) * free >> 32
    bins = np.diff(cumulative)
    return np.concatenate(([free - bins.sum()], bins)) + 1


@cache
def _models() -> tuple[list, np.ndarray]:
    """Models of all tables, by index << MEAN_BITS | fraction, and L of every scale.

    constriction adds one to each entry of integers that sum to 2^24 - n: exactly our frequencies.
    """
    tables = (frequencies(index, fraction) for index in range(SCALES) for fraction in range(1 << MEAN_BITS))
    models = [stream.model.Categorical((table - 1).astype(np.float64), perfect=False) for table in tables]
    return models, np.array([half_width(index) for index in range(SCALES)])


def _tables(mean: Tensor, index: Tensor) -> tuple[np.ndarray, np.ndarray, list]:
    """Flat int64 means and scale indexes -> base and L of every latent, and its model."""
    mean, index = mean.cpu().numpy(), index.cpu().numpy()
    keys = index << MEAN_BITS | mean & (1 << MEAN_BITS) - 1
    models, widths = _models()
    return mean >> MEAN_BITS, widths[index], list(map(models.__getitem__, keys.tolist()))


_LENGTH = stream.model.Uniform(ESCAPE_BITS)


def _fold(d: int) -> int:
    """Signed to positive: 0 -1 1 -2 … -> 1 2 3 4 …"""
    return 2 * d + 1 if d >= 0 else -2 * d


def _unfold(n: int) -> int:
    return n // 2 if n & 1 else -(n // 2)


class Writer:
    """Range-encodes latents."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()

    def code(self, mean: Tensor, index: Tensor, y: Tensor) -> Tensor:
        """Append y; all (n,) int64. Returns y."""
        base, L, models = _tables(mean, index)
        d = y.cpu().numpy() - base
        escaped = (d < -L) | (d > L + 1)
        symbols = np.where(escaped, 0, d + L + 1)
        encode = self._encoder.encode
        for symbol, model in zip(symbols.tolist(), models, strict=True):
            encode(symbol, model)
        for value in d[escaped].tolist():
            n = _fold(value)
            bits = n.bit_length() - 1
            encode(bits, _LENGTH)
            if bits:
                encode(n - (1 << bits), stream.model.Uniform(1 << bits))
        return y

    def bytes(self) -> bytes:
        """The stream: little-endian 32-bit words without trailing zero bytes (the reader supplies those)."""
        return self._encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class Reader:
    """Range-decodes what a Writer wrote. Any damage that the coder notices is Corrupt."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), dtype="<u4").astype(np.uint32)
        self._decoder = stream.queue.RangeDecoder(words)

    def code(self, mean: Tensor, index: Tensor, y: None = None) -> Tensor:
        """The next len(mean) latents: (n,) int64."""
        base, L, models = _tables(mean, index)
        try:
            decode = self._decoder.decode
            symbols = np.fromiter(map(decode, models), dtype=np.int64, count=len(models))
            d = symbols - L - 1
            for i in np.flatnonzero(symbols == 0).tolist():
                bits = decode(_LENGTH)
                d[i] = _unfold((1 << bits) + (decode(stream.model.Uniform(1 << bits)) if bits else 0))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # constriction panics with a BaseException of its own
            raise Corrupt("damaged: the entropy coder met an impossible stream") from error
        return torch.from_numpy(base + d)

    def finish(self) -> None:
        """Raise Corrupt if the stream does not look finished."""
        if not self._decoder.maybe_exhausted():
            raise Corrupt("damaged: data left over after the last latent")


def bits(mean: Tensor, index: Tensor, y: Tensor) -> np.ndarray:
    """What each latent costs by the tables of a Writer, escape included: (n,) int64 each -> (n,) float64."""
    mean, index, y = (x.cpu().numpy() for x in (mean, index, y))
    keys = index << MEAN_BITS | mean & (1 << MEAN_BITS) - 1
    L = _models()[1][index]
    d = y - (mean >> MEAN_BITS)
    escaped = (d < -L) | (d > L + 1)
    symbols = np.where(escaped, 0, d + L + 1)
    result = np.empty(len(keys))
    for key in np.unique(keys).tolist():
        cost = PRECISION - np.log2(frequencies(key >> MEAN_BITS, key & (1 << MEAN_BITS) - 1))
        result[keys == key] = cost[symbols[keys == key]]
    for i in np.flatnonzero(escaped).tolist():
        result[i] += float(np.log2(ESCAPE_BITS)) + _fold(int(d[i])).bit_length() - 1
    return result


class Estimator:
    """Counts the bits that a Writer would need, by its own tables."""

    def __init__(self) -> None:
        self.bits = 0.0

    def code(self, mean: Tensor, index: Tensor, y: Tensor) -> Tensor:
        self.bits += float(bits(mean, index, y).sum())
        return y
