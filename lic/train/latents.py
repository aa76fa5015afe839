"""Latents of pictures as the encoder's search leaves them, in files: what entropy models and syntheses learn from.

To find them takes longer than to learn from them, so it is done once (`lic train latents`). Several processes may write
to one folder, each with a seed of its own.
"""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import annealing
from ..entropy import base, gaussian
from ..errors import LicError
from . import data, loss
from .loop import load, save
from .pairs import Pairs

HELD_OUT = "held-out.pt"
ROUNDS = (2, 3, 4)  # of the search, in turn: entropy models shall know what it makes of latents sooner and later
AT_ONCE, SHARD = 8, 64  # crops that are searched together, and that make a file
FOUND, ROUNDED, BETWEEN = STATES = ("found", "rounded", "between")


class Record(NamedTuple):
    """What is kept of crops, (n, M, h, w) each if nothing else is said; all but the integers themselves as differences from y_hat."""

    level: Tensor  # (n,) int16
    x: Tensor  # (n, 3, 16 h, 16 w) uint8: the crops, of pairs of frames the second ones
    y_hat: Tensor  # int16: what the search found
    rounded: Tensor  # int8: where it began
    between: Tensor  # float16: where it stood before its last round, in general between integers
    y_dec: Tensor  # float16: what the synthesis was expected to get then
    slope: Tensor  # float16, no difference: derivative of the distortion by that, in bits of the crop
    previous: Tensor  # int16, no difference: y_hat of the frame before; of single pictures (n, 0, h, w)
    found_dec: Tensor  # float16: what the synthesis gets of y_hat
    rounded_dec: Tensor  # float16: what it would get of where the search began


@torch.no_grad()
def _search(transforms: nn.Module, entropy: base.EntropyModel, x: Tensor, level: Tensor, rounds: int) -> Record:
    """Of crops x (B, 3, H, W) in [0, 1], or of the second ones of pairs of frames (B, 6, H, W)."""
    *before, x = x.to(memory_format=torch.channels_last).split(3, 1)
    rounded = torch.round(transforms.analysis(x, level).float())
    previous = torch.round(transforms.analysis(before[0], level).float()) if before else None
    found = annealing.settle(transforms, entropy, x, rounded, level, rounds, previous)
    y_hat = found.y_hat

    def decoded(y, z):
        return gaussian.centroid(y, *base.parameters_of(entropy, z, y, level, previous))

    def apart(y):
        return (y - y_hat).half()

    z_rounded = torch.round(base.analysis_of(entropy, rounded, level, previous))
    return Record(
        level.short(), (255 * x).round().to(torch.uint8), y_hat.short(), (rounded - y_hat).to(torch.int8),
        apart(found.y), apart(found.y_dec), found.slope.half(), (y_hat[:, :0] if previous is None else previous).short(),
        apart(decoded(y_hat, found.z_hat)), apart(decoded(rounded, z_rounded)),
    )  # fmt: skip


def _save(path: Path, parts: list[Record], fingerprint: str) -> None:
    latents = Record(*map(torch.cat, zip(*parts, strict=True)))
    save(path, {"latents_of": fingerprint, **latents._asdict()})


