"""Sections: their orders, and what attention adds to them."""

import pytest
import torch
from conftest import TINY
from test_entropy import draw, predict, side_of
from torch.utils._python_dispatch import TorchDispatchMode

from lic import locate, weights
from lic.entropy import base, orders
from lic.entropy.sections import GlobalParallelConfig, ParallelConfig, Sections
from lic.errors import LicError


def test_the_last_order_serves_all_further_sections():
    steps = Sections(GlobalParallelConfig(latents=48)).order(4, 4)
    assert steps.flatten(1).amax(1).tolist() == [5, 7, *2 * [9], *3 * [11], *3 * [13], *6 * [15]]
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


def test_cells_of_a_step_of_eighths_are_no_neighbours():
    """What is coded at once is far apart, and later steps know more: of the twelve within two steps by row and column."""
    steps, reach = orders.eighths(16, 16), orders.ORDERS["eighths"][1]
    assert len(reach) == 12
    known = []
    for step in range(6):
        cells = torch.nonzero(steps == step)
        apart = (cells[:, None] - cells).square().sum(2)
        assert len(cells) == (32 if step < 4 else 64)
        assert int(apart[apart > 0].min()) == (8 if step < 4 else 4)
        row, col = next(cell for cell in cells.tolist() if min(cell) > 3)
        known.append(sum(bool(steps[row + r, col + c] < step) for r, c in reach))
    assert known == [0, 4, 4, 8, 4, 8]


def test_training_works_out_positions_once():
    """The second time, nothing depends on numbers that a GPU would have to tell first: steps can be replayed as a graph."""

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.add(str(function).split(".")[1])
            return function(*args, **(kwargs or {}))

    model, y, level = Sections(ParallelConfig(latents=48)), torch.randn(2, 48, 8, 8).round(), torch.tensor([0, 4096])
    seen = []
    for _ in range(2):
        names = set()
        with Seen():
            base.parameters_of(model, torch.round(model.hyper.analysis(y, level)), y, level, None)
        seen.append(names)
    asked = {"nonzero", "_unique2", "_local_scalar_dense", "lift_fresh"}
    assert seen[0] >= asked
    assert not seen[1] & asked


def test_positions_worked_out_in_inference_serve_training():
    model, y, level = Sections(ParallelConfig(latents=48)), torch.randn(1, 48, 8, 4).round(), torch.tensor([7])
    with torch.inference_mode():
        base.parameters_of(model, torch.round(model.hyper.analysis(y, level)), y, level, None)
    mean, _ = base.parameters_of(model, torch.round(model.hyper.analysis(y, level)), y, level, None)
    mean.sum().backward()
    assert all(float(section.context.weight.grad.abs().sum()) > 0 for section in model.sections)


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
