"""`factorized`: one fixed distribution per channel and quality, no side information (Ballé et al. 2017, section 3).

    quality level ─ table ─► mixture of every channel: all latents in one step

The paper's prior is non-parametric; a mixture of COMPONENTS Gaussians stands for it here. No network output reaches
the coder: these are tables.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exact import LevelTable
from . import seeding
from .base import EntropyModel
from .side import Side, SideInformation

COMPONENTS = 3


@dataclass(frozen=True)
class FactorizedConfig:
    """Sizes of a `Factorized`."""

    latents: int = 256  # M
    anchors: int = 9


class Factorized(EntropyModel):
    """One group, one step."""

    dependent = False
    searched = slice(0)  # there is no z

    def __init__(self, config: FactorizedConfig):
        super().__init__()
        self.config, self.latents, self.hyper = config, config.latents, SideInformation()
        self.levels = LevelTable(config.anchors, 3 * config.latents * COMPONENTS)  # means, scale parameters, logits

    def order(self, h: int, w: int) -> Tensor:
        return torch.zeros(1, h, w, dtype=torch.int64)

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.expand(-1, len(at), -1, -1) for x in mixtures(self.levels, side.level).unbind(2))

    @torch.no_grad()
    def start(self, latents: list[Tensor]) -> None:
        start_mixtures(self.levels, latents)


def mixtures(levels: LevelTable, level: Tensor) -> Tensor:
    """(B,) -> mean, t and logit of every channel: (B, 1, 3, M, COMPONENTS)."""
    return levels(level).view(len(level), 1, 3, -1, COMPONENTS)


def start_mixtures(levels: LevelTable, latents: list[Tensor]) -> None:
    """Fit them to the latents of every anchor, (B, M, h, w) each."""
    for row, y in zip(levels.values, latents, strict=True):
        row.copy_(torch.stack(seeding.fit_mixtures(y.transpose(0, 1).flatten(1).round(), COMPONENTS)).flatten())
