"""Coding orders, and what follows from them: which neighbours a cell may look at."""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LicError


def kept(most: int) -> Callable[[Callable], Callable]:
    """What follows from sizes and positions alone is worked out once: training asks for the same at every step.

    For functions of tensors, too, that are the same objects again; so what they return is the same object again, and what
    follows from that can be kept in turn. The first caller, in inference or not, must not decide what later ones can do with it.
    """
    return lambda function: wraps(function)(lru_cache(maxsize=most)(torch.inference_mode(False)(function)))


@kept(8)
def wavefront(h: int, w: int, reach: int) -> Tensor:
    """Steps of a raster-causal window: (h, w) int64, col + (reach + 1) row.

    Every cell in the `reach` rows above, up to `reach` columns to the right, and to the left in the same row
    has a smaller step, so all cells of one step can be coded at once: w + (reach + 1)(h - 1) steps, not h w.
    """
    return torch.arange(w) + (reach + 1) * torch.arange(h)[:, None]


@kept(8)
def checkerboard(h: int, w: int) -> Tensor:
    """0 on black cells, 1 on white ones: (h, w) int64. All neighbours at an odd distance have the other colour."""
    return (torch.arange(w) + torch.arange(h)[:, None]) % 2


@kept(8)
def quarters(h: int, w: int) -> Tensor:
    """0 at even rows and columns, 1 at odd ones, then even rows, then odd ones: (h, w) int64.

    The first quarter is diagonal to the second, and both are next to all of the rest.
    """
    return torch.tensor([[0, 2], [3, 1]])[torch.arange(h)[:, None] % 2, torch.arange(w) % 2]


@kept(8)
def eighths(h: int, w: int) -> Tensor:
    """The first two of the quarters in two steps each, in the colours of the checkerboard that they are; 6 in all: (h, w) int64."""
    quarter = quarters(h, w)
    colour = checkerboard(-(-h // 2), -(-w // 2)).repeat_interleave(2, 0).repeat_interleave(2, 1)[:h, :w]
    return torch.where(quarter < 2, 2 * quarter + colour, 2 + quarter)


@kept(64)
def plane(group: int, h: int, w: int) -> Tensor:
    """Group + row + col: (h, w) int64."""
    return group + torch.arange(h)[:, None] + torch.arange(w)


def diagonals(groups: int, h: int, w: int) -> Tensor:
    """The planes of all groups: (groups, h, w) int64. All cells of a step at once: groups + h + w - 2 steps."""
    return torch.stack([plane(group, h, w) for group in range(groups)])


def known_taps(order: Tensor, reach: int, of: Tensor | None = None) -> list[tuple[int, int]]:
    """Offsets (row, col) within +-reach whose step is smaller than the centre's somewhere, in raster order.

    order: (h, w) with h, w > 2 reach, so that every offset occurs. of: where given, the steps of the cells
    looked at, another group's.
    """
    of = order if of is None else of
    h, w = order.shape
    taps = []
    for dr in range(-reach, reach + 1):
        for dc in range(-reach, reach + 1):
            rows, cols = (slice(max(0, -d), n - max(0, d)) for d, n in ((dr, h), (dc, w)))
            there = of[max(0, dr) : h + min(0, dr), max(0, dc) : w + min(0, dc)]
            if bool((there < order[rows, cols]).any()):
                taps.append((dr, dc))
    return taps


ORDERS = {  # (h, w) -> steps, and the neighbours that a cell looks at where they are known
    "checkerboard": (checkerboard, known_taps(checkerboard(8, 8), 1)),
    "quarters": (quarters, known_taps(quarters(8, 8), 1)),
    "eighths": (eighths, [tap for tap in known_taps(eighths(8, 8), 2) if sum(map(abs, tap)) <= 2]),
    "wavefront": (lambda h, w: wavefront(h, w, 2), known_taps(wavefront(8, 8, 2), 2)),
    "none": (kept(8)(lambda h, w: torch.zeros(h, w, dtype=torch.int64)), []),
}


def by_name(name: str) -> tuple[Callable[[int, int], Tensor], list[tuple[int, int]]]:
    """Entry of ORDERS; an unknown name, out of a config, is a LicError."""
    if name not in ORDERS:
        raise LicError(f"unknown order {name!r}; known: {', '.join(ORDERS)}")
    return ORDERS[name]


@kept(16)
def split(at: Tensor, most: int) -> tuple[Tensor, ...]:
    """The positions `at`, (n,) int64, at most so many at once."""
    return at.split(most)


def neighbours(at: Tensor, taps: Sequence[tuple[int, int]], h: int, w: int) -> tuple[Tensor, Tensor]:
    """Positions next to positions: (n,) -> (n, taps) int64, 0 where outside the image, and bool, whether inside."""
    down, right = torch.tensor(taps, dtype=torch.int64, device=at.device).view(-1, 2).T
    row = torch.div(at, w, rounding_mode="floor")[:, None] + down
    col = (at % w)[:, None] + right
    inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
    return torch.where(inside, row * w + col, 0), inside


def gather(y: Tensor, at: Tensor, taps: list[tuple[int, int]], order: Tensor | None = None) -> Tensor:
    """Neighbourhoods of positions, zero outside the image: (B, C, h, w), (n,) -> (B, n, taps C).

    order: (h, w) steps; where given, neighbours of an equal or larger step than the position's are zero too.
    """
    index, seen = _seen(at, tuple(taps), *y.shape[2:], order)
    rows, index = y.flatten(2).transpose(1, 2), index.flatten()
    many = len(index) >= rows.shape[1]  # then it is faster to turn all of them to rows first, as index_select does
    found = rows.index_select(1, index) if many else rows[:, index]
    found = found.unflatten(1, seen.shape)  # (B, n, taps, C)
    return found.mul_(seen[..., None].to(y.dtype)).flatten(2)


def gather_rows(rows: Tensor, at: Tensor, taps: list[tuple[int, int]], h: int, w: int, order: Tensor | None = None) -> Tensor:
    """gather() for what is laid out by position: (B, h w + 1, C), of which the last row stands for all that is not seen."""
    if not rows.shape[2]:  # the gradient of looking up nothing is an illegal access on CUDA
        return rows.new_zeros(len(rows), len(at), 0)
    index, seen = _seen(at, tuple(taps), h, w, order)
    index = torch.where(seen, index, h * w) + (h * w + 1) * torch.arange(len(rows), device=at.device)[:, None, None]
    if rows.is_cuda:  # where the gradient of an embedding sorts
        return rows.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape[:2], -1)
    return F.embedding(index, rows.flatten(0, 1)).flatten(2)  # here it is twice as fast as index_select


@kept(64)
def _seen(at: Tensor, taps: tuple[tuple[int, int], ...], h: int, w: int, order: Tensor | None) -> tuple[Tensor, Tensor]:
    index, seen = neighbours(at, taps, h, w)
    if order is not None:
        steps = order.flatten().to(at.device)
        seen &= steps[index] < steps[at][:, None]
    return index, seen
