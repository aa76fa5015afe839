"""`parallel`, `global-parallel`, `cross-channel`, `spatiotemporal`: sections of channels, one after the other, each in its own order.

A section sees all positions of earlier sections, and of its own channels the neighbours that its order lets it know:

    parallel         six uneven sections, each a checkerboard: black cells, then white ones; 12 steps for any size.
                     Space-channel context of ELIC (He et al. 2022, section 3.2), checkerboard of He et al. 2021
    global-parallel  the same, the first section in eighths and quarters, and the first two looking beyond their neighbours:
                     their cells attend to the known cells of their window (Qian et al. 2022); 16 steps for any size. They are
                     an eighth of the channels and 27 to 58 % of the bits; the others gained less from attention and steps
    cross-channel    the sections of `parallel`, each a wavefront over a causal 5x5 window (Ma et al. 2021); 6 (w + 3 (h - 1))
                     steps
    spatiotemporal   `global-parallel`, looking back at the frame before (spatiotemporal.py)

    z_hat ─ h_s ─► features ───────────────┬───────────────────────────── linear ─► mean, scale ─┐
    y_hat of earlier sections ────────┬────┤                                                     +─► mean, scale
    y_hat of this one, neighbours ────│────┴─ context ─ layer ─┬──────── + ─ layer ─► correction ┘
                                      │                        └─ query ─┴─ attention
    y_hat of this one, known cells ───┴────────────────────── keys, values ─────┘

Without the correction this is a hyperprior, so training can start from one, and without attention `global-parallel` is
`parallel`. Next to the latents the layers see log2(1 + |y|) of the same ones: scales follow sizes, over many octaves, and
two layers cannot make a logarithm.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import LicError
from ..exact import FRACTION, ExactLinear, LevelTable, add, is_exact, leaky, log_size, multiply
from . import base, orders
from .attention import Block
from .base import EntropyModel, Head
from .gaussian import Bounded
from .side import Hyper, Side, Sizes
from .spatiotemporal import TemporalPrior

HERE = [(0, 0), (-1, 0), (0, -1), (0, 1), (1, 0)]  # what is seen of earlier sections
PREVIOUS = ("unseen", "still", "moving")
KNOWN, DIFFERENCES = -1, -2  # keys of side.memory; sections have theirs


@dataclass(frozen=True)
class ParallelConfig(Sizes):
    """Sizes of `Sections`."""

    sections: tuple[int, ...] = (1, 1, 2, 3, 3, 6)  # their shares of the channels; strong channels come first
    inside: str | tuple[str, ...] = "checkerboard"  # keys of ORDERS, one for each section; the last one for all others, too
    hidden: int = 160
    attention: int = 0  # how many sections attend, from the first on
    token: int = 96  # features of attention
    heads: int = 3
    ratio: int = 2  # of the layer in the block
    diamond: int = 3  # reach of relative positions
    window: int = 16  # side of the windows that attention sees, in positions
    previous: str = "unseen"  # one of PREVIOUS: the frame before; its latents are predicted as they are, or as they follow the motion


@dataclass(frozen=True)
class GlobalParallelConfig(ParallelConfig):
    """The same with other defaults."""

    inside: tuple[str, ...] = ("eighths", "checkerboard")
    attention: int = 2


@dataclass(frozen=True)
class CrossChannelConfig(ParallelConfig):
    """The same with other defaults."""

    inside: str = "wavefront"
    hidden: int = 256


@dataclass(frozen=True)
class SpatiotemporalConfig(GlobalParallelConfig):
    """The same with other defaults."""

    hidden: int = 256
    previous: str = "moving"


class Section(nn.Module):
    """Corrections to the hyperprior's (mean, t) of one section's channels, from rows of context; with a share of what is predicted."""

    def __init__(self, inputs: int, channels: int, hidden: int, anchors: int, looks_back: bool = False):
        super().__init__()
        self.context = ExactLinear(inputs, hidden)
        self.level = LevelTable(anchors, hidden)
        self.hidden = ExactLinear(hidden, hidden)
        self.correction = ExactLinear(hidden, 2 * channels)
        nn.init.normal_(self.correction.weight, std=0.1 / hidden**0.5)
        if looks_back:
            self.share = ExactLinear(hidden, channels)
            nn.init.normal_(self.share.weight, std=0.1 / hidden**0.5)

    def forward(
        self,
        rows: tuple[Tensor, ...],
        level: Tensor,
        fuse: Callable[[Tensor], Tensor] | None = None,
        predicted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, n, inputs) in pieces -> what to add to mean and t, (B, n, channels) each.

        fuse: adds what else is known to the first layer's features (B, n, hidden). predicted: what there is a share of, (B, n, channels).
        """
        x = leaky(add(self.context(rows), self.level(level)[:, None]))
        x = leaky(self.hidden(fuse(x) if fuse else x))
        mean, t = self.correction(x).chunk(2, -1)
        if predicted is None:
            return mean, t
        share = self.share(x)
        share = Bounded.apply(share, 0.0, 2.0**FRACTION if is_exact(share) else 1.0)
        return mean + multiply(share, predicted), t


