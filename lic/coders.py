"""The range coder, driven by integer tables. The only module that knows `constriction`.

A latent is coded by the symbols of its table (entropy/tables.py); the escape is followed by d = y - base in an
Exp-Golomb code of equiprobable bits. Of latents that are quantised dependently (trellis.py) the narrow ones of a call come
first, then the wide ones.

A latent with a mixture (K means, scale indexes and weights that sum to 2^16) has the same symbols: the bins of all
components that count are -L..L+1 around a base half-way, L the next of WIDTHS, and what a component's table gives a
bin counts by its weight. The tables of one call are made and used width by width.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from constriction import stream
from torch import Tensor

from . import trellis
from .entropy.gaussian import MEAN_BITS, SCALES
from .entropy.tables import PRECISION, frequencies, half_widths
from .errors import Corrupt
from .exact import WEIGHT_BITS

ESCAPE_BITS = 17  # an escaped magnitude is below 2^ESCAPE_BITS
WIDTHS = np.array(sorted(m * 2**e - 1 for m in (2, 3) for e in range(9)))  # the values of L that mixtures have
COUNTS = 16  # a component of smaller weight does not widen the window: the escape is for it
ENTRIES = 2**14  # of mixtures' tables made at once: they should stay in the cache


@cache
def _models() -> np.ndarray:
    """Models of all tables, by index << MEAN_BITS | fraction: objects.

    constriction adds one to each entry of integers that sum to 2^24 - n: exactly our frequencies.
    """
    tables = ((frequencies(index) - 1).astype(np.float64) for index in range(SCALES))
    models = (stream.model.Categorical(row, perfect=False) for table in tables for row in table)
    return np.fromiter(models, object)


@cache
def _links() -> np.ndarray:
    """Of a chain's latents: model, and the next state by twice the state plus the symbol's parity; objects.

    By twice the model's place, plus 1 if it is odd symbols that stand for even integers.
    """
    ways = [after.flatten().tolist() for after in (trellis.machine()[1], trellis.machine()[1][:, ::-1])]
    return np.fromiter(((model, way) for model in _models() for way in ways), object)


@cache
def _cumulative() -> tuple[np.ndarray, np.ndarray]:
    """Sums of the frequencies below every bin, and below the end of the last one, of all tables one after the other
    (float64), and where each table begins."""
    sums = [np.cumsum(row) - row[0] for index in range(SCALES) for row in frequencies(index)]
    return np.concatenate(sums).astype(np.float64), np.cumsum([0] + [len(part) for part in sums[:-1]])


_ROWS = stream.model.Categorical(perfect=False)  # the family of models that come as rows of a matrix


class _Tables(NamedTuple):
    """Of some latents: base and L, and the models of their symbols."""

    base: np.ndarray
    L: np.ndarray
    table: list[np.ndarray]  # mean, index and, of mixtures, weight

    def models(self) -> Iterator[tuple[np.ndarray | slice, list | np.ndarray]]:
        """In the order of coding: which latents, and their models, as a list or as rows for _ROWS."""
        if len(self.table) == 2:
            yield slice(None), _models()[_keys(*self.table)].tolist()
            return
        for L in np.unique(self.L).tolist():
            cells = np.flatnonzero(self.L == L)
            for some in np.array_split(cells, -(-len(cells) * (2 * L + 3) // ENTRIES)):
                yield some, _mixed(self.base[some], L, *(x[some] for x in self.table))


def _tables(table: Sequence[np.ndarray]) -> _Tables:
    """Flat means and scale indexes (n,), or those and the weights of mixtures (n, K); int64."""
    base, L = table[0] >> MEAN_BITS, half_widths()[table[1]]
    if len(table) == 3:
        counts = table[2] >= COUNTS
        low, high = np.where(counts, base - L, 2**31).min(1), np.where(counts, base + L + 1, -(2**31)).max(1)
        base = low + high >> 1
        L = WIDTHS[np.minimum(np.searchsorted(WIDTHS, base - low), len(WIDTHS) - 1)]
    return _Tables(base, L, table)


def _keys(mean: np.ndarray, index: np.ndarray) -> np.ndarray:
    return index << MEAN_BITS | mean & (1 << MEAN_BITS) - 1


def _mixed(base: np.ndarray, L: int, mean: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Frequencies less one of mixtures, (n,) and (n, K) -> (n, 2 L + 3) float64. All sums are of integers below 2^53."""
    sums, begins = _cumulative()
    first = begins[_keys(mean, index)]
    last = first + 2 * half_widths()[index] + 2
    shift = first + half_widths()[index] - (mean >> MEAN_BITS) + base[:, None] - L  # of the lowest bin, in the component's sums
    edges = np.arange(2 * L + 3)
    total = np.zeros((len(base), 2 * L + 3))
    for k in range(mean.shape[1]):
        at = edges + shift[:, k, None]
        np.maximum(at, first[:, k, None], out=at)
        np.minimum(at, last[:, k, None], out=at)
        total += sums[at] * weight[:, k, None].astype(np.float64)
    free = float((1 << PRECISION) - (2 * L + 3))
    total = np.floor(np.floor(total * 2.0**-WEIGHT_BITS) * (free * 2.0**-PRECISION))
    rows = np.empty_like(total)
    rows[:, 1:] = np.diff(total)
    rows[:, 0] = free - rows[:, 1:].sum(1)
    return rows


