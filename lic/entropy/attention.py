"""Attention of cells to known cells, with both faces: for `entroformer` and its relatives.

Everything stays bounded: cells see known cells of their own window, a square of positions, and at most PIECE rows of
scores exist at a time. Configs say how large the windows are: by default as training crops, 256 pixels a side. Sixteen
times that area changed the bits of no model by more than 0.06 % (weights/README.md), and took twice the time.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import LicError
from ..exact import FRACTION, ExactLinear, add, average, exp2_weights, is_exact, leaky
from . import orders

LARGEST = 64  # window: exact averages are of 4096 rows at most
DEEPEST = 256  # heads: exact products are of that many activations at most
PIECE = 64  # rows: their scores should stay in the cache


def diamond(reach: int) -> tuple[tuple[int, int], ...]:
    """Relative positions (row, col) with |row| + |col| <= reach, in raster order."""
    offsets = range(-reach, reach + 1)
    return tuple((row, col) for row in offsets for col in offsets if abs(row) + abs(col) <= reach)


def check_window(side: int) -> int:
    """The side of a window, in positions; LicError if it cannot be."""
    if not 1 <= side <= LARGEST:
        raise LicError(f"windows of {side} positions: there must be 1 .. {LARGEST}")
    return side


class Piece(NamedTuple):
    """Some rows that share a window, and the cells that they look at there."""

    rows: Tensor  # (n,) int64, where they are among all
    at: Tensor  # (n,) their positions
    keys: Tensor  # (N,) positions, at least one
    legal: Tensor  # (n, N) bool: which of them a row may see


def pieces(at: Tensor, steps: Tensor, side: int, itself: bool = False) -> tuple[list[Piece], Tensor]:
    """The positions `at`, (n,) int64, in pieces, and where among the rows of these each of them is, (n,).

    They see the cells of their window, `side` wide, of smaller step, if `itself` of their own step too. steps: (h, w).
    """
    return _pieces(at, steps, side, itself, PIECE)


@orders.kept(16)
def _pieces(at: Tensor, steps: Tensor, side: int, itself: bool, most: int) -> tuple[list[Piece], Tensor]:
    (h, w), index, parts = steps.shape, steps.flatten().to(at.device), []
    across = -(-w // side)
    window = torch.div(at, w * side, rounding_mode="floor") * across + torch.div(at % w, side, rounding_mode="floor")
    for number in torch.unique(window).tolist():
        top, left = number // across * side, number % across * side
        inside = torch.arange(top, min(top + side, h), device=at.device)[:, None] * w
        inside = (inside + torch.arange(left, min(left + side, w), device=at.device)).flatten()
        for rows in torch.nonzero(window == number)[:, 0].split(most):
            own, theirs = index[at[rows], None], index[inside]
            keys = inside[theirs <= own.max() if itself else theirs < own.max()]  # about half of them
            if not len(keys):
                keys = at[rows][:1]  # not legal, but some key there must be
            parts.append(Piece(rows, at[rows], keys, index[keys] <= own if itself else index[keys] < own))
    return parts, torch.argsort(torch.cat([part.rows for part in parts]))


@orders.kept(256)
def _columns(at: Tensor, keys: Tensor, offsets: tuple[tuple[int, int], ...], h: int, w: int) -> Tensor:
    """Which of the keys (N,) is at each offset from the positions `at` (n,); N for none: (n, offsets)."""
    position, inside = orders.neighbours(at, offsets, h, w)
    place = torch.full((h * w,), len(keys), device=at.device).index_copy_(0, keys, torch.arange(len(keys), device=at.device))
    return torch.where(inside, place[position], len(keys))


class Block(nn.Module):
    """x + attention(x), then x + layer(x), over rows (B, n, width); scores by content and by relative position.

    Without normalisation: integers would need a root. Branches start small instead.
    """

    def __init__(self, width: int, heads: int, ratio: int, reach: int, window: int):
        super().__init__()
        self.window = check_window(window)
        self.heads, self.depth, self.offsets = heads, width // heads, diamond(reach)
        if self.depth > DEEPEST:
            raise LicError(f"heads of {self.depth} features: products of queries and keys are exact up to {DEEPEST}")
        self.query = ExactLinear(width, width)
        self.known = ExactLinear(width, 2 * width)  # keys and values
        self.near = ExactLinear(self.depth, 1 + len(self.offsets))  # products of queries and position vectors, first that of all far ones
        self.gather = ExactLinear(width, width)
        self.expand = ExactLinear(width, ratio * width)
        self.mix = ExactLinear(ratio * width, width)
        for layer in (self.query, self.known, self.near):
            nn.init.normal_(layer.weight, std=width**-0.5)
        for layer in (self.gather, self.mix):
            nn.init.normal_(layer.weight, std=0.1 * width**-0.5)

    def forward(self, x: Tensor, at: Tensor, known: Tensor, steps: Tensor, itself: bool, top: int, count: Tensor | None = None) -> Tensor:
        """x: (B, n, width), rows of the positions `at`; known: (B, h w, 2 width), `self.known` of the rows of all
        positions (whatever of those not known); steps: (h, w). Rows see cells of smaller step; if `itself`, of their
        own step too. top: how many keys a row may use, 0 for all; count, (1,) int64: how many of these it does, in training."""
        found, q = [], self.query(x).contiguous()  # in the exact face it comes transposed, and would be copied for every piece
        parts, back = pieces(at, steps, self.window, itself)
        for piece in parts:
            both = known.index_select(1, piece.keys).unflatten(2, (2, self.heads, self.depth))
            k, v = both.permute(2, 0, 3, 1, 4)  # (B, heads, keys, depth)
            queries = q.index_select(1, piece.rows).unflatten(2, (self.heads, self.depth)).transpose(1, 2)
            scores = add(_product(queries, k), self._by_position(queries, piece.at, piece.keys, *steps.shape))
            seen = _best(scores, piece.legal, top, count) if top else piece.legal
            found.append(average(exp2_weights(scores, seen), v).transpose(1, 2).flatten(2))
        x = add(x, self.gather(torch.cat(found, 1).index_select(1, back)))
        return add(x, self.mix(leaky(self.expand(x))))

    def _by_position(self, q: Tensor, at: Tensor, keys: Tensor, h: int, w: int) -> Tensor:
        """(B, heads, n, depth) -> (B, heads, n, keys): one product for all far keys, others for the few near ones."""
        products, N = self.near(q), len(keys)
        column = _columns(at, keys, self.offsets, h, w)  # (n, near); column N is for those that are no keys
        scores = products[..., :1].expand(*products.shape[:3], N + 1)
        return scores.scatter(3, column.expand(*products.shape[:2], *column.shape), products[..., 1:])[..., :N]


def _product(q: Tensor, k: Tensor) -> Tensor:
    """q k^T, scaled by a power of two near depth^-0.5."""
    shift = -(q.shape[-1].bit_length() // 2) - (FRACTION if is_exact(q) else 0)
    scores = q @ k.transpose(2, 3)
    return scores.mul_(2.0**shift).floor_() if is_exact(q) else scores * 2.0**shift


def _best(scores: Tensor, legal: Tensor, top: int, count: Tensor | None = None) -> Tensor:
    """Which of the legal scores (B, heads, n, keys) are among the `top` best of their row; equal ones: the first keys.

    count: or the so many best of these.
    """
    N = scores.shape[-1]
    if is_exact(scores):  # unique, so that nothing depends on how a machine breaks ties
        scores = scores * N + torch.arange(N - 1, -1, -1, device=scores.device)
    scores = scores.detach().masked_fill(~legal, -torch.inf)
    best = scores.topk(min(top, N)).values
    least = best[..., -1:] if count is None else best.index_select(-1, (count - 1).clamp(max=best.shape[-1] - 1))
    return (scores >= least) & legal
