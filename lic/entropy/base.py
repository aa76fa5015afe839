"""The contract of entropy models, and what training takes.

An entropy model losslessly codes latents y_hat (B, M, h, w) of a known quality level. It is

    analysis   z from y_hat, in the encoder; a model of sequences sees the latents of the frame before, too
    side       side information from z_hat, and from the frame before, on both sides; may be nothing
    order      a step number for every *cell*: one group of M/groups channels at one position
    predict    the distributions of some cells from the side information and the cells of *smaller* step: a
               Gaussian for every latent, or a mixture of K of them
    remember   what predict() needs of known cells beyond their values, computed once (models with attention)

and nothing else: training, below, writing and reading, in coding.py, are the same for every model.
predict() may look at all of y_hat but must depend on cells of smaller step only (derive masks from
order()); then the writer predicts all cells at once and the reader step by step, and since the
arithmetic is exact both get the same integers.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..exact import ExactLinear, LevelTable
from . import gaussian
from .orders import kept
from .side import Side, SideInformation

CHUNK = 4096  # positions predicted at once: bounds the memory whatever the size of the image. Orders the cells of
# a step, so it is part of the format
Z_LIMIT = 127  # hyper latents are clamped to +-Z_LIMIT by the encoder
Y_LIMIT = 2047  # and latents to +-Y_LIMIT


class EntropyModel(nn.Module):
    """Base of all entropy models; see the module's docstring. M latent channels in `groups` groups."""

    groups = 1
    capturable = True  # False if a training step waits for values, or does other things for other values (train/captured.py)
    looks_back = False  # True if it predicts from the previous frame's latents too
    dependent = True  # False if latents cannot be quantised dependently (trellis.py): one Gaussian each is what that takes
    searched = slice(None)  # channels of z that the encoder may move by a step: where neighbours mean nearly the same
    latents: int
    hyper: SideInformation

    def analysis(self, y_hat: Tensor, level: Tensor, previous: Tensor) -> Tensor:
        """z (B, N, h_z, w_z), real, of y_hat and the frame before, (B, M, h, w) each; that is zero where there is none."""
        return self.hyper.analysis(y_hat, level)

    def side(self, z_hat: Tensor, level: Tensor, previous: Tensor) -> Side:
        """What follows from z_hat and the frame before, (B, M, h, w) in the face of z_hat."""
        return Side(self.hyper.synthesis(z_hat), level)

    def order(self, h: int, w: int) -> Tensor:
        """Step number of every cell: (groups, h, w) int64."""
        raise NotImplementedError

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """Parameters of the cells `at` (see gaussian.py), from cells of smaller step. Either face.

        y_hat: (B, M, h, w), in the exact face scaled by 2^FRACTION; at: (n,) int64, flat indexes into
        (groups, h, w). Returns (mean, t), each (B, n, M / groups), or (mean, t, logit), each (B, n, M / groups, K).
        """
        raise NotImplementedError

    def remember(self, side: Side, y_hat: Tensor, at: Tensor) -> None:
        """Fill side.memory. Told once of every cell `at` when it is known, in whole steps and in their order, or all at once.

        Not told of the last step: nobody asks any more.
        """

    @torch.no_grad()
    def start(self, latents: list[Tensor]) -> None:
        """Training begins: set what data can set. latents: y of the same crops at every anchor level, (B, M, h, w) each."""
        for head in (module for module in self.modules() if isinstance(module, Head)):
            for row, y in zip(head.level.values, latents, strict=True):
                row[-self.latents :] = gaussian.inverse_sigma(y.std((0, 2, 3)) + 0.2)


