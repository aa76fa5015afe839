"""Parameters of the transforms' blocks in the units of the features they meet, while training.

Adam moves every parameter by about as much in every step. Features are not alike: the strongest of a row of blocks
is a hundred times the weakest, and what a block adds is a hundredth of either. So where a filter saw features as they are,
hidden ones stayed so small that silu is a straight line there, and what the blocks of 0.7.0 added was linear but for 0.4 %
of its power at most. In training the depthwise filters see features over their deviation, and what `mix` adds counts in
units of its own deviation:

    depthwise.weight / size    mix.weight * repair    mix.bias * repair

Both are fixed, measured before the first step. Weights files hold the products, so nothing of this is left in them.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..container import LEVELS
from ..transforms import Block

FIRST_REPAIR = 1 / 16  # of the features' deviation, where a block adds nothing yet
LEAST = 1e-4  # deviation


class Scaled(nn.Module):
    """A parameter is what is learned times `scale`, one number for each of its first dimension."""

    def __init__(self, parameter: Tensor):
        super().__init__()
        self.register_buffer("scale", parameter.new_ones(len(parameter), *[1] * (parameter.ndim - 1)))

    def forward(self, learned: Tensor) -> Tensor:
        return learned * self.scale

    def right_inverse(self, parameter: Tensor) -> Tensor:
        return parameter / self.scale


def _blocks(transforms: nn.Module) -> list[Block]:
    return [module for module in transforms.modules() if isinstance(module, Block)]


def attach(transforms: nn.Module) -> None:
    """Let the scales in: 1 everywhere, until measure() or a checkpoint says otherwise."""
    for block in _blocks(transforms):
        for layer, name in ((block.depthwise, "weight"), (block.mix, "weight"), (block.mix, "bias")):
            parametrize.register_parametrization(layer, name, Scaled(getattr(layer, name)))


@torch.no_grad()
def measure(transforms: nn.Module, x: Tensor) -> None:
    """Set the scales to what the blocks meet in the crops x (B, 3, H, W).

    Blocks go on doing what they do; channels that a block adds nothing to yet (mix is zero) it sees more of, if weak, than before.
    """
    generator = torch.Generator().manual_seed(1)
    level = torch.randint(0, LEVELS + 1, (len(x),), generator=generator).to(x.device)

    def before_and_after(block, inputs, output):
        size, repair = _deviation(inputs[0]), _deviation(output - inputs[0])
        busy = block.mix.weight.flatten(1).any(1)  # (C,)
        _rescale(block.depthwise, "weight", 1 / size, keep=busy)
        for name in ("weight", "bias"):
            _rescale(block.mix, name, torch.where(busy, repair, FIRST_REPAIR * size), keep=busy)

    hooks = [block.register_forward_hook(before_and_after) for block in _blocks(transforms)]
    transforms.synthesis(torch.round(transforms.analysis(x, level)), level)
    for hook in hooks:
        hook.remove()


def _deviation(x: Tensor) -> Tensor:
    return x.std((0, 2, 3)).clamp_min(LEAST)


def _rescale(layer: nn.Module, name: str, scale: Tensor, keep: Tensor) -> None:
    """Another scale (C,); keep: where (C,) of the same product, elsewhere of the same learned numbers."""
    learned, (by,) = layer.parametrizations[name].original, layer.parametrizations[name]
    scale = scale.view_as(by.scale)
    learned.mul_(torch.where(keep.view_as(by.scale), by.scale / scale, 1.0))
    by.scale.copy_(scale)


def folded(state: dict) -> dict:
    """A state dict with scales -> the same model's without them."""
    plain = {key: value for key, value in state.items() if ".parametrizations." not in key}
    for key, learned in state.items():
        if key.endswith(".original"):
            plain[key.replace(".parametrizations", "").removesuffix(".original")] = learned * state[key.replace(".original", ".0.scale")]
    return plain
