"""Start from the best linear codec: principal components, theoretical step sizes, measured scales.

From random weights a small transform needs many thousand steps to get where this begins.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..container import LEVELS
from ..entropy import gaussian
from ..entropy.base import EntropyModel
from ..transforms import PatchTransforms, lambda_of
from .latents import Pool

START_CROPS = 32  # at every level, for an entropy model


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(samples, dimensions) -> the `count` leading components (count, dimensions) and their deviations."""
    rows = rows.double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    order = torch.argsort(values, descending=True)[:count]
    return vectors[:, order].T.float(), values[order].clamp_min(1e-9).sqrt().float()


def _as_rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def initialise(transforms: PatchTransforms, entropy: EntropyModel, x: Tensor) -> None:
    """Set both models to a linear transform codec fitted to the crops x (B, 3, H, W) in [0, 1].

    The entropy model starts from the latents that follow.
    """
    config = transforms.config
    C = min(config.width, 3 * 64)  # wider networks have further features: random ones, that nothing looks at yet

    def producer(conv, matrix):
        conv.weight[: len(matrix)] = matrix[:, :, None, None]
        conv.bias.zero_()

    def consumer(conv, matrix):
        conv.weight.zero_()
        conv.weight[:, : matrix.shape[1], conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = matrix
        conv.bias.zero_()

    blocks = F.pixel_unshuffle(x - 0.5, 8)
    basis, deviation = _principal(_as_rows(blocks), C)
    whitening = deviation.clamp_min(1e-3).pow(-0.5)[:, None]  # half-way: all components within sight of the blocks
    producer(transforms.embed, basis * whitening)
    consumer(transforms.pixels, (basis / whitening).T)

    features = F.pixel_unshuffle(F.conv2d(blocks, transforms.embed.weight[:C]), 2)
    scale = whitening[:, 0].repeat_interleave(4)  # undo the whitening: PCA must weigh errors as pixels do
    basis, deviation = _principal(_as_rows(features / scale[:, None, None]), config.latents)
    consumer(transforms.merge, basis / scale)
    producer(transforms.split, (basis * scale).T)

    levels = torch.linspace(0, LEVELS, config.anchors, device=x.device)
    # an orthonormal transform with steps of s 8-bit units: MSE = s^2 / 12 over 3 samples a pixel, bits fall by log2 s
    # a latent, so lambda MSE + bits per pixel is least at s^2 = 18 / (lambda ln 2); an error of e steps then adds
    # lambda s^2 e^2 / 3 = (6 / ln 2) e^2 bits
    step = torch.sqrt(18 / (lambda_of(config, levels) * math.log(2))) / 255
    transforms.latent_gain.values.copy_(-torch.log(step)[:, None].expand(-1, config.latents))
    transforms.latent_ungain.values.copy_(torch.log(step)[:, None].expand(-1, config.latents))
    levels = levels.round().long()
    entropy.start([torch.cat([transforms.analysis(part, level.expand(len(part))) for part in x.split(16)]) for level in levels])


@torch.no_grad()
def start_entropy(entropy: EntropyModel, pool: Pool) -> None:
    """Let an entropy model start from latents of frozen transforms, at every anchor."""
    levels = torch.linspace(0, LEVELS, entropy.config.anchors)
    entropy.start([latents.y for latents in pool.at_levels(levels, START_CROPS)])


@torch.no_grad()
def initialise_motion(transforms: PatchTransforms, entropy: EntropyModel, pool: Pool) -> None:
    """Start a temporal model's maps from latents to its linear picture and back: least squares against the pixels they decode to."""
    rows = []
    for latents in pool.at_levels(torch.linspace(0, LEVELS, 5), START_CROPS):
        pixels = transforms.synthesis(latents.y, latents.level)
        both = _as_rows(latents.y).double(), _as_rows(F.pixel_unshuffle(pixels - 0.5, 16)).double()
        rows.append([part / part.square().mean().sqrt() for part in both])
    y, p = map(torch.cat, zip(*rows, strict=True))

    def fit(a, b):  # the smallest W with b = W a, nearly
        ridge = 1e-4 * a.square().sum(0).mean() * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        return torch.linalg.solve(a.T @ a + ridge, a.T @ b).T.float()

    entropy.temporal.picture.weight.copy_(fit(y, p))
    entropy.temporal.change.weight.copy_(fit(p, y))
    N = entropy.hyper.up1.weight.shape[1]
    entropy.hyper.up1.weight[:, N - 2 :] = 0  # what an adopted hyperprior knows of these channels is not motion
    values = entropy.hyper.prior.values.view(-1, 2, N)
    values[:, 0, N - 2 :], values[:, 1, N - 2 :] = 0.0, float(gaussian.inverse_sigma(torch.tensor(8.0)))
