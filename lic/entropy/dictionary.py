"""`local-dictionary`: fixed distributions, of which the encoder picks the best for every tile (Minnen et al. 2018, ICIP).

    y_hat ─ bits under every entry ─► index map ─ what codes best beside its neighbours, sent ─┐
          └ tiles that come again ──► entries of the image's own, sent ────────────────────────┤
    quality level ─ table ─► mixture of every channel ─┐                                       │
    dictionary ─ entry of the tile ────────────────────┴─► means, scales, weights of a latent ◄┘

An entry corrects the mixtures of a `factorized` model, channel by channel: adds to scale parameters and logits, and to
the means in units that grow with the quality. So one entry serves all levels. Entry 0 starts as no correction; where
an image has no use for a map, all of it is that entry, at next to no cost. The map is coded by tables too, in
wavefronts: no network output reaches the coder. The paper leaves tile and dictionary sizes and the coding of the map
open; what is here was chosen by measuring.

A flat area is one tile again and again, and no entry that was made for all pictures foretells its colour. So an image
may bring a few entries of its own: tiles that it has many of are sent once, in the ordinary way, as a *strip* after the
map, and whatever the map says is like one of them costs nothing but its index.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..container import LEVELS
from ..errors import LicError
from ..exact import FRACTION, LevelTable, Table, add, is_exact, multiply, softmax2, to_fixed
from . import gaussian, orders, seeding
from .base import Z_LIMIT, EntropyModel
from .coding import tables_of, walk, write_latents
from .factorized import COMPONENTS, mixtures, start_mixtures
from .side import Side, SideInformation

SWEEPS = 2  # over the map, to let each tile choose beside its neighbours' choices
SHARE = 0.7  # of what each neighbour says by itself, as they say much the same
BEFORE = [(0, -1), (-1, 0)]  # neighbours that an index is coded beside
START_TILES = 8000
SENT = 16  # bits that an own entry takes besides its tile, about


@dataclass(frozen=True)
class DictionaryConfig:
    """Sizes of a `LocalDictionary`."""

    latents: int = 256  # M
    entries: int = 64  # K
    tile: int = 1  # side of a tile in latents, 16 pixels each
    anchors: int = 9
    own: int = 0  # entries that an image may bring along, numbered from K on


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
    """Which entry every tile uses: z_hat (B, 1, h/T, w/T); with own entries (B, 1 + M, h/T, w/T), what these say after it, or 0."""

    def __init__(self, config: DictionaryConfig):
        super().__init__()
        K, M, self.tile, self.own = config.entries, config.latents, config.tile, config.own
        if not (1 <= K <= K + self.own <= Z_LIMIT + 1 and self.tile >= 1):
            raise LicError(
                f"{K} + {self.own} entries for tiles of {self.tile}: there must be 1 .. {Z_LIMIT + 1} entries, and tiles of 1 or more"
            )
        if self.own and self.tile > 1:
            raise LicError("own entries are for tiles of 1")
        self.levels = LevelTable(config.anchors, 3 * M * COMPONENTS)  # as in a Factorized
        self.unit = LevelTable(config.anchors, M)  # of the corrections to means
        self.entries = Table(K, M * (1 + 2 * COMPONENTS))  # correction of the mean, of each t and of each logit
        self.prior = IndexPrior(K + self.own, config.anchors)
        torch.nn.init.ones_(self.unit.values)
        torch.nn.init.normal_(self.entries.values, std=0.1)

    def size(self, h: int, w: int) -> tuple[int, int, int]:
        M = self.unit.values.shape[1]
        return 1 + (M if self.own else 0), -(-h // self.tile), -(-w // self.tile)

    def parameters(self, index: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        """Indexes (B, n) -> mean, t, logit of all channels, each (B, n, M, COMPONENTS). Either face."""
        entry = self.entries(index).unflatten(2, (-1, 1 + 2 * COMPONENTS))
        mean, t, logit = mixtures(self.levels, level).unbind(2)
        shift = multiply(entry[..., :1], self.unit(level)[:, None, :, None])
        return add(mean, shift), add(t, entry[..., 1 : 1 + COMPONENTS]), add(logit, entry[..., 1 + COMPONENTS :])

    @torch.no_grad()
    def analysis(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """The cheapest entries, latents and map together, as far as SWEEPS rounds find them."""
        y_hat = torch.round(y_hat)  # while the encoder searches it lies between integers
        cost = self._bits_under_entries(y_hat, level)  # (B, K, hz, wz)
        if self.own:
            cost = torch.cat((cost, self._bits_under_own(y_hat, cost.amin(1))), 1)
        z = cost.argmin(1, keepdim=True).float()
        hz, wz = z.shape[2:]
        at, colour = torch.arange(hz * wz, device=z.device), orders.checkerboard(hz, wz).to(z.device)
        for step in range(2 * SWEEPS):
            *_, logit = self._prior_parameters(z, level, at)
            both = cost - softmax2(logit[:, :, 0]).log2().transpose(1, 2).view_as(cost)
            z = torch.where(colour == step % 2, both.argmin(1, keepdim=True).float(), z)
        return torch.cat((z, y_hat * (z >= len(self.entries.values))), 1) if self.own else z

    def _bits_under_own(self, y_hat: Tensor, least: Tensor) -> Tensor:
        """(B, M, h, w), and what each tile costs under the best entry, (B, h, w) -> nothing where a tile is what an own
        entry says, infinity elsewhere: (B, own, h, w). They are the tiles by which most is saved, in that order."""
        bits = torch.full((len(y_hat), self.own, *least.shape[1:]), torch.inf, device=y_hat.device)
        for of_own, tiles, of_tile in zip(bits.flatten(2), y_hat.flatten(2), least.flatten(1), strict=True):
            tile, which, count = torch.unique(tiles, dim=1, return_inverse=True, return_counts=True)
            total = torch.zeros(len(count), device=y_hat.device).index_add_(0, which, of_tile)
            saved = total - total / count - SENT
            saved[tile.abs().amax(0) > Z_LIMIT] = 0  # z is no larger
            best = saved.topk(min(self.own, len(saved)))
            for row, k in zip(of_own, best.indices[best.values > 0].tolist(), strict=False):
                row[which == k] = 0
        return bits

    def _prior_parameters(self, z: Tensor, level: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """Those of the prior in real units, whatever the face; each (B, n, 1, K)."""
        side = Side(z, level)
        if not is_exact(self.entries.values):
            return self.prior.predict(side, z, at)
        return gaussian.from_index(*gaussian.table_index(*self.prior.predict(side, to_fixed(z), at)))

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
        bits = self._bits_of_map(z[:, :1], level)
        for k, one in enumerate(z if self.own else ()):
            if (strip := self.strip(one)).shape[1]:
                at = level[k : k + 1]
                entries = self._entries_of(strip, at)
                latents = gaussian.bits(strip.T[None], *self.parameters(entries.flatten(1), at)).sum()
                bits = bits + (self._bits_of_map(entries.float(), at) + latents) * F.one_hot(torch.tensor(k, device=z.device), len(z))
        return bits

    def _bits_of_map(self, index: Tensor, level: Tensor) -> Tensor:
        at = torch.arange(index[0].numel(), device=index.device)
        parameters = self.prior.predict(Side(index, level), index, at)
        return gaussian.bits(index.flatten(1), *(x[:, :, 0] for x in parameters)).sum(1)

    def own_of(self, index: Tensor) -> Tensor:
        """Indexes of any type -> numbers of own entries, int64; -1 where it is one of the dictionary's."""
        return (index.long() - len(self.entries.values)).clamp(-1, self.own - 1)

    def strip(self, z: Tensor) -> Tensor:
        """The tiles that are a picture's own entries, out of its z (1 + M, h, w): (M, n)."""
        number = self.own_of(z[0]).flatten()
        strip = z.new_zeros(len(z) - 1, int(number.max()) + 1)
        strip[:, number[number >= 0]] = z[1:, z[0] >= len(self.entries.values)]
        return strip

    def _entries_of(self, strip: Tensor, level: Tensor) -> Tensor:
        """What its tiles are best coded with: (1, 1, 1, n) int64."""
        return self._bits_under_entries(strip[None, :, None].float(), level).argmin(1, keepdim=True)

    def code(self, level: Tensor, size: tuple[int, ...], coder, z_hat: Tensor | None) -> Tensor:
        index = self._code_map(level, size[2:], coder, None if z_hat is None else z_hat[:, :1])
        if not self.own:
            return index
        number = self.own_of(index)[0, 0]
        strip = self._code_strip(level, int(number.max()) + 1, coder, None if z_hat is None else self.strip(z_hat[0]))
        strip = F.pad(strip.to(index.device).clamp(-Z_LIMIT, Z_LIMIT), (0, 1))  # the last one is for -1; a damaged file may say anything
        return torch.cat((index, strip[None, :, number]), 1)

    def _code_map(self, level: Tensor, size: tuple[int, int], coder, index: Tensor | None) -> Tensor:
        """Write indexes (1, 1, h, w), or read them if None; int64."""
        side = Side(torch.zeros(1, 1, *size, device=level.device), level)
        if index is None:
            return walk(self.prior, side, *size, lambda step, cells, table: coder.code(table, None)).y_hat.long()
        write_latents(self.prior, tables_of(self.prior, side, index), index, coder)
        return index

    def _code_strip(self, level: Tensor, n: int, coder, strip: Tensor | None) -> Tensor:
        """Write the tiles that own entries are, (M, n) int64, or read them if None: as if they were a picture."""
        if not n:
            return torch.zeros(self.unit.values.shape[1], 0, dtype=torch.int64)
        entries = self._code_map(level, (1, n), coder, None if strip is None else self._entries_of(strip, level))
        table = gaussian.table_index(*self.parameters(entries.flatten(1), level))
        return coder.code([x.flatten(0, 2) for x in table], None if strip is None else strip.T.flatten()).view(n, -1).T


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
        z, unit = side.features.flatten(2)[:, :, tile], 2.0**FRACTION if is_exact(side.features) else 1.0
        index = (z[:, 0] / unit).long()
        parameters = self.hyper.parameters(index, side.level)
        if not self.config.own:
            return parameters
        is_own, (mean, *spread) = (self.hyper.own_of(index) >= 0)[..., None, None], parameters
        said = z[:, 1:].transpose(1, 2)[..., None]
        return torch.where(is_own, said, mean), *(x.masked_fill(is_own, 0) for x in spread)  # with the narrowest scale

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
        hyper.prior.start([hyper.analysis(y.round(), level.expand(len(y)))[:, :1] for y, level in zip(latents, levels, strict=True)])
