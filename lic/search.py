"""Rate-distortion optimised quantisation: better integers for the same decoder (the encoder's `effort`).

Rounding every latent by itself is not the best choice of integers: the transforms are not orthogonal, and what a
latent costs is known only from its neighbours, whose own cost depends on it in turn. While the search goes on, every
latent is undecided between three integers. Each round weighs, for each of them,

    its own bits            by the entropy model's mean and scale, as the coder would count
    bits of others          slope d: one backward pass through the entropy model
    distortion              slope d + curvature/2 d^2 for a decoded latent that moves by d; the slope comes from one
                            backward pass through the synthesis, the curvature of each channel from what the slopes of
                            its latents have changed by as they moved, which tells of all that moves with them, too.
                            What distortion is, measures.py says

where the others are what can be expected of them, between integers; the chances follow from the costs, as in a gas that
cools down (mean-field annealing, Peterson & Anderson 1987). The last round takes the cheapest. That latents move by
parts, and together, is what makes it work: a slope half-way along a step foretells its effect far better than one from
where it begins, and of neighbours that could repair one and the same error each does its share.

Hyper latents z follow y through the hyper-analysis, and move by themselves besides: that does not know what they cost,
nor all they are worth. Their curvature is the Fisher information, that is, the mean square of their slopes.

Only the encoder does this, so it may use floats.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import exact
from .defaults import TUNE
from .entropy import base, gaussian
from .measures import MEASURES, SquaredError
from .transforms import lambda_of
from .weights import Models

WORTH = 1.2  # of the distortion, in lambda of training: with fewer bits for the same integers, finer ones pay
CURVATURE = WORTH * 12 / math.log(2)  # bits per squared step: so optimal step sizes make it, see train/linear_start.py
STIFF, SOFT = 1.35, 0.1  # curvature, in units of that, before anything has moved, and at least
SAFE = 0.9  # of the measured curvature
HOT, COLD = 2.0, 0.4  # temperature in bits, at first and in the end
FAST, SLOW = 0.9, 0.2  # share of its way to what is expected that a latent goes in one round, at first and in the end
FOLLOWS = 0.5  # share of what z does to the bits of y that a latent which moves z counts as its own; more of it runs away
Z_CURVATURE = 1.4 * math.log(2)  # of z, by the squared slope in bits; without the 1.4 Fisher's information, in nats the square itself
ROUNDS = 2  # per unit of effort, and as many to begin with
BLOCK, HALO = 64, 4  # latents in row and column that are judged at once, and around them, both multiples of 4

Progress = Callable[[list], Iterable]  # iter, or tqdm to show how far a search is


class Settled(NamedTuple):
    """What the search made of latents; all float32, (B, M, h, w) but for z_hat."""

    y_hat: Tensor  # the integers
    z_hat: Tensor  # those of the hyper latents, (B, N, h_z, w_z)
    y: Tensor  # the latents before the last round, in general between integers
    y_dec: Tensor  # what the synthesis was expected to get of them
    slope: Tensor  # derivative of the distortion by that y_dec, in bits of the whole picture


def refine(
    models: Models,
    x: Tensor,
    y_hat: Tensor,
    level: Tensor,
    rounds: int,
    previous: Tensor | None = None,
    progress: Progress = iter,
    tune: str = TUNE,
) -> tuple[Tensor, Tensor | None]:
    """Better integers than y_hat (1, M, h, w), the rounded latents of x (1, 3, H, W) in [0, 1], and z_hat (1, N, h_z, w_z) for them.

    Both are float32 that holds integers; z_hat is None where it had better follow from y_hat. x is without padding: what
    pads a picture may be wrong. level: (1,) int64; previous: see base.predict_all; progress: what iterates over the blocks;
    tune: which of MEASURES the distortion is.
    """
    if not rounds:
        return y_hat, None
    h, w = y_hat.shape[2:]
    searched = models.entropy.searched != slice(0)
    refined, refined_z = torch.empty_like(y_hat), y_hat.new_empty(1, *models.entropy.hyper.size(h, w))
    for top, left in progress(list(itertools.product(range(0, h, BLOCK), range(0, w, BLOCK)))):
        up, low = max(0, top - HALO), max(0, left - HALO)
        there = ..., slice(up, top + BLOCK + HALO), slice(low, left + BLOCK + HALO)
        pixels = x[..., 16 * up : 16 * (top + BLOCK + HALO), 16 * low : 16 * (left + BLOCK + HALO)]
        before = None if previous is None else previous[there].float()
        settled = settle(models.transforms, _real(models.entropy), pixels, y_hat[there], level, rounds, before, MEASURES[tune])
        for whole, part in [(refined, settled.y_hat), (refined_z, settled.z_hat)][: 1 + searched]:
            step = h // whole.shape[2]
            size, i, j = BLOCK // step, (top - up) // step, (left - low) // step
            here = whole[..., top // step : top // step + size, left // step : left // step + size]
            here.copy_(part[..., i : i + size, j : j + size])
    return refined.clamp(-base.Y_LIMIT, base.Y_LIMIT), refined_z.clamp(-base.Z_LIMIT, base.Z_LIMIT) if searched else None


@cache
def _real(entropy: base.EntropyModel) -> base.EntropyModel:
    """The float face of a frozen model: integers have no slopes."""
    return exact.thaw(copy.deepcopy(entropy)).requires_grad_(False)


@torch.no_grad()
def settle(
    transforms,
    entropy: base.EntropyModel,
    x: Tensor,
    y_hat: Tensor,
    level: Tensor,
    rounds: int,
    previous: Tensor | None = None,
    measure_of: Callable[[Tensor], SquaredError] = MEASURES[TUNE],
) -> Settled:
    """The search for pictures x (B, 3, H, W), from y_hat (B, M, h, w) on, float32. entropy: with its float face; rounds: 1 or more.

    Entropy models have learned from integers, so nothing says that they know what to make of latents in between. A search
    that ends higher than it began is done again by whole steps, and if that does so, too, y_hat stays as it is.
    """
    given = transforms, entropy, measure_of(x), y_hat, level, rounds, previous
    settled, lost = _search(*given, True)
    if bool(lost.any()):
        again, _ = _search(*given, False)
        settled = Settled(*(torch.where(lost.view(-1, 1, 1, 1), b, a) for a, b in zip(settled, again, strict=True)))
    return settled


def _search(transforms, entropy, measure, y_hat, level, rounds, previous, by_parts: bool) -> tuple[Settled, Tensor]:
    """As settle(): by parts, or by whole steps; and which pictures it has left as they were, as it ran away (B,)."""
    y, y_dec, drift = y_hat, None, 0.0
    bent = moved = y_hat.new_zeros(*y_hat.shape[:2], 1, 1)
    here = measure.bend(*y_hat.shape[2:])
    z_hat = torch.round(base.analysis_of(entropy, y, level, previous)) if rounds == 1 else None
    for round_ in range(rounds):
        progress = round_ / max(rounds - 1, 1)
        temperature, share = 0.0, 1.0
        if by_parts:
            temperature, share = HOT ** (1 - progress) * COLD**progress, FAST + (SLOW - FAST) * progress
        bits, slope_of_y, slope_of_z, (integers, own_bits, decoded), z = _rate(entropy, y, drift, z_hat, level, previous)
        y_dec = decoded[1] if y_dec is None else y_dec
        error, slope = _distortion(transforms, measure, y_dec, level)
        if round_ == 0:
            before, start = bits + error, torch.round(z)
            y_dec_before, slope_before = y_dec, slope

        step = y_dec - y_dec_before
        bent = bent + (step * (slope - slope_before)).sum((2, 3), keepdim=True)
        moved = moved + (here * step.square()).sum((2, 3), keepdim=True)
        y_dec_before, slope_before = y_dec, slope
        curvature = here * ((STIFF * CURVATURE + SAFE * bent) / (1 + moved)).clamp_min(SOFT * CURVATURE)

        cost = own_bits + slope_of_y * (integers - y)
        cost = cost + distortion(curvature, slope, decoded - y_dec)
        if round_ == rounds - 1:
            lost = ~(bits + error <= before)  # or not a number
            back = lost.view(-1, 1, 1, 1)
            found = (_chances(cost, 0.0) * integers).sum(0)
            return Settled(torch.where(back, y_hat, found), torch.where(back, start, z_hat), y, y_dec, slope), lost
        chances = _chances(cost, temperature)
        y = torch.lerp(y, (chances * integers).sum(0), share)
        y_dec = torch.lerp(y_dec, (chances * decoded).sum(0), share)
        if round_ == rounds - 2:  # y will be chosen for the z that is written
            z_hat = _expected_z(entropy, z, slope_of_z, level, 0.0)
        else:
            drift = drift + share * (_expected_z(entropy, z, slope_of_z, level, temperature) - z)


def _expected_z(entropy: base.EntropyModel, z: Tensor, slope: Tensor, level: Tensor, temperature: float) -> Tensor:
    """What z (B, N, h_z, w_z) had better be: an average of integers, or integers if the temperature is 0."""
    integers, bits, _ = gaussian.around(z, *entropy.hyper.parameters_of_z(level, z.shape))
    d = integers - z
    curvature = Z_CURVATURE * slope.square().mean((2, 3), keepdim=True)
    cost = bits + slope * d + curvature / 2 * d * d
    expected = (_chances(cost, temperature) * integers).sum(0)
    free = torch.zeros(z.shape[1], dtype=torch.bool, device=z.device)
    free[entropy.searched] = True
    return torch.where(free[:, None, None], expected, z if temperature else torch.round(z))


def _chances(cost: Tensor, temperature: float) -> Tensor:
    """Of three integers, by their costs, (3, ...) each."""
    if temperature:
        return torch.softmax(cost / -temperature, 0)
    return torch.zeros_like(cost).scatter_(0, cost.argmin(0, keepdim=True), 1.0)


def _rate(
    entropy: base.EntropyModel, y: Tensor, drift: Tensor | float, z_hat: Tensor | None, level: Tensor, previous: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Bits of y, (B,); their derivatives by what others know of y, and by z; the integers around y, see gaussian.around; z.

    z is z_hat, or if that is None what the analysis makes of y, and drift.
    """
    with torch.enable_grad():
        known = y.clone().requires_grad_()
        analysed = base.analysis_of(entropy, known, level, previous)
        z = (analysed.detach() + drift if z_hat is None else z_hat.clone()).requires_grad_()
        with roughly(y.device.type):
            parameters = base.parameters_of(entropy, z + FOLLOWS * (analysed - analysed.detach()), known, level, previous)
        integers, own_bits, decoded = gaussian.around(y, *parameters)
        chances = (1 - (integers - y).abs()).clamp_min(0.0)
        bits = (chances * own_bits).sum((0, 2, 3, 4))
        # of models without any context nothing depends on y, of those without side information nothing on z
        slopes = torch.autograd.grad(bits.sum() + 0 * (known.sum() + z.sum()), (known, z))
    return bits.detach(), *slopes, (integers, own_bits.detach(), decoded.detach()), z.detach()


def distortion(curvature: Tensor | float, slope: Tensor, d: Tensor) -> Tensor:
    """What it costs, in bits, if a decoded latent moves by d."""
    return slope * d + curvature / 2 * d * d


def roughly(kind: str) -> torch.autocast:
    """A context where networks run in bfloat16 if that is faster: it is as good for slopes."""
    return torch.autocast(kind, torch.bfloat16, enabled=_rough(kind))


@cache
def _rough(kind: str) -> bool:
    return kind == "cpu" and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False)  # torch < 2.11 cannot tell


def _distortion(transforms, measure: SquaredError, y_dec: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """WORTH lambda 255^2 / 3 times what `measure` says, in bits of the whole picture, (B,), and its derivative by y_dec (B, M, h, w)."""
    H, W = measure.x.shape[2:]
    with torch.enable_grad():
        y_dec = y_dec.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
        with roughly(y_dec.device.type):
            x_hat = transforms.synthesis(y_dec, level)
        error = WORTH * lambda_of(transforms.config, level) * 255**2 / 3 * measure(x_hat.float()[:, :, :H, :W])
        (slope,) = torch.autograd.grad(error.sum(), y_dec)
    return error.detach(), slope
