"""`local-dictionary`: fixed distributions, of which the encoder picks the best for every tile (Minnen et al. 2018, ICIP).

    y_hat ─ bits under every entry ─► index map ─ what codes best beside its neighbours, sent ─┐
    quality level ─ table ─► mixture of every channel ─┐                                       │
    dictionary ─ entry of the tile ────────────────────┴─► means, scales, weights of a latent ◄┘

An entry corrects the mixtures of a `factorized` model, channel by channel: adds to scale parameters and logits, and to
the means in units that grow with the quality. So one entry serves all levels. Entry 0 starts as no correction; where
an image has no use for a map, all of it is that entry, at next to no cost. The map is coded by tables too, in
wavefronts: no network output reaches the coder. The paper leaves tile and dictionary sizes and the coding of the map
open; what is here was chosen by measuring.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..container import LEVELS
from ..errors import LicError
from ..exact import FRACTION, LevelTable, Table, add, is_exact, multiply, softmax2
from . import gaussian, orders, seeding
from .base import Z_LIMIT, EntropyModel
from .coding import tables_of, walk, write_latents
from .factorized import COMPONENTS, mixtures, start_mixtures
from .side import Side, SideInformation

SWEEPS = 2  # over the map, to let each tile choose beside its neighbours' choices
SHARE = 0.7  # of what each neighbour says by itself, as they say much the same
BEFORE = [(0, -1), (-1, 0)]  # neighbours that an index is coded beside
START_TILES = 8000


@dataclass(frozen=True)
class DictionaryConfig:
    """Sizes of a `LocalDictionary`."""

    latents: int = 256  # M
    entries: int = 64  # K
    tile: int = 1  # side of a tile in latents, 16 pixels each
    anchors: int = 9


class IndexPrior(EntropyModel):
    """Distribution of an index beside the one to the left and the one above: sums of two tables' rows and a level's."""

    def __init__(self, entries: int, anchors: int):
        super().__init__()
        self.latents, self.hyper = 1, SideInformation()
        self.beside = torch.nn.ModuleList(Table(entries + 1, entries) for _ in BEFORE)  # row 0: outside the image
        self.level = LevelTable(anchors, entries)

    def order(self, h: int, w: int) -> Tensor:
        return orders.wavefront(h, w, 0)[None]

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """One narrow Gaussian at every index, weighed by what the neighbours say."""
        unit = 2.0**FRACTION if is_exact(y_hat) else 1.0
        logit = self.level(side.level)[:, None]
        for table, index in zip(self.beside, orders.gather(y_hat + unit, at, BEFORE).unbind(2), strict=True):
            logit = add(logit, table((index / unit).long()))
        mean = (torch.arange(logit.shape[2], device=at.device) * unit).to(logit.dtype).expand_as(logit)
        return mean[:, :, None], torch.zeros_like(mean)[:, :, None], logit[:, :, None]

    def start(self, maps: list[Tensor]) -> None:
        """From maps (B, 1, h, w) at every anchor: how often an index is, and how much more often beside another."""
        K = self.level.values.shape[1]
        counts = [torch.bincount(z.long().flatten(), minlength=K) for z in maps]
        often = torch.stack(counts).sum(0) + 1.0
        often /= often.sum()
        for row, count in zip(self.level.values, counts, strict=True):
            row.copy_(((count + K * often) / (count.sum() + K)).log2())
        for table, (down, right) in zip(self.beside, BEFORE, strict=True):
            pairs = torch.zeros(K, K, device=often.device)
            for z in (z.long() for z in maps):
                h, w = z.shape[2:]
                known, index = z[..., : h + down, : w + right], z[..., -down:, -right:]
                pairs += torch.bincount((known * K + index).flatten(), minlength=K * K).view(K, K)
            given = (pairs + 8 * often) / (pairs.sum(1, keepdim=True) + 8)
            table.values[1:] = SHARE * (given / often).log2()


class IndexMap(SideInformation):
    """Which entry every tile uses: z_hat (B, 1, h/T, w/T)."""

    def __init__(self, config: DictionaryConfig):
        super().__init__()
        K, M, self.tile = config.entries, config.latents, config.tile
        if not (1 <= K <= Z_LIMIT + 1 and self.tile >= 1):
            raise LicError(f"{K} entries for tiles of {self.tile}: there must be 1 .. {Z_LIMIT + 1} entries, and tiles of 1 or more")
        self.levels = LevelTable(config.anchors, 3 * M * COMPONENTS)  # as in a Factorized
        self.unit = LevelTable(config.anchors, M)  # of the corrections to means
        self.entries = Table(K, M * (1 + 2 * COMPONENTS))  # correction of the mean, of each t and of each logit
        self.prior = IndexPrior(K, config.anchors)
        torch.nn.init.ones_(self.unit.values)
        torch.nn.init.normal_(self.entries.values, std=0.1)

    def size(self, h: int, w: int) -> tuple[int, int, int]:
        return 1, -(-h // self.tile), -(-w // self.tile)

    def parameters(self, index: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        """Indexes (B, n) -> mean, t, logit of all channels, each (B, n, M, COMPONENTS). Either face."""
        entry = self.entries(index).unflatten(2, (-1, 1 + 2 * COMPONENTS))
        mean, t, logit = mixtures(self.levels, level).unbind(2)
        shift = multiply(entry[..., :1], self.unit(level)[:, None, :, None])
        return add(mean, shift), add(t, entry[..., 1 : 1 + COMPONENTS]), add(logit, entry[..., 1 + COMPONENTS :])

    @torch.no_grad()
    def analysis(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """The cheapest entries, latents and map together, as far as SWEEPS rounds find them."""
        cost = self._bits_under_entries(torch.round(y_hat), level)  # (B, K, hz, wz); while the encoder searches y lies between integers
        z = cost.argmin(1, keepdim=True).float()
        hz, wz = z.shape[2:]
        at, colour = torch.arange(hz * wz, device=z.device), orders.checkerboard(hz, wz).to(z.device)
        for step in range(2 * SWEEPS):
            *_, logit = self._prior_parameters(z, level, at)
            both = cost - softmax2(logit[:, :, 0]).log2().transpose(1, 2).view_as(cost)
            z = torch.where(colour == step % 2, both.argmin(1, keepdim=True).float(), z)
        return z

    def _prior_parameters(self, z: Tensor, level: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """Those of the prior in real units, whatever the face; each (B, n, 1, K)."""
        side = Side(z, level)
        if not is_exact(self.entries.values):
            return self.prior.predict(side, z, at)
        return gaussian.from_index(*gaussian.table_index(*self.prior.predict(side, z.double() * 2.0**FRACTION, at)))

    def _bits_under_entries(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """(B, M, h, w) -> (B, K, h/T, w/T): every distinct value of a channel is measured once."""
        B, M, h, w = y_hat.shape
        K, T = len(self.entries.values), self.tile
        parameters = self.parameters(torch.arange(K, device=y_hat.device).expand(B, -1), level)
        if is_exact(self.entries.values):
            parameters = gaussian.from_index(*gaussian.table_index(*parameters))
        low = y_hat.amin()
        span = int(y_hat.amax() - low) + 1
        channel = torch.arange(B * M, device=y_hat.device).view(B, M, 1, 1)
        keys, which = torch.unique(channel * span + (y_hat - low).long(), return_inverse=True)
        of = torch.div(keys, span, rounding_mode="floor")
        value = (keys % span + low).float()[:, None]
        each = [x.transpose(1, 2).reshape(B * M, K, -1) for x in parameters]
        bits = [gaussian.bits(v, *(x[c] for x in each)) for v, c in zip(value.split(4096), of.split(4096), strict=True)]
        bits = torch.cat([*bits, y_hat.new_zeros(1, K)])  # the last row is for cells beyond the border
        which = F.pad(which, (0, -w % T, 0, -h % T), value=len(bits) - 1)
        tiles = which.unfold(2, T, T).unfold(3, T, T).permute(0, 2, 3, 1, 4, 5)  # (B, hz, wz, M, T, T)
        sums = F.embedding_bag(tiles.reshape(-1, M * T * T), bits, mode="sum")
        return sums.view(*tiles.shape[:3], K).permute(0, 3, 1, 2)

    def bits(self, z: Tensor, level: Tensor) -> Tensor:
        at = torch.arange(z[0].numel(), device=z.device)
        return gaussian.bits(z.flatten(1), *(x[:, :, 0] for x in self.prior.predict(Side(z, level), z, at))).sum(1)

    def code(self, level: Tensor, size: tuple[int, ...], coder, z_hat: Tensor | None) -> Tensor:
        side = Side(torch.zeros(size, device=level.device), level)
        if z_hat is None:
            return walk(self.prior, side, *size[2:], lambda step, cells, table: coder.code(table, None)).y_hat.long()
        write_latents(self.prior, tables_of(self.prior, side, z_hat), z_hat, coder)
        return z_hat


class LocalDictionary(EntropyModel):
    """One group, one step, after the map."""

    capturable = False
    dependent = False
    searched = slice(0)  # z names entries of the dictionary

    def __init__(self, config: DictionaryConfig):
        super().__init__()
        self.config, self.latents, self.hyper = config, config.latents, IndexMap(config)

    def order(self, h: int, w: int) -> Tensor:
        return torch.zeros(1, h, w, dtype=torch.int64)

    def predict(self, side: Side, y_hat: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        w, T = y_hat.shape[3], self.config.tile
        row, col = torch.div(at, w, rounding_mode="floor"), at % w
        tile = torch.div(row, T, rounding_mode="floor") * side.features.shape[3] + torch.div(col, T, rounding_mode="floor")
        unit = 2.0**FRACTION if is_exact(side.features) else 1.0
        return self.hyper.parameters((side.features.flatten(1)[:, tile] / unit).long(), side.level)

    @torch.no_grad()
    def start(self, latents: list[Tensor]) -> None:
        """Mixtures from all latents, entries by k-means++ on the tiles of every other level (see seeding.py), the
        prior from the maps that these choose."""
        config, hyper = self.config, self.hyper
        start_mixtures(hyper.levels, latents)
        hyper.unit.values.copy_(torch.stack([y.std((0, 2, 3)) + 0.2 for y in latents]))
        parameters = hyper.levels.values.view(config.anchors, 3, config.latents, COMPONENTS)
        some, measured = range(1, config.anchors, 2), []
        for i in some:
            y, side = latents[i].round(), min(config.tile, *latents[i].shape[2:])
            tiles = y.unfold(2, side, side).unfold(3, side, side)
            tiles = tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(2)  # (tiles, M, T T)
            drawn = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(i))[: START_TILES // len(some)]
            measured.append(seeding.costs(tiles[drawn.to(tiles.device)], *parameters[i]))
        shifts = seeding.dictionary(torch.cat(measured), config.entries)
        entries = hyper.entries.values.view(config.entries, config.latents, 1 + 2 * COMPONENTS)
        entries.zero_()[..., 1 : 1 + COMPONENTS] = shifts[..., None]
        levels = torch.linspace(0, LEVELS, config.anchors, device=shifts.device).round().long()
        hyper.prior.start([hyper.analysis(y.round(), level.expand(len(y))) for y, level in zip(latents, levels, strict=True)])
