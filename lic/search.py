"""Rate-distortion optimised quantisation: better integers for the same decoder (the encoder's `effort`).

Rounding every latent by itself is not the best choice of integers: the transforms are not orthogonal, and what a
latent costs is known only from its neighbours, whose own cost depends on it in turn. Each round weighs, for every
latent, a step up and a step down:

    its own bits            by the entropy model's mean and scale, as the coder would count
    bits of others          context d: one backward pass through the entropy model
    distortion              slope d + CURVATURE/2 d^2 for a decoded latent that moves by d; the slope comes from one
                            backward pass through the synthesis, the curvature is the same for all

and takes the better one where the sum falls. In the first round all latents move at once, then in turn those of one
and of the other colour of a checkerboard in row, column and channel, so that neighbours do not repair the same error
twice. Only the encoder does this, so it may use floats.
"""

import copy
import itertools
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import exact
from .entropy import base, gaussian
from .transforms import lambda_of
from .weights import Models

CURVATURE = 1.2 * 12 / math.log(2)  # bits per squared step: optimal step sizes make it 12 / ln 2, see train/linear_start.py;
# 1.2 times that saves most, as latents do not move alone
ROUNDS = 2  # per unit of effort
BLOCK, HALO = 64, 8  # latents in row and column that are judged at once; one reaches 8 others far, the last of them hardly


class Judged(NamedTuple):
    """Latents y_hat (B, M, h, w) as the search sees them; all of that shape, float32."""

    move: Tensor  # -1, 0, 1: the best step of each if all others stay
    y_dec: Tensor  # what the synthesis gets
    slope: Tensor  # derivative of the distortion by y_dec, in bits of the whole picture


def refine(models: Models, x: Tensor, y_hat: Tensor, level: Tensor, rounds: int, previous: Tensor | None = None) -> Tensor:
    """Better integers than y_hat (1, M, h, w), the rounded latents of x (1, 3, H, W) in [0, 1]; float32 that holds integers.

    x is without padding: what pads a picture may be wrong. level: (1,) int64; previous: see base.predict_all.
    """
    _, M, h, w = y_hat.shape
    colour = (torch.arange(M)[:, None, None] + torch.arange(h)[:, None] + torch.arange(w)).to(y_hat.device) % 2
    for round_ in range(rounds):
        move = torch.empty_like(y_hat)
        for top, left in itertools.product(range(0, h, BLOCK), range(0, w, BLOCK)):
            up, low = max(0, top - HALO), max(0, left - HALO)
            there = ..., slice(up, top + BLOCK + HALO), slice(low, left + BLOCK + HALO)
            pixels = x[..., 16 * up : 16 * (top + BLOCK + HALO), 16 * low : 16 * (left + BLOCK + HALO)]
            before = None if previous is None else previous[there].float()
            judged = judge(models.transforms, _real(models.entropy), pixels, y_hat[there], level, before)
            here = judged.move[..., top - up : top - up + BLOCK, left - low : left - low + BLOCK]
            move[..., top : top + BLOCK, left : left + BLOCK] = here
        if round_:
            move *= colour == round_ % 2
        y_hat = (y_hat + move).clamp(-base.Y_LIMIT, base.Y_LIMIT)
    return y_hat


@cache
def _real(entropy: base.EntropyModel) -> base.EntropyModel:
    """The float face of a frozen model: integers have no slopes."""
    return exact.thaw(copy.deepcopy(entropy)).requires_grad_(False)


def judge(transforms, entropy: base.EntropyModel, x: Tensor, y_hat: Tensor, level: Tensor, previous: Tensor | None = None) -> Judged:
    """One round's view of integers y_hat (B, M, h, w), float32, of the pictures x (B, 3, H, W). entropy: with its float face."""
    context, parameters = _context(entropy, y_hat, level, previous)
    with torch.no_grad():
        y_dec, bits = gaussian.centroid(y_hat, *parameters), gaussian.bits(y_hat, *parameters)
        slope = _slope(transforms, x, y_dec, level)
        least, move = torch.zeros_like(bits), torch.zeros_like(bits)
        for step in (-1, 1):
            moved = y_hat + step
            change = distortion(slope, gaussian.centroid(moved, *parameters) - y_dec) + context * step
            change += gaussian.bits(moved, *parameters) - bits
            move = torch.where(change < least, step, move)
            least = torch.minimum(change, least)
    return Judged(move, y_dec, slope)


def _context(entropy: base.EntropyModel, y_hat: Tensor, level: Tensor, previous: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Derivative of the bits of all latents, as they are, by what others know of y_hat; and the parameters behind these bits."""
    with torch.enable_grad(), torch.autocast(y_hat.device.type, enabled=False):  # bfloat16 cannot tell a latent of 100 from one of 100.4
        with torch.no_grad():  # z is left out: a step of many latents at once would be counted as often
            z_hat = torch.round(base.analysis_of(entropy, y_hat, level, previous))
        y = y_hat.clone().requires_grad_()
        parameters = base.parameters_of(entropy, z_hat, y, level, previous)
        bits = gaussian.bits(y_hat, *parameters).sum()
        (context,) = torch.autograd.grad(bits + 0 * y.sum(), y)  # of models without any context nothing depends on y
    return context, [p.detach() for p in parameters]


def distortion(slope: Tensor, d: Tensor) -> Tensor:
    """What it costs, in bits, if a decoded latent moves by d."""
    return slope * d + CURVATURE / 2 * d * d


def _slope(transforms, x: Tensor, y_dec: Tensor, level: Tensor) -> Tensor:
    """Derivative of lambda 255^2 (sum of squared errors) / 3, in bits of the whole picture, by y_dec (B, M, h, w)."""
    worth = (lambda_of(transforms.config, level) * 255**2 / 3).view(-1, 1, 1, 1)
    with torch.enable_grad():
        y_dec = y_dec.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
        error = transforms.synthesis(y_dec, level).float()[:, :, : x.shape[2], : x.shape[3]] - x
        (slope,) = torch.autograd.grad((worth * error.square()).sum(), y_dec)
    return slope
