"""The distribution of an integer latent: a Gaussian with heavier tails or a mixture of them, collected over unit bins.

Networks emit per latent a mean (in units of the latent) and a scale parameter t, which stands for
sigma = SIGMA_LOW exp(STEP PER_UNIT t); of a mixture, K means, K scales and K logits in base 2, all with one
more dimension at the end. Functions here take them as `*parameters`: (mean, t) or (mean, t, logit). This file
is the float side: bits for training, and where in its bin a decoded latent most likely lies. The integer side is
tables.py and the coder; their *table* is (mean, index) or (mean, index, weight), int64.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from ..exact import FRACTION, look_up, softmax2

SCALES = 76  # number of scales that have tables
SIGMA_LOW = 0.033  # the first of them, in units of the latent
STEP = 0.1  # from one to the next, of log sigma
PER_UNIT = 8  # table indexes per unit of t
MEAN_BITS = 4  # means are coded on a grid of 2^-MEAN_BITS
WIDE = 25  # scale index from which on latents take part in dependent quantisation, see trellis.py
CENTRED = 0.85  # share of its offset that the centroid of such a wide latent has then: the cells are smaller than unit bins
SHAPE = ((7, 18), (1, 31))  # of every distribution: two Gaussians, (eighths of the probability, twentieths of sigma).
# Scales are never known for certain: latents have heavier tails than one Gaussian
FAR = 12.0  # deviations; nothing is told apart beyond, and where exp and erfc have no normal numbers they are twenty times slower

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
        return _leading_back(grad, x, *ctx.bounds), None, None


def _leading_back(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    stuck = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))
    return grad.masked_fill(stuck, 0)


def sigma(t: Tensor) -> Tensor:
    """Scale parameter -> standard deviation."""
    return SIGMA_LOW * torch.exp(Bounded.apply(t, 0.0, T_HIGH) * (PER_UNIT * STEP))


def inverse_sigma(std: Tensor) -> Tensor:
    """Standard deviation -> scale parameter, within range."""
    return (torch.log(std / SIGMA_LOW) / (PER_UNIT * STEP)).clamp(0.0, T_HIGH)


def _phi(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -(0.5**0.5))


def _density(x: Tensor) -> Tensor:
    return (2 * math.pi) ** -0.5 * torch.exp(-0.5 * x * x)


def _parts(t: Tensor, *ends: Tensor) -> Iterator[tuple[float, Tensor, *tuple[Tensor, ...]]]:
    """Of the Gaussians that make one distribution: share, deviation, and where in units of that bins begin and end."""
    s = sigma(t)
    for share, width in SHAPE:
        of_one = s * (width / 20)
        yield share / 8, of_one, *((end / of_one).clamp_(-FAR, FAR) for end in ends)


class _Mass(torch.autograd.Function):
    """Probability of the unit bin around y; with derivatives written out, as to walk over thirty tensors takes twice the time."""

    @staticmethod
    def forward(ctx, y, mean, t):
        d = (y - mean).abs_().neg_()  # the lower tail is the accurate one
        mass, by_d, by_log_sigma = (torch.zeros_like(d) for _ in range(3))
        for share, s, a, b in _parts(t, d - 0.5, d + 0.5):
            mass.add_(_phi(b).sub_(_phi(a)), alpha=share)
            if any(ctx.needs_input_grad):
                at_a, at_b = _density(a), _density(b)
                by_d.add_((at_b - at_a).div_(s), alpha=share)
                by_log_sigma.add_((at_a * a).sub_(at_b * b), alpha=share)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(by_d.mul_(torch.sign(y - mean)), by_log_sigma, t)
        return mass

    @staticmethod
    def backward(ctx, grad):
        return _gradients(grad, *ctx.saved_tensors)


class _Offset(torch.autograd.Function):
    """E[y - y_hat | round(y) = y_hat], likewise."""

    @staticmethod
    def forward(ctx, y_hat, mean, t):
        d = (mean - y_hat).clamp_(-1.0, 1.0)
        mass, moment, mass_by_d, moment_by_d, moment_by_log_sigma = (torch.zeros_like(d) for _ in range(5))
        mass += 1e-6
        for share, s, a, b in _parts(t, -d - 0.5, 0.5 - d):
            mass.add_(_phi(b).sub_(_phi(a)), alpha=share)
            at_a, at_b = _density(a), _density(b)
            moment.add_((at_a - at_b).mul_(s), alpha=share)
            if any(ctx.needs_input_grad):
                mass_by_d.add_((at_a - at_b).div_(s), alpha=share)
                moment_by_d.add_((at_a * a).sub_(at_b * b), alpha=share)  # and that is also the mass's by log sigma
                moment_by_log_sigma.add_((at_a * (1 + a * a)).sub_(at_b * (1 + b * b)).mul_(s), alpha=share)
        offset = moment.div_(mass)
        if any(ctx.needs_input_grad):
            inside = (offset + d).abs() < 0.5
            by_d = mass_by_d.mul_(offset).sub_(moment_by_d).div_(mass).neg_().add_(1)
            by_log_sigma = moment_by_log_sigma.sub_(moment_by_d.mul_(offset)).div_(mass)
            ctx.save_for_backward(by_d.mul_(inside & (d.abs() < 1)), by_log_sigma.mul_(inside), t)
        return offset.add_(d).clamp_(-0.5, 0.5)

    @staticmethod
    def backward(ctx, grad):
        return _gradients(grad, *ctx.saved_tensors)


class _Around(torch.autograd.Function):
    """Of the bins around what lies on a grid of 1 / fine from y - 1 to y + 1, y - mean = d: masses as of _Mass, and offsets as of _Offset.

    The ends of the bins, four if fine is 1 and seven if it is 2, serve all of that. Offsets have no derivatives.
    """

    @staticmethod
    def forward(ctx, d, t, fine):
        places, ends = _grid(1.0, fine, d), _grid(1.5, fine, d)
        mirror = torch.where(d > 0, -1.0, 1.0)  # to the lower tail
        mass, moment, by_d, by_log_sigma = (d.new_zeros(len(places), *d.shape) for _ in range(4))

        def across(x):
            return x[fine:] - x[:-fine]

        for share, s, at in _parts(t, d + ends):
            density = _density(at).mul_(share)
            slope = across(density)
            moment.addcmul_(slope, s, value=-1.0)
            by_d.add_(slope.div_(s))
            by_log_sigma.sub_(across(density.mul_(at)))
            mass.add_(across(_phi(at.mul_(mirror))), alpha=share)
        mass.mul_(mirror)
        ctx.save_for_backward(by_d, by_log_sigma, t)
        to_mean = -(d + places)
        near = moment.div_(mass + 1e-6).add_(to_mean)
        far = look_up(_far_offsets(d.device), (t * PER_UNIT).round_().clamp_(0, SCALES - 1)) * torch.sign(to_mean)
        offset = torch.where(to_mean.abs() > 1, far, near).clamp_(-0.5, 0.5)
        ctx.mark_non_differentiable(offset)
        return mass, offset

    @staticmethod
    def backward(ctx, grad, _):
        by_d, by_log_sigma, t = ctx.saved_tensors
        of_t = (grad * by_log_sigma).sum(0) * (PER_UNIT * STEP)
        return (grad * by_d).sum(0), _leading_back(of_t, t, 0.0, T_HIGH), None


def _grid(reach: float, fine: int, like: Tensor) -> Tensor:
    """-reach .. reach by 1 / fine, along a new first dimension."""
    places = torch.arange(2 * reach * fine + 1, device=like.device) / fine - reach
    return places.view(-1, *[1] * like.dim())


@cache
def _far_offsets(device: torch.device) -> Tensor:
    """Offset of an integer below its mean by 1 or more, by scale index."""
    t = torch.arange(SCALES, device=device) / PER_UNIT
    return _Offset.apply(torch.zeros_like(t), torch.ones_like(t), t)


def _gradients(grad: Tensor, by_mean: Tensor, by_log_sigma: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of y, mean and t: all that counts is mean - y, and sigma."""
    of_mean = grad * by_mean
    return -of_mean, of_mean, _leading_back(grad * by_log_sigma * (PER_UNIT * STEP), t, 0.0, T_HIGH)


