"""What training minimises, and how a model is judged on held-out images."""

import torch
from torch import Tensor

from .. import search
from ..container import LEVELS
from ..entropy.base import EntropyModel, Rate, rate
from ..transforms import lambda_of

VALIDATION_LEVELS = (0, 1024, 2048, 3072, 4096)
ROUNDS = 3  # of the search for the integers to train on


def draw_levels(count: int, generator: torch.Generator) -> Tensor:
    """One random level per sample, stratified so that every batch covers all qualities: (count,) int64."""
    where = {"generator": generator, "device": generator.device}
    spread = (torch.randperm(count, **where) + torch.rand(count, **where)) / count
    return (spread * LEVELS).round().long()


def rate_distortion(transforms, entropy: EntropyModel, x: Tensor, level: Tensor) -> tuple[Tensor, dict]:
    """lambda 255^2 MSE + bits per pixel, averaged with weights that give all qualities a like say."""
    coded = _rate(entropy, transforms.analysis(x, level), level, soft=True)
    x_hat = transforms.synthesis(coded.y_dec, level).float()
    mse = (x_hat - x).square().mean((1, 2, 3)) * 255**2
    bpp = (coded.bits + coded.z_bits) / (x.shape[2] * x.shape[3])
    lam = lambda_of(transforms.config, level)
    loss = (lam / 0.01) ** -0.45 * (lam * mse + bpp)  # the bracket grows about like lambda^0.5
    return loss.mean(), {"bpp": bpp.detach().mean(), "psnr": psnr(mse.detach()).mean()}


def latent_rate_distortion(transforms, entropy: EntropyModel, x: Tensor, level: Tensor) -> tuple[Tensor, dict]:
    """Rate-distortion on frozen latents, weighted likewise; only `entropy` gets a gradient. x: pictures, or pairs of frames.

    The integers are those that a short search of the encoder's finds (search.py): trained on rounded latents, a model
    expects more of the small ones than files contain. The distortion is what the centroids make of them, by the slopes
    that the search ended with; not the error to the analysis's y, which may be anywhere within its bin.
    """
    x, previous = _split(transforms, x, level)
    with torch.no_grad():
        y_hat = torch.round(transforms.analysis(x, level).float())
    settled = search.settle(transforms, entropy, x, y_hat, level, ROUNDS, previous)
    coded = _rate(entropy, settled.y_hat, level, soft=False, previous=previous)
    pixels = x.shape[2] * x.shape[3]
    bpp = (coded.bits + coded.z_bits) / pixels
    distortion = search.distortion(settled.slope, coded.y_dec - settled.y_dec).sum((1, 2, 3)) / pixels
    loss = (lambda_of(transforms.config, level) / 0.01) ** -0.45 * (bpp + distortion)
    return loss.mean(), {"bpp": bpp.detach().mean(), "distortion": distortion.detach().mean()}


@torch.no_grad()
def _split(transforms, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor | None]:
    """The frames to code, (B, 3, H, W), and y_hat of the frames before them if x is pairs, (B, 6, H, W)."""
    *before, x = x.split(3, 1)
    return x, torch.round(transforms.analysis(before[0], level).float()) if before else None


def _rate(entropy: EntropyModel, y: Tensor, level: Tensor, **options) -> Rate:
    """rate() in float32 whatever the transforms run in: bfloat16 cannot tell a latent of 100 from one of 100.4."""
    with torch.autocast(y.device.type, enabled=False):
        return rate(entropy, y.float(), level, **options)


def psnr(mse: Tensor) -> Tensor:
    """Mean squared error in 8-bit units -> dB."""
    return 10 * torch.log10(255**2 / mse.clamp_min(1e-9))


@torch.no_grad()
def validate(transforms, entropy: EntropyModel, pictures: Tensor) -> dict:
    """Bits per pixel (integers, estimated) and PSNR (8-bit output) at five qualities, and their mean loss.

    pictures: (n, 3, H, W), or pairs of frames (n, 6, H, W), of which the second is coded.
    """
    rows, total = [], 0.0
    for value in VALIDATION_LEVELS:
        bpp, dB, loss = [], [], []
        for x in pictures.split(8):
            level = torch.full((len(x),), value, device=x.device)
            x, previous = _split(transforms, x, level)
            coded = rate(entropy, transforms.analysis(x, level), level, soft=False, previous=previous)
            x_hat = transforms.synthesis(coded.y_dec, level).float().clamp(0, 1)
            mse = ((x_hat * 255).round() - x * 255).square().mean((1, 2, 3))
            bpp.append((coded.bits + coded.z_bits) / (x.shape[2] * x.shape[3]))
            dB.append(psnr(mse))
            lam = lambda_of(transforms.config, level)
            loss.append((lam / 0.01) ** -0.45 * (lam * mse + bpp[-1]))
        rows.append((float(torch.cat(bpp).mean()), float(torch.cat(dB).mean())))
        total += float(torch.cat(loss).mean()) / len(VALIDATION_LEVELS)
    return {"loss": total, "points": rows}
