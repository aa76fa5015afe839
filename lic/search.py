"""Rate-distortion optimised quantisation: better integers for the same decoder (the encoder's `effort`).

Rounding every latent by itself is not the best choice of integers: the transforms are not orthogonal, and what a
latent costs is known only from its neighbours. Each round weighs, for every latent, a step up and a step down:

    change of bits                 by the entropy model's own mean and scale, as the coder would count
    change of distortion           slope d + curvature/2 d^2 for a decoded latent that moves by d; the slope comes from
                                   one backward pass through the synthesis, the curvature is CURVATURE for all

and takes the better one where the sum falls. Latents of one colour of a checkerboard in row, column and channel move
in one round, those of the other in the next, so that neighbours do not repair the same error twice.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .entropy import base, gaussian
from .transforms import lambda_of
from .weights import Models

CURVATURE = 1.3 * 12 / math.log(2)  # bits per squared step: optimal step sizes make it 12 / ln 2, see train/linear_start.py;
# 1.3 times that saves most, as a latent is not the only one that moves
ROUNDS = 2  # per unit of effort: every latent gets its turn once
BLOCK, HALO = 64, 8  # latents in row and column that get their slopes at once; one reaches 8 others far, the last of them hardly


def refine(models: Models, x: Tensor, y_hat: Tensor, level: Tensor, rounds: int, previous: Tensor | None = None) -> Tensor:
    """Better integers than y_hat (1, M, h, w), the rounded latents of x (1, 3, H, W) in [0, 1]; float32 that holds integers.

    x is without padding: what pads a picture may be wrong. level: (1,) int64; previous: see base.predict_all.
    """
    _, M, h, w = y_hat.shape
    colour = torch.arange(M)[:, None, None] + torch.arange(h)[:, None] + torch.arange(w)
    colour = colour.to(y_hat.device) % 2
    for round_ in range(rounds):
        if round_ % ROUNDS == 0:  # few latents move, so what the model says of them still holds when the others' turn comes
            parameters = gaussian.from_index(*base.predict_all(models.entropy, y_hat.long(), level, previous)[1])
        slope = slopes(models.transforms, x, gaussian.centroid(y_hat, *parameters), level)
        y_hat = (y_hat + moves(y_hat, slope, parameters) * (colour == round_ % 2)).clamp(-base.Y_LIMIT, base.Y_LIMIT)
    return y_hat


def moves(y_hat: Tensor, slope: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The step, -1, 0 or 1, that is best for each latent if all others stay; float32. slope: see slopes(), at the centroids of y_hat."""
    y_dec, bits = gaussian.centroid(y_hat, *parameters), gaussian.bits(y_hat, *parameters)
    least, move = torch.zeros_like(bits), torch.zeros_like(bits)
    for step in (-1, 1):
        d = gaussian.centroid(y_hat + step, *parameters) - y_dec
        change = distortion(slope, d) + gaussian.bits(y_hat + step, *parameters) - bits
        move = torch.where(change < least, step, move)
        least = torch.minimum(change, least)
    return move


def distortion(slope: Tensor, d: Tensor) -> Tensor:
    """What it costs, in bits, if a decoded latent moves by d."""
    return slope * d + CURVATURE / 2 * d * d


def slopes(transforms, x: Tensor, y_dec: Tensor, level: Tensor) -> Tensor:
    """Derivative of lambda 255^2 (sum of squared errors) / 3, in bits of the whole picture, by y_dec (B, M, h, w)."""
    height, width = x.shape[2:]
    h, w = y_dec.shape[2:]
    worth = (lambda_of(transforms.config, level) * 255**2 / 3).view(-1, 1, 1, 1)
    slope = torch.empty_like(y_dec)
    for top, left in itertools.product(range(0, h, BLOCK), range(0, w, BLOCK)):
        up, low = max(0, top - HALO), max(0, left - HALO)
        there = slice(up, top + BLOCK + HALO), slice(low, left + BLOCK + HALO)
        pixels = slice(16 * up, min(16 * there[0].stop, height)), slice(16 * low, min(16 * there[1].stop, width))
        with torch.enable_grad():
            part = y_dec[:, :, *there].contiguous(memory_format=torch.channels_last).detach().requires_grad_()
            target = x[:, :, *pixels]
            error = transforms.synthesis(part, level).float()[:, :, : target.shape[2], : target.shape[3]] - target
            (grad,) = torch.autograd.grad((worth * error.square()).sum(), part)
        here = slice(top, top + BLOCK), slice(left, left + BLOCK)
        slope[:, :, *here] = grad[:, :, top - up : top - up + BLOCK, left - low : left - low + BLOCK]
    return slope