_LENGTH = stream.model.Uniform(ESCAPE_BITS)


def _fold(d: int) -> int:
    """Signed to positive: 0 -1 1 -2 … -> 1 2 3 4 …"""
    return 2 * d + 1 if d >= 0 else -2 * d


def _unfold(n: int) -> int:
    return n // 2 if n & 1 else -(n // 2)


def _symbols(d: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y - base -> which latents need the escape, and the symbols of all."""
    escaped = (d < -L) | (d > L + 1)
    return escaped, np.where(escaped, 0, d + L + 1)


def _on_grid(table: Sequence[Tensor], y: Tensor) -> tuple[list[np.ndarray], np.ndarray]:
    """Values y, (n,) -> tables for what is coded of them, and that, integers k: means move by as much as y is beyond k."""
    (mean, *others), y = (x.cpu().numpy() for x in table), y.cpu().numpy()
    k = np.floor(y).astype(np.int64)
    half = y != k
    return [mean - trellis.HALF * half if half.any() else mean, *others], k


def _in_order(table: Sequence, dependent: bool) -> list:
    """Which latents are coded at once, one such part after the other."""
    if not dependent:
        return [slice(None)]
    wide = np.asarray(trellis.is_wide(table))
    return [~wide, wide]


class Writer:
    """Range-encodes latents."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()

    def code(self, table: Sequence[Tensor], y: Tensor, dependent: bool = False) -> Tensor:
        """Append integers y, (n,) of any type, with the tables (mean, index), (n,), or (mean, index, weight), (n, K). Returns y.

        dependent: y may be what trellis.best() chose of these tables (mean, index).
        """
        table, k = _on_grid(table, y)
        for some in _in_order(table, dependent):
            self._append(_tables([x[some] for x in table]), k[some])
        return y

    def _append(self, tables: _Tables, k: np.ndarray) -> None:
        d = k - tables.base
        escaped, symbols = _symbols(d, tables.L)
        encode = self._encoder.encode
        for cells, models in tables.models():
            if isinstance(models, np.ndarray):
                encode(symbols[cells].astype(np.int32), _ROWS, models)
            else:
                for symbol, model in zip(symbols.tolist(), models, strict=True):
                    encode(symbol, model)
        for value in d[escaped].tolist():
            n = _fold(value)
            bits = n.bit_length() - 1
            encode(bits, _LENGTH)
            if bits:
                encode(n - (1 << bits), stream.model.Uniform(1 << bits))

    def bytes(self) -> bytes:
        """The stream: little-endian 32-bit words without trailing zero bytes (the reader supplies those)."""
        return self._encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class Reader:
    """Range-decodes what a Writer wrote. Any damage that the coder notices is Corrupt."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), dtype="<u4").astype(np.uint32)
        self._decoder = stream.queue.RangeDecoder(words)

    def code(self, table: Sequence[Tensor], y: None = None, dependent: bool = False) -> Tensor:
        """The next n latents: (n,) int64, or float64 if they are quantised dependently."""
        table = [x.cpu().numpy() for x in table]
        read = self._independent, self._chain
        try:
            parts = _in_order(table, dependent)
            found = [some_read([x[some] for x in table]) for some, some_read in zip(parts, read, strict=False)]
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # constriction panics with a BaseException of its own
            raise Corrupt("damaged: the entropy coder met an impossible stream") from error
        values = np.empty(len(table[0]), np.float64 if dependent else np.int64)
        for some, part in zip(parts, found, strict=True):
            values[some] = part
        return torch.from_numpy(values)

    def _independent(self, table: list[np.ndarray]) -> np.ndarray:
        tables = _tables(table)
        symbols = np.empty(len(tables.base), dtype=np.int64)
        for cells, models in tables.models():
            if isinstance(models, np.ndarray):
                symbols[cells] = self._decoder.decode(_ROWS, models)
            else:
                symbols = np.fromiter(map(self._decoder.decode, models), dtype=np.int64, count=len(models))
        return self._values(symbols, tables.base, tables.L)

    def _chain(self, table: list[np.ndarray]) -> np.ndarray:
        """Wide latents, of which each says by which of two tables the next one is coded."""
        mean, index = table
        both = [_tables([mean - trellis.HALF * half, index]) for half in (0, 1)]
        links = [_links()[2 * _keys(*tables.table) + (tables.base - tables.L - 1 & 1)].tolist() for tables in both]
        decode, found, ways = self._decoder.decode, [], zip(*links, strict=True)
        halved = trellis.machine()[0].tolist()
        for _ in range(0, len(mean), trellis.CHAIN):
            state = 0
            for integer, half in islice(ways, trellis.CHAIN):
                if halved[state]:
                    model, after = half
                    symbol = decode(model)
                    found.append(~symbol)  # so that it is known which table it was
                else:
                    model, after = integer
                    symbol = decode(model)
                    found.append(symbol)
                state = after[2 * state | symbol & 1]
        symbols = np.array(found, dtype=np.int64)
        half = symbols < 0
        base = np.where(half, both[1].base, both[0].base)
        return self._values(np.where(half, ~symbols, symbols), base, both[0].L) + half / 2

    def _values(self, symbols: np.ndarray, base: np.ndarray, L: np.ndarray) -> np.ndarray:
        """Integers of symbols; the escapes among them follow in the stream."""
        k = base + symbols - L - 1
        for i in np.flatnonzero(symbols == 0).tolist():
            bits = self._decoder.decode(_LENGTH)
            k[i] = base[i] + _unfold((1 << bits) + (self._decoder.decode(stream.model.Uniform(1 << bits)) if bits else 0))
        return k

    def finish(self) -> None:
        """Raise Corrupt if the stream does not look finished."""
        if not self._decoder.maybe_exhausted():
            raise Corrupt("damaged: data left over after the last latent")


def bits(table: Sequence[Tensor], y: Tensor) -> np.ndarray:
    """What each latent costs by the tables of a Writer, escape included: y (n,), as a Writer takes it -> (n,) float64."""
    table, k = _on_grid(table, y)
    tables = _tables(table)
    d = k - tables.base
    escaped, symbols = _symbols(d, tables.L)
    result = np.empty(len(d))
    if len(tables.table) == 2:
        keys = _keys(*tables.table)
        for key in np.unique(keys).tolist():
            cost = PRECISION - np.log2(frequencies(key >> MEAN_BITS)[key & (1 << MEAN_BITS) - 1])
            result[keys == key] = cost[symbols[keys == key]]
    else:
        for cells, rows in tables.models():
            result[cells] = PRECISION - np.log2(rows[np.arange(len(rows)), symbols[cells]] + 1)
    for i in np.flatnonzero(escaped).tolist():
        result[i] += float(np.log2(ESCAPE_BITS)) + _fold(int(d[i])).bit_length() - 1
    return result


class Estimator:
    """Counts the bits that a Writer would need, by its own tables."""

    def __init__(self) -> None:
        self.bits = 0.0

    def code(self, table: Sequence[Tensor], y: Tensor, dependent: bool = False) -> Tensor:
        self.bits += float(bits(table, y).sum())
        return y
