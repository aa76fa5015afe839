"""The global reference: what may be found, what it costs when nothing is, and that the rest is `local`."""

import numpy as np
import pytest
import torch
from conftest import TINY
from test_entropy import LEVEL, draw, side_of

from lic import coders, exact, locate, weights
from lic.entropy import ENTROPY_MODELS, attention, base, coding, gaussian, global_reference, orders, tables
from lic.entropy.side import Side
from lic.exact import to_fixed
from lic.train.adopt import adopt


@pytest.fixture(scope="module")
def model():
    return weights.load_models(locate.by_name("tiny-global-reference", (TINY,)), torch.device("cpu")).entropy


def search(model, y):
    """References and cosines of all cells of y (1, M, h, w), either face."""
    at = torch.arange(y[0, 0].numel())
    reference, score = model._search(model._patches(y, at), y, at)
    return reference[0], score[0]


def repeated(model, h, w):
    """Latents in which every second row of 4 cells repeats the one before it."""
    y_hat = draw(model, h, w)
    y_hat[:, :, 4:] = y_hat[:, :, : h - 4]
    return y_hat


@torch.inference_mode()
def test_search_is_the_first_best_legal_cosine(model):
    """Against unbounded integers; a repeated picture has many ties."""
    h, w = 12, 8
    y_hat = repeated(model, h, w)
    reference, score = search(model, to_fixed(y_hat))
    patches = model._patches(to_fixed(y_hat), torch.arange(h * w))[0].numpy().astype(np.int64).astype(object)
    steps, ties = model.order(h, w).flatten().tolist(), 0
    for j in range(h * w):
        legal = {i: patches[i] @ patches[j] for i in range(h * w) if steps[i] < steps[j]}
        best = max(legal.values(), default=0)
        assert score[j] == max(best, 0)
        if best > 0:
            same = [i for i, value in legal.items() if value == best]
            assert reference[j] == same[0]
            ties += len(same) > 1
    assert ties > 10


@torch.inference_mode()
def test_search_finds_what_repeats_and_means_a_cosine(model):
    y_hat = draw(model, 16, 8)
    y_hat[:, :, 9:12, 2:5] = y_hat[:, :, 2:5, 3:6]
    reference, score = search(model, to_fixed(y_hat))
    assert reference.view(16, 8)[10, 3] == 3 * 8 + 4  # the last cell whose known neighbours are all a copy
    assert float(score.view(16, 8)[10, 3]) == pytest.approx(2**20, rel=0.01)
    patches = orders.gather(y_hat, torch.arange(128), model.patch_taps)[0].double()
    patches = patches.sign() * torch.log2(1 + patches.abs())
    real = torch.nn.functional.cosine_similarity(patches, patches[reference], dim=-1)
    assert torch.allclose(score / 2**20, torch.where(score > 0, real, 0), atol=0.01)


@torch.inference_mode()
def test_both_faces_search_the_same_integers(model):
    y_hat = repeated(model, 12, 8)
    for a, b in zip(search(model, to_fixed(y_hat)), search(model, y_hat.float()), strict=True):
        assert torch.equal(a, b)


def test_only_legal_positive_scores_are_found_and_the_first_of_equals():
    score = torch.tensor([[[5.0, 9, 9, 9], [-7, -7, -2, 9], [0, 0, 0, 9], [3, 3, 3, 9]]], dtype=torch.float64)
    legal = torch.tensor([[True, True, True, False]] * 3 + [[False] * 4])
    keys = torch.tensor([4, 6, 7, 9])
    assert global_reference._first_best(score, legal, keys).tolist() == [[[6, 0, 0, 0]], [[9, 0, 0, 0]]]


@torch.inference_mode()
def test_without_a_match_nothing_is_transferred_and_gaussian_2_is_off(model):
    at = torch.arange(8 * 12)
    for y_hat, cells in ((draw(model, 8, 12), at[:1]), (torch.zeros(1, model.latents, 8, 12).long(), at)):
        side = side_of(model, y_hat)
        model.remember(side, to_fixed(y_hat), at)
        transferred, trust = model._refer(side, to_fixed(y_hat), at)
        assert not transferred[:, cells].any()
        assert bool((trust[:, cells] == -2 * global_reference.LEAST * 2**10).all())
        logit = model.predict(side, to_fixed(y_hat), at)[2]
        assert float((logit[:, cells, :, 1] - logit[:, cells].amax(-1)).max()) < 0
        assert bool(transferred.any()) == (len(cells) == 1)  # it can be otherwise


