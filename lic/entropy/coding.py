"""Coding with an entropy model: the one walk over the latents of one image that writing, reading and choosing them share.

All here is of the exact face: a frozen model, integers in float64 (see exact.py).
"""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ..exact import FRACTION, to_fixed
from . import base, gaussian
from .base import Z_LIMIT, EntropyModel, all_but_last_step, all_cells, analysis_of, or_zeros, to_rows
from .side import Side


class Decoded(NamedTuple):
    """One image's latents and what the model knew of them."""

    y_hat: Tensor  # (1, M, h, w) float64: integers, or if quantised dependently multiples of a half
    table: tuple[Tensor, ...]  # the coder's, see gaussian.py; each (1, M, h, w), or (1, M, h, w, K)
    z_hat: Tensor | None = None  # (1, N, h_z, w_z) int64; of the walk alone, without side information, None


def steps_of(model: EntropyModel, h: int, w: int) -> list[list[Tensor]]:
    """The cells in coding order: by step, then by CHUNK of positions, then by index; per step, in pieces of one chunk."""
    chunks = -(-h * w // base.CHUNK)
    order = (model.order(h, w) * chunks + (torch.arange(h * w) // base.CHUNK).view(h, w)).flatten()
    cells = torch.argsort(order, stable=True)
    numbers, counts = torch.unique(order, return_counts=True)
    steps: dict[int, list[Tensor]] = {}
    for number, piece in zip(numbers.tolist(), cells.split(counts.tolist()), strict=True):
        steps.setdefault(number // chunks, []).append(piece)
    return list(steps.values())


@torch.no_grad()
def predict_all(
    model: EntropyModel,
    y_hat: Tensor,
    level: Tensor,
    previous: Tensor | None = None,
    z_hat: Tensor | None = None,
    dependent: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z_hat (1, N, h_z, w_z) of y_hat (1, M, h, w), and the coder's table of y_hat that follows; int64.

    previous: like y_hat, the latents of the frame before, if there is one. z_hat: if the encoder wants another one. dependent:
    see trellis.py.
    """
    if z_hat is None:
        real = None if previous is None else previous.float()
        z_hat = torch.round(analysis_of(model, y_hat.float(), level, real)).clamp(-Z_LIMIT, Z_LIMIT).long()
    return z_hat, tables_of(model, exact_side(model, z_hat, level, previous, *y_hat.shape[2:]), y_hat, dependent)


def exact_side(model: EntropyModel, z_hat: Tensor, level: Tensor, previous: Tensor | None, h: int, w: int) -> Side:
    """Of integers z_hat, and the frame before, if there is one."""
    z_hat, previous = to_fixed(z_hat), None if previous is None else to_fixed(previous)
    return model.side(z_hat, level, or_zeros(previous, z_hat, (1, model.latents, h, w)))


def tables_of(model: EntropyModel, side: Side, y_hat: Tensor, dependent: bool = False) -> tuple[Tensor, ...]:
    """The coder's table of y_hat (1, M, h, w)."""
    h, w = y_hat.shape[2:]
    y_fixed, cells = to_fixed(y_hat), all_cells(model.groups * h * w, y_hat.device).view(model.groups, h * w)
    model.remember(side, y_fixed, all_but_last_step(model, h, w, y_hat.device))
    table: list[Tensor] = []
    for at in (chunk.flatten() for chunk in cells.split(base.CHUNK, 1)):
        _enter(table, model, y_hat.shape, at, gaussian.table_index(*model.predict(side, y_fixed, at), dependent=dependent))
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
    model: EntropyModel,
    y_hat: Tensor,
    level: Tensor,
    writer,
    previous: Tensor | None = None,
    z_hat: Tensor | None = None,
    dependent: bool = False,
) -> Decoded:
    """Code integers y_hat (1, M, h, w) with a frozen model into `writer` (see coders.py); previous, z_hat: see predict_all.

    dependent: y_hat is quantised dependently, for this z_hat.
    """
    z_hat, table = predict_all(model, y_hat, level, previous, z_hat, dependent)
    model.hyper.code(level, z_hat.shape, writer, z_hat)
    return write_latents(model, table, y_hat, writer, dependent)._replace(z_hat=z_hat)


def write_latents(model: EntropyModel, table: tuple[Tensor, ...], y_hat: Tensor, writer, dependent: bool = False) -> Decoded:
    """The walk, writing."""
    y_rows, *rows = (to_rows(x, model.groups)[0] for x in (y_hat, *table))
    for cells in chain.from_iterable(steps_of(model, *y_hat.shape[2:])):
        writer.code([x[cells].flatten(0, 1) for x in rows], y_rows[cells].flatten(), dependent)
    return Decoded(y_hat, table)


@torch.no_grad()
def read(model: EntropyModel, h: int, w: int, level: Tensor, reader, previous: Tensor | None = None, dependent: bool = False) -> Decoded:
    """The inverse of write: latents (1, M, h, w) out of `reader`."""
    z_hat = model.hyper.code(level, (1, *model.hyper.size(h, w)), reader, None).to(level.device)
    side = exact_side(model, z_hat, level, previous, h, w)
    return walk(model, side, h, w, lambda step, cells, table: reader.code(table, None, dependent), dependent)._replace(z_hat=z_hat)


def walk(
    model: EntropyModel,
    side: Side,
    h: int,
    w: int,
    value_of: Callable[[int, Tensor, list[Tensor]], Tensor],
    dependent: bool = False,
) -> Decoded:
    """Latents one step after the other, as a reader finds them, or the encoder chooses.

    value_of: step, cells (n,) and the coder's table of their latents, flat -> the values of these.
    """
    device, size = side.level.device, (1, model.latents, h, w)
    known = torch.zeros(size, dtype=torch.float64, device=device)  # y_hat in fixed point
    steps, table = steps_of(model, h, w), []
    for number, step in enumerate(steps):
        for cells in (piece.to(device) for piece in step):
            rows = gaussian.table_index(*model.predict(side, known, cells), dependent=dependent)
            values = value_of(number, cells, [x[0].flatten(0, 1) for x in rows]).to(device)
            _enter(table, model, size, cells, rows)
            _put(known, model.groups, cells, to_fixed(values.view(1, len(cells), -1)))
        if step is not steps[-1]:
            model.remember(side, known, torch.cat(step).to(device))
    return Decoded(known.mul_(2.0**-FRACTION), tuple(table))
