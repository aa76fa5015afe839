"""The distribution of an integer latent: a Gaussian of some mean and scale, collected over unit bins.

Networks emit per latent a mean (in units of the latent) and a scale parameter t, which stands for
sigma = SIGMA_LOW * RATIO^(PER_UNIT t). This file is the float side: bits for training, and where in its
bin a decoded latent most likely lies. The integer side, the tables of the coder, is coders.py.
"""

import math

import torch
from torch import Tensor

from ..exact import FRACTION

SCALES = 64  # number of scales that have tables
SIGMA_LOW, SIGMA_HIGH = 0.11, 60.0  # the first and the last of them, in units of the latent
PER_UNIT = 8  # table indexes per unit of t
MEAN_BITS = 4  # means are coded on a grid of 2^-MEAN_BITS

_LOG_STEP = math.log(SIGMA_HIGH / SIGMA_LOW) / (SCALES - 1)
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
    return SIGMA_LOW * torch.exp(Bounded.apply(t, 0.0, T_HIGH) * (PER_UNIT * _LOG_STEP))


def inverse_sigma(std: Tensor) -> Tensor:
    """Standard deviation -> scale parameter, within range."""
    return (torch.log(std / SIGMA_LOW) / (PER_UNIT * _LOG_STEP)).clamp(0.0, T_HIGH)


def _phi(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -(0.5**0.5))


def bits(y: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    """-log2 P(y) element by element, for y real (integer + noise) or integer; all of one shape, float32."""
    s = sigma(t)
    d = (y - mean).abs()  # the lower tail is the accurate one
    p = _phi((0.5 - d) / s) - _phi((-0.5 - d) / s)
    return -torch.log2(Bounded.apply(p, 1e-9, 2.0))


def centroid(y_hat: Tensor, mean: Tensor, t: Tensor) -> Tensor:
    """E[y | round(y) = y_hat] under the Gaussian: the decoder's best guess of the real latent, float32.

    y_hat + offset with |offset| <= 1/2: a latent of large scale stays in the middle of its bin, one of
    small scale moves to the side of its mean, which recovers what rounding to y_hat - mean would save.
    """
    s = sigma(t)
    d = (mean - y_hat).clamp(-1.0, 1.0)
    a, b = (-0.5 - d) / s, (0.5 - d) / s
    mass = (_phi(b) - _phi(a)).clamp_min(1e-6)
    density = (torch.exp(-0.5 * a * a) - torch.exp(-0.5 * b * b)) * (2 * math.pi) ** -0.5
    return y_hat + (d + s * density / mass).clamp(-0.5, 0.5)


def table_index(mean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Exact face: mean and t (float64 integers) -> mean in 2^-MEAN_BITS and scale index, int64."""
    shift, unit = FRACTION - MEAN_BITS, 2**FRACTION // PER_UNIT
    mean = torch.floor((mean + 2 ** (shift - 1)) * 2.0**-shift)
    index = torch.floor((t + unit // 2) * (1.0 / unit)).clamp(0, SCALES - 1)
    return mean.long(), index.long()


def from_index(mean: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """What `table_index` kept, back in real units, float32: (mean, t)."""
    return mean.float() * 2.0**-MEAN_BITS, index.float() / PER_UNIT
