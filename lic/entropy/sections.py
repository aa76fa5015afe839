"""`parallel` and `cross-channel`: sections of channels, one after the other, each in an order of its own.

A section sees all positions of earlier sections, and of its own channels the neighbours that its order lets it know:

    parallel        six uneven sections, each a checkerboard: black cells, then white ones; 12 steps for any size.
                    Space-channel context of ELIC (He et al. 2022, section 3.2), checkerboard of He et al. 2021
    cross-channel   four equal sections, each a wavefront over a causal 5x5 window (Ma et al. 2021); 4 (w + 3 (h - 1)) steps

    z_hat ─ h_s ─► features ──────────────────────┬── linear ─► mean, scale ─┐
    y_hat of earlier sections ──────┐             │                          +─► mean, scale
    y_hat of this one, if known ────┴─ context ─ layer ─ layer ─► correction ┘

Without the correction this is a hyperprior, so training can start from one. Next to the latents the layers see
log2(1 + |y|) of the same ones: scales follow sizes, over many octaves, and two layers cannot make a logarithm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LicError
from ..exact import ExactLinear, LevelTable, add, leaky, log_size
from . import orders
from .base import EntropyModel, Head
from .side import Hyper, Side

HERE = [(0, 0), (-1, 0), (0, -1), (0, 1), (1, 0)]  # what is seen of earlier sections


@dataclass(frozen=True)
class ParallelConfig:
    """Sizes of `Sections`."""

    latents: int = 256  # M
    width: int = 128  # of the hyper networks
    z_channels: int = 96  # N
    side: int = 192  # features of the side information
    sections: tuple[int, ...] = (1, 1, 2, 3, 3, 6)  # their shares of the channels; strong channels come first
    inside: str = "checkerboard"  # key of ORDERS
    hidden: int = 160
    anchors: int = 9


@dataclass(frozen=True)
class CrossChannelConfig(ParallelConfig):
    """The same with other defaults."""

    sections: tuple[int, ...] = (1, 1, 1, 1)
    inside: str = "wavefront"


class Section(nn.Module):
    """Corrections to the hyperprior's (mean, t) of one section's channels, from rows of context."""

    def __init__(self, inputs: int, channels: int, hidden: int, anchors: int):
        super().__init__()
        self.context = ExactLinear(inputs, hidden)
        self.level = LevelTable(anchors, hidden)
        self.hidden = ExactLinear(hidden, hidden)
        self.correction = ExactLinear(hidden, 2 * channels)
        nn.init.normal_(self.correction.weight, std=0.1 / hidden**0.5)

    def forward(self, rows: Tensor, level: Tensor, fuse: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(B, n, inputs) -> (B, n, 2 channels). fuse: adds what else is known to the first layer's features (B, n, hidden)."""
        x = leaky(add(self.context(rows), self.level(level)[:, None]))
        return self.correction(leaky(self.hidden(fuse(x) if fuse else x)))


class Sections(EntropyModel):
    """sum(sections) groups; as many times the steps of one section's order as there are sections."""

    def __init__(self, config: ParallelConfig):
        super().__init__()
        self.config, self.latents, self.groups = config, config.latents, sum(config.sections)
        if min(config.sections) < 1 or config.latents % self.groups:
            raise LicError(f"{config.latents} latent channels cannot be split in sections of shares {tuple(config.sections)}")
        self.inside, reach = orders.by_name(config.inside)
        self.taps = orders.known_taps(self.inside(8, 8), reach)
        self.hyper = Hyper(config.latents, config.width, config.z_channels, config.side, config.anchors)
        self.head = Head(config.side, config.latents, config.anchors)
        self.section_of = torch.arange(len(config.sections)).repeat_interleave(torch.tensor(config.sections))  # by group
        size = config.latents // self.groups
        self.first = [size * sum(config.sections[:k]) for k in range(len(config.sections) + 1)]  # channel of each section
        self.sections = nn.ModuleList()
        for begin, end in zip(self.first, self.first[1:], strict=False):
            inputs = config.side + 2 * len(HERE) * begin + 2 * len(self.taps) * (end - begin)
            self.sections.append(Section(inputs, end - begin, config.hidden, config.anchors))

    def order(self, h: int, w: int) -> Tensor:
        steps = self.inside(h, w)
        return (int(steps.max()) + 1) * self.section_of[:, None, None] + steps

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        h, w = y_hat.shape[2:]
        B, C, section_of = len(y_hat), self.latents // self.groups, self.section_of.to(at.device)
        group, position = torch.div(at, h * w, rounding_mode="floor"), at % (h * w)
        rows, order = [], []
        for k, begin in enumerate(self.first[:-1]):
            cells = torch.nonzero(section_of[group] == k)[:, 0]
            if len(cells):
                here, row = torch.unique(position[cells], return_inverse=True)
                predicted = self._predict_section(k, side, y_hat, here).view(B, len(here), 2, -1, C).transpose(2, 3)
                rows.append(predicted[:, row, group[cells] - begin // C])  # (B, cells, 2, C)
                order.append(cells)
        mean, t = torch.cat(rows, 1)[:, torch.argsort(torch.cat(order))].unbind(2)
        return mean, t

    def _predict_section(self, k: int, side: Side, y_hat: Tensor, at: Tensor) -> Tensor:
        """All channels of section k at the positions `at`: (B, n, 2 channels), means, then t."""
        begin, end = self.first[k : k + 2]
        order = self.inside(*y_hat.shape[2:])
        features = side.features.flatten(2)[:, :, at].transpose(1, 2)
        earlier = _with_sizes(orders.gather(y_hat[:, :begin], at, HERE), len(HERE))
        own = _with_sizes(orders.gather(y_hat[:, begin:end], at, self.taps, order), len(self.taps))
        prior = torch.cat(self.head(features, side.level, slice(begin, end)), -1)
        return prior + self.sections[k](torch.cat((features, earlier, own), -1), side.level)


def _with_sizes(rows: Tensor, taps: int) -> Tensor:
    """Gathered rows (B, n, taps C) -> (B, n, taps 2 C): of every neighbour its latents, then their log_size."""
    rows = rows.unflatten(2, (taps, -1))
    return torch.cat((rows, log_size(rows)), -1).flatten(2)
