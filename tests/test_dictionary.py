"""`local-dictionary` and what it starts from."""

from contextlib import suppress

import pytest
import torch
from conftest import TINY
from PIL import Image, ImageDraw

from lic import coders, exact
from lic.codec import Codec
from lic.entropy import base, coding, gaussian, seeding
from lic.entropy.dictionary import DictionaryConfig, LocalDictionary
from lic.entropy.side import Side
from lic.errors import Corrupt, LicError

LEVEL = torch.tensor([1500])


def two_textures(h=12, w=16):
    """Latents that are almost nothing on the left and lively on the right: (1, 24, h, w)."""
    spread = torch.linspace(8, 0.5, 24)[:, None, None] * torch.where(torch.arange(w) < w // 2, 0.02, 1.0)
    return torch.randn(1, 24, h, w, generator=torch.Generator().manual_seed(0)) * spread


def started(tile, entries=4, own=0):
    torch.manual_seed(0)
    model = LocalDictionary(DictionaryConfig(latents=24, entries=entries, tile=tile, anchors=3, own=own)).eval()
    model.start(3 * [two_textures()])
    return model


def flat_areas(h=12, w=16):
    """Two textures with three flat areas in them, of vectors that no entry foretells: (1, 24, h, w) of integers."""
    y_hat = two_textures(h, w).round()
    for k, (rows, columns) in enumerate([(slice(0, 4), slice(0, 16)), (slice(6, 12), slice(0, 6)), (slice(6, 12), slice(9, 16))]):
        vector = (6 * torch.randn(24, 1, 1, generator=torch.Generator().manual_seed(k))).round()
        y_hat[0, :, rows, columns] = vector
    return y_hat


@pytest.mark.parametrize("tile", [1, 3, 4, 32])
def test_bits_under_entries_are_those_of_the_cells_in_a_tile(tile):
    model = started(tile)
    y_hat = torch.cat((two_textures(5, 7).round(), 3 - two_textures(5, 7).round()))
    level = torch.tensor([0, 4000])
    with torch.no_grad():
        got = model.hyper._bits_under_entries(y_hat, level)
        for k in range(4):
            parameters = model.hyper.parameters(torch.full((2, 35), k), level)
            each = gaussian.bits(y_hat, *(base.from_rows(x, 1, 5, 7) for x in parameters)).sum(1)
            for i in range(got.shape[2]):
                for j in range(got.shape[3]):
                    cells = each[:, i * tile : (i + 1) * tile, j * tile : (j + 1) * tile].sum((1, 2))
                    assert torch.allclose(got[:, k, i, j], cells, rtol=1e-4)


@pytest.mark.parametrize("tile", [1, 3, 32])
def test_map_follows_the_texture_and_pays(tile):
    model = started(tile)
    y = two_textures()
    with torch.no_grad():
        z = model.hyper.analysis(y.round(), LEVEL)
        assert tuple(z.shape[1:]) == model.hyper.size(12, 16)
        if tile < 32:
            assert set(z[..., :2].flatten().tolist()).isdisjoint(z[..., -2:].flatten().tolist())
        chosen = base.expected_rate(model, y.round(), LEVEL)
        alone = started(tile, entries=1)
        alone.hyper.levels.load_state_dict(model.hyper.levels.state_dict())
        fixed = base.expected_rate(alone, y.round(), LEVEL)
    assert float(chosen.bits + chosen.z_bits) <= float(fixed.bits + fixed.z_bits) + 2.1  # one index out of four
    if tile < 32:
        assert float(chosen.bits) < 0.98 * float(fixed.bits)
    if tile == 1:
        assert float(chosen.z_bits) < 0.6 * 12 * 16 * 2  # bits of indexes out of four that know nothing of each other


def test_both_faces_choose_alike_and_an_impossible_index_is_an_entry():
    model = started(3)
    y_hat = two_textures().round()
    real = model.hyper.analysis(y_hat, LEVEL)
    exact.freeze(model.requires_grad_(False))
    assert float((model.hyper.analysis(y_hat, LEVEL) != real).float().mean()) < 0.1
    wild = Side(exact.to_fixed(torch.tensor([[[[-100, 3, 99, 0, 1, 2]] * 4]])), LEVEL)
    mean, *_ = model.predict(wild, exact.to_fixed(y_hat), torch.arange(12 * 16))
    assert mean.shape == (1, 192, 24, 3)


def test_flat_areas_cost_their_tile_once():
    """Own entries: with them a tile that comes again takes its index and nothing else, and what is read is what was written."""
    y_hat, bits = flat_areas(), []
    for own in (0, 4, 5):
        model = started(1, own=own)
        model.start(3 * [y_hat])  # so that the prior knows of flat areas
        with torch.no_grad():
            estimated = base.expected_rate(model, y_hat, LEVEL)
        exact.freeze(model.requires_grad_(False))
        estimator, writer = coders.Estimator(), coders.Writer()
        coding.write(model, y_hat, LEVEL, estimator)
        z_hat = coding.write(model, y_hat, LEVEL, writer).z_hat
        assert tuple(z_hat.shape[1:]) == model.hyper.size(12, 16)
        back = coding.read(model, 12, 16, LEVEL, coders.Reader(writer.bytes()))
        assert torch.equal(back.y_hat, y_hat.double())
        assert torch.equal(back.z_hat, z_hat)
        assert float(estimated.bits + estimated.z_bits) == pytest.approx(estimator.bits, rel=0.03)
        bits.append(estimator.bits)
        assert not own or model.hyper.strip(z_hat[0]).shape == (24, 4)  # the fourth are zeros of the left texture
    assert bits[1] < 0.6 * bits[0]
    assert bits[2] == pytest.approx(bits[1], rel=0.03)  # there is nothing else that comes again


def test_own_entries_are_the_tiles_that_save_most_and_fit_in_z():
    y_hat = flat_areas()
    y_hat[0, :, 6:, 9:] *= 40  # larger than z may be
    model = started(1, own=1)
    with torch.no_grad():
        z = model.hyper.analysis(y_hat, LEVEL)
    assert torch.equal(model.hyper.strip(z[0])[:, 0], y_hat[0, :, 0, 0])
    assert float(z.abs().max()) <= base.Z_LIMIT
    assert bool((z[:, :1] < 4)[..., 6:, :].all())


def test_noise_in_place_of_a_map_and_a_strip():
    model = started(1, own=3)
    exact.freeze(model.requires_grad_(False))
    for seed in range(40):
        data = torch.randint(0, 256, (400,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8).numpy().tobytes()
        with suppress(Corrupt):
            coding.read(model, 12, 16, LEVEL, coders.Reader(data))
    for z in (torch.full((1, 25, 4, 4), 127), torch.full((1, 25, 4, 4), -127)):  # of an index there is no such entry
        mean, *_ = model.predict(Side(exact.to_fixed(z), LEVEL), torch.zeros(1, 24, 4, 4).double(), torch.arange(16))
        assert mean.shape == (1, 16, 24, 3)


def test_indexes_cost_less_beside_equal_ones():
    model = started(1)
    prior = model.hyper.prior
    with torch.no_grad():
        for table in prior.beside:
            table.values[1:] = 4 * torch.eye(4)
        prior.level.values.zero_()  # how often the random start happens to use an index is not the question
    exact.freeze(model.requires_grad_(False))
    costs = []
    for z_hat in (torch.full((1, 1, 8, 8), 3), torch.arange(64).view(1, 1, 8, 8) % 4):
        estimator, writer = coders.Estimator(), coders.Writer()
        model.hyper.code(LEVEL, z_hat.shape, estimator, z_hat)
        model.hyper.code(LEVEL, z_hat.shape, writer, z_hat)
        assert torch.equal(model.hyper.code(LEVEL, z_hat.shape, coders.Reader(writer.bytes()), None), z_hat)
        costs.append(estimator.bits)
    assert costs[0] < 20 < 80 < costs[1]


def test_mixtures_fit_what_they_see_and_allow_what_they_do_not():
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(2, 4000, generator=generator) < 0.2
    samples = (torch.randn(2, 4000, generator=generator) * torch.where(wide, 6.0, 0.6) + torch.tensor([[0.0], [5.0]])).round()
    fitted = [x[:, None] for x in seeding.fit_mixtures(samples, 3)]
    mean, std = samples.mean(1, keepdim=True), samples.std(1, keepdim=True)
    one = gaussian.bits(samples, mean, gaussian.inverse_sigma(std)).mean()
    assert float(gaussian.bits(samples, *fitted).mean()) < 0.85 * float(one)
    nothing = [x[:, None] for x in seeding.fit_mixtures(torch.zeros(1, 4000), 3)]
    assert float(gaussian.bits(torch.zeros(1, 1), *nothing)) < 0.05
    assert float(gaussian.bits(torch.ones(1, 1), *nothing)) < 16


def test_dictionary_serves_every_kind_of_tile():
    """Four kinds of tiles in two channels: the seeds find each of them, and none is left without tiles."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.tensor([[0.5, 0.5], [3, 0.5], [0.5, 3], [3, 3]])
    tiles = (torch.randn(4, 200, 2, 16, generator=generator) * kinds[:, None, :, None]).round().flatten(0, 1)
    mixtures = seeding.fit_mixtures(tiles.transpose(0, 1).flatten(1), 3)
    cost = seeding.costs(tiles, *mixtures)
    entries = seeding.dictionary(cost, 6)
    assert entries.shape == (6, 2)
    assert not bool(entries[0].any())
    at = (entries[:, :, None] == seeding.SHIFTS).int().argmax(2)
    each = torch.stack([cost[:, [0, 1], a].float().sum(1) for a in at], 1)
    assert len(each.argmin(1)[::20].unique()) >= 4
    assert float(each.amin(1).mean()) < 1.05 * float(cost.float().amin(2).sum(1).mean())


@pytest.mark.parametrize(
    "wrong", [{"entries": 0}, {"entries": 129}, {"entries": 64, "own": 65}, {"own": -1}, {"tile": 0}, {"tile": 2, "own": 1}]
)
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(LicError, match="entries"):
        LocalDictionary(DictionaryConfig(latents=24, **wrong))


def test_flat_graphics_shrink():
    picture = Image.new("RGB", (256, 192), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((40, 40, 90, 100), fill="navy")
    draw.text((120, 60), "some words", fill="black")
    sizes = [len(Codec("tiny", name, "cpu", TINY, store=False).encode(picture, 50, 0)) for name in ("factorized", "local-dictionary")]
    assert sizes[1] < 0.9 * sizes[0]
