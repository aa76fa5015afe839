"""`local`: hyperprior plus a 5x5 causal window of decoded latents (Minnen et al. 2018), in wavefronts.

    z_hat ─ h_s ─► features ─────────┬───────────────────┐
    y_hat ─ causal 5x5 ─► context ───┴─ layer ─► hidden ─┴─ linear ─► mean, scale

The features reach the last layer directly too, so that a hyperprior is a `local` whose hidden features do not
matter yet: training can start from one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exact import ExactLinear, leaky
from . import orders
from .base import EntropyModel, Head
from .side import Hyper, Side, Sizes

REACH = 2  # 5x5


@dataclass(frozen=True)
class LocalConfig(Sizes):
    """Sizes of a `Local`."""

    context: int = 256  # features of the window
    hidden: int = 384


class Local(EntropyModel):
    """One group; w + 3 (h - 1) steps."""

    def __init__(self, config: LocalConfig):
        super().__init__()
        self.config, self.latents = config, config.latents
        self.hyper = Hyper(config)
        self.taps = orders.known_taps(orders.wavefront(8, 8, REACH), REACH)
        self.context = ExactLinear(len(self.taps) * config.latents, config.context)
        self.hidden = ExactLinear(config.context + config.side, config.hidden)
        self.head = Head(config.side + config.hidden, config.latents, config.anchors)

    def order(self, h: int, w: int) -> Tensor:
        return orders.wavefront(h, w, REACH)[None]

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        context = leaky(self.context(orders.gather(y_hat, at, self.taps)))  # (B, n, context)
        features = side.rows(at)  # (B, n, side)
        hidden = leaky(self.hidden(torch.cat((context, features), -1)))
        return self.head(torch.cat((features, hidden), -1), side.level)
