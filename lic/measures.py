"""What the search takes for the distortion of a picture, by name (`--tune`): squared error, or that and MS-SSIM in equal parts.

A measure is made of a picture x, (B, 3, H, W) in [0, 1], and gives the error (B,) of any x_hat like it, in units of the sum
of squared errors of all samples. Errors of neighbouring pieces of a picture add up to that of both, nearly, so it may be
searched in blocks. bend(h, w), (B, 1, h, w) or 1.0: how much more the error bends with latents here than elsewhere.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .defaults import TUNES

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM: Wang, Simoncelli & Bovik 2003, section 3.2
WINDOW, SIGMA = 11, 1.5
BRIGHTNESS, CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # C1 and C2 there
SHARE = 0.5  # of similarity
IN_SQUARES = 1150.0  # mean squared error in 8-bit units over 1 - MS-SSIM, of files of all qualities: 1091 to 1210 (Kodak, 0.19.0)


def similarities(x: Tensor, y: Tensor, margin: int = 0) -> Iterator[Tensor]:
    """Maps (B, C, h, w) of how alike x and y are, (B, C, H, W) in 0 .. 255 each, at five scales, the finest first.

    margin: by how much the borders are repeated at every scale; without that each side needs 11 samples at the last one.
    """
    for scale in range(len(WEIGHTS)):
        if scale:
            x, y = _halved(x), _halved(y)
        mean_x, mean_y, xx, yy, xy = (_blurred(z, margin) for z in (x, y, x * x, y * y, x * y))
        similarity = (2 * (xy - mean_x * mean_y) + CONTRAST) / (xx - mean_x**2 + yy - mean_y**2 + CONTRAST)
        if scale == len(WEIGHTS) - 1:
            similarity = similarity * (2 * mean_x * mean_y + BRIGHTNESS) / (mean_x**2 + mean_y**2 + BRIGHTNESS)
        yield similarity


def _halved(x: Tensor) -> Tensor:
    """As the learned-compression literature does it: zeros around odd sides."""
    return F.avg_pool2d(x, 2, padding=[side % 2 for side in x.shape[2:]])


def _blurred(x: Tensor, margin: int) -> Tensor:
    """A Gaussian window over every channel, one direction after the other."""
    C, steps = x.shape[1], torch.arange(WINDOW, device=x.device) - WINDOW // 2
    window = torch.exp(-(steps**2) / (2 * SIGMA**2))
    window = (window / window.sum()).expand(C, 1, 1, -1)
    x = F.pad(x, 4 * [margin], mode="replicate") if margin else x
    return F.conv2d(F.conv2d(x, window, groups=C), window.transpose(2, 3), groups=C)


class SquaredError:
    """What PSNR is made of."""

    def __init__(self, x: Tensor):
        self.x = x

    def __call__(self, x_hat: Tensor) -> Tensor:
        return (x_hat - self.x).square().sum((1, 2, 3))

    def bend(self, h: int, w: int) -> Tensor | float:
        return 1.0


class Similarity(SquaredError):
    """Squared error, and what MS-SSIM lacks, the weighted sum of all scales: near 1 the product of their powers is that.

    MS-SSIM alone would cost 2 dB of PSNR to save 6 % of the bits (weights/README.md).
    """

    def __call__(self, x_hat: Tensor) -> Tensor:
        maps = similarities(255 * self.x, 255 * x_hat, WINDOW // 2)
        lacking = sum(weight * (1 - similarity.mean((1, 2, 3))) for weight, similarity in zip(WEIGHTS, maps, strict=True))
        return (1 - SHARE) * super().__call__(x_hat) + SHARE * IN_SQUARES / 255**2 * self.x[0].numel() * lacking

    def bend(self, h: int, w: int) -> Tensor:
        """An error counts for as much as its surroundings are flat: at every scale by 1 / (2 variance + C2), averaged over 16x16 pixels.

        Of errors that know nothing of each other a quarter is left at the next scale.
        """
        x, bend = F.pad(255 * self.x, (0, 16 * w - self.x.shape[3], 0, 16 * h - self.x.shape[2]), mode="replicate"), 0.0
        for scale, weight in enumerate(WEIGHTS):
            variance = _blurred(x * x, WINDOW // 2) - _blurred(x, WINDOW // 2) ** 2
            of_scale = (weight / 4**scale / (2 * variance + CONTRAST)).mean(1, keepdim=True)
            bend = bend + F.avg_pool2d(of_scale, 16 >> scale)
            x = _halved(x)
        return 1 - SHARE + SHARE * bend / bend.mean((2, 3), keepdim=True)


MEASURES = dict(zip(TUNES, (SquaredError, Similarity), strict=True))
