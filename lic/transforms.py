"""Analysis (g_a: image -> latents) and synthesis (g_s: latents -> image), float32.

    x (B,3,H,W) ─ 8x8 patches ─ embed ─ blocks at 1/8 ─ 2x2 patches ─ merge ─ blocks at 1/16 ─ * gain ─► y
    y_hat ─ / gain ─ blocks at 1/16 ─ split ─ 2x2 patches ─ blocks at 1/8 ─ pixels ─ 8x8 patches ─► x_hat

Every path is linear plus residual branches, so a network whose branches are zero *is* a linear
transform codec; training starts from the best one (train/linear_start.py). One network serves all
qualities: per-channel gains on the latents are the quantiser's step sizes, further ones on the features
tell the blocks how coarse it is; all are interpolated between a few anchor qualities on a log scale.
H and W must be multiples of STRIDE.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .container import LEVELS
from .exact import LevelTable

BAND = 8192  # positions: 512 features of them are 16 MB. For more than 32 the C library asks the system, and to touch new pages is slow


@dataclass(frozen=True)
class TransformsConfig:
    """Sizes of a `PatchTransforms`."""

    width: int = 128  # channels at 1/8
    latents: int = 256  # M, channels of y and of the blocks at 1/16
    analysis: tuple[int, int] = (5, 4)  # blocks at 1/8 and at 1/16
    synthesis: tuple[int, int] = (10, 4)
    anchors: int = 9  # quality levels with gains of their own
    lambda_low: float = 0.0003  # rate-distortion weight of quality 0 (of MSE in 8-bit units against bits per pixel)
    lambda_high: float = 0.16  # and of quality 100; geometric in between
    curvature: float = 1.2  # of the distortion by a latent, in units of annealing.CURVATURE: what training on latents reckons with


def lambda_of(config: TransformsConfig, level: Tensor) -> Tensor:
    """Rate-distortion weight of a quality level, geometric from config.lambda_low to config.lambda_high."""
    return config.lambda_low * (config.lambda_high / config.lambda_low) ** (level / LEVELS)


class Block(nn.Module):
    """x + mix(silu(expand(depthwise 3x3(x)) + shift(level))): spatial and channel mixing for 4 C^2 + 9 C multiplications.

    The shift switches hidden channels on and off with the quality: coarse steps ask for other repairs than fine ones.
    """

    def __init__(self, channels: int, anchors: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.shift = LevelTable(anchors, 2 * channels)
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, C, h, w) -> the same; in the memory of x if the weights are frozen."""
        layers = [parameter for layer in (self.depthwise, self.expand, self.mix) for parameter in (layer.weight, layer.bias)]
        of_block = self.function if any(parameter.requires_grad for parameter in self.parameters()) else _Frozen.apply
        return of_block(x, self.shift(level)[:, :, None, None], *layers)

    @staticmethod
    def function(x: Tensor, shift: Tensor, *layers: Tensor) -> Tensor:
        """x (B, C, h, w), shift (B, 2 C, 1, 1), weights and biases of the layers: all of it in one function, which training can compile."""
        weight_3x3, bias_3x3, weight, bias, *mix = layers
        x_around = F.conv2d(x, weight_3x3, bias_3x3, padding=1, groups=x.shape[1])
        return _add(F.conv2d(F.silu(_shifted(x_around, shift, weight, bias)), *mix), x)


