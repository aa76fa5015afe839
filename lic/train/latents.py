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

from .. import annealing, search
from ..entropy import base, gaussian
from ..errors import LicError
from ..transforms import roughly
from ..weights import Models
from . import data, loss
from .loop import load, save
from .pairs import Pairs

HELD_OUT = "held-out.pt"
EFFORTS = (1, 2)  # of the search, in turn
AT_ONCE, SHARD = 8, 64  # crops that are drawn together, and that make a file
FOUND, ROUNDED, BETWEEN = STATES = ("found", "rounded", "between")


class Record(NamedTuple):
    """What is kept of crops, (n, M, h, w) each if nothing else is said."""

    level: Tensor  # (n,) int16
    dependent: Tensor  # (n,) bool: whether they are quantised dependently (trellis.py)
    x: Tensor  # (n, 3, 16 h, 16 w) uint8: the crops, of pairs of frames the second ones
    twice: Tensor  # int16: two times y_hat, what the search found
    previous: Tensor  # int16: y_hat of the frame before; of single pictures (n, 0, h, w)
    slope: Tensor  # float16: derivative of the distortion by found_dec, in bits of the crop
    # and as differences from y_hat, float16:
    rounded: Tensor  # where the search began
    between: Tensor  # where latents stood before they were decided, in general between their values
    found_dec: Tensor  # what the synthesis gets of y_hat
    rounded_dec: Tensor  # what it would get of where the search began


def _search(models: Models, x: Tensor, level: Tensor, effort: int, dependent: bool) -> Record | None:
    """Of a crop x (1, 3, H, W) in [0, 1], or of the second one of a pair of frames (1, 6, H, W); None of the few where it fails."""
    transforms, entropy = models.transforms, annealing.real(models.entropy)
    *before, x = x.to(memory_format=torch.channels_last).split(3, 1)
    rounded = torch.round(transforms.analysis(x, level).float())
    previous = torch.round(transforms.analysis(before[0], level).float()) if before else None
    found = search.find(models, x, rounded, level, effort, dependent, previous)
    if not found:
        return None
    z_rounded = torch.round(base.analysis_of(entropy, rounded, level, previous))
    rounded_dec = gaussian.centroid(rounded, *base.parameters_of(entropy, z_rounded, rounded, level, previous))
    y_hat = found.y_hat.float()
    return Record(
        level.short(), torch.tensor([found.dependent], device=level.device), (255 * x).round().to(torch.uint8), (2 * y_hat).short(),
        (y_hat[:, :0] if previous is None else previous).short(), found.slope.half(),
        *((y - y_hat).half() for y in (rounded, found.between, found.y_dec, rounded_dec)),
    )  # fmt: skip


def _save(path: Path, parts: list[Record | None], fingerprint: str) -> None:
    if parts := list(filter(None, parts)):
        latents = Record(*map(torch.cat, zip(*parts, strict=True)))
        save(path, {"latents_of": fingerprint, **latents._asdict()})


@torch.no_grad()
def write(
    folder: Path,
    out: Path,
    models: Models,
    *,
    pairs: bool,
    integers: bool,
    count: int,
    crop: int,
    enlarge: float,
    seed: int,
) -> None:
    """Search `count` crops of the images of `folder`, every second one enlarged, and of held-out ones the centres at five levels.

    pairs: crops are pairs of frames, of which the second is searched. integers: latents are not quantised dependently.
    """
    device = next(models.transforms.parameters()).device
    pictures, held_out = data.load(folder, device)
    if pairs:
        pictures, held_out = Pairs(pictures), Pairs(held_out)
    dependent = models.entropy.dependent and not integers

    def searched(x: Tensor, level: Tensor, number: int) -> list[Record | None]:
        effort = EFFORTS[number % len(EFFORTS)]
        return [_search(models, *one, effort, dependent) for one in zip(x.split(1), level.split(1), strict=True)]

    if not (out / HELD_OUT).exists():
        todo = list(itertools.product(enumerate(held_out.centres(crop).split(AT_ONCE)), loss.VALIDATION_LEVELS))
        parts = []
        for (k, x), level in tqdm(todo, "held out", disable=None):
            parts += searched(x, torch.full((len(x),), level, device=device), k)
        _save(out / HELD_OUT, parts, models.latents_of)
    crops, generator, parts = data.Crops(pictures, AT_ONCE, crop, crop, enlarge), torch.Generator().manual_seed(seed), []
    steps = -(-count // AT_ONCE)
    for step in tqdm(range(steps), "searching", disable=None):
        parts += searched(*crops.draw(step, 0.0, generator), step)
        if (step + 1) % (SHARD // AT_ONCE) == 0 or step + 1 == steps:
            _save(out / f"{seed}-{step * AT_ONCE // SHARD:04}.pt", parts, models.latents_of)
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
        self.dependent = any(bool(crop.dependent) for crop in self.crops)

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
        level, twice, found_dec, slope, previous = (
            self._of(crops, field) for field in ("level", "twice", "found_dec", "slope", "previous")
        )
        y_hat = twice / 2
        y = y_hat.clone()
        for k, state in enumerate(states):
            if state != FOUND:
                y[k] += getattr(crops[k], state).to(self.device)
        dependent = self._of(crops, "dependent") & torch.tensor([state != ROUNDED for state in states], device=self.device)
        previous = previous.float() if previous.numel() else None
        return loss.Latents(level.long(), y, y_hat + found_dec, slope.float(), dependent, previous)

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
        with roughly(x.device.type):  # latents are off by a hundredth of a step then
            fresh = self.transforms.analysis(x, level)
        y = torch.cat((found.y, torch.round(fresh.float())))
        level = torch.cat((found.level, level))
        dependent = torch.cat((found.dependent, torch.zeros_like(found.dependent)))
        y_dec = base.expected_rate(self.entropy, y, level, dependent=dependent).y_dec
        return loss.Latents(level, y, y_dec, torch.zeros_like(y), dependent)


class DecodedPool(Pool):
    """The same crops as what a synthesis learns from."""

    shares = torch.tensor([0.8, 0.2, 0.0])  # what files hold, and what keeps it from depending on the search

    def _stack(self, crops: list[Record], states: list[str]) -> loss.Decoded:
        y_dec = torch.stack([getattr(crop, f"{state}_dec") for crop, state in zip(crops, states, strict=True)]).to(self.device)
        return loss.Decoded(self._of(crops, "level").long(), self._of(crops, "x"), self._of(crops, "twice") / 2 + y_dec.float())

    def pixels(self, count: int, size: int) -> Tensor:
        """Corners of crops of all qualities: (count at most, 3, size, size) in [0, 1]."""
        crops = self.crops[:: max(1, len(self.crops) // count)][:count]
        return self._of(crops, "x")[:, :, :size, :size].float() / 255
