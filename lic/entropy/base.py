"""The contract of entropy models and the one walk over the latents that coding them takes.

An entropy model losslessly codes integer latents y_hat (B, M, h, w) of a known quality level. It is

    analysis   z from y_hat, in the encoder; a model of sequences sees the latents of the frame before, too
    side       side information from z_hat, and from the frame before, on both sides; may be nothing
    order      a step number for every *cell*: one group of M/groups channels at one position
    predict    the distributions of some cells from the side information and the cells of *smaller* step: a
               Gaussian for every latent, or a mixture of K of them
    remember   what predict() needs of known cells beyond their values, computed once (models with attention)

and nothing else: training, writing and reading are the functions below, the same for every model.
predict() may look at all of y_hat but must depend on cells of smaller step only (derive masks from
order()); then the writer predicts all cells at once and the reader step by step, and since the
arithmetic is exact both get the same integers.
"""

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..exact import FRACTION, ExactLinear, LevelTable, to_fixed
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


def expected_rate(model: EntropyModel, y: Tensor, level: Tensor, previous: Tensor | None = None) -> Rate:
    """Bits of integers y (B, M, h, w), likewise; with a gradient for the model only.

    y may be between integers, as in the search: then it is either of them, the more likely the nearer it is.
    """
    z, parameters = predict_real(model, y, level, previous)
    low = torch.floor(y)
    bits, y_dec = gaussian.expected_of_each(gaussian.bits_and_centroid, low, y - low, *parameters)
    return Rate(bits.sum((1, 2, 3)), model.hyper.bits(z, level), y_dec)


