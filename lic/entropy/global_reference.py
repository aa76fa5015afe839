"""`global-reference`: a mixture that may look up the most similar known place (Qian et al. 2021, section 3).

    y_hat ─ causal 5x5 ────────────────► context ──────┬─ layer ─ linear ─► Gaussian 1 ──────────────────────────┐
    the most similar place ─ linear ───► transferred ──┼─ layer ─ linear ─► Gaussian 2, logit + log2 S + log2 U ─┼─ mixture
    z_hat ─ h_s ───────────────────────► features ─────┴─ layer ─ linear ─► Gaussian 3, and all logits ──────────┘

A cell's patch is its known 3x3 neighbours; its reference, of the cells of smaller step in its window, is the one whose
patch has the largest cosine S with its own, if that is positive. What is transferred is what the reference shows: its
neighbours and its own latents, the guess at those of the cell. U is how well Gaussian 1 had guessed the reference: the
mean probability of its symbols. So Gaussian 2 counts as far as the match is good and matches are needed to be good.

Gaussian 3 is `local`, so training can start from one. Order and steps are those of `local`.

Differences from the paper. Training: the search is causal there too (the released code also looks ahead) and nothing is
dropped from the features at random. Search: an illegal place is never a match (there it counts as cosine 0); sizes count
by their logarithms (`logarithms`), or the few strong channels would decide alone; integers throughout, in training too.
Mixture: all logits come from the hidden layer of Gaussian 3, which sees everything; S and U are at least 2^-11, which
is what they are without a match.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..exact import FRACTION, UNIT_BITS, ExactLinear, add, is_exact, leaky, log_size, to_fixed, unit
from . import base, gaussian, orders, tables
from .attention import check_window, pieces
from .base import EntropyModel, Head
from .side import Hyper, Side, Sizes

REACH = 2  # of the context, 5x5
PATCH = 1  # of the patches, 3x3
LEAST = 11  # S and U count in units of 2^-LEAST
HARDLY = -8.0  # logit of Gaussians 1 and 2 at the start, against that of Gaussian 3: no effect, but a gradient
PATCHES, OFFERS, TRUST = range(3)  # side.memory of known cells: (B, h w, taps M) int16, (B, h w, transfer), (B, h w, 1) log2 U


@dataclass(frozen=True)
class GlobalReferenceConfig(Sizes):
    """Sizes of a `GlobalReference`, and its switches."""

    context: int = 256  # features of the window
    hidden: int = 384
    transfer: int = 192  # features of the reference
    window: int = 16  # side of the windows that references are looked for in, in positions
    reference: bool = True  # False: Gaussians 1 and 3 only
    confidence: bool = True  # False: without log U
    logarithms: bool = True  # False: similarity of the latents themselves


class Component(nn.Module):
    """Rows of features -> hidden -> one Gaussian."""

    def __init__(self, inputs: int, hidden: int, latents: int, anchors: int):
        super().__init__()
        self.hidden = ExactLinear(inputs, hidden)
        self.head = Head(hidden, latents, anchors)

    def forward(self, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, inputs) -> mean, t, each (B, n, M)."""
        return self.head(leaky(self.hidden(rows)), level)


