"""The encoder's search: a better trade for the same decoder, the same integers every time, nothing from the padding."""

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from lic import annealing, locate, search, transforms, weights
from lic.codec import Codec
from lic.entropy import ENTROPY_MODELS, base, gaussian
from lic.errors import LicError
from lic.evaluate import metrics
from lic.measures import MEASURES
from lic.transforms import lambda_of


@pytest.fixture(scope="module")
def codec():
    return Codec("tiny", "local", "cpu", TINY)


@pytest.fixture(scope="module")
def models():
    return weights.load_models(locate.by_name("tiny-local", (TINY,)), torch.device("cpu"))


def trade(codec, models, picture, quality, effort):
    """lambda 255^2 MSE + bits per pixel of a real file."""
    data = codec.encode(picture, quality, effort)
    pixels = np.asarray(picture)
    mse = 255**2 / 10 ** (metrics.psnr(pixels, np.asarray(codec.decode(data))) / 10)
    lam = float(lambda_of(models.transforms.config, torch.tensor(quality * 40.96)))
    return lam * mse + 8 * len(data) / (pixels.shape[0] * pixels.shape[1]), len(data)


@pytest.mark.parametrize(("model", "qualities"), [("lite", (20, 80)), ("base", (30, 80))])
def test_effort_buys_a_better_trade_and_smaller_files(sample, model, qualities):
    shipped = Codec(model, device="cpu")
    models, more = weights.load_models(shipped.path, shipped.device), []
    for quality in qualities:
        costs = [trade(shipped, models, sample, quality, effort) for effort in (0, 1, 3)]
        assert costs[1][0] < 0.995 * costs[0][0]
        assert costs[1][1] < costs[0][1]
        more.append(costs[2][0] / costs[1][0])
    assert sum(more) <= 1.001 * len(more)  # of one picture at one quality either may be ahead


def start(models, sample, box=(0, 64, 128, 192), level=2000):
    x = torch.from_numpy(np.asarray(sample.crop(box)).copy()).permute(2, 0, 1)[None].float() / 255
    level = torch.tensor([level])
    with torch.no_grad():
        y_hat = models.transforms.analysis(x, level).round()
    return x, y_hat, level


def refine(models, x, y_hat, level, effort):
    with torch.no_grad():
        return search.refine(models, x, y_hat, level, effort)[0]


def test_no_effort_changes_nothing_and_effort_repeats(models, sample):
    x, y_hat, level = start(models, sample)
    assert torch.equal(refine(models, x, y_hat, level, 0), y_hat)
    once = refine(models, x, y_hat, level, 1)
    assert torch.equal(refine(models, x, y_hat, level, 1), once)
    assert 0 < int(((once - y_hat).abs() > 0.5).sum()) < 0.2 * y_hat.numel()
    assert 1 <= float((once - y_hat).abs().max()) <= 2
    assert torch.equal((2 * once).round(), 2 * once)


def test_padding_is_free(models, sample):
    """Latents are judged by the picture alone, not by what a padded synthesis adds to it."""
    x, y_hat, level = start(models, sample)
    slope = undecided(models, x[:, :, :20, :20], y_hat, level).weigh().slope[0]
    assert bool((slope[:, :2, :2] != 0).any())
    assert not bool(slope[:, 5:].any() or slope[:, :, 5:].any())  # the tiny network reaches 3 rows
    assert refine(models, x[:, :, :20, :20], y_hat, level, 1).shape == y_hat.shape


@pytest.mark.parametrize("measure_of", MEASURES.values())
def test_slope_is_the_derivative_of_the_distortion(models, sample, monkeypatch, measure_of):
    monkeypatch.setattr(transforms, "_rough", lambda kind: False)
    x, y, level = start(models, sample)
    measure = measure_of(x)
    slope = annealing._distortion(models.transforms, measure, y, level)[1]
    lam = annealing.WORTH * float(lambda_of(models.transforms.config, level))

    def cost(y_dec):
        with torch.no_grad():
            return lam * 255**2 / 3 * float(measure(models.transforms.synthesis(y_dec, level)))

    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    rise = (cost(y + 0.01 * direction) - cost(y - 0.01 * direction)) / 0.02
    assert rise == pytest.approx(float((slope * direction).sum()), rel=0.01)