class Attention(nn.Module):
    """Adds to the features of one section's cells what its known cells say, wherever they are."""

    def __init__(self, inputs: int, config: ParallelConfig):
        super().__init__()
        self.known = ExactLinear(inputs, config.token)
        self.query = ExactLinear(config.hidden, config.token)
        self.block = Block(config.token, config.heads, config.ratio, config.diamond, config.window)
        self.correction = ExactLinear(config.token, config.hidden)
        nn.init.normal_(self.correction.weight, std=0.1 * config.token**-0.5)

    def remember(self, rows: tuple[Tensor, ...]) -> Tensor:
        """What is known of cells, (B, n, inputs) in pieces -> keys and values (B, n, 2 token)."""
        return self.block.known(self.known(rows))

    def forward(self, x: Tensor, at: Tensor, known: Tensor, steps: Tensor) -> Tensor:
        """Features (B, n, hidden) of the positions `at` (n,) -> the same; known: (B, h w, 2 token); steps: (h, w)."""
        return add(x, self.correction(self.block(self.query(x), at, known, steps, False, 0)))


class Part(NamedTuple):
    """Those of some cells that are in one section."""

    section: int
    cells: Tensor  # where they are among all
    index: Tensor  # and among all cells of this section at `here`
    here: Tensor  # their positions, each once
    known: list[tuple[Tensor, Tensor]]  # the same in pieces of at most CHUNK, and those of each that are not in the section's last step


@orders.kept(16)
def _parts(model: "Sections", at: Tensor, h: int, w: int) -> list[Part]:
    """Of every section among the cells `at`."""
    group, position = torch.div(at, h * w, rounding_mode="floor"), at % (h * w)
    section, parts = model.section_of.to(at.device)[group], []
    for k in torch.unique(section).tolist():
        cells = torch.nonzero(section == k)[:, 0]
        here, row = torch.unique(position[cells], return_inverse=True)
        index = row * model.config.sections[k] + group[cells] - sum(model.config.sections[:k])
        steps = model.inside[k](h, w).flatten().to(at.device)
        known = [(piece, piece[steps[piece] < steps.max()]) for piece in here.split(base.CHUNK)]
        parts.append(Part(k, cells, index, here, known))
    return parts


def _with_sizes(rows: Tensor, fine: int = 2) -> Tensor:
    """Rows beside their log_size. fine: 1 of what is not latents: it may lie anywhere, and whole numbers are the format."""
    return torch.cat((rows, log_size(rows, fine)), -1)