class GlobalReference(EntropyModel):
    """One group; w + 3 (h - 1) steps."""

    dependent = False

    def __init__(self, config: GlobalReferenceConfig):
        super().__init__()
        self.config, self.latents, self.window = config, config.latents, check_window(config.window)
        M, hidden, anchors = config.latents, config.hidden, config.anchors
        transfer = config.transfer if config.reference else 0
        self.taps = orders.known_taps(orders.wavefront(8, 8, REACH), REACH)
        self.patch_taps = orders.known_taps(orders.wavefront(8, 8, REACH), PATCH)
        self.hyper = Hyper(config)
        self.context = ExactLinear(len(self.taps) * M, config.context)
        self.by_context = Component(config.context, hidden, M, anchors)
        if config.reference:
            self.transfer = ExactLinear((1 + len(self.patch_taps)) * M, transfer)
            self.by_reference = Component(config.context + transfer, hidden, M, anchors)
        self.hidden = ExactLinear(config.context + config.side + transfer, hidden)
        self.head = Head(config.side + hidden, M, anchors)
        self.logit = ExactLinear(hidden, 2 * M if config.reference else M)
        nn.init.normal_(self.logit.weight, std=0.1 * hidden**-0.5)
        nn.init.constant_(self.logit.bias, HARDLY)

    def order(self, h: int, w: int) -> Tensor:
        return orders.wavefront(h, w, REACH)[None]

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context = self._context(y_hat, at)
        features = side.rows(at)
        gaussians, seen = [self.by_context(context, side.level)], [context, features]
        if self.config.reference:
            transferred, trust = self._refer(side, y_hat, at)
            gaussians.append(self.by_reference(torch.cat((context, transferred), -1), side.level))
            seen.append(transferred)
        hidden = leaky(self.hidden(torch.cat(seen, -1)))
        gaussians.append(self.head(torch.cat((features, hidden), -1), side.level))
        logits = list(self.logit(hidden).split(self.latents, -1))
        if self.config.reference:
            logits[1] = add(logits[1], trust[..., None])
        logits.append(torch.zeros_like(logits[0]))
        mean, t = (torch.stack(kind, -1) for kind in zip(*gaussians, strict=True))
        return mean, t, torch.stack(logits, -1)

    def remember(self, side: Side, y_hat: Tensor, at: Tensor) -> None:
        """What the cells `at` have to offer to later ones, and how those find them: rows of side.memory."""
        if not self.config.reference:
            return
        parts = [self._news(side, y_hat, piece) for piece in orders.split(at, base.CHUNK)]
        for kind in (PATCHES, OFFERS, TRUST):
            side.keep(kind, at, torch.cat([part[kind] for part in parts], 1))

    def _news(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        shown = orders.gather(y_hat, at, [(0, 0), *self.patch_taps])
        trust = self._confidence(side, y_hat, at) if self.config.confidence else y_hat.new_zeros(len(y_hat), len(at))
        return self._patches(y_hat, at).to(torch.int16), leaky(self.transfer(shown)), trust[..., None]

    def _context(self, y_hat: Tensor, at: Tensor) -> Tensor:
        return leaky(self.context(orders.gather(y_hat, at, self.taps)))  # (B, n, context)

    def _refer(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The transferred features of every cell's reference, (B, n, transfer), and log2 S + log2 U, (B, n)."""
        patches = side.kept(PATCHES, len(self.patch_taps) * self.latents, dtype=torch.int16)
        offers, trust = side.kept(OFFERS, self.config.transfer), side.kept(TRUST, 1)[..., 0]
        reference, score = self._search(patches, y_hat, at)
        found = score > 0
        transferred = offers.gather(1, reference[..., None].expand(-1, -1, self.config.transfer)) * found[..., None]
        similarity = _like(_log2(torch.floor(score * 2.0 ** (LEAST - 2 * UNIT_BITS))), y_hat)
        confidence = torch.where(found, trust.gather(1, reference), _like(_log2(torch.zeros_like(score)), y_hat))
        return transferred, add(similarity, confidence)

    @torch.no_grad()
    def _search(self, patches: Tensor, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The best match of smaller step, (B, n) int64, and its cosine in units of 2^-2UNIT_BITS, 0 if none: float64."""
        h, w = y_hat.shape[2:]
        query = self._patches(y_hat, at)
        best = torch.zeros(2, len(query), len(at), dtype=torch.float64, device=at.device)
        for piece in pieces(at, orders.wavefront(h, w, REACH), self.window)[0]:
            known = patches.index_select(1, piece.keys).to(query.dtype)
            score = query.index_select(1, piece.rows) @ known.transpose(1, 2)  # (B, rows, keys)
            best[:, :, piece.rows] = _first_best(score.double(), piece.legal, piece.keys)
        return best[0].long(), best[1]

    @torch.no_grad()
    def _patches(self, y_hat: Tensor, at: Tensor) -> Tensor:
        """The neighbours of cells, of norm 1 in units of 2^-UNIT_BITS: (B, n, taps M), integers in either face."""
        rows = orders.gather(y_hat, at, self.patch_taps)
        return unit(torch.copysign(log_size(rows), rows) if self.config.logarithms else rows)

    @torch.no_grad()
    def _confidence(self, side: Side, y_hat: Tensor, at: Tensor) -> Tensor:
        """log2 U of known cells, (B, n): U is the mean probability of their symbols by Gaussian 1 and the coder's tables."""
        mean, t = self.by_context(self._context(y_hat, at), side.level)
        if not is_exact(mean):
            mean, t = (torch.round(x.double() * 2.0**FRACTION) for x in (mean, t))
        y = y_hat.flatten(2)[:, :, at].transpose(1, 2)
        y = torch.round(y * 2.0**-FRACTION if is_exact(y) else y).long()
        total = tables.frequency(*gaussian.table_index(mean, t), y).sum(-1)
        return _like(_log2(torch.div(total, self.latents << tables.PRECISION - LEAST, rounding_mode="floor")), y_hat)


def _first_best(score: Tensor, legal: Tensor, keys: Tensor) -> Tensor:
    """The legal key of the largest positive score, the first of equals, and that score: (B, n, keys) -> (2, B, n); or zeros."""
    N = len(keys)
    unique = score * N + torch.arange(N - 1, -1, -1, device=keys.device)
    index = unique.masked_fill(~legal, -torch.inf).argmax(-1)
    value = (score * legal).gather(2, index[..., None])[..., 0].clamp_min(0)
    return torch.stack((keys[index] * (value > 0), value))


def _log2(count: Tensor) -> Tensor:
    """log2(count / 2^LEAST) of integers, at least -LEAST and at most 0: activations of the exact face."""
    return log_size(to_fixed(count.clamp(1, 2**LEAST) - 1)) - LEAST * 2.0**FRACTION


def _like(x: Tensor, y: Tensor) -> Tensor:
    """Activations of the exact face in the face of y."""
    return x if is_exact(y) else (x * 2.0**-FRACTION).to(y.dtype)