@torch.inference_mode()
def test_confidence_is_the_mean_probability_by_the_coders_tables(model):
    y_hat = draw(model, 8, 12)
    side, at = side_of(model, y_hat), torch.arange(8 * 12)
    got = model._confidence(side, to_fixed(y_hat), at)[0] / 1024
    mean, index = gaussian.table_index(*model.by_context(model._context(to_fixed(y_hat), at), side.level))
    cost = coders.bits([mean.flatten(), index.flatten()], base.to_rows(y_hat, 1).flatten()).reshape(len(at), -1)
    probability = 2.0 ** -np.minimum(cost, tables.PRECISION)  # an escape costs more than its symbol, of hardly any probability
    assert np.abs(np.exp2(got.numpy()) - probability.mean(1)).max() < 2**-10
    assert got.unique().numel() > 10


def test_starts_as_the_local_model_it_is_given():
    torch.manual_seed(0)
    sizes = {"latents": 48, "anchors": 3}
    local, grown = (architecture(config(**sizes)).eval() for architecture, config in map(ENTROPY_MODELS.get, ("local", "global-reference")))
    with torch.no_grad():
        local.head.level.values[:, 48:] = gaussian.inverse_sigma(torch.linspace(6, 0.3, 48))
    adopt(grown, local.state_dict())
    y, at = draw(local, 8, 12).float(), torch.arange(96)
    with torch.no_grad():
        side = Side(local.hyper.synthesis(torch.round(local.hyper.analysis(y, LEVEL))), LEVEL)
        grown.remember(side, y, at)
        for a, b in zip(grown.predict(side, y, at), local.predict(side, y, at), strict=False):
            assert torch.allclose(a[..., 2], b, atol=1e-4)
        before, after = (float(base.expected_rate(m, y, LEVEL).bits) for m in (local, grown))
    assert after < 1.02 * before


@pytest.mark.parametrize("switches", [{"reference": False}, {"confidence": False}, {"logarithms": False}])
def test_switches_write_and_read_too(switches):
    torch.manual_seed(0)
    architecture, config = ENTROPY_MODELS["global-reference"]
    model = exact.freeze(architecture(config(latents=24, hidden=32, context=32, anchors=3, **switches)).requires_grad_(False))
    y_hat = draw(model, 8, 12)
    writer = coders.Writer()
    written = coding.write(model, y_hat, LEVEL, writer)
    assert written.table[0].shape[-1] == (3 if model.config.reference else 2)
    assert torch.equal(coding.read(model, 8, 12, LEVEL, coders.Reader(writer.bytes())).y_hat, y_hat)


def test_pictures_of_several_windows_write_and_read_the_same_latents(model, monkeypatch):
    y_hat = repeated(model, 12, 8)
    whole = search(model, to_fixed(y_hat))
    monkeypatch.setattr(attention, "PIECE", 5)
    assert all(torch.equal(a, b) for a, b in zip(search(model, to_fixed(y_hat)), whole, strict=True))
    monkeypatch.setattr(model, "window", 5)
    monkeypatch.setattr(base, "CHUNK", 7)
    reference, score = search(model, to_fixed(y_hat))
    assert not torch.equal(reference, whole[0])
    for cell in torch.nonzero(score)[:, 0].tolist():
        other = int(reference[cell])
        assert (cell // 8 // 5, cell % 8 // 5) == (other // 8 // 5, other % 8 // 5)
    writer = coders.Writer()
    coding.write(model, y_hat, LEVEL, writer)
    assert torch.equal(coding.read(model, 12, 8, LEVEL, coders.Reader(writer.bytes())).y_hat, y_hat)


def test_all_zero_latents_write_and_read(model):
    y_hat = torch.zeros(1, model.latents, 8, 12, dtype=torch.int64)
    writer = coders.Writer()
    coding.write(model, y_hat, LEVEL, writer)
    assert torch.equal(coding.read(model, 8, 12, LEVEL, coders.Reader(writer.bytes())).y_hat, y_hat)