class Sections(EntropyModel):
    """sum(sections) groups; the steps of one section's order after those of the other."""

    def __init__(self, config: ParallelConfig):
        super().__init__()
        self.config, self.latents, self.groups = config, config.latents, sum(config.sections)
        if min(config.sections) < 1 or config.latents % self.groups:
            raise LicError(f"{config.latents} latent channels cannot be split in sections of shares {tuple(config.sections)}")
        names = [config.inside] if isinstance(config.inside, str) else [*config.inside]
        if not 1 <= len(names) <= len(config.sections):
            raise LicError(f"{len(config.sections)} sections cannot have {len(names)} orders")
        names += names[-1:] * (len(config.sections) - len(names))
        self.inside, self.taps = zip(*map(orders.by_name, names), strict=True)
        if config.previous not in PREVIOUS:
            raise LicError(f"unknown way to look back {config.previous!r}; known: {', '.join(PREVIOUS)}")
        self.looks_back = config.previous != "unseen"
        self.capturable = not self.looks_back  # nothing in it waits then, but it has not been tried
        self.temporal = None
        if config.previous == "moving":
            self.temporal = TemporalPrior(config.latents)
            self.searched = slice(-2)  # a vector is right or wrong
        self.hyper = Hyper(replace(config, latents=(1 + self.looks_back) * config.latents))
        self.head = Head(config.side, config.latents, config.anchors)
        self.section_of = torch.arange(len(config.sections)).repeat_interleave(torch.tensor(config.sections))  # by group
        size = config.latents // self.groups
        self.first = [size * sum(config.sections[:k]) for k in range(len(config.sections) + 1)]  # channel of each section
        self.neighbours = [config.side + 2 * len(HERE) * begin for begin in self.first[:-1]]  # where a section's inputs from its own begin
        self.sections, self.attention = nn.ModuleList(), nn.ModuleList()
        for k, taps in enumerate(self.taps):
            begin, end = self.first[k : k + 2]
            own = 2 * len(taps) * (end - begin)
            inputs = self.neighbours[k] + own
            if self.looks_back:  # what is predicted, and the differences of earlier sections and neighbours
                inputs += 2 * (end - begin) + 2 * begin + own
            self.sections.append(Section(inputs, end - begin, config.hidden, config.anchors, self.looks_back))
            if k < config.attention:
                self.attention.append(Attention(config.side + 2 * end, config))

    def analysis(self, y_hat: Tensor, level: Tensor, previous: Tensor) -> Tensor:
        z = self.hyper.analysis(torch.cat((y_hat, previous), 1) if self.looks_back else y_hat, level)
        return torch.cat((z[:, :-2], self.temporal.search(y_hat, previous)), 1) if self.temporal else z

    def side(self, z_hat: Tensor, level: Tensor, previous: Tensor) -> Side:
        predicted = self.temporal(previous, z_hat[:, -2:]) if self.temporal else previous
        return Side(self.hyper.synthesis(z_hat), level, predicted if self.looks_back else None)

    def order(self, h: int, w: int) -> Tensor:
        steps = [inside(h, w) for inside in self.inside]
        begins = torch.tensor([0, *(int(x.max()) + 1 for x in steps)]).cumsum(0)
        return torch.stack([begins[k] + steps[k] for k in self.section_of.tolist()])

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        C = self.latents // self.groups
        parts, rows = _parts(self, at, *y_hat.shape[2:]), []
        for part in parts:
            of_section = self._predict_section(part.section, side, y_hat, part.here)
            rows.append([x.unflatten(2, (-1, C)).flatten(1, 2).index_select(1, part.index) for x in of_section])  # (B, cells, C)
        back = torch.argsort(torch.cat([part.cells for part in parts]))
        mean, t = (torch.cat(parts, 1).index_select(1, back) for parts in zip(*rows, strict=True))
        return mean, t

    def remember(self, side: Side, y_hat: Tensor, at: Tensor) -> None:
        """What is known of the cells `at`, and keys and values of those that are attended to: rows of side.memory."""
        h, w = y_hat.shape[2:]
        known = self._known(KNOWN, side, y_hat)
        for k, _, _, _, pieces in _parts(self, at, h, w):
            begin, end = self.first[k : k + 2]
            for here, attended in pieces:
                rows = y_hat.flatten(2)[:, begin:end, here].transpose(1, 2)
                known[:, here, 2 * begin : 2 * end] = _with_sizes(rows)
                if self.looks_back:
                    rows = add(rows, -side.previous_rows(here, begin, end))
                    self._known(DIFFERENCES, side, y_hat)[:, here, 2 * begin : 2 * end] = _with_sizes(rows, 1)
                if k < len(self.attention) and len(attended):
                    latents = known[..., : 2 * end].index_select(1, attended)
                    side.keep(k, attended, self.attention[k].remember((side.rows(attended), latents)))

    def _known(self, key: int, side: Side, y_hat: Tensor) -> Tensor:
        """Of every position the latents of each section, then their log_size, and after them a row of zeros: (B, h w + 1, 2 M).

        By `key` the latents themselves, or by how much they differ from what the frame before says. In the dtype of y_hat,
        whatever autocast makes of the features.
        """
        if key not in side.memory:
            B, M, h, w = y_hat.shape
            side.memory[key] = y_hat.new_zeros(B, h * w + 1, 2 * M)
        return side.memory[key]

    def _predict_section(self, k: int, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """Mean and t of all channels of section k at the positions `at`, (B, n, channels) each."""
        begin, end = self.first[k : k + 2]
        h, w = y_hat.shape[2:]
        order, features = self.inside[k](h, w), side.rows(at)

        def context(key: int, taps: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:  # of earlier sections, and of its own
            known = self._known(key, side, y_hat)
            earlier = orders.gather_rows(known[..., : 2 * begin], at, taps, h, w)
            return earlier, orders.gather_rows(known[..., 2 * begin : 2 * end], at, self.taps[k], h, w, order)

        rows, predicted, fuse = (features, *context(KNOWN, HERE)), None, None
        if self.looks_back:
            predicted = side.previous_rows(at, begin, end)
            rows += _with_sizes(predicted, 1), *context(DIFFERENCES, HERE[:1])
        if k < len(self.attention):
            fuse = partial(self.attention[k], at=at, known=side.kept(k, 2 * self.config.token), steps=order)
        correction = self.sections[k](rows, side.level, fuse, predicted)
        return tuple(map(torch.add, self.head(features, side.level, slice(begin, end)), correction))
