"""The contract of entropy models and the one walk over the latents that coding them takes.

An entropy model losslessly codes integer latents y_hat (B, M, h, w) of a known quality level. It is

    hyper      side information: z_hat from y_hat (encoder), features from z_hat (both sides); may be nothing
    order      a step number for every *cell*: one group of M/groups channels at one position
    predict    the distributions of some cells from the side information and the cells of *smaller* step: a
               Gaussian for every latent, or a mixture of K of them
    remember   what predict() needs of known cells beyond their values, computed once (models with attention)

and nothing else: training, writing and reading are the functions below, the same for every model.
predict() may look at all of y_hat but must depend on cells of smaller step only (derive masks from
order()); then the writer predicts all cells at once and the reader step by step, and since the
arithmetic is exact both get the same integers.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..exact import ExactConv, ExactLinear, LevelTable, leaky, to_fixed
from . import gaussian

CHUNK = 4096  # positions predicted at once: bounds the memory whatever the size of the image. Orders the cells of
# a step, so it is part of the format
Z_LIMIT = 127  # hyper latents are clamped to +-Z_LIMIT by the encoder
Y_LIMIT = 2047  # and latents to +-Y_LIMIT


@dataclass
class Side:
    """What both sides know before the first latent, and what remember() made of the latents since."""

    features: Tensor  # (B, S, h, w), or whatever else `hyper` makes of z_hat
    level: Tensor  # (B,) int64
    memory: dict[int, Tensor] = field(default_factory=dict)


class SideInformation(nn.Module):
    """What a model sends before the latents: integers z_hat (B, N, h_z, w_z). This one sends nothing at all."""

    def size(self, h: int, w: int) -> tuple[int, int, int]:
        """(N, h_z, w_z) for latents (h, w)."""
        return 0, 1, 1

    def analysis(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """(B, M, h, w) -> z, not rounded yet. Encoder only: what it decides is in the file."""
        return y_hat.new_zeros(len(y_hat), *self.size(*y_hat.shape[2:]))

    def parameters_of_z(self, level: Tensor, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        """(B,) -> parameters of z_hat where all of it is coded at once, each (B, N, h_z, w_z) = size."""
        nothing = torch.zeros(size, device=level.device)
        return nothing, nothing

    def synthesis(self, z_hat: Tensor) -> Tensor:
        """z_hat (exact face: scaled by 2^FRACTION) -> features, what predict() gets as side.features."""
        return z_hat

    def bits(self, z: Tensor, level: Tensor) -> Tensor:
        """Training: bits of all of z, (B,) float32; noise in place of rounding gives h_a its gradient."""
        z = z.float()
        return gaussian.bits(_noise(z) if self.training else torch.round(z), *self.parameters_of_z(level, z.shape)).sum((1, 2, 3))

    def code(self, level: Tensor, size: tuple[int, ...], coder, z_hat: Tensor | None) -> Tensor:
        """Exact face: write z_hat, or read it if None: (1, N, h_z, w_z) = size, int64."""
        table = gaussian.table_index(*self.parameters_of_z(level, size))
        return coder.code([x.flatten(0, 3) for x in table], None if z_hat is None else z_hat.flatten()).reshape(size)


class Hyper(SideInformation):
    """Hyper-analysis h_a, prior of z, hyper-synthesis h_s (Minnen et al. 2018, section 2).

    y_hat (M, h, w) ─ h_a, float ─► z (N, h/4, w/4) ─ round ─► z_hat ─ h_s, exact ─► features (S, h, w)
    """

    def __init__(self, latents: int, width: int, z_channels: int, side: int, anchors: int):
        super().__init__()
        D, N = width, z_channels
        self.h_a = nn.Sequential(
            nn.Conv2d(latents, D, 1), nn.SiLU(),
            nn.PixelUnshuffle(2), nn.Conv2d(4 * D, D, 1), nn.SiLU(),
            nn.Conv2d(D, D, 3, padding=1), nn.SiLU(),
            nn.PixelUnshuffle(2), nn.Conv2d(4 * D, N, 1),
        )  # fmt: skip
        self.prior = LevelTable(anchors, 2 * N)  # mean and scale of every channel of z
        self.up1 = ExactConv(N, 4 * D, 1)
        self.mix1 = ExactConv(D, D, 3)
        self.up2 = ExactConv(D, 4 * D, 1)
        self.mix2 = ExactConv(D, side, 3)
        self.shuffle = nn.PixelShuffle(2)

    def size(self, h: int, w: int) -> tuple[int, int, int]:
        return self.prior.values.shape[1] // 2, h // 4, w // 4

    def analysis(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.h_a(y_hat)

    def parameters_of_z(self, level: Tensor, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        mean, t = self.prior(level)[:, :, None, None].expand(-1, -1, *size[2:]).chunk(2, 1)
        return mean, t

    def synthesis(self, z_hat: Tensor) -> Tensor:
        """(B, N, h/4, w/4) -> (B, S, h, w), either face."""
        x = leaky(self.shuffle(self.up1(z_hat)))
        x = leaky(self.mix1(x))
        x = leaky(self.shuffle(self.up2(x)))
        return leaky(self.mix2(x))


class EntropyModel(nn.Module):
    """Base of all entropy models; see the module's docstring. M latent channels in `groups` groups."""

    groups = 1
    latents: int
    hyper: SideInformation

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
        for row, y in zip(self.head.level.values, latents, strict=True):
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
        wanted = slice(None)  # all: no copy of the weights
        if channels != wanted:
            wanted = torch.arange(self.level.values.shape[1], device=rows.device).view(2, -1)[:, channels].flatten()
        mean, t = (self.linear(rows, wanted) + self.level(level)[:, None, wanted]).chunk(2, -1)
        return mean, t


