"""What fixed distributions start from: mixtures fitted to samples, and a dictionary of the shifts of their scales.

A *shift* moves the scale parameters of all components of a channel's mixture; SHIFTS are the ones considered. What the
channels of a tile cost at every shift is one table (tiles, channels, shifts); all else is sums and minima of it.
"""

import torch
from torch import Tensor

from . import gaussian

SHIFTS = torch.arange(-12, 7) * 0.5  # of t: sigma times 0.005 .. 11
EM_ROUNDS, EM_SAMPLES, LEAST = 12, 1000, 0.12
LLOYD_ROUNDS = 4
FLATTEST = 0.03  # share of the tiles that the second entry is made of


def fit_mixtures(samples: Tensor, components: int) -> tuple[Tensor, Tensor, Tensor]:
    """Expectation maximisation: integers (channels, n) -> mean, t, logit, each (channels, components).

    Components are no narrower than LEAST and keep a share: what a weak channel does not show in n samples must not cost
    as much as the impossible.
    """
    x = samples[:, :: -(-samples.shape[1] // EM_SAMPLES), None].float()  # (channels, n, 1)
    least = LEAST ** torch.linspace(1, 0, components, device=x.device)
    mean, deviation = x.mean(1).expand(-1, components), torch.maximum(x.std(1) * least, least)
    share = torch.full_like(mean, 1 / components)
    for _ in range(EM_ROUNDS):
        p = share[:, None] * torch.exp2(-gaussian.bits(x, mean[:, None], gaussian.inverse_sigma(deviation)[:, None]))
        p = p / p.sum(2, keepdim=True)
        weight = p.sum(1) + 0.5
        share = weight / weight.sum(1, keepdim=True)
        mean = ((p * x).sum(1) + 0.5 * mean) / weight
        variance = ((p * (x - mean[:, None]).square()).sum(1) + 0.5) / weight - 1 / 12
        deviation = torch.maximum(variance.clamp_min(0).sqrt(), least)
    return mean, gaussian.inverse_sigma(deviation), share.log2()


def costs(tiles: Tensor, mean: Tensor, t: Tensor, logit: Tensor) -> Tensor:
    """Bits of every channel of a tile at every shift: integers (n, channels, cells) -> (n, channels, shifts) float16."""
    low, high = int(tiles.min()), int(tiles.max())
    values = torch.arange(low, high + 1, device=tiles.device).float()
    each = [gaussian.bits(values, mean[:, None], (t + shift)[:, None], logit[:, None]) for shift in SHIFTS]  # (channels, values)
    lookup, channel = torch.stack(each, -1), torch.arange(len(mean), device=tiles.device)[:, None]
    return torch.cat([lookup[channel, part.long() - low].sum(2).half() for part in tiles.split(128)])


def dictionary(cost: Tensor, entries: int) -> Tensor:
    """k-means++ and some rounds of Lloyd's on bits: (tiles, channels, shifts) -> shifts of every entry (entries, channels).

    The first entry shifts nothing and stays; the second begins as the flattest tiles' own.
    """
    n, channels, _ = cost.shape
    generator, each = torch.Generator().manual_seed(0), torch.arange(channels, device=cost.device)
    everywhere = cost.float().mean(0)  # smooths what a few tiles say

    def fit(tiles: Tensor) -> Tensor:
        return (cost[tiles].float().sum(0) + everywhere).argmin(1)

    def bits(entry: Tensor) -> Tensor:
        return torch.cat([part[:, each, entry].float().sum(1) for part in cost.split(1024)])

    def draw(excess: Tensor) -> Tensor:
        return torch.multinomial(excess.clamp_min(1e-3).cpu(), 1, generator=generator).to(cost.device)

    ideal = torch.cat([part.float().amin(2).sum(1) for part in cost.split(1024)])
    found = [torch.full((channels,), SHIFTS.tolist().index(0.0), device=cost.device)]
    each_bits = [bits(found[0])]
    while len(found) < entries:
        least = torch.stack(each_bits).amin(0)
        flattest = torch.argsort(least)[: max(1, int(FLATTEST * n))]
        found.append(fit(flattest if len(found) == 1 else draw(least - ideal)))
        each_bits.append(bits(found[-1]))
    for _ in range(LLOYD_ROUNDS):
        least, chosen = torch.stack(each_bits, 1).min(1)
        for k in range(1, entries):
            own = torch.nonzero(chosen == k)[:, 0]
            found[k] = fit(own if len(own) else draw(least - ideal))  # a dead entry gets a tile that is badly served
            each_bits[k] = bits(found[k])
    return SHIFTS.to(cost.device)[torch.stack(found)]