@pytest.mark.parametrize("measure_of", MEASURES.values())
def test_bfloat16_knows_distortion_and_slopes_well_enough(sample, monkeypatch, measure_of):
    models = weights.load_models(locate.by_name("lite-hyperprior"), torch.device("cpu"))
    for level in (0, 4096):
        x, y, level = start(models, sample, level=level)
        found = []
        for rough in (False, True):  # either works on any processor
            monkeypatch.setattr(transforms, "_rough", lambda kind, rough=rough: rough)
            found.append(annealing._distortion(models.transforms, measure_of(x), y, level))
        (error, slope), (rough_error, rough_slope) = found
        assert rough_error.dtype == rough_slope.dtype == torch.float32
        assert float(rough_error) == pytest.approx(float(error), rel=0.01)
        assert 0 < float((rough_slope - slope).square().mean() / slope.square().mean()) < 0.01


SMOOTH = sorted(set(ENTROPY_MODELS) - {"spatiotemporal", "global-reference"})  # these round in between, or choose a reference


@pytest.mark.parametrize("entropy_name", SMOOTH)
def test_context_is_the_derivative_of_the_bits_of_others(entropy_name, sample, monkeypatch):
    monkeypatch.setattr(transforms, "_rough", lambda kind: False)
    models = weights.load_models(locate.by_name(f"tiny-{entropy_name}", (TINY,)), torch.device("cpu"))
    _, y_hat, level = start(models, sample)
    previous = y_hat.roll(1, 3) if models.entropy.looks_back else None
    entropy = annealing.real(models.entropy)
    with torch.no_grad():
        z = base.analysis_of(entropy, y_hat, level, previous)
        _, context, *_ = annealing._rate(entropy, y_hat, 0.0, z.round(), level, previous)

    def bits(y):
        with torch.no_grad():
            z_hat = z.round() + annealing.FOLLOWS * (base.analysis_of(entropy, y, level, previous) - z)
            return float(gaussian.bits(y_hat, *base.parameters_of(entropy, z_hat, y, level, previous)).double().sum())

    assert bool(context.any()) == (entropy_name not in {"factorized", "local-dictionary"})
    step = 0.002 * context.sign()
    rise = (bits(y_hat + step) - bits(y_hat - step)) / 0.004
    assert rise == pytest.approx(float(context.abs().sum()), rel=0.1)  # kinks


@pytest.mark.parametrize("entropy_name", sorted(ENTROPY_MODELS))
def test_bfloat16_knows_bits_and_their_slopes_well_enough(entropy_name, sample, monkeypatch):
    models = weights.load_models(locate.by_name(f"tiny-{entropy_name}", (TINY,)), torch.device("cpu"))
    _, y_hat, level = start(models, sample)
    previous = y_hat.roll(1, 3) if models.entropy.looks_back else None
    found = []
    for rough in (False, True):
        monkeypatch.setattr(transforms, "_rough", lambda kind, rough=rough: rough)
        found.append(annealing._rate(annealing.real(models.entropy), y_hat, 0.0, None, level, previous))
    (bits, slope, _, (_, own_bits, _), *_), (rough_bits, rough_slope, _, (_, rough_own_bits, decoded), *_) = found
    assert rough_slope.dtype == rough_own_bits.dtype == decoded.dtype == torch.float32
    assert float(rough_bits) == pytest.approx(float(bits), rel=0.005)
    off = 0.03 if entropy_name != "global-reference" else 0.5  # which may choose another reference
    for exact, rough in ((slope, rough_slope), (own_bits, rough_own_bits)):
        assert float((rough - exact).square().mean()) <= off * float(exact.square().mean())


def test_blocks_leave_no_seams(models, sample, monkeypatch):
    """A picture judged in blocks gets the integers that it gets in one piece, nearly, if they overlap by as much as a latent reaches."""
    x = torch.from_numpy(np.asarray(sample.crop((0, 0, 192, 192))).copy()).permute(2, 0, 1)[None].float() / 255
    level = torch.tensor([2000])
    with torch.no_grad():
        y_hat = models.transforms.analysis(x, level).round()
    whole = refine(models, x, y_hat, level, 2)
    monkeypatch.setattr(search, "BLOCK", 4)
    monkeypatch.setattr(search, "HALO", 8)
    blocks = refine(models, x, y_hat, level, 2)
    moved = int((whole != y_hat).sum())
    assert moved > 50
    assert int((blocks != whole).sum()) < 0.02 * moved


def test_progress_is_told_of_every_block_and_changes_nothing(sample, monkeypatch):
    monkeypatch.setattr(search, "BLOCK", 8)
    picture, told = sample.crop((0, 0, 200, 100)), []  # padded to 16x8 latents

    def progress(blocks):
        for block in blocks:
            told.append(block)
            yield block

    quiet, loud = (Codec("tiny", "local", "cpu", TINY, **options) for options in ({}, {"progress": progress}))
    assert loud.encode(picture, 50, 1) == quiet.encode(picture, 50, 1)
    assert told == 4 * [(0, 0), (0, 8)]  # once for all rounds, three times while latents are decided


