"""`spatiotemporal`: the latents of a frame from those of the frame before (after STEM, Sun et al. 2021, section 3).

Frames share nothing but the integers y_hat, so what the synthesis does in one frame never reaches the next. Three priors,
named as in the paper, and what they become here:

    HPM  hyperprior      h_a sees this frame and the previous one. The last two channels of z are motion
    TPM  temporal prior  what the previous latents become when they follow the motion: `predicted`
    SPM  spatial prior   where this frame differs from `predicted` in the neighbours that the order lets a cell know

    previous ─ linear ─► picture ─┬─ follow motion ─┐
                                  └──────────────── - ─ linear ─► change ─ + previous ─► predicted
    z_hat ─ h_s ─► features ──────┬──────────────────────────────────────────┐
    predicted, differences ───────┴─ layer ─ layer ─► hidden ─┬──────────────┴─ linear ─► mean, scale
                                                              └─► share ─ * predicted ─► added to the mean

The paper has no motion: convolutions have to learn it, from far more video than we have. A shift of pixels is
no shift of latents, but it is a linear map of them; hence the detour by the picture (pixels, nearly, 16x16 for each position),
where a shift is a shift. Where nothing moves, `predicted` is what was there. The paper codes the difference, which
is to add y_previous to every mean; here a share of it between 0 and 1 is added, chosen latent by latent: 1 where the
prediction holds, 0 behind a cut. With a share of 0 this is a hyperprior, so training can start from one.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..exact import FRACTION, WEIGHT_FRACTION, ExactConv, ExactLinear, LevelTable, add, is_exact, leaky, log_size, multiply
from . import motion, orders
from .base import EntropyModel, Head
from .gaussian import Bounded
from .side import Hyper, Side, Sizes

PIXELS = 3 * 16 * 16  # of the linear picture, for each position
NOISE = 0.05  # see motion.search; in units of the picture's squared weights


@dataclass(frozen=True)
class SpatiotemporalConfig(Sizes):
    """Sizes of a `Spatiotemporal`."""

    tpm: bool = True  # follow the motion; else the previous latents are the prediction, as they are
    spm: str = "checkerboard"  # key of ORDERS: which neighbours in this frame to look at, "none" for none
    hidden: int = 256


class Spatiotemporal(EntropyModel):
    """One group; the steps of its order: 2 for a checkerboard, 1 for none."""

    capturable = False  # nothing in it waits, but it has not been tried
    looks_back = True

    def __init__(self, config: SpatiotemporalConfig):
        super().__init__()
        self.config, self.latents = config, config.latents
        self.steps, self.taps = orders.by_name(config.spm)
        M, S, D = config.latents, config.side, config.hidden
        self.hyper = Hyper(replace(config, latents=2 * M))
        if config.tpm:
            self.searched = slice(-2)  # a vector is right or wrong
            self.picture = ExactConv(M, PIXELS, 1)
            self.change = ExactConv(PIXELS, M, 1)
        self.context = ExactLinear(S + 2 * M + 2 * len(self.taps) * M, D)
        self.level = LevelTable(config.anchors, D)
        self.hidden = ExactLinear(D, D)
        self.share = ExactLinear(D, M)
        self.head = Head(S + D, M, config.anchors)
        nn.init.normal_(self.share.weight, std=0.1 / D**0.5)

    def analysis(self, y_hat: Tensor, level: Tensor, previous: Tensor) -> Tensor:
        z = self.hyper.analysis(torch.cat((y_hat, previous), 1), level)
        if not self.config.tpm:
            return z
        weight = self.picture.weight.detach()
        weight = weight.float() * (2.0**-WEIGHT_FRACTION if is_exact(weight) else 1.0)
        now, before = (F.pixel_shuffle(F.conv2d(y, weight[:, :, None, None]), 16) for y in (y_hat.detach(), previous))
        return torch.cat((z[:, :-2], motion.search(now, before, NOISE * weight.square().sum())), 1)

    def side(self, z_hat: Tensor, level: Tensor, previous: Tensor) -> Side:
        predicted = previous
        if self.config.tpm:
            picture = F.pixel_shuffle(self.picture(previous), 16)
            vectors = z_hat[:, -2:].repeat_interleave(4, 2).repeat_interleave(4, 3)  # (B, 2, h, w)
            change = add(motion.follow(picture, vectors), -F.pixel_unshuffle(picture, 16))
            predicted = add(previous, self.change(change))
        return Side(self.hyper.synthesis(z_hat), level, predicted)

    def order(self, h: int, w: int) -> Tensor:
        return self.steps(h, w)[None]

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        features, predicted = (x.flatten(2)[:, :, at].transpose(1, 2) for x in (side.features, side.previous))
        order = self.steps(*y_hat.shape[2:])
        now, before = (orders.gather(y, at, self.taps, order) for y in (y_hat, side.previous))
        differences = add(now, -before)  # (B, n, taps M)

        context = self.context(torch.cat((features, predicted, log_size(predicted), differences, log_size(differences)), -1))
        hidden = leaky(self.hidden(leaky(add(context, self.level(side.level)[:, None]))))
        mean, t = self.head(torch.cat((features, hidden), -1), side.level)
        share = self.share(hidden)
        share = Bounded.apply(share, 0.0, 2.0**FRACTION if is_exact(share) else 1.0)
        return add(mean, multiply(share, predicted)), t