class _Frozen(torch.autograd.Function):
    """Block.function in the memory of x, for weights that stay as they are: of its features only the hidden ones are kept for the gradient.

    Those, twice as many as others, are made by bands of rows, as large tensors take the time to touch new memory each.
    """

    @staticmethod
    def forward(ctx, x, shift, *layers):
        weight_3x3, bias_3x3, weight, bias, *mix = layers
        x_around = F.conv2d(x, weight_3x3, bias_3x3, padding=1, groups=x.shape[1])
        ctx.rows = max(1, BAND // (len(x) * x.shape[3]))
        kept = []
        for here, around in zip(x.split(ctx.rows, 2), x_around.split(ctx.rows, 2), strict=True):
            hidden = _shifted(around, shift, weight, bias)
            if ctx.needs_input_grad[0]:
                kept.append(hidden)
            here.add_(F.conv2d(F.silu(hidden, inplace=not kept), *mix))
        ctx.mark_dirty(x)
        ctx.save_for_backward(weight_3x3, weight, mix[0], *kept)
        return x

    @staticmethod
    def backward(ctx, grad):
        weights, kept = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        weight_3x3, weight, mix = (w.to(kept[0].dtype) for w in weights)  # that of autocast
        weight, mix = weight.transpose(0, 1), mix.transpose(0, 1)
        bands = []
        for above, hidden in zip(grad.split(ctx.rows, 2), kept, strict=True):
            of_hidden = torch.ops.aten.silu_backward(F.conv2d(above.to(hidden.dtype), mix), hidden)
            bands.append(F.conv2d(of_hidden, weight))
        of_around = torch.cat(bands, 2) if len(bands) > 1 else bands[0]
        of_x = F.conv2d(of_around, weight_3x3.flip(2, 3), padding=1, groups=grad.shape[1])
        return _add(of_x, grad), *[None] * 7


def _shifted(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if len(shift) == 1:  # of one picture: to add it to the bias costs nothing
        return F.conv2d(x, weight, bias + shift.flatten())
    return _add(F.conv2d(x, weight, bias), shift)


def _add(new: Tensor, other: Tensor) -> Tensor:
    """new + other, in the memory of `new` if of one type (autocast makes them two): memory that a process has not touched is slow."""
    return new.add_(other) if new.dtype == other.dtype else new + other


class Blocks(nn.ModuleList):
    """A row of blocks at one resolution."""

    def __init__(self, count: int, channels: int, anchors: int):
        super().__init__(Block(channels, anchors) for _ in range(count))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for block in self:
            x = block(x, level)
        return x


def amplify(x: Tensor, log_gain: LevelTable, level: Tensor) -> Tensor:
    """Positive per-channel factors, log-interpolated over quality: (B, C, h, w) -> the same, scaled."""
    return x * log_gain(level).exp()[:, :, None, None]


def linear(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x) in float32 even where the blocks run in bfloat16, which cannot tell a latent of 100 from one of 100.4."""
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.float())


def roughly(kind: str) -> torch.autocast:
    """A context where networks run in bfloat16 if that is faster, on devices of this kind: see weights/README.md for what that costs."""
    return torch.autocast(kind, torch.bfloat16, enabled=_rough(kind))


@cache
def _rough(kind: str) -> bool:
    return kind == "cpu" and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False)  # torch < 2.11 cannot tell


class PatchTransforms(nn.Module):
    """A light pair of transforms; level: (B,) int64 in 0..LEVELS in both directions."""

    decoder = ("latent_ungain", "synthesis_", "split", "pixels")  # how the names of the synthesis's parameters begin

    def __init__(self, config: TransformsConfig):
        super().__init__()
        self.config = config
        C, M, anchors = config.width, config.latents, config.anchors
        self.embed = nn.Conv2d(3 * 64, C, 1)
        self.analysis_gain = LevelTable(anchors, C)
        self.analysis_fine = Blocks(config.analysis[0], C, anchors)
        self.merge = nn.Conv2d(4 * C, M, 1)
        self.analysis_coarse = Blocks(config.analysis[1], M, anchors)
        self.latent_gain = LevelTable(anchors, M)

        self.latent_ungain = LevelTable(anchors, M)
        self.synthesis_coarse = Blocks(config.synthesis[1], M, anchors)
        self.split = nn.Conv2d(M, 4 * C, 1)
        self.synthesis_gain = LevelTable(anchors, C)
        self.synthesis_fine = Blocks(config.synthesis[0], C, anchors)
        self.pixels = nn.Conv2d(C, 3 * 64, 3, padding=1)  # 24x24 pixels out of 8x8: overlap hides the blocks

    def analysis(self, x: Tensor, level: Tensor) -> Tensor:
        """x: (B, 3, H, W) in [0, 1] -> y: (B, M, H/16, W/16), in units of the quantiser's step."""
        x = linear(self.embed, F.pixel_unshuffle(x - 0.5, 8))
        x = self.analysis_fine(amplify(x, self.analysis_gain, level), level)
        x = self.analysis_coarse(linear(self.merge, F.pixel_unshuffle(x, 2)), level)
        return amplify(x, self.latent_gain, level)

    def synthesis(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """y_hat: (B, M, h, w) -> x_hat: (B, 3, 16 h, 16 w), about [0, 1], not clamped."""
        x = self.synthesis_coarse(amplify(y_hat, self.latent_ungain, level), level)
        x = F.pixel_shuffle(linear(self.split, x), 2)
        x = amplify(x, self.synthesis_gain, level)
        return F.pixel_shuffle(linear(self.pixels, self.synthesis_fine(x, level)), 8).add_(0.5)


TRANSFORMS = {"patch": (PatchTransforms, TransformsConfig)}