def write(
    folder: Path,
    out: Path,
    transforms: nn.Module,
    entropy: base.EntropyModel,
    fingerprint: str,
    *,
    pairs: bool,
    count: int,
    crop: int,
    enlarge: float,
    seed: int,
) -> None:
    """Search `count` crops of the images of `folder`, every second one enlarged, and of held-out ones the centres at five levels.

    transforms: of that fingerprint; entropy: with its float face; pairs: crops are pairs of frames, of which the second is searched.
    """
    device = next(transforms.parameters()).device
    transforms.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    entropy.eval().requires_grad_(False)
    pictures, held_out = data.load(folder, device)
    if pairs:
        pictures, held_out = Pairs(pictures), Pairs(held_out)
    if not (out / HELD_OUT).exists():
        todo = list(itertools.product(enumerate(held_out.centres(crop).split(AT_ONCE)), loss.VALIDATION_LEVELS))
        parts = []
        for (k, x), level in tqdm(todo, "held out", disable=None):
            parts.append(_search(transforms, entropy, x, torch.full((len(x),), level, device=device), ROUNDS[k % len(ROUNDS)]))
        _save(out / HELD_OUT, parts, fingerprint)
    crops, generator, parts = data.Crops(pictures, AT_ONCE, crop, crop, enlarge), torch.Generator().manual_seed(seed), []
    steps = -(-count // AT_ONCE)
    for step in tqdm(range(steps), "searching", disable=None):
        parts.append(_search(transforms, entropy, *crops.draw(step, 0.0, generator), ROUNDS[step % len(ROUNDS)]))
        if len(parts) == SHARD // AT_ONCE or step + 1 == steps:
            _save(out / f"{seed}-{step * AT_ONCE // SHARD:04}.pt", parts, fingerprint)
            parts = []


class Pool:
    """Crops out of the files of a folder, which stay on disk, and the held-out ones: what entropy models learn from."""

    shares = torch.tensor([0.6, 0.2, 0.2])  # of STATES: files hold what was found, and the search goes there by the others

    def __init__(self, folder: Path, device: torch.device, batch: int):
        self.device, self.batch = device, batch
        files = {path.name: load(path, mmap=True) for path in sorted(folder.glob("*.pt"))}
        if len(files) < 2 or HELD_OUT not in files or any("latents_of" not in file for file in files.values()):
            raise LicError(f"{folder}: not a folder of `lic train latents`")
        if any(set(Record._fields) - set(file) for file in files.values()):
            raise LicError(f"{folder}: latents of an older version")
        if len({file["latents_of"] for file in files.values()}) > 1:
            raise LicError(f"{folder}: latents of several transforms")
        self.fingerprint = files[HELD_OUT]["latents_of"]
        self.held = self._by_level([files.pop(HELD_OUT)])
        self.crops = self._by_level(list(files.values()))

    @staticmethod
    def _by_level(files: list[dict]) -> list[Record]:
        crops = [Record(*(file[field][k] for field in Record._fields)) for file in files for k in range(len(file["level"]))]
        return sorted(crops, key=lambda crop: int(crop.level))

    def draw(self, step: int, progress: float, generator: torch.Generator) -> tuple:
        """A batch, stratified by level."""
        device, n = generator.device, len(self.crops)
        share = (torch.arange(self.batch, device=device) + torch.rand(self.batch, generator=generator, device=device)) / self.batch
        states = torch.multinomial(self.shares.to(device), self.batch, replacement=True, generator=generator)
        crops = [self.crops[min(int(s * n), n - 1)] for s in share.tolist()]  # a share may have been rounded up to 1
        return self._stack(crops, [STATES[k] for k in states.tolist()])

    def held_out(self, state: str) -> Iterator:
        """All held-out crops in one of STATES."""
        for k in range(0, len(self.held), AT_ONCE):
            crops = self.held[k : k + AT_ONCE]
            yield self._stack(crops, [state] * len(crops))

    def at_levels(self, levels: Tensor, count: int) -> list[loss.Latents]:
        """Crops as found, `count` with the nearest level to each."""
        near = [sorted(self.crops, key=lambda crop: abs(int(crop.level) - level))[:count] for level in levels.tolist()]
        return [self._stack(crops, [FOUND] * len(crops)) for crops in near]

    def _stack(self, crops: list[Record], states: list[str]) -> loss.Latents:
        level, y_hat, y_dec, slope, previous = (self._of(crops, field) for field in ("level", "y_hat", "y_dec", "slope", "previous"))
        y_hat = y_hat.float()
        y = y_hat.clone()
        for k, state in enumerate(states):
            if state != FOUND:
                y[k] += getattr(crops[k], state).to(self.device)
        return loss.Latents(level.long(), y, y_hat + y_dec, slope.float(), previous.float() if previous.numel() else None)

    def _of(self, crops: list[Record], field: str) -> Tensor:
        return torch.stack([getattr(crop, field) for crop in crops]).to(self.device)


class WithFresh:
    """The batches of a pool, and with each as many crops that nobody has searched: rounded latents, no two of them alike.

    To search a crop takes several times as long as to learn from it, and an entropy model that sees few of them again and again
    learns them by heart. Only bits are learned from these batches: where latents decode to, `entropy` has learned already,
    and shall keep to it. Slopes are not known of fresh crops, and of searched ones they foretell too little by then: what
    they promise for small moves of all latents at once, pictures do not keep (weights/README.md).
    """

    def __init__(self, pool: Pool, pictures: data.Pictures, enlarge: float, transforms: nn.Module, entropy: base.EntropyModel):
        side = pool.crops[0].x.shape[2]
        self.pool, self.crops = pool, data.Crops(pictures, pool.batch, side, side, enlarge)
        self.transforms = transforms.requires_grad_(False).to(memory_format=torch.channels_last)
        self.entropy = copy.deepcopy(entropy).eval().requires_grad_(False)

    @torch.no_grad()
    def draw(self, step: int, progress: float, generator: torch.Generator) -> tuple:
        """A batch of the pool's before one of fresh crops."""
        found = self.pool.draw(step, progress, generator)
        x, level = self.crops.draw(step, progress, generator)
        with annealing.roughly(x.device.type):  # latents are off by a hundredth of a step then
            fresh = self.transforms.analysis(x, level)
        y = torch.cat((found.y, torch.round(fresh.float())))
        level = torch.cat((found.level, level))
        y_dec = base.expected_rate(self.entropy, y, level).y_dec
        return loss.Latents(level, y, y_dec, torch.zeros_like(y))


class DecodedPool(Pool):
    """The same crops as what a synthesis learns from."""

    shares = torch.tensor([0.8, 0.2, 0.0])  # what files hold, and what keeps it from depending on the search

    def _stack(self, crops: list[Record], states: list[str]) -> loss.Decoded:
        y_dec = torch.stack([getattr(crop, f"{state}_dec") for crop, state in zip(crops, states, strict=True)]).to(self.device)
        return loss.Decoded(self._of(crops, "level").long(), self._of(crops, "x"), self._of(crops, "y_hat") + y_dec.float())

    def pixels(self, count: int, size: int) -> Tensor:
        """Corners of crops of all qualities: (count at most, 3, size, size) in [0, 1]."""
        crops = self.crops[:: max(1, len(self.crops) // count)][:count]
        return self._of(crops, "x")[:, :, :size, :size].float() / 255
