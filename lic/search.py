"""The encoder's search (`effort`): better latents for the same decoder, and hyper latents for them.

First all latents are annealed (annealing.py). Then they are decided in the order of coding, step by step, by the exact
tables: the cheapest values, or of those that are quantised dependently the cheapest path (trellis.py). In between all is
weighed again, PARTS times for a unit of effort, so that what is still undecided makes up for what has been decided: dependent
quantisation leaves errors everywhere, and the next latents know how to repair a part of them.

Only the encoder does this, so it may use floats.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import trellis
from .annealing import COLD, Options, Undecided, Weighed, cost_of, halves, real
from .defaults import TUNE
from .entropy import base, coding, gaussian
from .measures import MEASURES
from .weights import Models

ROUNDS, PARTS = 2, 4  # per unit of effort: rounds, and as many to begin with, and how often all is weighed while latents are decided
LATE = 0.3  # share of its way to what is expected that a latent goes meanwhile
BLOCK, HALO = 64, 4  # latents in row and column that are judged at once, and around them, both multiples of 4

Progress = Callable[[list], Iterable]  # iter, or tqdm to show how far a search is


class Found(NamedTuple):
    """What a search makes of latents; (1, M, h, w) float32 if nothing else is said."""

    y_hat: Tensor  # float64
    z_hat: Tensor  # (1, N, h_z, w_z)
    dependent: bool  # whether it is quantised dependently
    between: Tensor  # the latents before the first of them was decided: annealed, in general between their values
    y_dec: Tensor  # what the synthesis gets of y_hat
    slope: Tensor  # derivative of the distortion by that, in bits of the whole picture


def refine(
    models: Models,
    x: Tensor,
    y_hat: Tensor,
    level: Tensor,
    effort: int,
    previous: Tensor | None = None,
    progress: Progress = iter,
    tune: str = TUNE,
) -> tuple[Tensor, Tensor | None, bool]:
    """Better latents than y_hat (1, M, h, w), the rounded ones of x (1, 3, H, W) in [0, 1]; z_hat (1, N, h_z, w_z) for them; and
    whether they are quantised dependently.

    z_hat, float32 that holds integers, is None where it had better follow from y_hat. x is without padding: what pads a
    picture may be wrong. level: (1,) int64; previous: see coding.predict_all; progress: what iterates over the blocks, once for
    annealing and then as often as all is weighed again; tune: which of MEASURES the distortion is.
    """
    found = find(models, x, y_hat, level, effort, models.entropy.dependent, previous, progress, tune) if effort else None
    if found is None:
        return y_hat, None, False
    return found.y_hat, found.z_hat if models.entropy.searched != slice(0) else None, found.dependent


def find(
    models: Models,
    x: Tensor,
    y_hat: Tensor,
    level: Tensor,
    effort: int,
    dependent: bool,
    previous: Tensor | None = None,
    progress: Progress = iter,
    tune: str = TUNE,
) -> Found | None:
    """The search of refine(), or None if it ends higher than it began; dependent: try whether latents can be quantised so."""
    h, w = y_hat.shape[2:]
    for half in (True, False) if dependent else (False,):  # integers are what is left if that runs away
        picture = _Picture(models, x, y_hat, level, effort, previous, progress, MEASURES[tune], half)
        between = picture.y.clone()
        side = coding.exact_side(models.entropy, picture.z_hat.long(), level, previous, h, w)
        found = coding.walk(models.entropy, side, h, w, picture.decide, half).y_hat
        if not picture.lost():
            return Found(found, picture.z_hat, half, between, picture.y_dec, picture.slope)
    return None


class _Picture:
    """One picture's latents in blocks that overlap: annealed, then decided one step after the other. Fields are (1, M, h, w)."""

    def __init__(self, models, x, y_hat, level, effort, previous, progress, measure_of, dependent):
        self.entropy, self.dependent = models.entropy, dependent
        h, w = y_hat.shape[2:]
        self.y, self.y_dec, self.next_y, self.next_y_dec, self.slope_of_y, self.slope, self.curvature = (
            torch.empty_like(y_hat, memory_format=torch.contiguous_format) for _ in range(7)
        )
        self.open = torch.ones_like(self.y, dtype=torch.bool)
        self.z_hat = y_hat.new_empty(1, *self.entropy.hyper.size(h, w))
        steps = int(self.entropy.order(h, w).max()) + 1
        self.weighs = {steps * part // (PARTS * effort) for part in range(1, PARTS * effort)} - {0}  # before these steps
        self.blocks = []
        for top, left in itertools.product(range(0, h, BLOCK), range(0, w, BLOCK)):
            up, low = max(0, top - HALO), max(0, left - HALO)
            around = ..., slice(up, top + BLOCK + HALO), slice(low, left + BLOCK + HALO)
            measure = measure_of(x[..., 16 * up : 16 * (top + BLOCK + HALO), 16 * low : 16 * (left + BLOCK + HALO)])
            before = None if previous is None else previous[around].float()
            given = models.transforms, real(self.entropy), measure, y_hat[around], level, before, dependent
            self.blocks.append((Undecided(*given), around, (top, left), (top - up, left - low)))
        self.progress = iter(progress([at for _ in range(1 + len(self.weighs)) for *_, at, _ in self.blocks]))
        for latents, _, *where in self._each_block():
            latents.anneal(ROUNDS * (effort + 1))
            weighed = latents.weigh()
            if bool(latents.lost(weighed)):
                latents.begin()
                latents.anneal(1)
                weighed = latents.weigh()
            self._put(self.y, latents.y, *where)
            self._put(self.y_dec, latents.y_dec, *where)
            self._note(latents, weighed, *where)
            if self.entropy.searched != slice(0):
                self._put(self.z_hat, latents.z_hat, *where)
        if self.entropy.searched == slice(0):  # it follows
            self.z_hat = base.analysis_of(real(self.entropy), self.y, level, None if previous is None else previous.float()).round()
        self.z_hat.clamp_(-base.Z_LIMIT, base.Z_LIMIT)

    def _each_block(self) -> Iterator[tuple]:
        for block in self.blocks:
            next(self.progress, None)
            yield block

    def _put(self, whole: Tensor, part: Tensor, at: tuple[int, int], inside: tuple[int, int]) -> None:
        """Of a block, or its hyper latents, what is not around it."""
        step = self.y.shape[2] // whole.shape[2]
        (top, left), (i, j), size = *((a // step, b // step) for a, b in (at, inside)), BLOCK // step
        here = whole[..., top : top + size, left : left + size]
        here.copy_(part[..., i : i + size, j : j + size])

    def _note(self, latents: Undecided, weighed: Weighed, *where: tuple[int, int]) -> None:
        """What was found out of a block, and where its latents go if they are not decided before."""
        following = (torch.lerp(a, b, LATE) for a, b in zip((latents.y, latents.y_dec), latents.expected(weighed, COLD), strict=True))
        found = *following, weighed.slope_of_y, weighed.slope, weighed.curvature.expand_as(latents.y)
        for whole, part in zip((self.next_y, self.next_y_dec, self.slope_of_y, self.slope, self.curvature), found, strict=True):
            self._put(whole, part, *where)

    def _weigh(self) -> None:
        """All of it again, with what has been decided."""
        torch.where(self.open, self.next_y, self.y, out=self.y)
        torch.where(self.open, self.next_y_dec, self.y_dec, out=self.y_dec)
        for latents, around, *where in self._each_block():
            latents.y, latents.y_dec = self.y[around], self.y_dec[around].clone()
            self._note(latents, latents.weigh(), *where)

    def decide(self, step: int, cells: Tensor, table: list[Tensor]) -> Tensor:
        """The latents of some cells, as coding.walk asks for them."""
        if step in self.weighs:
            self.weighs.remove(step)  # it may come in several pieces
            self._weigh()
        groups, (M, h, w) = self.entropy.groups, self.y.shape[1:]
        channel = torch.div(cells, h * w, rounding_mode="floor")[:, None] * (M // groups) + torch.arange(M // groups, device=cells.device)
        at = (channel * (h * w) + (cells % (h * w))[:, None]).flatten()
        field = [x.view(-1)[at] for x in (self.y, self.y_dec, self.slope_of_y, self.slope, self.curvature)]
        field[0].clamp_(1 - base.Y_LIMIT, base.Y_LIMIT - 1)  # choices lie around it
        options = Options(*gaussian.around(field[0], *gaussian.from_index(*table)))
        values = options.values.gather(0, cost_of(options, *field).argmin(0, keepdim=True))[0]
        if self.dependent:
            wide = trellis.is_wide(table)
            some = [x[wide] for x in table]
            options = halves(field[0][wide], *gaussian.from_index(*some))
            cost = cost_of(options, *(x[wide] for x in field))
            best = trellis.best(*(x.cpu().numpy() for x in (options.values, cost, *some)))
            values[wide] = torch.from_numpy(best).to(values)
        self.y.view(-1)[at], self.open.view(-1)[at] = values, False
        self.y_dec.view(-1)[at] = trellis.centroid(values, table, self.dependent)
        return values.double()

    def lost(self) -> bool:
        """Whether the picture had better be left as it was, now that all is decided."""
        next(self.progress, None)  # that was the last one
        cost = 0.0
        for latents, around, *where in self.blocks:
            latents.y, latents.y_dec = self.y[around], self.y_dec[around]
            weighed = latents.weigh()
            self._put(self.slope, weighed.slope, *where)
            cost = cost + weighed.cost - latents.cost
        return not bool(cost <= 0)  # or not a number