def bits(y: Tensor, mean: Tensor, t: Tensor, logit: Tensor | None = None) -> Tensor:
    """-log2 P(y) element by element, for y real (integer + noise) or integer; float32, of y's shape."""
    return _bits(_mass(y, mean, t, logit), _weight(logit))


def centroid(y_hat: Tensor, mean: Tensor, t: Tensor, logit: Tensor | None = None) -> Tensor:
    """E[y | round(y) = y_hat]: the decoder's best guess of the real latent, float32.

    y_hat + offset with |offset| <= 1/2: a latent of large scale stays in the middle of its bin, one of
    small scale moves to the side of its mean, which recovers what rounding to y_hat - mean would save.
    Of a mixture, the mean of the components' offsets, each by the probability that the latent came from it.
    """
    return _centroid(None if logit is None else _mass(y_hat, mean, t, logit), y_hat, mean, t, _weight(logit))


def bits_and_centroid(y_hat: Tensor, mean: Tensor, t: Tensor, logit: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Both, of integers; of mixtures in two thirds of the time."""
    mass, weight = _mass(y_hat, mean, t, logit), _weight(logit)
    return _bits(mass, weight), _centroid(mass, y_hat, mean, t, weight)


def around(y: Tensor, mean: Tensor, t: Tensor, logit: Tensor | None = None, fine: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The three integers nearest to y, or with fine = 2 the five multiples of a half, their bits and centroids, (3 or 5, *y.shape) each.

    The nearest in the middle. As bits() and centroid() make them, but for bits beyond 20, rounded; only bits have a gradient,
    by mean, t and logit.
    """
    middle, weight = torch.round(y * fine) / fine, _weight(logit)
    values = middle + _grid(1.0, fine, y)
    mass, offset = _Around.apply(*torch.broadcast_tensors((middle if weight is None else middle[..., None]) - mean, t), fine)
    return values, _bits(mass, weight), values + _mean_offset(offset, mass, weight)


def _mass(y: Tensor, mean: Tensor, t: Tensor, logit: Tensor | None) -> Tensor:
    """Of y, or of each component's y."""
    return _Mass.apply(*torch.broadcast_tensors(y if logit is None else y[..., None], mean, t))


def _weight(logit: Tensor | None) -> Tensor | None:
    return None if logit is None else softmax2(logit)


def _bits(mass: Tensor, weight: Tensor | None) -> Tensor:
    p = mass if weight is None else (weight * mass).sum(-1)
    return -torch.log2(Bounded.apply(p, 1e-9, 2.0))


def _centroid(mass: Tensor | None, y_hat: Tensor, mean: Tensor, t: Tensor, weight: Tensor | None) -> Tensor:
    offset = _Offset.apply(*torch.broadcast_tensors(y_hat if weight is None else y_hat[..., None], mean, t))
    return y_hat + _mean_offset(offset, mass, weight)


def _mean_offset(offset: Tensor, mass: Tensor | None, weight: Tensor | None) -> Tensor:
    """Of components, (..., K), by the chances that the latent came from them."""
    if weight is None:
        return offset
    came_from = weight * mass.clamp_min(1e-9)
    return (came_from * offset).sum(-1) / came_from.sum(-1)


def expected(of: Callable[..., Tensor], low: Tensor, share: Tensor, *parameters: Tensor) -> Tensor:
    """`of` (bits or centroid) an integer that is low + 1 with chance `share`, else low."""
    (value,) = expected_of_each(lambda *each: (of(*each),), low, share, *parameters, step=torch.ones_like(low))
    return value


def expected_of_each(
    of: Callable[..., tuple[Tensor, ...]], low: Tensor, share: Tensor, *parameters: Tensor, step: Tensor
) -> tuple[Tensor, ...]:
    """The same for functions of several results, and of values that are low + step with that chance."""
    if share.is_cuda:  # to wait for the number of those between takes longer than to do all, and cannot be in a graph
        return tuple(map(torch.lerp, of(low, *parameters), of(low + step, *parameters), [share] * 2))
    values = of(low + step * (share >= 1), *parameters)
    partly = (share > 0) & (share < 1)  # in training few: that spares it half of the work
    others = of((low + step)[partly], *(p[partly] for p in parameters))
    return tuple(v.masked_scatter(partly, torch.lerp(v[partly], o, share[partly])) for v, o in zip(values, others, strict=True))


def table_index(mean: Tensor, t: Tensor, logit: Tensor | None = None, dependent: bool = False) -> tuple[Tensor, ...]:
    """Exact face: parameters (float64 integers) -> table: mean in 2^-MEAN_BITS, scale index and, of a mixture,
    weights that sum to 2^WEIGHT_BITS; int64.

    dependent: latents are quantised dependently; then the search, which knows the steps of wide ones to be finer, leaves
    narrow ones narrower than models have learned, by one index.
    """
    shift, unit = FRACTION - MEAN_BITS, 2**FRACTION // PER_UNIT
    mean = torch.floor((mean + 2 ** (shift - 1)) * 2.0**-shift)
    index = torch.floor((t + unit // 2) * (1.0 / unit))
    index = (torch.where(index < WIDE, index - 1, index) if dependent else index).clamp(0, SCALES - 1)
    return (mean.long(), index.long()) if logit is None else (mean.long(), index.long(), softmax2(logit).long())


def is_wide(t: Tensor) -> Tensor:
    """Float face: whether table_index() will make WIDE or more of scale parameters."""
    return t * PER_UNIT >= WIDE - 0.5


def narrowed(t: Tensor) -> Tensor:
    """Float face: scale parameters as table_index(dependent=True) has them."""
    return torch.where(is_wide(t), t, t - 1 / PER_UNIT)


def from_index(mean: Tensor, index: Tensor, weight: Tensor | None = None) -> tuple[Tensor, ...]:
    """What `table_index` kept, back in real units, float32: (mean, t) or (mean, t, logit)."""
    parameters = mean.float() * 2.0**-MEAN_BITS, index.float() / PER_UNIT
    return parameters if weight is None else (*parameters, weight.float().log2())
