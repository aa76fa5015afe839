"""`nonlocal`: masked context in planes of channel + row + col, and similar positions far away (Li, Zhang, Li, Zuo et al. 2020).

    z_hat ─ h_s ─► features ───────────────┬────────────── linear ─► mean, scale ─┐
    y_hat ─ known 3x3 of every group ──────┴─ layer ─┬─── + ─ layer ─► correction ─ + ─► mean, scale
                                                     │    │
                 ┌─ their mean similarity ──────── gate ─ ×
    references ──┴─ their mean latents ────── layer ──────┘

Groups of channels, all alike; the step of a cell is group + row + col, as in the authors' masked networks before (Li et al.
2020, Efficient and effective context-based convolutional entropy modeling), so h + w + groups - 2 steps. Which neighbours
a cell sees of each group follows from that: of earlier groups also some below and to the right of it.

References of a cell are the cells of its group and of smaller step, whose row + col is smaller than its own. The cell's
latents are not known, those of the groups before it at its position are: the *proxy* of a position for a group is a
projection of these, the similarity of two positions minus the squared distance of their proxies, and the references'
weights the softmax of it. The first group has no proxy: all its references are alike.

Differences from the paper, whose codes are sigmoids of eight levels without side information: here groups of many channels
that count without bounds, so proxies are learned projections of latents in steps of sign(y) log2(1 + |y|); besides the
references' latents their log sizes are averaged; layers per group instead of masked convolutions, and a Gaussian that
corrects a hyperprior's, so that training can start from one. The window of references is bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import LicError
from ..exact import FRACTION, LIMIT, ExactLinear, add, average, exp2_weights, is_exact, leaky, log_size, multiply
from . import base, orders
from .attention import check_window, pieces
from .base import EntropyModel, Head, to_rows
from .sections import Section
from .side import Hyper, Side, Sizes

FAR = 16  # where the mean similarity ends, in bits of the softmax; also that of a cell without references
PROXY_LIMIT = 64  # features: sums of 4 LIMIT^2 each stay below 2^53
REFERENCES = ("none", "plain", "gated")
LATENTS, PROXIES = 0, 1  # keys of side.memory


@dataclass(frozen=True)
class NonLocalConfig(Sizes):
    """Sizes of a `NonLocal`, and its switch."""

    groups: int = 8
    reach: int = 1  # of the neighbours
    hidden: int = 128
    proxy: int = 24  # features, at most PROXY_LIMIT
    window: int = 16  # side of the windows that references are looked for in, in positions
    references: str = "gated"  # plain: their similarity is not looked at; none: masked context only


class References(nn.Module):
    """Adds to the context of one group what similar positions say about its latents."""

    def __init__(self, channels: int, config: NonLocalConfig):
        super().__init__()
        self.value = ExactLinear(2 * channels, config.hidden)
        self.gate = ExactLinear(config.hidden + 1, config.hidden) if config.references == "gated" else None
        nn.init.normal_(self.value.weight, std=0.1 * channels**-0.5)
        if self.gate:
            nn.init.normal_(self.gate.weight, std=0.1 * config.hidden**-0.5)
            nn.init.constant_(self.gate.bias, 0.5)

    def forward(self, x: Tensor, estimate: Tensor, quality: Tensor) -> Tensor:
        """Context (B, n, hidden) and what find() found -> context and references."""
        value = leaky(self.value(estimate))
        if self.gate:
            gate = self.gate(torch.cat((x, quality), -1))
            value = multiply(value, gate.clamp(0, 2**FRACTION if is_exact(gate) else 1))
        return add(x, value)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Minus the squared distances of rows, (B, n, d), (B, N, d) -> (B, n, N), in one product, without a tensor of differences:

    -(a - b)^2 = (2 a, -a^2, -1) (b, 1, b^2), exact for d <= PROXY_LIMIT.
    """
    (aa, a1), (bb, b1) = (((x * x).sum(-1, keepdim=True), torch.ones_like(x[..., :1])) for x in (a, b))
    scores = torch.cat((2 * a, -aa, -a1), -1) @ torch.cat((b, b1, bb), -1).transpose(1, 2)
    return torch.floor(scores * 2.0**-FRACTION).clamp_min(-LIMIT) if is_exact(scores) else scores


