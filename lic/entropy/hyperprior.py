"""`hyperprior`: mean and scale of every latent from side information alone (Minnen et al. 2018, without context).

z_hat ─ h_s ─► features ─ linear ─► mean, scale of all latents: one step
"""

import torch
from torch import Tensor

from .base import EntropyModel, Head
from .side import Hyper, Side, Sizes


class Hyperprior(EntropyModel):
    """One group, one step."""

    def __init__(self, config: Sizes):
        super().__init__()
        self.config, self.latents = config, config.latents
        self.hyper = Hyper(config)
        self.head = Head(config.side, config.latents, config.anchors)

    def order(self, h: int, w: int) -> Tensor:
        return torch.zeros(1, h, w, dtype=torch.int64)

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(side.rows(at), side.level)
