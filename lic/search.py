"""Rate-distortion optimised quantisation: better integers for the same decoder (the encoder's `effort`).

Rounding every latent by itself is not the best choice of integers: the transforms are not orthogonal, and what a
latent costs is known only from its neighbours, whose own cost depends on it in turn. While the search goes on, every
latent is undecided between three integers. Each round weighs, for each of them,

    its own bits            by the entropy model's mean and scale, as the coder would count
    bits of others          context d: one backward pass through the entropy model
    distortion              slope d + CURVATURE/2 d^2 for a decoded latent that moves by d; the slope comes from one
                            backward pass through the synthesis, the curvature is the same for all

where the others are what can be expected of them, between integers; the chances follow from the costs, as of a gas that
cools down (mean-field annealing, Peterson & Anderson 1987). The last round takes the cheapest. That latents move by
parts, and together, is what makes it work: a slope half-way along a step foretells its effect far better than one from
where it begins, and of neighbours that could repair one and the same error each does its share.

Only the encoder does this, so it may use floats.
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

WORTH = 1.2  # of the distortion, in lambda of training: with fewer bits for the same integers, finer ones pay
CURVATURE = 1.2 * WORTH * 12 / math.log(2)  # bits per squared step: optimal step sizes make it 12 / ln 2, see train/linear_start.py;
# 1.2 times that saves most, as latents do not move alone
HOT, COLD = 2.0, 0.2  # temperature in bits, at first and in the end
FAST, SLOW = 0.9, 0.3  # share of its way to what is expected that a latent goes in one round, at first and in the end
Z_SHARE = 0.5  # of its slope by which z follows: it is rounded itself, and each z stands for many latents
ROUNDS = 2  # per unit of effort, and as many to begin with
BLOCK, HALO = 64, 8  # latents in row and column that are judged at once; one reaches 8 others far, the last of them hardly


class Settled(NamedTuple):
    """What the search made of latents; all (B, M, h, w), float32."""

    y_hat: Tensor  # the integers
    y_dec: Tensor  # what the synthesis was expected to get before the last round
    slope: Tensor  # derivative of the distortion by that y_dec, in bits of the whole picture


def refine(models: Models, x: Tensor, y_hat: Tensor, level: Tensor, rounds: int, previous: Tensor | None = None) -> Tensor:
    """Better integers than y_hat (1, M, h, w), the rounded latents of x (1, 3, H, W) in [0, 1]; float32 that holds integers.

    x is without padding: what pads a picture may be wrong. level: (1,) int64; previous: see base.predict_all.
    """
    if not rounds:
        return y_hat
    h, w = y_hat.shape[2:]
    refined = torch.empty_like(y_hat)
    for top, left in itertools.product(range(0, h, BLOCK), range(0, w, BLOCK)):
        up, low = max(0, top - HALO), max(0, left - HALO)
        there = ..., slice(up, top + BLOCK + HALO), slice(low, left + BLOCK + HALO)
        pixels = x[..., 16 * up : 16 * (top + BLOCK + HALO), 16 * low : 16 * (left + BLOCK + HALO)]
        before = None if previous is None else previous[there].float()
        settled = settle(models.transforms, _real(models.entropy), pixels, y_hat[there], level, rounds, before)
        here = settled.y_hat[..., top - up : top - up + BLOCK, left - low : left - low + BLOCK]
        refined[..., top : top + BLOCK, left : left + BLOCK] = here
    return refined.clamp(-base.Y_LIMIT, base.Y_LIMIT)


@cache
def _real(entropy: base.EntropyModel) -> base.EntropyModel:
    """The float face of a frozen model: integers have no slopes."""
    return exact.thaw(copy.deepcopy(entropy)).requires_grad_(False)


@torch.no_grad()
def settle(
    transforms, entropy: base.EntropyModel, x: Tensor, y: Tensor, level: Tensor, rounds: int, previous: Tensor | None = None
) -> Settled:
    """Integers for latents of the pictures x (B, 3, H, W). y (B, M, h, w), float32: where to begin; rounds: 1 or more.

    entropy: with its float face.
    """
    y_dec = None
    for round_ in range(rounds):
        context, parameters = _context(entropy, y, level, previous)
        y_dec = gaussian.centroid(y, *parameters) if y_dec is None else y_dec
        slope = _slope(transforms, x, y_dec, level)
        integers = torch.round(y) + torch.tensor([0, -1, 1], device=y.device).view(3, 1, 1, 1, 1)
        decoded = torch.stack([gaussian.centroid(k, *parameters) for k in integers])
        cost = torch.stack([gaussian.bits(k, *parameters) for k in integers])
        cost += context * (integers - y) + distortion(slope, decoded - y_dec)
        if round_ == rounds - 1:
            return Settled(integers.gather(0, cost.argmin(0, keepdim=True))[0], y_dec, slope)
        progress = round_ / (rounds - 1)
        chances = torch.softmax(cost / -(HOT ** (1 - progress) * COLD**progress), 0)
        share = FAST + (SLOW - FAST) * progress
        y = torch.lerp(y, (chances * integers).sum(0), share)
        y_dec = torch.lerp(y_dec, (chances * decoded).sum(0), share)


def _context(entropy: base.EntropyModel, y: Tensor, level: Tensor, previous: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Derivative of the bits of all latents, as they are, by what others know of y; and the parameters behind these bits."""
    with torch.enable_grad(), torch.autocast(y.device.type, enabled=False):  # bfloat16 cannot tell a latent of 100 from one of 100.4
        y = y.clone().requires_grad_()
        z = base.analysis_of(entropy, y, level, previous)
        z_hat = torch.round(z).detach() + Z_SHARE * (z - z.detach())
        parameters = base.parameters_of(entropy, z_hat, y, level, previous)
        low = torch.floor(y.detach())
        bits = torch.lerp(gaussian.bits(low, *parameters), gaussian.bits(low + 1, *parameters), y.detach() - low).sum()
        (context,) = torch.autograd.grad(bits + 0 * y.sum(), y)  # of models without any context nothing depends on y
    return context, [p.detach() for p in parameters]


def distortion(slope: Tensor, d: Tensor) -> Tensor:
    """What it costs, in bits, if a decoded latent moves by d."""
    return slope * d + CURVATURE / 2 * d * d


def _slope(transforms, x: Tensor, y_dec: Tensor, level: Tensor) -> Tensor:
    """Derivative of WORTH lambda 255^2 (sum of squared errors) / 3, in bits of the whole picture, by y_dec (B, M, h, w)."""
    worth = (WORTH * lambda_of(transforms.config, level) * 255**2 / 3).view(-1, 1, 1, 1)
    with torch.enable_grad():
        y_dec = y_dec.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
        error = transforms.synthesis(y_dec, level).float()[:, :, : x.shape[2], : x.shape[3]] - x
        (slope,) = torch.autograd.grad((worth * error.square()).sum(), y_dec)
    return slope