def predict_real(model: EntropyModel, y_hat: Tensor, level: Tensor, previous: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """z, not rounded, and the parameters of all latents y_hat, (B, M, h, w) or (B, M, h, w, K) each."""
    z = analysis_of(model, y_hat, level, previous)
    return z, parameters_of(model, round_through(z), y_hat, level, previous)


def analysis_of(model: EntropyModel, y_hat: Tensor, level: Tensor, previous: Tensor | None) -> Tensor:
    """z, not rounded, of y_hat (B, M, h, w) and the frame before, if there is one."""
    return model.analysis(y_hat, level, _or_zeros(previous, y_hat, y_hat.shape))


def parameters_of(model: EntropyModel, z_hat: Tensor, y_hat: Tensor, level: Tensor, previous: Tensor | None) -> list[Tensor]:
    """The second half of predict_real: of all latents, from z_hat and each other."""
    h, w = y_hat.shape[2:]
    side = model.side(z_hat, level, _or_zeros(previous, y_hat, y_hat.shape))
    model.remember(side, y_hat, all_but_last_step(model, h, w, y_hat.device))
    return [from_rows(r, model.groups, h, w).float() for r in model.predict(side, y_hat, all_cells(model.groups * h * w, y_hat.device))]


def _or_zeros(previous: Tensor | None, like: Tensor, size: tuple[int, ...]) -> Tensor:
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


# --- coding: exact face, one image ------------------------------------------------------------------


class Decoded(NamedTuple):
    """One image's latents and what the model knew of them."""

    y_hat: Tensor  # (1, M, h, w) int64
    table: tuple[Tensor, ...]  # the coder's, see gaussian.py; each (1, M, h, w), or (1, M, h, w, K)
    z_hat: Tensor | None = None  # (1, N, h_z, w_z) int64; of the walk alone, without side information, None


def _steps(model: EntropyModel, h: int, w: int) -> list[list[Tensor]]:
    """The cells in coding order: by step, then by CHUNK of positions, then by index; per step, in pieces of one chunk."""
    chunks = -(-h * w // CHUNK)
    order = (model.order(h, w) * chunks + (torch.arange(h * w) // CHUNK).view(h, w)).flatten()
    cells = torch.argsort(order, stable=True)
    numbers, counts = torch.unique(order, return_counts=True)
    steps: dict[int, list[Tensor]] = {}
    for number, piece in zip(numbers.tolist(), cells.split(counts.tolist()), strict=True):
        steps.setdefault(number // chunks, []).append(piece)
    return list(steps.values())


@torch.no_grad()
def predict_all(
    model: EntropyModel, y_hat: Tensor, level: Tensor, previous: Tensor | None = None, z_hat: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z_hat (1, N, h_z, w_z) of y_hat (1, M, h, w), and the coder's table of y_hat that follows; all int64.

    previous: like y_hat, the latents of the frame before, if there is one. z_hat: if the encoder wants another one.
    """
    if z_hat is None:
        real = None if previous is None else previous.float()
        z_hat = torch.round(analysis_of(model, y_hat.float(), level, real)).clamp(-Z_LIMIT, Z_LIMIT).long()
    return z_hat, tables_of(model, _exact_side(model, z_hat, level, previous, *y_hat.shape[2:]), y_hat)


def _exact_side(model: EntropyModel, z_hat: Tensor, level: Tensor, previous: Tensor | None, h: int, w: int) -> Side:
    """Of integers z_hat, and the frame before, if there is one."""
    z_hat, previous = to_fixed(z_hat), None if previous is None else to_fixed(previous)
    return model.side(z_hat, level, _or_zeros(previous, z_hat, (1, model.latents, h, w)))


def tables_of(model: EntropyModel, side: Side, y_hat: Tensor) -> tuple[Tensor, ...]:
    """The coder's table of y_hat (1, M, h, w)."""
    h, w = y_hat.shape[2:]
    y_fixed, cells = to_fixed(y_hat), all_cells(model.groups * h * w, y_hat.device).view(model.groups, h * w)
    model.remember(side, y_fixed, all_but_last_step(model, h, w, y_hat.device))
    table: list[Tensor] = []
    for at in (chunk.flatten() for chunk in cells.split(CHUNK, 1)):
        _enter(table, model, y_hat.shape, at, gaussian.table_index(*model.predict(side, y_fixed, at)))
    return tuple(table)


def _enter(table: list[Tensor], model: EntropyModel, size: tuple[int, ...], at: Tensor, rows: tuple[Tensor, ...]) -> None:
    """Enter rows of the cells `at`, (1, n, M / groups) or (1, n, M / groups, K) each, in a table of all latents; size: (1, M, h, w)."""
    table.extend(x.new_empty(*size, *x.shape[3:]) for x in rows[len(table) :])
    for whole, some in zip(table, rows, strict=True):
        _put(whole, model.groups, at, some)


def _put(whole: Tensor, groups: int, at: Tensor, rows: Tensor) -> None:
    """whole: (1, M, h, w) or (1, M, h, w, K); rows of the cells `at`, (1, n, M / groups) or (1, n, M / groups, K)."""
    _, M, h, w, *K = whole.shape
    whole.view(groups, M // groups, h * w, *K)[at // (h * w), :, at % (h * w)] = rows[0]


@torch.no_grad()
def write(
    model: EntropyModel, y_hat: Tensor, level: Tensor, writer, previous: Tensor | None = None, z_hat: Tensor | None = None
) -> Decoded:
    """Code y_hat (1, M, h, w) int64 with a frozen model into `writer` (see coders.py); previous, z_hat: see predict_all."""
    z_hat, table = predict_all(model, y_hat, level, previous, z_hat)
    model.hyper.code(level, z_hat.shape, writer, z_hat)
    return write_latents(model, table, y_hat, writer)._replace(z_hat=z_hat)


def write_latents(model: EntropyModel, table: tuple[Tensor, ...], y_hat: Tensor, writer) -> Decoded:
    """The walk, writing."""
    y_rows, *rows = (to_rows(x, model.groups)[0] for x in (y_hat, *table))
    for cells in chain.from_iterable(_steps(model, *y_hat.shape[2:])):
        writer.code([x[cells].flatten(0, 1) for x in rows], y_rows[cells].flatten())
    return Decoded(y_hat, table)


@torch.no_grad()
def read(model: EntropyModel, h: int, w: int, level: Tensor, reader, previous: Tensor | None = None) -> Decoded:
    """The inverse of write: latents (1, M, h, w) int64 out of `reader`."""
    z_hat = model.hyper.code(level, (1, *model.hyper.size(h, w)), reader, None).to(level.device)
    side = _exact_side(model, z_hat, level, previous, h, w)
    return read_latents(model, side, h, w, reader)._replace(z_hat=z_hat)


def read_latents(model: EntropyModel, side: Side, h: int, w: int, reader) -> Decoded:
    """The walk, reading."""
    device, size = side.level.device, (1, model.latents, h, w)
    known = torch.zeros(size, dtype=torch.float64, device=device)  # y_hat in fixed point
    steps, table = _steps(model, h, w), []
    for step in steps:
        for cells in (piece.to(device) for piece in step):
            rows = gaussian.table_index(*model.predict(side, known, cells))
            symbols = reader.code([x[0].flatten(0, 1) for x in rows], None).to(device)
            _enter(table, model, size, cells, rows)
            _put(known, model.groups, cells, to_fixed(symbols.view(1, len(cells), -1)))
        if step is not steps[-1]:
            model.remember(side, known, torch.cat(step).to(device))
    return Decoded(known.mul_(2.0**-FRACTION).long(), tuple(table))
