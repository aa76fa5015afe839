"""Attention: what rows may see, and that pieces do not matter."""

import pytest
import torch
from conftest import TINY
from test_entropy import LEVEL, draw

from lic import coders, locate, weights
from lic.entropy import ENTROPY_MODELS, attention, base, coding, orders
from lic.errors import LicError


def test_diamond_holds_near_positions():
    assert attention.diamond(0) == ((0, 0),)
    assert len(attention.diamond(3)) == 25
    assert attention.diamond(1) == ((-1, 0), (0, -1), (0, 0), (0, 1), (1, 0))


def test_scores_by_position_tell_near_keys_apart_and_far_ones_alike():
    block = attention.Block(4, 2, 1, 1, 16)
    q = torch.randn(1, 2, 3, 2)
    keys = torch.tensor([0, 1, 4, 5, 7, 8])  # of 3 x 4 positions
    scores = block._by_position(q, torch.tensor([0, 5, 11]), keys, 3, 4)
    far, up, left, here, right, down = block.near(q).unbind(-1)
    expected = [[here, right, down, far, far, far], [far, up, left, here, far, far], [far, far, far, far, up, far]]
    for row, columns in enumerate(expected):
        assert torch.equal(scores[:, :, row], torch.stack([column[:, :, row] for column in columns], -1))


@pytest.mark.parametrize("itself", [False, True])
def test_pieces_hold_every_row_once_and_what_it_may_see_of_its_window(itself, monkeypatch):
    monkeypatch.setattr(attention, "PIECE", 3)
    h, w = 6, 10
    steps = orders.wavefront(h, w, 1)
    at = torch.randperm(h * w, generator=torch.Generator().manual_seed(0))[:40]
    parts, back = attention.pieces(at, steps, 4, itself)
    for piece in parts:
        assert len(piece.rows) <= 3
        assert torch.equal(piece.at, at[piece.rows])
        for p, legal in zip(piece.at.tolist(), piece.legal, strict=True):
            of_window = [q for q in range(h * w) if (q // w // 4, q % w // 4) == (p // w // 4, p % w // 4)]
            seen = [q for q in of_window if steps.flatten()[q] < steps.flatten()[p] + itself]
            assert sorted(piece.keys[legal].tolist()) == seen
    assert torch.equal(torch.cat([piece.rows for piece in parts])[back], torch.arange(40))


def test_best_keys_are_legal_few_and_the_first_of_equals():
    scores = torch.tensor([[5.0, 9, 9, 9, 1], [7, 7, 7, 7, 7], [0, 0, 0, 0, 9]], dtype=torch.float64)[None, None]
    legal = torch.tensor([[True] * 5, [False, True, True, True, False], [False] * 5])
    best = attention._best(scores, legal, 2)[0, 0]
    assert best.tolist() == [[False, True, True, False, False], [False, True, True, False, False], [False] * 5]
    assert attention._best(scores, legal, 9)[0, 0].tolist() == legal.tolist()
    two = attention._best(scores, legal, 2)
    for most in (4, 9):  # of which training takes a part
        assert torch.equal(attention._best(scores, legal, most, torch.tensor([2])), two)


@pytest.mark.parametrize("name", ["entroformer", "entroformer-parallel", "global-parallel"])
def test_pictures_of_several_windows_write_and_read_the_same_latents(name, monkeypatch):
    model = weights.load_models(locate.by_name(f"tiny-{name}", (TINY,)), torch.device("cpu")).entropy
    y_hat = draw(model, 8, 12)
    whole = coding.predict_all(model, y_hat, LEVEL)[1]
    monkeypatch.setattr(attention, "PIECE", 5)
    assert all(torch.equal(a, b) for a, b in zip(coding.predict_all(model, y_hat, LEVEL)[1], whole, strict=True))
    for block in (module for module in model.modules() if isinstance(module, attention.Block)):
        monkeypatch.setattr(block, "window", 5)
    monkeypatch.setattr(base, "CHUNK", 7)
    assert not torch.equal(coding.predict_all(model, y_hat, LEVEL)[1][0], whole[0])  # attention matters
    writer = coders.Writer()
    coding.write(model, y_hat, LEVEL, writer)
    assert torch.equal(coding.read(model, 8, 12, LEVEL, coders.Reader(writer.bytes())).y_hat, y_hat)


def test_heads_too_deep_to_be_exact_are_refused():
    with pytest.raises(LicError, match="heads of 512"):
        attention.Block(512, 1, 1, 1, 4)


@pytest.mark.parametrize("name", ["entroformer", "nonlocal", "global-reference"])
def test_windows_too_large_to_be_exact_are_refused(name):
    model, config = ENTROPY_MODELS[name]
    with pytest.raises(LicError, match="windows of 65"):
        model(config(latents=24, window=65))
