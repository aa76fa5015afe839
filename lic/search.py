"""Rate-distortion optimised quantisation: better integers for the same decoder (the encoder's `effort`).

Rounding every latent by itself is not the best choice of integers: the transforms are not orthogonal, and what a
latent costs is known only from its neighbours. Each round weighs, for every latent, a step up and a step down:

    change of bits                 by the entropy model's own mean and scale, as the coder would count
    change of distortion           slope d + curvature/2 d^2 for a decoded latent that moves by d; the slope comes from
                                   one backward pass through the synthesis, the curvature is CURVATURE for all

and takes the better one where the sum falls. Latents of one colour of a checkerboard in row, column and channel move
in one round, those of the other in the next, so that neighbours do not repair the same error twice.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .entropy import gaussian
from .entropy.base import Y_LIMIT
from .transforms import lambda_of

WORTH = 1.6  # lambda here over lambda in training: with noise in place of rounding, bits look dearer than they are
CURVATURE = WORTH * 12 / math.log(2)  # bits per squared step: optimal step sizes make it so, see train/linear_start.py
ROUNDS = 2  # per unit of effort: every latent gets its turn once
BAND, HALO = 32, 16  # rows of latents that get their slopes at once; a latent reaches 8 rows of latents far


def refine(
    predict: Callable[[Tensor], tuple[Tensor, ...]],
    transforms,
    x: Tensor,
    y_hat: Tensor,
    level: Tensor,
    rounds: int,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Better integers than y_hat (B, M, h, w), the rounded latents of x (B, 3, H, W) in [0, 1]; float32 that holds integers.

    predict: y_hat -> parameters of all its latents (see entropy/gaussian.py); level: (B,) int64; size: height and
    width of the picture if x is padded.
    """
    _, M, h, w = y_hat.shape
    colour = torch.arange(M)[:, None, None] + torch.arange(h)[:, None] + torch.arange(w)
    colour = colour.to(y_hat.device) % 2
    for round_ in range(rounds):
        if round_ % ROUNDS == 0:  # few latents move, so what the model says of them still holds when the others' turn comes
            parameters = predict(y_hat)
        y_dec = gaussian.centroid(y_hat, *parameters)
        slope = _slope(transforms, x, y_dec, level, size or x.shape[2:])
        bits = gaussian.bits(y_hat, *parameters)
        least, move = torch.zeros_like(bits), torch.zeros_like(bits)
        for step in (-1, 1):
            d = gaussian.centroid(y_hat + step, *parameters) - y_dec
            change = slope * d + CURVATURE / 2 * d * d + gaussian.bits(y_hat + step, *parameters) - bits
            move = torch.where(change < least, step, move)
            least = torch.minimum(change, least)
        y_hat = (y_hat + move * (colour == round_ % 2)).clamp(-Y_LIMIT, Y_LIMIT)
    return y_hat


def _slope(transforms, x: Tensor, y_dec: Tensor, level: Tensor, size: tuple[int, int]) -> Tensor:
    """Derivative of WORTH lambda 255^2 (sum of squared errors) / 3, in bits of the whole picture, by y_dec."""
    height, width = size
    h = y_dec.shape[2]
    scale = (WORTH * lambda_of(transforms.config, level) * 255**2 / 3)[:, None, None, None]
    scale = scale * torch.ones_like(x[:, :1])
    scale[:, :, height:] = scale[:, :, :, width:] = 0  # what pads the picture may be wrong
    slope = torch.empty_like(y_dec)
    for top in range(0, h, BAND):
        low, high = max(0, top - HALO), min(h, top + BAND + HALO)
        rows = slice(16 * low, 16 * high)
        with torch.enable_grad():
            part = y_dec[:, :, low:high].contiguous(memory_format=torch.channels_last).detach().requires_grad_()
            error = transforms.synthesis(part, level).float() - x[:, :, rows]
            (grad,) = torch.autograd.grad((scale[:, :, rows] * error.square()).sum(), part)
        slope[:, :, top : top + BAND] = grad[:, :, top - low : top - low + BAND]
    return slope
