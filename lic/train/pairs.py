"""Pairs of neighbouring frames made from still photographs: a crop, and the same under a small random motion."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pictures

REACH = 32  # pixels: the longest shift between two frames, and the margin that crops are drawn with
STILL, CUT = 0.2, 0.1  # shares of pairs without any motion, and of pairs that have nothing to do with each other
TURN = 0.02  # largest rotation in radians, and largest change of scale
FADE, NOISE = 0.02, 2 / 255  # deviation of brightness and contrast, largest deviation of sensor noise


class Pairs:
    """Like Pictures, but every crop is two frames one after the other: (count, 6, size, size), the earlier one first."""

    def __init__(self, pictures: Pictures):
        self.pictures = pictures

    def crops(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        return pairs(self.pictures.crops(count, size + 2 * REACH, generator), generator)

    def centres(self, size: int) -> Tensor:
        """Of every image, with motions that are always the same: (images, 6, size, size)."""
        return pairs(self.pictures.centres(size + 2 * REACH), torch.Generator().manual_seed(2))


def pairs(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, H) -> two frames of each, (B, 6, H - 2 REACH, H - 2 REACH); all randomness out of `generator`."""
    B, size = len(x), x.shape[2] - 2 * REACH
    where = {"generator": generator, "device": generator.device}

    def rand(*shape):
        return torch.rand(*shape, **where).to(x.device)

    still, cut = (rand(B) < share for share in (STILL, CUT))
    theta = 2 * math.pi * rand(B)
    shift = REACH * (rand(B) ** 2)[:, None] * torch.stack((theta.cos(), theta.sin()), 1)  # (B, 2): short ones are likely
    shift = torch.where(rand(B, 1) < 0.4, shift.round(), shift)
    angle, zoom = (torch.where(rand(B) < 0.5, TURN * (2 * rand(B) - 1), 0.0) for _ in range(2))
    motion = torch.stack((zoom, angle, *shift.unbind(1)), 1) * ~still[:, None]

    first = x[:, :, REACH:-REACH, REACH:-REACH]
    second = _move(x, motion, size)
    second = torch.where(_boxes(rand(B, 5), size) & (rand(B) < 0.4)[:, None, None, None], first, second)  # a still part, or a still rest
    second = torch.where(cut[:, None, None, None], second.roll(1, 0), second)
    backwards = (rand(B) < 0.5)[:, None, None, None]
    first, second = torch.where(backwards, second, first), torch.where(backwards, first, second)

    faded = (rand(B) < 0.3)[:, None, None, None]
    brightness, contrast = (FADE * torch.randn(B, 1, 1, 1, **where).to(x.device) * faded for _ in range(2))
    second = second + contrast * (second - 0.5) + brightness
    frames = torch.cat((first, second), 1)
    deviation = NOISE * ((rand(B) - 0.4).clamp(min=0) / 0.6)[:, None, None, None]  # none in 40 %
    frames = frames + deviation * torch.randn(frames.shape, **where).to(x.device)
    return (frames * 255).round().clamp(0, 255) / 255


def _move(x: Tensor, motion: Tensor, size: int) -> Tensor:
    """The middle (B, 3, size, size) of pictures (B, 3, H, H) zoomed, turned and shifted; motion: (B, 4)."""
    zoom, angle, right, down = (m[:, None, None] for m in motion.unbind(1))
    steps = torch.arange(size, device=x.device) - (size - 1) / 2
    row, col = steps[:, None], steps
    a, b = (1 + zoom) * angle.cos(), (1 + zoom) * angle.sin()
    grid = torch.stack((a * col - b * row + right, b * col + a * row + down), -1)  # (B, size, size, 2), pixels from the middle
    return F.grid_sample(x, grid * (2 / x.shape[2]), "bicubic", "border", align_corners=False)


def _boxes(corners: Tensor, size: int) -> Tensor:
    """Random rectangles or what is around them: (B, 5) in [0, 1] -> (B, 1, size, size) bool."""
    low = (1.5 * corners[:, :2] - 0.5) * size
    high = low + (0.25 + 0.75 * corners[:, 2:4]) * size
    steps = torch.arange(size, device=corners.device)
    inside = (steps >= low[:, :, None]) & (steps < high[:, :, None])  # (B, 2, size)
    box = inside[:, 0, :, None] & inside[:, 1, None, :]
    return (box ^ (corners[:, 4:, None] < 0.5))[:, None]
