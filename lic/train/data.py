"""A folder of images as one block of pixels in memory, and random crops out of it."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..errors import LicError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
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


def load(folder: Path, device: torch.device) -> tuple[Pictures, Pictures]:
    """Training and held-out images of a folder (searched recursively)."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise LicError(f"{folder}: found {len(paths)} images, need at least 2")
    every = max(2, math.ceil(len(paths) / HELD_OUT))
    held_out = paths[::every]
    return Pictures([p for p in paths if p not in set(held_out)], device), Pictures(held_out, device)