class Head(nn.Module):
    """rows of features -> rows of (mean, t), with a bias of its own at every quality level."""

    def __init__(self, inputs: int, outputs: int, anchors: int):
        super().__init__()
        self.linear = ExactLinear(inputs, 2 * outputs)
        self.level = LevelTable(anchors, 2 * outputs)
        nn.init.normal_(self.linear.weight, std=0.1 / inputs**0.5)

    def forward(self, rows: Tensor, level: Tensor, channels: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """rows: (B, n, inputs) -> mean, t, each (B, n, outputs), or of some of the channels only."""
        wanted, bias = None, self.level(level)  # all: no copy of the weights
        if channels != slice(None):
            wanted = torch.arange(bias.shape[1], device=rows.device).view(2, -1)[:, channels].flatten()
            bias = bias.index_select(1, wanted)
        mean, t = (self.linear(rows, wanted) + bias[:, None]).chunk(2, -1)
        return mean, t


# --- training ---------------------------------------------------------------------------------------


@kept(16)
def all_cells(count: int, device: torch.device) -> Tensor:
    """(count,) int64."""
    return torch.arange(count, device=device)


@kept(16)
def all_but_last_step(model: EntropyModel, h: int, w: int, device: torch.device) -> Tensor:
    """The cells that others may depend on: (n,) int64."""
    order = model.order(h, w).flatten()
    return torch.nonzero(order < order.max())[:, 0].to(device)


def round_through(x: Tensor) -> Tensor:
    """round(x) whose gradient is that of x."""
    return x + (torch.round(x) - x).detach()


class Rate(NamedTuple):
    """The training-time face of a coded latent."""

    bits: Tensor  # (B,) float32, of y
    z_bits: Tensor  # (B,) float32, of z
    y_dec: Tensor  # (B, M, h, w): the latent as the synthesis sees it; gradient straight through to y


SOFT = 1 / 8  # width of the band around half-way in which a latent counts as partly the one integer, partly the other


def _nearly_integer_bits(y: Tensor, parameters: list[Tensor]) -> Tensor:
    """Bits of round(y), but for a narrow band around half-way where they pass over from the one integer's to the next one's.

    The usual stand-in for rounding, y + U(-1/2, 1/2), is far from what files cost where scales are small: a latent that is
    always 0 costs nothing, but 0.03 bits with noise, and a picture has hundreds of such channels (weights/README.md).
    """
    low = torch.floor(y.detach())
    share = ((y - low - 0.5) / SOFT + 0.5).clamp(0, 1)  # of low + 1
    return gaussian.expected(gaussian.bits, low, share, *parameters)


def rate(model: EntropyModel, y: Tensor, level: Tensor, previous: Tensor | None = None) -> Rate:
    """Differentiable bits of y, (B, M, h, w) real, unrounded: with a gradient for the analysis, too.

    previous: y_hat of the frame before, if there is one.
    """
    y_hat = round_through(y)
    z, parameters = predict_real(model, y_hat, level, previous)
    fixed = y_hat.detach()  # the centroid of a latent that is nearly certain hardly moves with it, but the encoder must not give it up
    y_dec = gaussian.centroid(fixed, *parameters) + (y_hat - fixed)
    return Rate(_nearly_integer_bits(y, parameters).sum((1, 2, 3)), model.hyper.bits(z, level), y_dec)


def expected_rate(model: EntropyModel, y: Tensor, level: Tensor, previous: Tensor | None = None, dependent: Tensor | None = None) -> Rate:
    """Bits of integers y (B, M, h, w), likewise; with a gradient for the model only.

    y may be between integers, as in the search: then it is either of them, the more likely the nearer it is.
    dependent: (B,) bool, pictures that are quantised dependently (trellis.py), of which wide latents are multiples of a half.
    """
    z, (mean, t, *logit) = predict_real(model, y, level, previous)
    step, share_of_offset = torch.ones_like(y), 1.0
    if dependent is not None and model.dependent:
        dependent = dependent.view(-1, 1, 1, 1)
        wide = gaussian.is_wide(t.detach()) & dependent
        t = torch.where(dependent, gaussian.narrowed(t), t)
        step, share_of_offset = torch.where(wide, 0.5, 1.0), torch.where(wide, gaussian.CENTRED, 1.0)
    low = torch.floor(y / step) * step
    bits, y_dec = gaussian.expected_of_each(gaussian.bits_and_centroid, low, (y - low) / step, mean, t, *logit, step=step)
    return Rate(bits.sum((1, 2, 3)), model.hyper.bits(z, level), y + share_of_offset * (y_dec - y))


def predict_real(model: EntropyModel, y_hat: Tensor, level: Tensor, previous: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """z, not rounded, and the parameters of all latents y_hat, (B, M, h, w) or (B, M, h, w, K) each."""
    z = analysis_of(model, y_hat, level, previous)
    return z, parameters_of(model, round_through(z), y_hat, level, previous)


def analysis_of(model: EntropyModel, y_hat: Tensor, level: Tensor, previous: Tensor | None) -> Tensor:
    """z, not rounded, of y_hat (B, M, h, w) and the frame before, if there is one."""
    return model.analysis(y_hat, level, or_zeros(previous, y_hat, y_hat.shape))


def parameters_of(model: EntropyModel, z_hat: Tensor, y_hat: Tensor, level: Tensor, previous: Tensor | None) -> list[Tensor]:
    """The second half of predict_real: of all latents, from z_hat and each other."""
    h, w = y_hat.shape[2:]
    side = model.side(z_hat, level, or_zeros(previous, y_hat, y_hat.shape))
    model.remember(side, y_hat, all_but_last_step(model, h, w, y_hat.device))
    return [from_rows(r, model.groups, h, w).float() for r in model.predict(side, y_hat, all_cells(model.groups * h * w, y_hat.device))]


def or_zeros(previous: Tensor | None, like: Tensor, size: tuple[int, ...]) -> Tensor:
    """The frame before, or what stands for none: zeros of that size, which take no memory."""
    return like.new_zeros(1).expand(size) if previous is None else previous


def to_rows(y: Tensor, groups: int) -> Tensor:
    """(B, M, h, w) -> one row per cell, (B, groups h w, M / groups)."""
    B, M, h, w, *K = y.shape
    return y.reshape(B, groups, M // groups, h * w, *K).transpose(2, 3).reshape(B, groups * h * w, M // groups, *K)


def from_rows(rows: Tensor, groups: int, h: int, w: int) -> Tensor:
    """The inverse of to_rows; of mixtures, (B, groups h w, M / groups, K) -> (B, M, h, w, K)."""
    B, _, C, *K = rows.shape
    return rows.reshape(B, groups, h * w, C, *K).transpose(2, 3).reshape(B, groups * C, h, w, *K)
