"""`parallel`: channel sections, one after the other, each in two checkerboard halves: few, large steps.

Space-channel context of ELIC (He et al. 2022, section 3.2) over uneven sections, each coded in a checkerboard
(He et al. 2021): black cells, whose neighbours of the same section are not known yet, then white ones.

    z_hat ─ h_s ─► features ──────────────────────┬── linear ─► mean, scale ─┐
    y_hat of earlier sections ──────┐             │                          +─► mean, scale
    y_hat of this one, black cells ─┴─ context ─ layer ─ layer ─► correction ┘

Without the correction this is a hyperprior, so training can start from one. Next to the latents the layers see
log2(1 + |y|) of the same ones: scales follow sizes, over many octaves, and two layers cannot make a logarithm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LicError
from ..exact import ExactLinear, LevelTable, leaky, log_size
from . import orders
from .base import EntropyModel, Head, Hyper, Side

BESIDE = [(-1, 0), (0, -1), (0, 1), (1, 0)]  # of the other colour
HERE = [(0, 0), *BESIDE]


@dataclass(frozen=True)
class ParallelConfig:
    """Sizes of a `Parallel`."""

    latents: int = 256  # M
    width: int = 128  # of the hyper networks
    z_channels: int = 96  # N
    side: int = 192  # features of the side information
    sections: tuple[int, ...] = (1, 1, 2, 3, 3, 6)  # their shares of the channels; strong channels come first
    hidden: int = 160
    anchors: int = 9


class Section(nn.Module):
    """Corrections to the hyperprior's (mean, t) of one section's channels, from rows of context."""

    def __init__(self, inputs: int, channels: int, hidden: int, anchors: int):
        super().__init__()
        self.context = ExactLinear(inputs, hidden)
        self.level = LevelTable(anchors, hidden)
        self.hidden = ExactLinear(hidden, hidden)
        self.correction = ExactLinear(hidden, 2 * channels)
        nn.init.normal_(self.correction.weight, std=0.1 / hidden**0.5)

    def forward(self, rows: Tensor, level: Tensor) -> Tensor:
        """(B, n, inputs) -> (B, n, 2 channels)."""
        x = leaky(self.context(rows) + self.level(level)[:, None])
        return self.correction(leaky(self.hidden(x)))


class Parallel(EntropyModel):
    """sum(sections) groups; 2 len(sections) steps, whatever the size of the image."""

    def __init__(self, config: ParallelConfig):
        super().__init__()
        self.config, self.latents, self.groups = config, config.latents, sum(config.sections)
        if min(config.sections) < 1 or config.latents % self.groups:
            raise LicError(f"{config.latents} latent channels cannot be split in sections of shares {tuple(config.sections)}")
        self.hyper = Hyper(config.latents, config.width, config.z_channels, config.side, config.anchors)
        self.head = Head(config.side, config.latents, config.anchors)
        self.section_of = torch.arange(len(config.sections)).repeat_interleave(torch.tensor(config.sections))  # by group
        size = config.latents // self.groups
        self.first = [size * sum(config.sections[:k]) for k in range(len(config.sections) + 1)]  # channel of each section
        self.sections = nn.ModuleList()
        for begin, end in zip(self.first, self.first[1:], strict=False):
            inputs = config.side + 2 * len(HERE) * begin + 2 * len(BESIDE) * (end - begin)
            self.sections.append(Section(inputs, end - begin, config.hidden, config.anchors))

    def order(self, h: int, w: int) -> Tensor:
        return 2 * self.section_of[:, None, None] + orders.checkerboard(h, w)

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        h, w = y_hat.shape[2:]
        B, C, section_of = len(y_hat), self.latents // self.groups, self.section_of.to(at.device)
        group, position = torch.div(at, h * w, rounding_mode="floor"), at % (h * w)
        latents = torch.stack((y_hat, log_size(y_hat)), 1)
        rows, order = [], []
        for k, begin in enumerate(self.first[:-1]):
            cells = torch.nonzero(section_of[group] == k)[:, 0]
            if len(cells):
                here, row = torch.unique(position[cells], return_inverse=True)
                predicted = self._predict_section(k, side, latents, here).view(B, len(here), 2, -1, C).transpose(2, 3)
                rows.append(predicted[:, row, group[cells] - begin // C])  # (B, cells, 2, C)
                order.append(cells)
        mean, t = torch.cat(rows, 1)[:, torch.argsort(torch.cat(order))].unbind(2)
        return mean, t

    def _predict_section(self, k: int, side: Side, latents: Tensor, at: Tensor) -> Tensor:
        """All channels of section k at the positions `at`: (B, n, 2 channels), means, then t. latents: (B, 2, M, h, w)."""
        begin, end = self.first[k : k + 2]
        white = orders.checkerboard(*latents.shape[3:]).flatten().to(at.device)[at] == 1
        features = side.features.flatten(2)[:, :, at].transpose(1, 2)
        earlier = orders.gather(latents[:, :, :begin].flatten(1, 2), at, HERE)
        own = orders.gather(latents[:, :, begin:end].flatten(1, 2), at, BESIDE, white)
        prior = torch.cat(self.head(features, side.level, slice(begin, end)), -1)
        return prior + self.sections[k](torch.cat((features, earlier, own), -1), side.level)
