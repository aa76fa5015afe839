"""A folder of images as one block of pixels in memory, and random crops out of it."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..container import LEVELS
from ..errors import LicError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
LAST_PART = 0.8  # from this share of the budget on, crops have the side `last_crop`
GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly over 0 .. 1, after any number of steps
HELD_OUT = 24  # images kept for validation, evenly spaced in the sorted list


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


class Pictures:
    """All pixels of some images in one (pixels, 3) uint8 tensor, so that crops are one gather on any device."""

    def __init__(self, paths: list[Path], device: torch.device):
        with ThreadPoolExecutor() as pool:
            arrays = list(tqdm(pool.map(_pixels, paths), "loading", len(paths), disable=None))
        sizes = torch.tensor([a.shape[:2] for a in arrays])
        self.height, self.width = sizes.to(device).unbind(1)
        self.start = torch.tensor([0] + [len(a) * a.shape[1] for a in arrays]).cumsum(0)[:-1].to(device)
        self.pixels = torch.from_numpy(np.concatenate([a.reshape(-1, 3) for a in arrays])).to(device)

    def crops(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Random crops, half of them mirrored, half transposed: (count, 3, size, size) in [0, 1].

        Images are drawn with equal chance; a `size` beyond an image's sides repeats its last row or column.
        """
        device = self.pixels.device

        def rand(n):
            return torch.rand(n, generator=generator, device=generator.device).to(device)

        i = (rand(count) * len(self.start)).long()
        row = (rand(count) * (self.height[i] - size + 1).clamp(min=1)).long()[:, None]
        col = (rand(count) * (self.width[i] - size + 1).clamp(min=1)).long()[:, None]
        steps = torch.arange(size, device=device)
        mirrored = torch.where(rand(count)[:, None] < 0.5, steps, size - 1 - steps)
        rows = torch.minimum(row + steps, self.height[i, None] - 1)
        cols = torch.minimum(col + mirrored, self.width[i, None] - 1)
        index = self.start[i, None, None] + rows[:, :, None] * self.width[i, None, None] + cols[:, None, :]
        transposed = (rand(count) < 0.5)[:, None, None]
        index = torch.where(transposed, index.transpose(1, 2), index)
        return self.pixels[index].permute(0, 3, 1, 2).float() / 255

    def centres(self, size: int) -> Tensor:
        """The central crop of every image: (images, 3, size, size) in [0, 1]."""
        steps = torch.arange(size, device=self.pixels.device)
        rows = torch.minimum((self.height[:, None] - size).clamp(min=0) // 2 + steps, self.height[:, None] - 1)
        cols = torch.minimum((self.width[:, None] - size).clamp(min=0) // 2 + steps, self.width[:, None] - 1)
        index = self.start[:, None, None] + rows[:, :, None] * self.width[:, None, None] + cols[:, None, :]
        return self.pixels[index].permute(0, 3, 1, 2).float() / 255


@dataclass
class Crops:
    """Batches of crops and their levels, to train transforms with.

    Crops of side `last_crop` come half as many to a batch if larger than `crop`: fewer borders, annealed.
    enlarge: every second crop is a piece of it enlarged by up to so much. recolour: every fourth one has other colours.
    """

    pictures: Pictures
    batch: int
    crop: int
    last_crop: int
    enlarge: float = 1.0
    recolour: bool = False

    def draw(self, step: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (B, 3, H, H) in [0, 1] and level (B,) int64."""
        late = progress >= LAST_PART and self.last_crop > self.crop
        x = self.pictures.crops(max(self.batch // 2, 1) if late else self.batch, self.last_crop if late else self.crop, generator)
        x = enlarged(x, self.enlarge, step)
        if self.recolour:
            x[1::4] = recoloured(x[1::4], generator)
        return x.to(memory_format=torch.channels_last), draw_levels(len(x), generator).to(x.device)


def draw_levels(count: int, generator: torch.Generator) -> Tensor:
    """One random level per sample, stratified so that every batch covers all qualities: (count,) int64."""
    where = {"generator": generator, "device": generator.device}
    spread = (torch.randperm(count, **where) + torch.rand(count, **where)) / count
    return (spread * LEVELS).round().long()


def enlarged(x: Tensor, most: float, step: int) -> Tensor:
    """Crops (B, C, H, H) in [0, 1], every second one replaced by its first corner, enlarged by another factor up to `most` at every step.

    Photographs to train on are often small and full of detail; those that people take are not.
    """
    side = round(x.shape[2] / (1 + (most - 1) * (step * GOLDEN % 1)))
    if side < x.shape[2]:
        x[::2] = F.interpolate(x[::2, :, :side, :side], size=x.shape[2:], mode="bicubic").clamp(0, 1)
    return x


def recoloured(x: Tensor, generator: torch.Generator) -> Tensor:
    """Crops (B, 3, H, W) in [0, 1] with another contrast and saturation each."""
    contrast, saturation = torch.rand(2, len(x), 1, 1, 1, generator=generator, device=generator.device).to(x.device)
    grey = x.mean(1, keepdim=True)
    x = grey + (0.3 + 1.2 * saturation) * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + (0.5 + 0.7 * contrast) * (x - mean)).clamp(0, 1)


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)


def load(folder: Path, device: torch.device, also: Path | None = None) -> tuple[Pictures, Pictures]:
    """Training and held-out images of a folder (searched recursively); also: of others, to train with only."""
    paths = _images(folder)
    if len(paths) < 2:
        raise LicError(f"{folder}: found {len(paths)} images, need at least 2")
    every = max(2, math.ceil(len(paths) / HELD_OUT))
    held_out = paths[::every]
    return Pictures([p for p in paths if p not in set(held_out)] + (_images(also) if also else []), device), Pictures(held_out, device)