def test_blocks_cost_no_quality(sample, monkeypatch):
    """Integers of blocks are as good as those of one piece, as they overlap, even if blocks are that small; without that they are not."""
    shipped = Codec(device="cpu")
    models = weights.load_models(shipped.path, torch.device("cpu"))
    whole = trade(shipped, models, sample, 60, 1)[0]
    monkeypatch.setattr(search, "BLOCK", 8)
    assert trade(shipped, models, sample, 60, 1)[0] < 1.005 * whole
    monkeypatch.setattr(search, "HALO", 0)
    assert trade(shipped, models, sample, 60, 1)[0] > 1.05 * whole


def undecided(models, x, y_hat, level, previous=None):
    return annealing.Undecided(
        models.transforms, annealing.real(models.entropy), MEASURES["psnr"](x), y_hat, level, previous, dependent=models.entropy.dependent
    )


@pytest.mark.parametrize("model", ["lite", "base"])
def test_hyper_latents_are_searched_too_and_save_bits(sample, model):
    """Those of the search, integers, cost less than those that the analysis gives for the same y_hat: in the mean of all qualities."""
    models = weights.load_models(Codec(model, device="cpu").path, torch.device("cpu"))
    entropy, saved = annealing.real(models.entropy), []
    for number in range(0, 4097, 1024):  # every second anchor: on one small picture, each by itself may be off by a per cent
        x, y_hat, level = start(models, sample, (0, 0, 384, 256), number)
        with torch.no_grad():
            found = search.find(models, x, y_hat, level, 2, False)
            settled = found.y_hat.float()
            analysed = base.analysis_of(entropy, settled, level, None).round()
            bits = [
                float(gaussian.bits(settled, *base.parameters_of(entropy, z_hat, settled, level, None)).sum())
                + float(gaussian.bits(z_hat, *entropy.hyper.parameters_of_z(level, z_hat.shape)).sum())
                for z_hat in (found.z_hat, analysed)
            ]
        assert torch.equal(found.z_hat, found.z_hat.round())
        assert not torch.equal(found.z_hat, analysed)
        saved.append(1 - bits[0] / bits[1])
    assert sum(saved) / len(saved) > 0.001


def test_vectors_of_motion_are_left_alone(sample, monkeypatch):
    monkeypatch.setattr(annealing, "Z_CURVATURE", -100.0)  # whatever may move does
    models = weights.load_models(locate.by_name("tiny-spatiotemporal", (TINY,)), torch.device("cpu"))
    x, y_hat, level = start(models, sample)
    previous = y_hat.roll(1, 3)
    with torch.no_grad():
        analysed = base.analysis_of(annealing.real(models.entropy), y_hat, level, previous)
    settled = undecided(models, x, y_hat, level, previous)
    with torch.no_grad():
        settled.anneal(2)  # of two rounds the first sees y_hat, and chooses z
    assert torch.equal(settled.z_hat[:, -2:], analysed[:, -2:])
    assert bool(settled.z_hat[:, -2:].any())
    assert not torch.equal(settled.z_hat[:, :-2], analysed[:, :-2].round())


@pytest.mark.parametrize("error", [1e9, float("nan")])
def test_what_runs_away_is_left_alone(models, sample, monkeypatch, error):
    """Integers are tried after multiples of a half; and if both end higher than they began, all stays as it was."""
    x, y_hat, level = start(models, sample)
    one_weighing, last = annealing._distortion, []

    def lost(picture):
        last.append(picture.dependent)
        monkeypatch.setattr(annealing, "_distortion", lambda *given: (torch.tensor([error]), one_weighing(*given)[1]))
        answer = one_answer(picture)
        monkeypatch.setattr(annealing, "_distortion", one_weighing)
        return answer

    one_answer = search._Picture.lost
    monkeypatch.setattr(search._Picture, "lost", lost)
    with torch.no_grad():
        assert search.find(models, x, y_hat, level, 1, True) is None
        found, z_hat, dependent = search.refine(models, x, y_hat, level, 1)
    assert torch.equal(found, y_hat)
    assert z_hat is None
    assert not dependent
    assert last == 2 * [True, False]


def test_a_picture_of_one_pixel(codec):
    assert codec.decode(codec.encode(Image.new("RGB", (1, 1), "red"), 50, 2)).size == (1, 1)


@pytest.mark.parametrize("effort", [-1, 10, 1.5])
def test_effort_out_of_range(codec, effort):
    with pytest.raises(LicError, match="effort"):
        codec.encode(Image.new("RGB", (8, 8)), 50, effort)
