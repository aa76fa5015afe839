"""Attention of cells to known cells, with both faces: for `entroformer` and its relatives.

Everything stays bounded: cells see known cells of their own window of WINDOW x WINDOW positions (1024 x 1024 pixels,
more than any training crop and than a Kodak picture), and at most PIECE rows of scores exist at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..exact import FRACTION, ExactLinear, add, average, exp2_weights, is_exact, leaky

WINDOW = 64  # positions; part of the format
PIECE = 64  # rows: their scores should stay in the cache


def diamond(reach: int) -> Tensor:
    """Numbers of relative positions: (2 reach + 1, 2 reach + 1) int64, 1, 2, … where |row| + |col| <= reach, 0 elsewhere."""
    far = torch.arange(-reach, reach + 1).abs()
    near = (far + far[:, None] <= reach).flatten()
    return (near.cumsum(0) * near).view(2 * reach + 1, -1)


def windows(at: Tensor, h: int, w: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of the positions `at`, (n,) int64, that share a window: indexes into `at`, and the window's positions."""
    across = -(-w // WINDOW)
    window = torch.div(at, w * WINDOW, rounding_mode="floor") * across + torch.div(at % w, WINDOW, rounding_mode="floor")
    for number in torch.unique(window).tolist():
        top, left = number // across * WINDOW, number % across * WINDOW
        rows = torch.arange(top, min(top + WINDOW, h), device=at.device)
        keys = (rows[:, None] * w + torch.arange(left, min(left + WINDOW, w), device=at.device)).flatten()
        for piece in torch.nonzero(window == number)[:, 0].split(PIECE):
            yield piece, keys


class Block(nn.Module):
    """x + attention(x), then x + layer(x), over rows (B, n, width); scores by content and by relative position.

    Without normalisation: integers would need a root. Branches start small instead.
    """

    def __init__(self, width: int, heads: int, ratio: int, reach: int):
        super().__init__()
        self.heads, self.depth, self.reach = heads, width // heads, reach
        self.query = ExactLinear(width, width)
        self.known = ExactLinear(width, 2 * width)  # keys and values
        self.near = ExactLinear(self.depth, int(diamond(reach).max()) + 1)  # products of queries and position vectors
        self.gather = ExactLinear(width, width)
        self.expand = ExactLinear(width, ratio * width)
        self.mix = ExactLinear(ratio * width, width)
        for layer in (self.query, self.known, self.near):
            nn.init.normal_(layer.weight, std=width**-0.5)
        for layer in (self.gather, self.mix):
            nn.init.normal_(layer.weight, std=0.1 * width**-0.5)

    def forward(self, x: Tensor, at: Tensor, known: Tensor, steps: Tensor, itself: bool, top: int) -> Tensor:
        """x: (B, n, width), rows of the positions `at`; known: (B, h w, 2 width), `self.known` of the rows of all
        positions (whatever of those not known); steps: (h, w). Rows see cells of smaller step; if `itself`, of their
        own step too. top: how many keys a row may use, 0 for all."""
        parts, order = [], []
        q, index = self.query(x), steps.flatten()
        for rows, keys in windows(at, *steps.shape):
            legal = index[keys] <= index[at[rows], None] if itself else index[keys] < index[at[rows], None]
            seen = torch.nonzero(legal.any(0))[:, 0] if bool(legal.any()) else keys.new_zeros(1)  # about half of the keys
            keys, legal = keys[seen], legal[:, seen]
            k, v = known[:, keys].unflatten(2, (2, self.heads, self.depth)).permute(2, 0, 3, 1, 4)  # (B, heads, keys, depth)
            queries = q[:, rows].unflatten(2, (self.heads, self.depth)).transpose(1, 2)
            scores = add(_product(queries, k), self._by_position(queries, at[rows], keys, steps.shape[1]))
            found = average(exp2_weights(scores, _best(scores, legal, top) if top else legal), v)
            parts.append(found.transpose(1, 2).flatten(2))
            order.append(rows)
        x = add(x, self.gather(torch.cat(parts, 1)[:, torch.argsort(torch.cat(order))]))
        return add(x, self.mix(leaky(self.expand(x))))

    def _by_position(self, q: Tensor, at: Tensor, keys: Tensor, w: int) -> Tensor:
        """(B, heads, n, depth) -> (B, heads, n, keys): a table of few products, gathered (never a vector per pair)."""
        numbers, R = diamond(self.reach).to(at.device), self.reach
        row, col = (f(keys, w) - f(at, w)[:, None] for f in (lambda p, w: torch.div(p, w, rounding_mode="floor"), torch.remainder))
        near = (row.abs() <= R) & (col.abs() <= R)
        number = torch.where(near, numbers[row.clamp(-R, R) + R, col.clamp(-R, R) + R], 0)
        return self.near(q).gather(3, number.expand(*q.shape[:2], *number.shape))


def _product(q: Tensor, k: Tensor) -> Tensor:
    """q k^T, scaled by a power of two near depth^-0.5."""
    shift = -(q.shape[-1].bit_length() // 2) - (FRACTION if is_exact(q) else 0)
    scores = (q @ k.transpose(2, 3)) * 2.0**shift
    return torch.floor(scores) if is_exact(q) else scores


def _best(scores: Tensor, legal: Tensor, count: int) -> Tensor:
    """Which of the legal scores (B, heads, n, keys) are among the `count` best of their row; equal ones: the first keys."""
    N = scores.shape[-1]
    if is_exact(scores):  # unique, so that nothing depends on how a machine breaks ties
        scores = scores * N + torch.arange(N - 1, -1, -1, device=scores.device)
    scores = scores.detach().masked_fill(~legal, -torch.inf)
    return (scores >= scores.topk(min(count, N)).values[..., -1:]) & legal
