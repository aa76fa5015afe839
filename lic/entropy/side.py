"""Side information: what a file says of its latents before the first of them."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ..exact import ExactConv, LevelTable, leaky
from . import gaussian


def noise(x: Tensor) -> Tensor:
    """x + U(-1/2, 1/2): stands for rounding in training, where that has no gradient."""
    return x + torch.rand_like(x) - 0.5


@dataclass
class Side:
    """What both sides know before the first latent, and what remember() made of the latents since."""

    features: Tensor  # (B, S, h, w), or whatever else `hyper` makes of z_hat
    level: Tensor  # (B,) int64
    previous: Tensor | None = None  # (B, M, h, w): what the frame before says of y_hat, if a model looks there
    memory: dict[int, Tensor] = field(default_factory=dict)

    def rows(self, at: Tensor) -> Tensor:
        """The features of the positions `at`, (n,) int64: (B, n, S)."""
        return self._by_position.index_select(1, at)

    def previous_rows(self, at: Tensor, begin: int, end: int) -> Tensor:
        """Likewise, what the frame before says of the latents begin .. end - 1: (B, n, end - begin)."""
        return self._previous_by_position[..., begin:end].index_select(1, at)

    @cached_property
    def _by_position(self) -> Tensor:
        return self.features.flatten(2).transpose(1, 2).contiguous()  # once, not at every step

    @cached_property
    def _previous_by_position(self) -> Tensor:
        return self.previous.flatten(2).transpose(1, 2).contiguous()

    def kept(self, key: int, width: int, groups: int = 1, dtype: torch.dtype | None = None) -> Tensor:
        """memory[key], a row for every cell, zeros where nothing was kept yet: (B, groups h w, width), to be written to."""
        if key not in self.memory:
            B, _, h, w = self.features.shape
            self.memory[key] = self.features.new_zeros(B, groups * h * w, width, dtype=dtype)
        return self.memory[key]

    def keep(self, key: int, at: Tensor, rows: Tensor, groups: int = 1) -> Tensor:
        """Writes rows (B, n, width) of the cells `at` to memory[key], and returns that."""
        memory = self.kept(key, rows.shape[-1], groups, None if rows.is_floating_point() else rows.dtype)
        memory[:, at] = rows.to(memory.dtype)  # where autocast mixes types of reals
        return memory


class SideInformation(nn.Module):
    """What a model sends before the latents: integers z_hat (B, N, h_z, w_z). This one sends nothing at all."""

    def size(self, h: int, w: int) -> tuple[int, int, int]:
        """(N, h_z, w_z) for latents (h, w)."""
        return 0, 1, 1

    def analysis(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """(B, M, h, w) -> z, not rounded yet. Encoder only: what it decides is in the file."""
        return y_hat.new_zeros(len(y_hat), *self.size(*y_hat.shape[2:]))

    def parameters_of_z(self, level: Tensor, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        """(B,) -> parameters of z_hat where all of it is coded at once, each (B, N, h_z, w_z) = size."""
        nothing = torch.zeros(size, device=level.device)
        return nothing, nothing

    def synthesis(self, z_hat: Tensor) -> Tensor:
        """z_hat (exact face: scaled by 2^FRACTION) -> features, what predict() gets as side.features."""
        return z_hat

    def bits(self, z: Tensor, level: Tensor) -> Tensor:
        """Training: bits of all of z, (B,) float32; noise in place of rounding gives h_a its gradient."""
        z = z.float()
        return gaussian.bits(noise(z) if self.training else torch.round(z), *self.parameters_of_z(level, z.shape)).sum((1, 2, 3))

    def code(self, level: Tensor, size: tuple[int, ...], coder, z_hat: Tensor | None) -> Tensor:
        """Exact face: write z_hat, or read it if None: (1, N, h_z, w_z) = size, int64."""
        table = gaussian.table_index(*self.parameters_of_z(level, size))
        return coder.code([x.flatten(0, 3) for x in table], None if z_hat is None else z_hat.flatten()).reshape(size)


@dataclass(frozen=True)
class Sizes:
    """Of models with a hyperprior; their configs add to it."""

    latents: int = 256  # M
    width: int = 128  # of the hyper networks
    z_channels: int = 96  # N
    side: int = 192  # S, features of the side information
    anchors: int = 9


class Hyper(SideInformation):
    """Hyper-analysis h_a, prior of z, hyper-synthesis h_s (Minnen et al. 2018, section 2).

    y_hat (M, h, w) ─ h_a, float ─► z (N, h/4, w/4) ─ round ─► z_hat ─ h_s, exact ─► features (S, h, w)
    """

    def __init__(self, sizes: Sizes):
        super().__init__()
        D, N = sizes.width, sizes.z_channels
        self.h_a = nn.Sequential(
            nn.Conv2d(sizes.latents, D, 1), nn.SiLU(),
            nn.PixelUnshuffle(2), nn.Conv2d(4 * D, D, 1), nn.SiLU(),
            nn.Conv2d(D, D, 3, padding=1), nn.SiLU(),
            nn.PixelUnshuffle(2), nn.Conv2d(4 * D, N, 1),
        )  # fmt: skip
        self.prior = LevelTable(sizes.anchors, 2 * N)  # mean and scale of every channel of z
        self.up1 = ExactConv(N, 4 * D, 1)
        self.mix1 = ExactConv(D, D, 3)
        self.up2 = ExactConv(D, 4 * D, 1)
        self.mix2 = ExactConv(D, sizes.side, 3)
        self.shuffle = nn.PixelShuffle(2)

    def size(self, h: int, w: int) -> tuple[int, int, int]:
        return self.prior.values.shape[1] // 2, h // 4, w // 4

    def analysis(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.h_a(y_hat)

    def parameters_of_z(self, level: Tensor, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        mean, t = self.prior(level)[:, :, None, None].expand(-1, -1, *size[2:]).chunk(2, 1)
        return mean, t

    def synthesis(self, z_hat: Tensor) -> Tensor:
        """(B, N, h/4, w/4) -> (B, S, h, w), either face."""
        x = leaky(self.shuffle(self.up1(z_hat)))
        x = leaky(self.mix1(x))
        x = leaky(self.shuffle(self.up2(x)))
        return leaky(self.mix2(x))
