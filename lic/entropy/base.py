"""The contract of entropy models and the one walk over the latents that coding them takes.

An entropy model losslessly codes integer latents y_hat (B, M, h, w) of a known quality level. It is

    analysis   z from y_hat, in the encoder; a model of sequences sees the latents of the frame before, too
    side       side information from z_hat, and from the frame before, on both sides
    order      a step number for every *cell*: one group of M/groups channels at one position
    predict    mean and scale of some cells from the side information and the cells of *smaller* step

and nothing else: training, writing and reading are the functions below, the same for every model.
predict() may look at all of y_hat but must depend on cells of smaller step only (derive masks from
order()); then the writer predicts all cells at once and the reader step by step, and since the
arithmetic is exact both get the same integers.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..exact import ExactConv, ExactLinear, LevelTable, leaky, to_fixed
from . import gaussian

CHUNK = 4096  # positions predicted at once: bounds the memory whatever the size of the image. Orders the cells of
# a step, so it is part of the format
Z_LIMIT = 127  # hyper latents are clamped to +-Z_LIMIT by the encoder
Y_LIMIT = 2047  # and latents to +-Y_LIMIT


class Side(NamedTuple):
    """What both sides know before the first latent."""

    features: Tensor  # (B, S, h, w)
    level: Tensor  # (B,) int64
    previous: Tensor | None = None  # (B, M, h, w): what the frame before says of y_hat, if a model looks there


class Hyper(nn.Module):
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

    def analysis(self, y_hat: Tensor) -> Tensor:
        """(B, M, h, w) -> z (B, N, h/4, w/4), real. Encoder only: what it decides is in the file."""
        return self.h_a(y_hat)

    def parameters_of_z(self, level: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """(B,) -> mean, t, each (B, N, h/4, w/4)."""
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
    looks_back = False  # True if it predicts from the previous frame's latents too
    latents: int
    hyper: Hyper

    def analysis(self, y_hat: Tensor, previous: Tensor) -> Tensor:
        """z (B, N, h/4, w/4), real, of y_hat and the frame before, (B, M, h, w) each; that is zero where there is none."""
        return self.hyper.analysis(y_hat)

    def side(self, z_hat: Tensor, level: Tensor, previous: Tensor) -> Side:
        """What follows from z_hat and the frame before, (B, M, h, w) in the face of z_hat."""
        return Side(self.hyper.synthesis(z_hat), level)

    def order(self, h: int, w: int) -> Tensor:
        """Step number of every cell: (groups, h, w) int64."""
        raise NotImplementedError

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and t of the cells `at`, from cells of smaller step. Either face.

        y_hat: (B, M, h, w), in the exact face scaled by 2^FRACTION; at: (n,) int64, flat indexes into
        (groups, h, w). Returns mean and t, each (B, n, M / groups).
        """
        raise NotImplementedError


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


def rate(model: EntropyModel, y: Tensor, level: Tensor, noisy: bool, previous: Tensor | None = None) -> Rate:
    """Differentiable bits of y: (B, M, h, w) real, unrounded. previous: y_hat of the frame before, if there is one.

    noisy=True measures y + U(-1/2, 1/2), which has a gradient for the analysis; noisy=False measures
    the integers themselves, for training an entropy model on frozen latents.
    """
    h, w = y.shape[2:]
    y_hat = round_through(y)
    previous = torch.zeros_like(y) if previous is None else previous
    z = model.analysis(y_hat, previous)
    side = model.side(round_through(z), level, previous)
    at = torch.arange(model.groups * h * w, device=y.device)
    mean, t = model.predict(side, y_hat, at)
    mean, t = (from_rows(r, model.groups, h, w).float() for r in (mean, t))
    z = z.float()
    z_bits = gaussian.bits(_noise(z) if model.training else torch.round(z), *model.hyper.parameters_of_z(level, z.shape))
    y_bits = gaussian.bits(_noise(y.float()) if noisy else torch.round(y.float()), mean, t)
    offset = gaussian.centroid(y_hat, mean, t) - y_hat
    y_dec = y_hat + (offset.detach() if noisy else offset)
    return Rate(y_bits.sum((1, 2, 3)), z_bits.sum((1, 2, 3)), y_dec)


