"""Analysis and synthesis: frozen weights compute what training computes, in less memory."""

import copy

import pytest
import torch
from conftest import Largest

from lic import transforms
from lic.container import LEVELS
from lic.transforms import Block, PatchTransforms, TransformsConfig


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("size", [(1, 16, 5, 7), (3, 16, 6, 4), (1, 16, 1, 40)])
def test_frozen_blocks_are_the_same_function_with_the_same_gradient(monkeypatch, size, rounded):
    monkeypatch.setattr(transforms, "BAND", 24)  # bands of 3, 2 and 1 rows
    torch.manual_seed(0)
    block = Block(16, 9)
    torch.nn.init.normal_(block.mix.weight, std=0.2)
    torch.nn.init.normal_(block.shift.values)
    frozen = copy.deepcopy(block).requires_grad_(False)
    level, found = torch.randint(0, LEVELS, size[:1]), []
    start, above = torch.randn(2, *size)
    for one in (block, frozen):
        x = start.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            y = one(x * 1, level)
        y.backward(above)
        found.append((y.detach(), x.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=0.02 if rounded else 1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(frozen(start.clone(), level), block(start, level), atol=1e-5, rtol=0)


def test_hidden_features_of_a_large_picture_never_exist_at_once(monkeypatch):
    monkeypatch.setattr(transforms, "BAND", 64)
    torch.manual_seed(0)
    pair = PatchTransforms(TransformsConfig(width=32, latents=16, analysis=(2, 1), synthesis=(2, 1))).requires_grad_(False)
    x, level = torch.rand(1, 3, 256, 320), torch.tensor([1000])
    with Largest() as largest:
        pair.synthesis(pair.analysis(x, level), level)
    assert largest.bytes == 4 * 192 * 32 * 40  # pixels in patches of 8x8; the hidden features are 64 of each


def test_latents_are_left_as_they_are():
    torch.manual_seed(0)
    pair = PatchTransforms(TransformsConfig(width=32, latents=16, analysis=(1, 1), synthesis=(1, 1))).requires_grad_(False)
    for block in (module for module in pair.modules() if isinstance(module, Block)):
        torch.nn.init.normal_(block.mix.weight, std=0.2)
    x, y, level = torch.rand(1, 3, 64, 64), torch.randn(1, 16, 4, 4), torch.tensor([1000])
    before = x.clone(), y.clone()
    first = pair.analysis(x, level), pair.synthesis(y, level)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    for a, b in zip(first, (pair.analysis(x, level), pair.synthesis(y, level)), strict=True):
        assert torch.equal(a, b)
