"""Annealing: where latents had better be, found together while they are between the values that they may take.

Rounding every latent by itself is not the best choice: the transforms are not orthogonal, and what a latent costs is known
only from its neighbours, whose own cost depends on it in turn. While the search goes on, every latent is undecided between
three integers, or, where it will be quantised dependently (trellis.py), five multiples of a half. Each round weighs, for each
of them,

    its own bits            by the entropy model's mean and scale, as the coder would count
    bits of others          slope d: one backward pass through the entropy model
    distortion              slope d + curvature/2 d^2 for a decoded latent that moves by d; the slope comes from one
                            backward pass through the synthesis, the curvature of each channel from what the slopes of
                            its latents have changed by as they moved, which tells of all that moves with them, too.
                            What distortion is, measures.py says

where the others are what can be expected of them; the chances follow from the costs, as in a gas that cools down (mean-field
annealing, Peterson & Anderson 1987). That latents move by parts, and together, is what makes it work: a slope half-way along
a step foretells its effect far better than one from where it begins, and of neighbours that could repair one and the same
error each does its share.

Hyper latents z follow y through the hyper-analysis, and move by themselves besides: that does not know what they cost,
nor all they are worth. Their curvature is the Fisher information, that is, the mean square of their slopes.

Only the encoder does this, so it may use floats.
"""

import copy
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import exact, trellis
from .entropy import base, gaussian
from .measures import SquaredError
from .transforms import lambda_of, roughly

WORTH = 1.4  # of the distortion, in lambda of training: with fewer bits for the same values, finer ones pay
CURVATURE = WORTH * 12 / math.log(2)  # bits per squared step: so optimal step sizes make it, see train/linear_start.py
STIFF, SOFT = 1.35, 0.1  # curvature, in units of that, before anything has moved, and at least
SAFE = 0.9  # of the measured curvature
HOT, COLD = 2.0, 0.4  # temperature in bits, at first and in the end
FAST, SLOW = 0.9, 0.2  # share of its way to what is expected that a latent goes in one round, at first and in the end
FOLLOWS = 0.5  # share of what z does to the bits of y that a latent which moves z counts as its own; more of it runs away
Z_CURVATURE = 1.4 * math.log(2)  # of z, by the squared slope in bits; without the 1.4 Fisher's information, in nats the square itself


class Options(NamedTuple):
    """What latents may become: (choices, ...) each, the nearest in the middle."""

    values: Tensor
    bits: Tensor
    decoded: Tensor


class Weighed(NamedTuple):
    """What a round finds out; float32, (B, M, h, w) if nothing else is said."""

    cost: Tensor  # (B,) bits of all, and of the distortion
    slope_of_y: Tensor  # derivative of the bits of others
    slope: Tensor  # of the distortion, by y_dec
    curvature: Tensor  # of that
    z: Tensor  # (B, N, h_z, w_z)
    slope_of_z: Tensor  # likewise
    options: Options  # of all latents
    wide: Tensor  # (n,) int64: which of them, flat, are undecided between multiples of a half
    wide_options: Options  # of these


@cache
def real(entropy: base.EntropyModel) -> base.EntropyModel:
    """The float face of a frozen model: integers have no slopes."""
    return exact.thaw(copy.deepcopy(entropy)).requires_grad_(False)


class Undecided:
    """Latents of a picture on their way to integers, or if quantised dependently multiples of a half; entropy: with its float face."""

    def __init__(self, transforms, entropy, measure: SquaredError, y_hat: Tensor, level: Tensor, previous: Tensor | None, dependent: bool):
        self.transforms, self.entropy, self.measure, self.level, self.previous = transforms, entropy, measure, level, previous
        self.start, self.dependent = y_hat, dependent
        self.begin()

    def begin(self) -> None:
        """Forget all but the latents that the search began with."""
        self.y, self.y_dec, self.z_hat, self.drift, self.cost = self.start, None, None, 0.0, None
        self.bent = self.moved = self.y.new_zeros(*self.y.shape[:2], 1, 1)

    def weigh(self) -> Weighed:
        bits, slope_of_y, slope_of_z, options, z, wide, wide_options = _rate(
            self.entropy, self.y, self.drift, self.z_hat, self.level, self.previous, self.dependent
        )
        if self.y_dec is None:
            self.y_dec = _filled(options.decoded[1], wide, wide_options.decoded[2])
        error, slope = _distortion(self.transforms, self.measure, self.y_dec, self.level)
        here = self.measure.bend(*self.y.shape[2:])
        if self.cost is None:
            self.cost, self.before = bits + error, (self.y_dec, slope)
        step, change = self.y_dec - self.before[0], slope - self.before[1]
        self.bent = self.bent + (step * change).sum((2, 3), keepdim=True)
        self.moved = self.moved + (here * step.square()).sum((2, 3), keepdim=True)
        self.before = self.y_dec, slope
        curvature = here * ((STIFF * CURVATURE + SAFE * self.bent) / (1 + self.moved)).clamp_min(SOFT * CURVATURE)
        return Weighed(bits + error, slope_of_y, slope, curvature, z, slope_of_z, options, wide, wide_options)

    def expected(self, weighed: Weighed, temperature: float) -> tuple[Tensor, Tensor]:
        """Where latents, and what the synthesis gets of them, will be in the mean."""
        field = self.y, self.y_dec, weighed.slope_of_y, weighed.slope, weighed.curvature
        y, y_dec = _mean(weighed.options, temperature, *field)
        if not len(weighed.wide):
            return y, y_dec
        some = (x.expand_as(y).flatten()[weighed.wide] for x in field)
        means = _mean(weighed.wide_options, trellis.WARM * temperature, *some)
        return tuple(_filled(x, weighed.wide, mean) for x, mean in zip((y, y_dec), means, strict=True))

    def anneal(self, rounds: int) -> None:
        """All rounds but the last, which decides: that one needs to be weighed yet."""
        if rounds == 1:
            self.z_hat = torch.round(base.analysis_of(self.entropy, self.y, self.level, self.previous))
        for round_ in range(rounds - 1):
            progress = round_ / (rounds - 1)
            temperature, share = HOT ** (1 - progress) * COLD**progress, FAST + (SLOW - FAST) * progress
            weighed = self.weigh()
            self.y, self.y_dec = map(torch.lerp, (self.y, self.y_dec), self.expected(weighed, temperature), (share, share))
            if round_ == rounds - 2:  # y will be chosen for the z that is written
                self.z_hat = _expected_z(self.entropy, weighed.z, weighed.slope_of_z, self.level, 0.0)
            else:
                expected = _expected_z(self.entropy, weighed.z, weighed.slope_of_z, self.level, temperature)
                self.drift = self.drift + share * (expected - weighed.z)

    def lost(self, weighed: Weighed) -> Tensor:
        """Which pictures had better be left as they were, as the search ran away: (B,)."""
        return ~(weighed.cost <= self.cost)  # or not a number


