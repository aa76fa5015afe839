"""`nonlocal`: its masks follow the order, and what it makes of references."""

import pytest
import torch
from conftest import TINY
from test_entropy import LEVEL, draw, predict, side_of

from lic import coders, exact, locate, weights
from lic.entropy import attention, base, coding, non_local, orders
from lic.entropy.non_local import NonLocal, NonLocalConfig
from lic.errors import LicError

SIZES = {"latents": 24, "width": 16, "z_channels": 8, "side": 24, "groups": 4, "hidden": 24, "proxy": 8, "anchors": 9}


@pytest.fixture(scope="module")
def trained() -> NonLocal:
    return weights.load_models(locate.by_name("tiny-nonlocal", (TINY,)), torch.device("cpu")).entropy


def test_planes_take_as_many_steps_as_their_sides_say():
    order = orders.diagonals(8, 32, 48)
    assert order[2, 3, 5] == 10
    assert len(order.unique()) == 8 + 32 + 48 - 2


def test_taps_are_the_neighbours_of_smaller_group_row_and_column():
    model = NonLocal(NonLocalConfig(**SIZES))
    for g, of_group in enumerate(model.taps):
        for other, taps in enumerate(of_group):
            assert taps == [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if other + r + c < g]
    assert [len(taps) for taps in model.taps[1]] == [6, 3, 1, 0]


@torch.inference_mode()
def test_a_changed_group_is_seen_by_neighbours_and_where_it_is_a_reference(trained):
    h, w = 8, 12
    y_hat, order = draw(trained, h, w), trained.order(h, w)
    side, everything = side_of(trained, y_hat), torch.arange(4 * h * w)
    group, row, col = 1, 3, 4
    changed = y_hat.clone()
    changed[:, group * 6 : group * 6 + 6, row, col] += 9
    before, after = (predict(trained, side, y, everything) for y in (y_hat, changed))
    differs = (before != after).flatten(0, 1).any(0).any(-1).view(4, h, w)
    assert not bool(differs[order <= order[group, row, col]].any())
    assert bool(differs[2, row, col + 1])  # a later group, next to it
    assert bool(differs[0, row + 1, col + 1])  # an earlier one, where planes allow it
    differs[:, row - 1 : row + 2, col - 1 : col + 2] = False
    assert bool(differs[group].any())  # its own, far away: a reference
    assert not bool(differs[0].any())  # of no use to an earlier one


@torch.inference_mode()
def test_proxies_of_a_group_are_made_of_earlier_groups(trained):
    y_hat, at = draw(trained, 8, 12), torch.arange(96)
    for group in range(4):
        changed = y_hat.clone()
        changed[:, group * 6 : group * 6 + 6] += 3
        for g in range(4):  # the proxies that group g looks at
            a, b = (trained._proxies((g or 4) - 1, exact.to_fixed(y), at) for y in (y_hat, changed))
            assert torch.equal(a, b) == (g <= group)
            assert bool(a.any()) == (g > 0)


def test_similarity_is_minus_the_squared_distance_exactly():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-(2**22), 2**22, (2, n, 64), generator=generator) for n in (3, 5))
    distance = (a[:, :, None] - b[:, None]).square().sum(-1)
    assert torch.equal(-non_local.similarity(a.double(), b.double()), torch.full_like(distance, exact.LIMIT).double())
    a, b = a >> 10, b >> 10
    distance = (a[:, :, None] - b[:, None]).square().sum(-1)
    assert torch.equal(non_local.similarity(a.double(), b.double()), torch.floor(-distance.double() * 2.0**-10).clamp_min(-exact.LIMIT))
    assert torch.allclose(non_local.similarity(a / 1024, b / 1024), -distance.float() * 2.0**-20, rtol=1e-5)


@pytest.mark.parametrize("fixed", [False, True])
def test_references_are_averaged_by_similarity(fixed):
    one = 2.0**10 if fixed else 1.0
    steps = orders.diagonals(1, 4, 4)[0]
    latents = torch.arange(1.0, 17).view(1, 16, 1) * one
    alike, at = torch.zeros(1, 16, 2), torch.tensor([0, 5, 6])
    apart = torch.eye(16)[None] * 9 * one
    apart[:, 5] = apart[:, 1]
    if fixed:
        latents, alike, apart = latents.double(), alike.double(), apart.double()
    estimate, quality = non_local.find(alike, latents, at, steps, 16)
    mean_of_three = (1 + 2 + 5) / 3 * one
    assert estimate[0, 0] == 0  # the first cell has no reference
    assert abs(float(estimate[0, 1]) - mean_of_three) < 1e-5 * one + fixed
    assert quality.flatten().tolist() == [-non_local.FAR * one, 0, 0]
    estimate, quality = non_local.find(apart, latents, at, steps, 16)
    assert float(estimate[0, 1]) == 2 * one  # all weight on the only one that is like it
    assert quality.flatten().tolist() == [-non_local.FAR * one, 0, -non_local.FAR * one]


def test_pictures_of_several_windows_write_and_read_the_same_latents(trained, monkeypatch):
    y_hat = draw(trained, 8, 12)
    whole = coding.predict_all(trained, y_hat, LEVEL)[1]
    monkeypatch.setattr(attention, "PIECE", 5)
    assert all(torch.equal(a, b) for a, b in zip(coding.predict_all(trained, y_hat, LEVEL)[1], whole, strict=True))
    monkeypatch.setattr(trained, "window", 5)
    monkeypatch.setattr(base, "CHUNK", 7)
    assert not torch.equal(coding.predict_all(trained, y_hat, LEVEL)[1][0], whole[0])  # references matter
    writer = coders.Writer()
    coding.write(trained, y_hat, LEVEL, writer)
    assert torch.equal(coding.read(trained, 8, 12, LEVEL, coders.Reader(writer.bytes())).y_hat, y_hat)


@pytest.mark.parametrize("references", non_local.REFERENCES)
@torch.no_grad()
def test_every_switch_codes_and_starts_from_a_hyperprior(references):
    torch.manual_seed(0)
    model = NonLocal(NonLocalConfig(**SIZES, references=references)).eval().requires_grad_(False)
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert parts - {"hyper", "head", "sections"} == (set() if references == "none" else {"references", "proxies"})
    assert any("gate" in name for name in model.state_dict()) == (references == "gated")
    for section in model.sections:
        section.correction.weight.zero_()
    exact.prove(exact.freeze(model))
    y_hat, cells = draw(model, 4, 8), torch.arange(4 * 32)
    side = side_of(model, y_hat)
    prior = torch.stack(model.head(side.features.flatten(2).transpose(1, 2), LEVEL))  # (2, 1, h w, M)
    assert torch.equal(predict(model, side, y_hat, cells), base.to_rows(prior[:, 0].transpose(1, 2).unflatten(2, (4, 8)), 4)[:, None])
    writer = coders.Writer()
    coding.write(model, y_hat, LEVEL, writer)
    assert torch.equal(coding.read(model, 4, 8, LEVEL, coders.Reader(writer.bytes())).y_hat, y_hat)


@pytest.mark.parametrize("wrong", [{"groups": 5}, {"groups": 0}, {"proxy": 65}, {"references": "all"}])
def test_configs_that_cannot_be(wrong):
    with pytest.raises(LicError, match=r"groups|proxies|references"):
        NonLocal(NonLocalConfig(**SIZES | wrong))
