"""Dependent quantisation: latents that are coded one after the other share a finer grid than each of them has.

Scalar quantisation cannot fill space well: its cells are cubes. So every latent of a wide distribution has one of two
quantisers, the integers or what lies half-way between them, and which one follows from the latents before it: a machine of
STATES states says so, and goes on by the parity of each. The coder sees unit bins, as ever, and spends as many bits; but of
the paths through the machine one comes nearer to the picture than rounding does, as if steps were finer. This is trellis
coded quantisation (Marcellin & Fischer 1990, with Ungerboeck's codes of 1982), as VVC has it, too (Schwarz et al. 2019);
which distributions are wide both sides know from the coder's tables.

The value of a latent is k + half / 2, k the integer that is coded, with the mean moved by as much. Chains of latents start
in state 0 every CHAIN latents, and in every call of the coder. All of it is part of the format, but for best(), by which the
encoder chooses.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from .entropy import gaussian
from .entropy.gaussian import MEAN_BITS, PER_UNIT, SCALES, WIDE
from .entropy.tables import half_widths
from .exact import look_up

STATES = 256
CHECKS = 0o515, 0o362  # parity-check polynomials of the code with so many states: Ungerboeck 1982, table I
CHAIN = 512  # latents: the beginning of a chain gains little, as its first states are known
HALF = 1 << MEAN_BITS - 1  # by which means move
WARM = 2.0  # times the temperature of others has that of wide latents while undecided (annealing.py): they are not free to choose


def is_wide(table: tuple) -> Tensor | np.ndarray:
    """Which latents take part, by the coder's table."""
    return table[1] >= WIDE


@cache
def machine() -> tuple[np.ndarray, np.ndarray]:
    """Of every state the quantiser (0: integers, 1: halves), (STATES,), and the next state by parity, (STATES, 2); int64.

    A systematic feedback encoder in observer form: the states are shift registers, the quantiser is what falls out of them.
    """
    state, parity = np.arange(STATES), np.arange(2)
    back, forth = (polynomial >> 1 for polynomial in CHECKS)
    quantiser = state & 1
    return quantiser, (state >> 1 ^ quantiser * back)[:, None] ^ parity * forth


def centroid(y_hat: Tensor, table: tuple[Tensor, ...], dependent: bool) -> Tensor:
    """What the synthesis gets of latents, float32; y_hat and the coder's table of one shape, but for mixtures' K."""
    if len(table) == 3:
        return gaussian.centroid(y_hat.float(), *gaussian.from_index(*table))
    mean, index = table
    unit = 1 << MEAN_BITS
    place = (mean - unit * y_hat).clamp_(-unit, unit).add_(index, alpha=2 * unit + 1).add_(unit)
    return look_up(_offsets(dependent, y_hat.device), place).add_(y_hat)


@cache
def _offsets(dependent: bool, device: torch.device) -> Tensor:
    """Of centroids from their latents, by scale index and then by how far the mean is, -1 .. 1 or further: flat, float32."""
    away = torch.arange(-1, 1 + 2**-MEAN_BITS, 2**-MEAN_BITS, device=device).expand(SCALES, -1)
    index = torch.arange(SCALES, device=device)[:, None].expand_as(away)
    offsets = gaussian.centroid(torch.zeros_like(away), away, index / PER_UNIT)
    return (torch.where(is_wide((away, index)), gaussian.CENTRED * offsets, offsets) if dependent else offsets).flatten()


def parity(value: np.ndarray, mean: np.ndarray, index: np.ndarray) -> np.ndarray:
    """0 or 1 of values, with their tables: that of k, or if that is not in the table of what its escape stands for."""
    k = np.floor(value).astype(np.int64)
    base, L = mean - HALF * (value != k) >> MEAN_BITS, half_widths()[index]
    return np.where((k < base - L) | (k > base + L + 1), base - L - 1, k) & 1


def best(values: np.ndarray, costs: np.ndarray, mean: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Of latents in the order of coding the values (n,) that a reader can follow, and that cost the least in all.

    values, costs: (choices, n), of both quantisers and parities; mean, index: their tables (n,). Viterbi's algorithm, all
    chains at once.
    """
    n = values.shape[1]
    chains = -(-n // CHAIN)
    length = min(n, CHAIN)
    quantiser, after = machine()
    cheapest, value = np.full((chains * length, 4), np.inf, np.float32), np.zeros((chains * length, 4), np.float32)
    cheapest[n:] = 0
    every = np.arange(n)
    for some, cost in zip(values, costs, strict=True):
        at = every, 2 * (some != np.floor(some)) + parity(some, mean, index)
        better = cost < cheapest[at]
        cheapest[at], value[at] = np.where(better, cost, cheapest[at]), np.where(better, some, value[at])
    cheapest, value = (x.reshape(chains, length, 4).swapaxes(0, 1).copy() for x in (cheapest, value))
    # every state is reached from two others: from which, and by which of the four kinds of values
    origin = np.argsort(after.T.flatten(), kind="stable").reshape(STATES, 2)
    before, kind = origin % STATES, 2 * quantiser[origin % STATES] + origin // STATES
    total, chosen = np.full((chains, STATES), np.inf, np.float32), np.empty((length, chains, STATES), bool)
    total[:, 0] = 0
    for row, second in zip(cheapest, chosen, strict=True):
        a, b = (total[:, before[:, i]] + row[:, kind[:, i]] for i in (0, 1))
        np.less(b, a, out=second)
        total = np.minimum(a, b)
    found, state, chain = np.empty((length, chains)), total.argmin(1), np.arange(chains)
    for k in range(length - 1, -1, -1):
        way = state, chosen[k, chain, state].astype(int)
        found[k], state = value[k, chain, kind[way]], before[way]
    return found.T.flatten()[:n]