def find(proxies: Tensor, latents: Tensor, at: Tensor, steps: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Weighted means over the references of the positions `at`, of smaller steps (h, w) in the same window.

    proxies: (B, h w, d) and latents: (B, h w, c) of all positions, whatever where not known; side: of the windows.
    Returns the mean latents (B, n, c), 0 where there is no reference, and the mean similarity (B, n, 1), there -FAR.
    """
    means = []
    far = -FAR * (2.0**FRACTION if is_exact(proxies) else 1.0)
    parts, back = pieces(at, steps, side)
    for piece in parts:
        scores = similarity(proxies.index_select(1, piece.at), proxies.index_select(1, piece.keys))
        weights = exp2_weights(scores, piece.legal)
        quality = average(weights[..., None, :], scores[..., None])[..., 0].clamp(far, 0)
        quality = torch.where(piece.legal.any(-1, keepdim=True), quality, far)
        means.append(torch.cat((average(weights, latents.index_select(1, piece.keys)), quality), -1))
    found = torch.cat(means, 1).index_select(1, back)
    return found[..., :-1], found[..., -1:]


@orders.kept(16)
def _groups_of(at: Tensor, positions: int) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """The cells `at` by group: its number and their positions; and where among these each of them is."""
    group, parts, order = torch.div(at, positions, rounding_mode="floor"), [], []
    for g in torch.unique(group).tolist():
        cells = torch.nonzero(group == g)[:, 0]
        parts.append((g, at[cells] % positions))
        order.append(cells)
    return parts, torch.argsort(torch.cat(order))


@orders.kept(64)
def _seen(at: Tensor, taps: tuple[tuple[int, tuple[int, int]], ...], h: int, w: int) -> tuple[Tensor, Tensor]:
    """Cells next to the positions `at`, taps being (group, offset): (n, taps) int64, and whether they are inside."""
    groups = torch.tensor([group for group, _ in taps], device=at.device)
    index, inside = orders.neighbours(at, [tap for _, tap in taps], h, w)
    return groups * (h * w) + index, inside


class NonLocal(EntropyModel):
    """h + w + groups - 2 steps."""

    def __init__(self, config: NonLocalConfig):
        super().__init__()
        self.config, self.latents, self.groups = config, config.latents, config.groups
        if config.groups < 1 or config.latents % config.groups:
            raise LicError(f"{config.latents} latent channels cannot be split in {config.groups} equal groups")
        if config.proxy > PROXY_LIMIT:
            raise LicError(f"proxies of {config.proxy} features: squared distances are exact up to {PROXY_LIMIT}")
        if config.references not in REFERENCES:
            raise LicError(f"unknown references {config.references!r}; known: {', '.join(REFERENCES)}")
        self.window = check_window(config.window)
        self.size = C = config.latents // config.groups
        self.hyper = Hyper(config)
        self.head = Head(config.side, config.latents, config.anchors)
        planes = self.order(8, 8)
        self.taps = [[orders.known_taps(own, config.reach, other) for other in planes] for own in planes]
        self.sections = nn.ModuleList(
            Section(config.side + 2 * C * sum(map(len, taps)), C, config.hidden, config.anchors) for taps in self.taps
        )
        groups = range(0 if config.references == "none" else config.groups)
        self.references = nn.ModuleList(References(C, config) for _ in groups)
        self.proxies = nn.ModuleList(ExactLinear(g * C, config.proxy) for g in groups[1:])
        for layer in self.proxies:  # distances of a few bits
            nn.init.normal_(layer.weight, std=2 * layer.weight.numel() ** -0.5)

    def order(self, h: int, w: int) -> Tensor:
        return orders.diagonals(self.groups, h, w)

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._by_group(lambda g, here: self._predict_group(g, side, here), at, y_hat[0, 0].numel())
        mean, t = rows.chunk(2, -1)
        return mean, t

    def remember(self, side: Side, y_hat: Tensor, at: Tensor) -> None:
        """Latents beside their log sizes, and proxies of the next group, of the cells `at`."""
        rows = to_rows(y_hat, self.groups)
        for part in orders.split(at, base.CHUNK):
            y = rows[:, part]
            side.keep(LATENTS, part, torch.cat((y, log_size(y)), -1), self.groups)
            if self.references:
                proxies = self._by_group(lambda g, here: self._proxies(g, y_hat, here), part, y_hat[0, 0].numel())
                side.keep(PROXIES, part, proxies, self.groups)

    def _by_group(self, function: Callable[[int, Tensor], Tensor], at: Tensor, positions: int) -> Tensor:
        """function(group, positions (n,)) -> (B, n, c), of the cells `at` group by group; back in their order."""
        parts, back = _groups_of(at, positions)
        return torch.cat([function(g, here) for g, here in parts], 1).index_select(1, back)

    def _memory(self, side: Side, key: int, width: int) -> Tensor:
        """(B, groups, h w, width), 0 where nothing was remembered."""
        return side.kept(key, width, self.groups).unflatten(1, (self.groups, -1))

    def _predict_group(self, g: int, side: Side, at: Tensor) -> Tensor:
        """Means, then t, of group g at the positions `at`: (B, n, 2 M / groups)."""
        latents, steps = self._memory(side, LATENTS, 2 * self.size), orders.plane(g, *side.features.shape[2:])
        features = side.rows(at)
        fuse = None
        if self.references:
            proxies = self._memory(side, PROXIES, self.config.proxy)[:, g - 1]  # of the first group: the last one's, zeros
            estimate, quality = find(proxies, latents[:, g], at, steps, self.window)
            fuse = partial(self.references[g], estimate=estimate, quality=quality)
        context = torch.cat((features, self._context(g, latents, at, *steps.shape)), -1)
        prior = self.head(features, side.level, slice(g * self.size, (g + 1) * self.size))
        correction = self.sections[g]((context,), side.level, fuse)
        return torch.cat([*map(torch.add, prior, correction)], -1)

    def _proxies(self, g: int, y_hat: Tensor, at: Tensor) -> Tensor:
        """What groups 0 .. g tell group g + 1 of the positions `at`: (B, n, proxy). Nothing after the last, which serves group 0."""
        y = y_hat[:, : (g + 1) * self.size].flatten(2)[:, :, at].transpose(1, 2)
        if g + 1 == self.groups:
            return y.new_zeros(*y.shape[:2], self.config.proxy)
        return self.proxies[g](torch.sign(y) * log_size(y))

    def _context(self, g: int, latents: Tensor, at: Tensor, h: int, w: int) -> Tensor:
        """The known neighbours of all groups, with their log sizes: (B, n, neighbours 2 M / groups)."""
        taps = tuple((group, tap) for group, taps in enumerate(self.taps[g]) for tap in taps)
        index, inside = _seen(at, taps, h, w)
        found = latents.flatten(1, 2).index_select(1, index.flatten()).unflatten(1, index.shape)  # (B, n, neighbours, 2 M / groups)
        return found.mul_(inside[..., None].to(found.dtype)).flatten(2)
