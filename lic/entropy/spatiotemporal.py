"""`spatiotemporal`: the latents of a frame from those of the frame before (after STEM, Sun et al. 2021, section 3).

Frames share nothing but the integers y_hat, so what the synthesis does in one frame never reaches the next. Three priors,
named as in the paper, and what they become here:

    HPM  hyperprior      h_a sees this frame and the previous one. The last two channels of z are motion
    TPM  temporal prior  what the previous latents become when they follow the motion: `predicted`, made in this file
    SPM  spatial prior   what `Sections` see of this frame: sections of channels, and neighbours that the order lets a cell
                         know. They see by how much these differ from `predicted`, too, and `predicted` where they are

    previous ─ linear ─► picture ─┬─ follow motion ─┐
                                  └──────────────── - ─ linear ─► change ─ + previous ─► predicted
    z_hat ─ h_s ─► features ──────┬───────────────────── linear ──────────────────────────┐
    y_hat known, and y_hat - predicted there ─ context ─ layer ─ layer ─┬─► correction ─► + ─► mean, scale
    predicted ────────────────────┴──────────┴──────────────────────────┴─► share ─ * predicted ─► added to the mean

The paper has no motion: convolutions have to learn it, from far more video than we have. A shift of pixels is
no shift of latents, but it is a linear map of them; hence the detour by the picture (pixels, nearly, 16x16 for each position),
where a shift is a shift. Where nothing moves, `predicted` is what was there. The paper codes the difference, which
is to add y_previous to every mean; here a share of it between 0 and 1 is added, chosen latent by latent: 1 where the
prediction holds, 0 behind a cut. With a share of 0 this is a model of pictures, so training can start from one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..exact import WEIGHT_FRACTION, ExactConv, add, is_exact
from . import motion

PIXELS = 3 * 16 * 16  # of the linear picture, for each position
NOISE = 0.05  # see motion.search; in units of the picture's squared weights


class TemporalPrior(nn.Module):
    """What the previous latents (B, M, h, w) become when they follow the motion (B, 2, h/4, w/4); see motion.py for vectors."""

    def __init__(self, latents: int):
        super().__init__()
        self.picture = ExactConv(latents, PIXELS, 1)
        self.change = ExactConv(PIXELS, latents, 1)

    def search(self, y_hat: Tensor, previous: Tensor) -> Tensor:
        """The motion from the previous frame to y_hat, real numbers both. Encoder only."""
        weight = self.picture.weight.detach()
        weight = weight.float() * (2.0**-WEIGHT_FRACTION if is_exact(weight) else 1.0)
        now, before = (F.pixel_shuffle(F.conv2d(y, weight[:, :, None, None]), 16) for y in (y_hat.detach(), previous))
        return motion.search(now, before, NOISE * weight.square().sum())

    def forward(self, previous: Tensor, vectors: Tensor) -> Tensor:
        """Either face -> (B, M, h, w)."""
        with torch.autocast(previous.device.type, enabled=False):  # bfloat16 cannot tell a latent of 100 from one of 100.4
            picture = F.pixel_shuffle(self.picture(previous), 16)
            vectors = vectors.repeat_interleave(4, 2).repeat_interleave(4, 3)  # (B, 2, h, w)
            moved = add(motion.follow(picture, vectors), -F.pixel_unshuffle(picture, 16))
            return add(previous, self.change(moved))
