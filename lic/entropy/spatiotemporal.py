"""`spatiotemporal`: the latents of a frame from those of the frame before (STEM, Sun et al. 2021, section 3).

No motion is sent and no pixel is predicted: frames share nothing but the integers y_hat, so what the synthesis does
in one frame never reaches the next. Three priors, named as in the paper, and what they become here:

    HPM  hyperprior      h_a sees this frame and the previous one; z_hat ─ h_s ─► features
    TPM  temporal prior  3x3 window of the previous latents ─ linear ─► candidates
    SPM  spatial prior   what has changed since then in the neighbours that the order lets a cell know

    features, candidates, changes ─ layer ─ layer ─► hidden ─┬─► gates ─ * candidates ─► moved ─┐
                                                             ├──────────────────────────────────┴─ linear ─► mean, scale
                                                             └─► share ─ * previous ─► added to the mean

The paper codes the difference y - y_previous, which is to add y_previous to every mean; here a share of it between 0
and 1 is added, chosen latent by latent: 1 where nothing moves, 0 behind a cut. Gates do likewise for motion: a shift of the
picture is a linear map of its latents, and which one is for the hidden layers to tell. Without both this is a hyperprior,
so training can start from one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..exact import FRACTION, ExactLinear, LevelTable, add, is_exact, leaky, log_size, multiply
from . import orders
from .base import EntropyModel, Head, Hyper, Side
from .gaussian import Bounded

HERE = [(0, 0)]
WINDOW = [(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1)]  # of the previous frame


@dataclass(frozen=True)
class SpatiotemporalConfig:
    """Sizes of a `Spatiotemporal`."""

    latents: int = 256  # M
    width: int = 128  # of the hyper networks
    z_channels: int = 96  # N
    side: int = 192  # features of the side information
    tpm: bool = True  # look at the previous frame's window
    spm: str = "checkerboard"  # key of ORDERS: which neighbours in this frame to look at, "none" for none
    candidates: int = 256  # features of the previous frame's window
    hidden: int = 256
    anchors: int = 9


class Spatiotemporal(EntropyModel):
    """One group; the steps of its order: 2 for a checkerboard, 1 for none."""

    looks_back = True

    def __init__(self, config: SpatiotemporalConfig):
        super().__init__()
        self.config, self.latents = config, config.latents
        self.steps, reach = orders.by_name(config.spm)
        self.taps = orders.known_taps(self.steps(8, 8), reach)
        M, S, D = config.latents, config.side, config.hidden
        K = config.candidates if config.tpm else 0
        self.hyper = Hyper(M, config.width, config.z_channels, S, config.anchors, frames=2)
        if config.tpm:
            self.candidates = ExactLinear(len(WINDOW) * M, K)
        self.context = ExactLinear(S + K + M + 2 * len(self.taps) * M, D)
        self.level = LevelTable(config.anchors, D)
        self.hidden = ExactLinear(D, D)
        self.gates = ExactLinear(D, M + K)  # of the previous latents, then of the candidates
        self.head = Head(S + D + K, M, config.anchors)
        nn.init.normal_(self.gates.weight, std=0.1 / D**0.5)

    def order(self, h: int, w: int) -> Tensor:
        return self.steps(h, w)[None]

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        features = side.features.flatten(2)[:, :, at].transpose(1, 2)  # (B, n, side)
        previous = orders.gather(side.previous, at, HERE)  # (B, n, M)
        order = self.steps(*y_hat.shape[2:])
        now, before = (orders.gather(y, at, self.taps, order) for y in (y_hat, side.previous))
        changes = now - before  # (B, n, taps M)
        candidates = previous[..., :0]
        if self.config.tpm:
            candidates = self.candidates(orders.gather(side.previous, at, WINDOW))

        context = self.context(torch.cat((features, candidates, log_size(previous), changes, log_size(changes)), -1))
        hidden = leaky(self.hidden(leaky(add(context, self.level(side.level)[:, None]))))
        share, gates = self.gates(hidden).split((self.latents, candidates.shape[2]), 2)
        one = 2.0**FRACTION if is_exact(share) else 1.0
        moved = multiply(Bounded.apply(gates, -one, one), candidates)
        mean, t = self.head(torch.cat((features, hidden, moved), -1), side.level)
        return add(mean, multiply(Bounded.apply(share, 0.0, one), previous)), t