def to_rows(y: Tensor, groups: int) -> Tensor:
    """(B, M, h, w) -> one row per cell, (B, groups h w, M / groups)."""
    B, M, h, w = y.shape
    return y.reshape(B, groups, M // groups, h * w).transpose(2, 3).reshape(B, groups * h * w, -1)


def from_rows(rows: Tensor, groups: int, h: int, w: int) -> Tensor:
    """The inverse of to_rows."""
    B, _, C = rows.shape
    return rows.reshape(B, groups, h * w, C).transpose(2, 3).reshape(B, groups * C, h, w)


# --- coding: exact face, one image ------------------------------------------------------------------


class Decoded(NamedTuple):
    """One image's latents and what the model knew of them; all (1, M, h, w) int64."""

    y_hat: Tensor
    mean: Tensor  # in 2^-MEAN_BITS
    index: Tensor  # of the scale


def _steps(model: EntropyModel, h: int, w: int) -> list[Tensor]:
    """The cells in coding order: by step, then by CHUNK of positions, then by index; in pieces of one step and chunk."""
    chunks = -(-h * w // CHUNK)
    order = (model.order(h, w) * chunks + (torch.arange(h * w) // CHUNK).view(h, w)).flatten()
    cells = torch.argsort(order, stable=True)
    return list(cells.split(torch.unique(order, return_counts=True)[1].tolist()))


def _walk_z(model: EntropyModel, level: Tensor, size: tuple[int, ...], coder, z_hat: Tensor | None) -> Tensor:
    mean, index = gaussian.table_index(*model.hyper.parameters_of_z(level, size))
    symbols = coder.code(mean.flatten(), index.flatten(), None if z_hat is None else z_hat.flatten())
    return symbols.reshape(size)


@torch.no_grad()
def predict_all(
    model: EntropyModel, y_hat: Tensor, level: Tensor, previous: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """z_hat (1, N, h/4, w/4) of y_hat (1, M, h, w), and the means and scale indexes (1, M, h, w) that follow; all int64.

    previous: like y_hat, the latents of the frame before, if there is one.
    """
    previous = torch.zeros_like(y_hat) if previous is None else previous
    z_hat = torch.round(model.analysis(y_hat.float(), previous.float())).clamp(-Z_LIMIT, Z_LIMIT).long()
    side = model.side(to_fixed(z_hat), level, to_fixed(previous))
    h, w = y_hat.shape[2:]
    y_fixed, cells = to_fixed(y_hat), torch.arange(model.groups * h * w, device=y_hat.device).view(model.groups, h * w)
    parts = [
        torch.stack(gaussian.table_index(*model.predict(side, y_fixed, at.flatten()))).unflatten(2, at.shape)
        for at in cells.split(CHUNK, 1)
    ]  # each (2, 1, groups, positions, M / groups)
    mean, index = (from_rows(rows.flatten(1, 2), model.groups, h, w) for rows in torch.cat(parts, 3))
    return z_hat, mean, index


@torch.no_grad()
def write(model: EntropyModel, y_hat: Tensor, level: Tensor, writer, previous: Tensor | None = None) -> Decoded:
    """Code y_hat (1, M, h, w) int64 with a frozen model into `writer` (see coders.py); previous: see predict_all."""
    z_hat, mean, index = predict_all(model, y_hat, level, previous)
    _walk_z(model, level, z_hat.shape, writer, z_hat)
    rows = [to_rows(x, model.groups)[0] for x in (mean, index, y_hat)]
    for cells in _steps(model, *y_hat.shape[2:]):
        writer.code(*(x[cells].flatten() for x in rows))
    return Decoded(y_hat, mean, index)


@torch.no_grad()
def read(model: EntropyModel, h: int, w: int, level: Tensor, reader, previous: Tensor | None = None) -> Decoded:
    """The inverse of write: latents (1, M, h, w) int64 out of `reader`."""
    device, N = level.device, model.hyper.prior.values.shape[1] // 2
    z_hat = _walk_z(model, level, (1, N, h // 4, w // 4), reader, None).to(device)
    G, C = model.groups, model.latents // model.groups
    known = torch.zeros(1, G * C, h, w, dtype=torch.float64, device=device)  # y_hat in fixed point
    side = model.side(to_fixed(z_hat), level, torch.zeros_like(known) if previous is None else to_fixed(previous))
    rows = known.new_zeros(3, G * h * w, C, dtype=torch.int64)  # y_hat, mean, index
    for cells in _steps(model, h, w):
        cells = cells.to(device)
        mean, index = (p[0] for p in gaussian.table_index(*model.predict(side, known, cells)))
        symbols = reader.code(mean.flatten(), index.flatten(), None).to(device).view_as(mean)
        rows[:, cells] = torch.stack((symbols, mean, index))
        known.view(G, C, h * w)[cells // (h * w), :, cells % (h * w)] = to_fixed(symbols)
    return Decoded(*from_rows(rows, G, h, w)[:, None])
