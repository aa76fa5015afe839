"""Sections: their orders, and what attention adds to them."""

import pytest
import torch
from conftest import TINY
from test_entropy import draw, predict, side_of

from lic import locate, weights
from lic.entropy import orders
from lic.entropy.sections import GlobalParallelConfig, ParallelConfig, Sections
from lic.errors import LicError


def test_the_last_order_serves_all_further_sections():
    steps = Sections(GlobalParallelConfig(latents=48)).order(4, 4)
    assert steps.flatten(1).amax(1).tolist() == [3, 7, *2 * [9], *3 * [11], *3 * [13], *6 * [15]]
    assert int(Sections(ParallelConfig(latents=48)).order(4, 4).max()) == 11


def test_orders_that_do_not_fit():
    with pytest.raises(LicError, match="2 sections cannot have 3 orders"):
        Sections(ParallelConfig(sections=(1, 1), inside=("none", "none", "none")))
    with pytest.raises(LicError, match="2 sections cannot have 0 orders"):
        Sections(ParallelConfig(sections=(1, 1), inside=()))
    with pytest.raises(LicError, match="unknown order 'spiral'"):
        Sections(ParallelConfig(inside="spiral"))


def test_quarters_know_diagonals_then_neighbours():
    steps = orders.quarters(8, 8)
    assert sorted(steps.flatten().tolist()) == sorted(16 * [0, 1, 2, 3])
    for step, known in enumerate((0, 4, 4, 8)):
        row, col = torch.nonzero(steps[2:6, 2:6] == step)[0].tolist()
        around = steps[row + 1 : row + 4, col + 1 : col + 4]
        assert int((around < step).sum()) == known


@torch.inference_mode()
def test_attention_reaches_farther_than_neighbours():
    """Changes at the left are seen at the right, of which neighbours within a section know nothing."""
    for name, reaches in (("parallel", False), ("global-parallel", True)):
        model = weights.load_models(locate.by_name(f"tiny-{name}", (TINY,)), torch.device("cpu")).entropy
        h, w = 8, 12
        y_hat = draw(model, h, w)
        side, (begin, end) = side_of(model, y_hat), model.first[1:3]
        changed = y_hat.clone()
        changed[:, begin:end, :, :4] += 9
        right = h * w + torch.arange(h * w)[torch.arange(h * w) % w >= 8]  # of the second section, the last to attend
        assert torch.equal(predict(model, side, y_hat, right), predict(model, side, changed, right)) != reaches