def cost_of(options: Options, y: Tensor, y_dec: Tensor, slope_of_y: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
    """Of each choice, in bits, but for what all have in common."""
    return options.bits + slope_of_y * (options.values - y) + distortion(curvature, slope, options.decoded - y_dec)


def _mean(options: Options, temperature: float, *field: Tensor) -> tuple[Tensor, Tensor]:
    """Expected value, and what it decodes to."""
    chances = _chances(cost_of(options, *field), temperature)
    return (chances * options.values).sum(0), (chances * options.decoded).sum(0)


def _filled(x: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """x with some of its elements, by flat index, replaced."""
    return x.flatten().index_copy(0, at, values).view(x.shape) if len(at) else x


def halves(y: Tensor, *parameters: Tensor) -> Options:
    """Those of wide latents."""
    values, bits, decoded = gaussian.around(y, *parameters, fine=2)
    return Options(values, bits, torch.lerp(values, decoded, gaussian.CENTRED))


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
    """Of the choices, by their costs, (choices, ...) each."""
    if temperature:
        return torch.softmax(cost / -temperature, 0)
    return torch.zeros_like(cost).scatter_(0, cost.argmin(0, keepdim=True), 1.0)


def _rate(
    entropy: base.EntropyModel,
    y: Tensor,
    drift: Tensor | float,
    z_hat: Tensor | None,
    level: Tensor,
    previous: Tensor | None,
    dependent: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Options, Tensor, Tensor, Options]:
    """Bits of y, (B,); their derivatives by what others know of y, and by z; the integers around y; z; and see Weighed.

    z is z_hat, or if that is None what the analysis makes of y, and drift.
    """
    with torch.enable_grad():
        known = y.clone().requires_grad_()
        analysed = base.analysis_of(entropy, known, level, previous)
        z = (analysed.detach() + drift if z_hat is None else z_hat.clone()).requires_grad_()
        with roughly(y.device.type):
            parameters = base.parameters_of(entropy, z + FOLLOWS * (analysed - analysed.detach()), known, level, previous)
        if dependent:
            wide = torch.nonzero(gaussian.is_wide(parameters[1].detach()).flatten())[:, 0]
            parameters[1] = gaussian.narrowed(parameters[1])
        else:
            wide = torch.empty(0, dtype=torch.int64, device=y.device)
        options = Options(*gaussian.around(y, *parameters))
        chances = (1 - (options.values - y).abs()).clamp_min(0.0)
        each = (chances * options.bits).sum(0)
        some = y.flatten()[wide]
        wide_options = halves(some, *(x.flatten()[wide] for x in parameters[:2]))
        chances = (1 - 2 * (wide_options.values - some).abs()).clamp_min(0.0)
        bits = _filled(each, wide, (chances * wide_options.bits).sum(0)).sum((1, 2, 3))
        # of models without any context nothing depends on y, of those without side information nothing on z
        slopes = torch.autograd.grad(bits.sum() + 0 * (known.sum() + z.sum()), (known, z))
    options, wide_options = (Options(*(x.detach() for x in some)) for some in (options, wide_options))
    return bits.detach(), *slopes, options, z.detach(), wide, wide_options


def distortion(curvature: Tensor | float, slope: Tensor, d: Tensor) -> Tensor:
    """What it costs, in bits, if a decoded latent moves by d."""
    return slope * d + curvature / 2 * d * d


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
