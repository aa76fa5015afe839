"""What training minimises, and how a model is judged on held-out images."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import annealing
from ..entropy.base import EntropyModel, expected_rate, rate
from ..transforms import TransformsConfig, lambda_of

VALIDATION_LEVELS = (0, 1024, 2048, 3072, 4096)


class Latents(NamedTuple):
    """Latents of crops that the transforms have nothing to do with any more (see latents.py); float32 but for the level."""

    level: Tensor  # (B,) int64
    y: Tensor  # (B, M, h, w): values that latents may take, or between
    y_dec: Tensor  # likewise: near what the synthesis gets
    slope: Tensor  # likewise: derivative of the distortion by that, in bits of the crop
    dependent: Tensor  # (B,) bool: whether they are quantised dependently (trellis.py)
    previous: Tensor | None = None  # float32 like y: y_hat of the frame before


class Decoded(NamedTuple):
    """What the synthesis gets of crops, and the crops."""

    level: Tensor  # (B,) int64
    x: Tensor  # (B, 3, H, W) uint8
    y_dec: Tensor  # (B, M, h, w) float32


def rate_distortion(transforms, entropy: EntropyModel, x: Tensor, level: Tensor) -> tuple[Tensor, dict]:
    """lambda 255^2 MSE + bits per pixel, averaged with weights that give all qualities a like say."""
    y = transforms.analysis(x, level).float()
    with torch.autocast(y.device.type, enabled=False):  # bfloat16 cannot tell a latent of 100 from one of 100.4
        coded = rate(entropy, y, level)
    x_hat = transforms.synthesis(coded.y_dec, level).float()
    mse = (x_hat - x).square().mean((1, 2, 3)) * 255**2
    bpp = (coded.bits + coded.z_bits) / (x.shape[2] * x.shape[3])
    return _weighted(transforms.config, level, mse, bpp).mean(), {"bpp": bpp.detach().mean(), "psnr": psnr(mse.detach()).mean()}


def latent_rate_distortion(config: TransformsConfig, entropy: EntropyModel, latents: Latents) -> tuple[Tensor, dict]:
    """Rate-distortion on latents of frozen transforms, weighted likewise: (B,), and what it is made of, (B,) each.

    The distortion is what the centroids make of the integers, by the slopes of the synthesis; not the error to the
    analysis's y, which may be anywhere within its bin.
    """
    coded = expected_rate(entropy, latents.y, latents.level, latents.previous, latents.dependent)
    pixels = 16 * 16 * latents.y.shape[2] * latents.y.shape[3]
    bpp = (coded.bits + coded.z_bits) / pixels
    distortion = (
        annealing.distortion(config.curvature * annealing.CURVATURE, latents.slope, coded.y_dec - latents.y_dec).sum((1, 2, 3)) / pixels
    )
    return _weight(config, latents.level) * (bpp + distortion), {"bpp": bpp.detach(), "distortion": distortion.detach()}


def decoded_distortion(transforms, decoded: Decoded) -> tuple[Tensor, dict]:
    """The distortion of what a synthesis makes of latents that stay as they are, weighted likewise."""
    x_hat = transforms.synthesis(decoded.y_dec.contiguous(memory_format=torch.channels_last), decoded.level).float()
    mse = (255 * x_hat - decoded.x).square().mean((1, 2, 3))
    return _weighted(transforms.config, decoded.level, mse).mean(), {"psnr": psnr(mse.detach()).mean()}


def _weight(config: TransformsConfig, level: Tensor) -> Tensor:
    """Of a crop in the mean: lambda mse + bpp grows about like lambda^0.5."""
    return (lambda_of(config, level) / 0.01) ** -0.45


def _weighted(config: TransformsConfig, level: Tensor, mse: Tensor, bpp: Tensor | float = 0.0) -> Tensor:
    """lambda mse + bpp of crops, (B,) each, with that weight."""
    return _weight(config, level) * (lambda_of(config, level) * mse + bpp)


def psnr(mse: Tensor) -> Tensor:
    """Mean squared error in 8-bit units -> dB."""
    return 10 * torch.log10(255**2 / mse.clamp_min(1e-9))


@torch.no_grad()
def validate(transforms, entropy: EntropyModel, pictures: Tensor) -> dict:
    """Bits per pixel (integers, estimated) and PSNR (8-bit output) of (n, 3, H, W) at five qualities, and their mean loss."""
    rows, total = [], 0.0
    for value in VALIDATION_LEVELS:
        bpp, dB, loss = [], [], []
        for x in pictures.split(8):
            level = torch.full((len(x),), value, device=x.device)
            coded = expected_rate(entropy, torch.round(transforms.analysis(x, level)), level)
            mse = _squared_error(transforms, coded.y_dec, level, 255 * x)
            bpp.append((coded.bits + coded.z_bits) / (x.shape[2] * x.shape[3]))
            dB.append(psnr(mse))
            loss.append(_weighted(transforms.config, level, mse, bpp[-1]))
        rows.append((float(torch.cat(bpp).mean()), float(torch.cat(dB).mean())))
        total += float(torch.cat(loss).mean()) / len(VALIDATION_LEVELS)
    return {"loss": total, "bpp/dB": rows}


def _squared_error(transforms, y_dec: Tensor, level: Tensor, x: Tensor) -> Tensor:
    """Mean squared error of the 8-bit output, (B,); x (B, 3, H, W) in 0 .. 255."""
    x_hat = transforms.synthesis(y_dec, level).float().clamp(0, 1)
    return ((x_hat * 255).round() - x).square().mean((1, 2, 3))


@torch.no_grad()
def validate_decoded(transforms, states: dict[str, Iterable[Decoded]]) -> dict:
    """The mean loss of batches of held-out crops in each of several states, and PSNR (8-bit output) at five qualities in each."""
    judged, dB = {}, []
    for name, batches in states.items():
        found = [(b.level, _squared_error(transforms, b.y_dec, b.level, b.x)) for b in batches]
        level, mse = (torch.cat(parts) for parts in zip(*found, strict=True))
        judged[name] = float(_weighted(transforms.config, level, mse).mean())
        dB.append([float(psnr(mse[level == value]).mean()) for value in VALIDATION_LEVELS])
    return judged | {"dB": list(zip(*dB, strict=True))}


@torch.no_grad()
def validate_latents(config: TransformsConfig, entropy: EntropyModel, states: dict[str, Iterable[Latents]]) -> dict:
    """The mean loss of batches of held-out latents in each of several states."""
    return {
        name: float(torch.cat([latent_rate_distortion(config, entropy, latents)[0] for latents in batches]).mean())
        for name, batches in states.items()
    }
