"""The distribution of an integer latent: a Gaussian with heavier tails or a mixture of them, collected over unit bins.

Networks emit per latent a mean (in units of the latent) and a scale parameter t, which stands for
sigma = SIGMA_LOW exp(STEP PER_UNIT t); of a mixture, K means, K scales and K logits in base 2, all with one
more dimension at the end. Functions here take them as `*parameters`: (mean, t) or (mean, t, logit). This file
is the float side: bits for training, and where in its bin a decoded latent most likely lies. The integer side is
tables.py and the coder; their *table* is (mean, index) or (mean, index, weight), int64.
"""

import math

import torch
from torch import Tensor

from ..exact import FRACTION, softmax2

SCALES = 76  # number of scales that have tables
SIGMA_LOW = 0.033  # the first of them, in units of the latent
STEP = 0.1  # from one to the next, of log sigma
PER_UNIT = 8  # table indexes per unit of t
MEAN_BITS = 4  # means are coded on a grid of 2^-MEAN_BITS
SHAPE = ((7, 18), (1, 31))  # of every distribution: two Gaussians, (eighths of the probability, twentieths of sigma).
# Scales are never known for certain: latents have heavier tails than one Gaussian

T_HIGH = (SCALES - 1) / PER_UNIT


class Bounded(torch.autograd.Function):
    """clamp(x, low, high) that lets a gradient through wherever following it leads back inside."""

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        stuck = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))
        return grad.masked_fill(stuck, 0), None, None


def sigma(t: Tensor) -> Tensor:
    """Scale parameter -> standard deviation."""
    return SIGMA_LOW * torch.exp(Bounded.apply(t, 0.0, T_HIGH) * (PER_UNIT * STEP))


def inverse_sigma(std: Tensor) -> Tensor:
    """Standard deviation -> scale parameter, within range."""
    return (torch.log(std / SIGMA_LOW) / (PER_UNIT * STEP)).clamp(0.0, T_HIGH)


def _phi(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -(0.5**0.5))


def _parts(t: Tensor) -> list[tuple[float, Tensor]]:
    """Share and standard deviation of the Gaussians that make one distribution."""
    s = sigma(t)
    return [(share / 8, s * (width / 20)) for share, width in SHAPE]


def _mass(y: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    """Probability of the unit bin around y."""
    d = (y - mean).abs()  # the lower tail is the accurate one
    return sum(share * (_phi((0.5 - d) / s) - _phi((-0.5 - d) / s)) for share, s in _parts(t))


def bits(y: Tensor, mean: Tensor, t: Tensor, logit: Tensor | None = None) -> Tensor:
    """-log2 P(y) element by element, for y real (integer + noise) or integer; float32, of y's shape."""
    p = _mass(y, mean, t) if logit is None else (softmax2(logit) * _mass(y[..., None], mean, t)).sum(-1)
    return -torch.log2(Bounded.apply(p, 1e-9, 2.0))


def _offset(y_hat: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    d = (mean - y_hat).clamp(-1.0, 1.0)
    mass, moment = 1e-6, 0.0
    for share, s in _parts(t):
        a, b = (-0.5 - d) / s, (0.5 - d) / s
        mass = mass + share * (_phi(b) - _phi(a))
        moment = moment + share * s * (torch.exp(-0.5 * a * a) - torch.exp(-0.5 * b * b))
    return (d + (2 * math.pi) ** -0.5 * moment / mass).clamp(-0.5, 0.5)


def centroid(y_hat: Tensor, mean: Tensor, t: Tensor, logit: Tensor | None = None) -> Tensor:
    """E[y | round(y) = y_hat]: the decoder's best guess of the real latent, float32.

    y_hat + offset with |offset| <= 1/2: a latent of large scale stays in the middle of its bin, one of
    small scale moves to the side of its mean, which recovers what rounding to y_hat - mean would save.
    Of a mixture, the mean of the components' offsets, each by the probability that the latent came from it.
    """
    if logit is None:
        return y_hat + _offset(y_hat, mean, t)
    each = y_hat[..., None]
    came_from = softmax2(logit) * _mass(each, mean, t).clamp_min(1e-9)
    return y_hat + (came_from * _offset(each, mean, t)).sum(-1) / came_from.sum(-1)


def table_index(mean: Tensor, t: Tensor, logit: Tensor | None = None) -> tuple[Tensor, ...]:
    """Exact face: parameters (float64 integers) -> table: mean in 2^-MEAN_BITS, scale index and, of a mixture,
    weights that sum to 2^WEIGHT_BITS; int64."""
    shift, unit = FRACTION - MEAN_BITS, 2**FRACTION // PER_UNIT
    mean = torch.floor((mean + 2 ** (shift - 1)) * 2.0**-shift)
    index = torch.floor((t + unit // 2) * (1.0 / unit)).clamp(0, SCALES - 1)
    return (mean.long(), index.long()) if logit is None else (mean.long(), index.long(), softmax2(logit).long())


def from_index(mean: Tensor, index: Tensor, weight: Tensor | None = None) -> tuple[Tensor, ...]:
    """What `table_index` kept, back in real units, float32: (mean, t) or (mean, t, logit)."""
    parameters = mean.float() * 2.0**-MEAN_BITS, index.float() / PER_UNIT
    return parameters if weight is None else (*parameters, weight.float().log2())