# --- training ---------------------------------------------------------------------------------------


def all_but_last_step(model: EntropyModel, h: int, w: int) -> Tensor:
    """The cells that others may depend on: (n,) int64."""
    order = model.order(h, w).flatten()
    return torch.nonzero(order < order.max())[:, 0]


def _noise(x: Tensor) -> Tensor:
    return x + torch.rand_like(x) - 0.5


def round_through(x: Tensor) -> Tensor:
    """round(x) whose gradient is that of x."""
    return x + (torch.round(x) - x).detach()


class Rate(NamedTuple):
    """The training-time face of a coded latent."""

    bits: Tensor  # (B,) float32, of y
    z_bits: Tensor  # (B,) float32, of z
    y_dec: Tensor  # (B, M, h, w): the latent as the synthesis sees it; if noisy, gradient straight through to y


def rate(model: EntropyModel, y: Tensor, level: Tensor, noisy: bool) -> Rate:
    """Differentiable bits of y: (B, M, h, w) real, unrounded.

    noisy=True measures y + U(-1/2, 1/2), which has a gradient for the analysis; noisy=False measures
    the integers themselves, for training an entropy model on frozen latents.
    """
    h, w = y.shape[2:]
    y_hat = round_through(y)
    z = model.hyper.analysis(y_hat, level)
    features = model.hyper.synthesis(round_through(z))
    at = torch.arange(model.groups * h * w, device=y.device)
    side = Side(features, level)
    model.remember(side, y_hat, all_but_last_step(model, h, w).to(y.device))
    parameters = [from_rows(r, model.groups, h, w).float() for r in model.predict(side, y_hat, at)]
    z_bits = model.hyper.bits(z, level)
    y_bits = gaussian.bits(_noise(y.float()) if noisy else torch.round(y.float()), *parameters)
    offset = gaussian.centroid(y_hat, *parameters) - y_hat
    y_dec = y_hat + (offset.detach() if noisy else offset)
    return Rate(y_bits.sum((1, 2, 3)), z_bits, y_dec)


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
def predict_all(model: EntropyModel, y_hat: Tensor, level: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z_hat (1, N, h_z, w_z) of y_hat (1, M, h, w), and the coder's table of y_hat that follows; all int64."""
    z_hat = torch.round(model.hyper.analysis(y_hat.float(), level)).clamp(-Z_LIMIT, Z_LIMIT).long()
    return z_hat, tables_of(model, Side(model.hyper.synthesis(to_fixed(z_hat)), level), y_hat)


def tables_of(model: EntropyModel, side: Side, y_hat: Tensor) -> tuple[Tensor, ...]:
    """The coder's table of y_hat (1, M, h, w)."""
    h, w = y_hat.shape[2:]
    y_fixed, cells = to_fixed(y_hat), torch.arange(model.groups * h * w, device=y_hat.device).view(model.groups, h * w)
    model.remember(side, y_fixed, all_but_last_step(model, h, w).to(y_hat.device))
    parts = [
        [rows.unflatten(1, at.shape) for rows in gaussian.table_index(*model.predict(side, y_fixed, at.flatten()))]
        for at in cells.split(CHUNK, 1)
    ]  # of each chunk a table, each (1, groups, positions, M / groups)
    table = (torch.cat(chunks, 2).flatten(1, 2) for chunks in zip(*parts, strict=True))
    return tuple(from_rows(rows, model.groups, h, w) for rows in table)


@torch.no_grad()
def write(model: EntropyModel, y_hat: Tensor, level: Tensor, writer) -> Decoded:
    """Code y_hat (1, M, h, w) int64 with a frozen model into `writer` (see coders.py)."""
    z_hat, table = predict_all(model, y_hat, level)
    model.hyper.code(level, z_hat.shape, writer, z_hat)
    return write_latents(model, table, y_hat, writer)


def write_latents(model: EntropyModel, table: tuple[Tensor, ...], y_hat: Tensor, writer) -> Decoded:
    """The walk, writing."""
    y_rows, *rows = (to_rows(x, model.groups)[0] for x in (y_hat, *table))
    for cells in chain.from_iterable(_steps(model, *y_hat.shape[2:])):
        writer.code([x[cells].flatten(0, 1) for x in rows], y_rows[cells].flatten())
    return Decoded(y_hat, table)


@torch.no_grad()
def read(model: EntropyModel, h: int, w: int, level: Tensor, reader) -> Decoded:
    """The inverse of write: latents (1, M, h, w) int64 out of `reader`."""
    z_hat = model.hyper.code(level, (1, *model.hyper.size(h, w)), reader, None).to(level.device)
    return read_latents(model, Side(model.hyper.synthesis(to_fixed(z_hat)), level), h, w, reader)


def read_latents(model: EntropyModel, side: Side, h: int, w: int, reader) -> Decoded:
    """The walk, reading."""
    device, G, C = side.level.device, model.groups, model.latents // model.groups
    known = torch.zeros(1, G * C, h, w, dtype=torch.float64, device=device)  # y_hat in fixed point
    steps, rows = _steps(model, h, w), []
    for step in steps:
        for cells in (piece.to(device) for piece in step):
            table = gaussian.table_index(*model.predict(side, known, cells))
            symbols = reader.code([x[0].flatten(0, 1) for x in table], None).to(device).view(1, -1, C)
            rows.append((symbols, *table))
            known.view(G, C, h * w)[cells // (h * w), :, cells % (h * w)] = to_fixed(symbols[0])
        if step is not steps[-1]:
            model.remember(side, known, torch.cat(step).to(device))
    order = torch.argsort(torch.cat(list(chain.from_iterable(steps)))).to(device)
    y_hat, *table = (from_rows(torch.cat(parts, 1)[:, order], G, h, w) for parts in zip(*rows, strict=True))
    return Decoded(y_hat, tuple(table))
