"""Motion between two frames, one vector for each cell of z (64x64 pixels): looking for it, and following it.

Frames are seen through a linear picture of their latents (see spatiotemporal.py), (B, 3, 16 h, 16 w). A vector
(row, col) says where in the earlier frame a block came from, in units of half a pixel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..exact import FRACTION, is_exact

UNITS = 2  # per pixel
REACH = 32  # pixels: how far the encoder looks
BLOCK = 64


@torch.no_grad()
def search(now: Tensor, before: Tensor, noise: float) -> Tensor:
    """Pictures (B, 3, H, W), H and W multiples of BLOCK -> vectors (B, 2, H / BLOCK, W / BLOCK), float32. Encoder only.

    Least squared error of the grey pictures, all shifts at once by Fourier transforms; noise: squared error that a block has
    to save for every doubling of its vector, lest flat blocks drift.
    """
    now, before = now.float().mean(1), F.pad(before.float().mean(1, keepdim=True), [REACH] * 4, mode="replicate")[:, 0]
    side, shifts = BLOCK + 2 * REACH, 2 * REACH + 1
    steps = torch.arange(-REACH, REACH + 1, device=now.device)
    cost = noise * torch.log2(1 + steps[:, None].abs() + steps.abs())
    ones = torch.fft.rfft2(torch.ones(BLOCK, BLOCK, device=now.device), (side, side)).conj()
    rows = []
    for top in range(0, now.shape[1], BLOCK):  # a row of blocks at a time
        blocks = now[:, top : top + BLOCK].unfold(2, BLOCK, BLOCK).transpose(1, 2)  # (B, W / BLOCK, BLOCK, BLOCK)
        windows = before[:, top : top + side].unfold(2, side, BLOCK).transpose(1, 2)  # (B, W / BLOCK, side, side)
        products = torch.fft.rfft2(windows) * torch.fft.rfft2(blocks, (side, side)).conj()
        energy = torch.fft.rfft2(windows.square()) * ones
        error = torch.fft.irfft2(energy - 2 * products, (side, side))[..., :shifts, :shifts] + cost
        best = error.flatten(2).argmin(2)
        row, col = torch.div(best, shifts, rounding_mode="floor"), best % shifts
        rows.append(torch.stack((row, col), 1) - REACH + _fractions(error, row, col))  # (B, 2, W / BLOCK)
    return torch.round(UNITS * torch.stack(rows, 2))


def _fractions(error: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Where between the shifts a parabola through the least error and its neighbours is least: (B, 2, n) in +-1/2."""
    last = error.shape[2] - 1

    def at(down: int, right: int) -> Tensor:
        index = (row + down).clamp(0, last) * (last + 1) + (col + right).clamp(0, last)
        return error.flatten(2).gather(2, index[..., None])[..., 0]

    middle = at(0, 0)
    result = []
    for before, after in ((at(-1, 0), at(1, 0)), (at(0, -1), at(0, 1))):
        bend = before + after - 2 * middle
        result.append(torch.where(bend > 0, (before - after) / (2 * bend.clamp(min=1e-9)), 0.0).clamp(-0.5, 0.5))
    still = (row == last // 2) & (col == last // 2)  # what seems to stand still is taken to
    return torch.stack(result, 1) * ~still[:, None]


def follow(picture: Tensor, motion: Tensor) -> Tensor:
    """Patches of a picture where the motion says they come from: (B, 3, 16 h, 16 w), (B, 2, h, w) -> (B, 3 16 16, h, w).

    Either face; half pixels are means of their neighbours. Whatever the vectors, only the picture is read.
    """
    B, C, H, W = picture.shape
    h, w = motion.shape[2:]
    exact = is_exact(picture)
    vectors = (motion * 2.0**-FRACTION if exact else motion.detach()).long()
    whole = torch.div(vectors, UNITS, rounding_mode="floor")
    half = vectors - UNITS * whole
    steps = torch.arange(16, device=picture.device)
    rows = whole[:, 0, :, :, None] + 16 * torch.arange(h, device=picture.device)[:, None, None] + steps  # (B, h, w, 16)
    cols = whole[:, 1, :, :, None] + 16 * torch.arange(w, device=picture.device)[:, None] + steps
    total = 0
    for down in (0, 1):
        for right in (0, 1):
            row = (rows + down * half[:, 0, :, :, None]).clamp(0, H - 1)
            col = (cols + right * half[:, 1, :, :, None]).clamp(0, W - 1)
            index = (row[..., :, None] * W + col[..., None, :]).view(B, 1, -1).expand(-1, C, -1)
            total = total + picture.flatten(2).gather(2, index)
    patches = total.view(B, C, h, w, 256).permute(0, 1, 4, 2, 3).reshape(B, C * 256, h, w) * 0.25
    return torch.floor(patches) if exact else patches
