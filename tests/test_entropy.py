"""What must hold of every registered entropy model (fixture `model`: frozen, tiny)."""

import copy

import pytest
import torch

from lic import coders, exact
from lic.entropy import ENTROPY_MODELS, base, coding, gaussian, orders, tables
from lic.entropy.side import Hyper, Side
from lic.errors import LicError
from lic.exact import to_fixed

LEVEL = torch.tensor([1500])


def draw(model, h, w, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(6, 0.2, model.latents)[:, None, None]
    return torch.round(torch.randn(1, model.latents, h, w, generator=generator) * spread).long()


def before(model, y_hat):
    """Latents of a previous frame: half of y_hat's, and others."""
    return torch.where(draw(model, *y_hat.shape[2:], seed=9) > 0, y_hat, draw(model, *y_hat.shape[2:], seed=10))


def side_of(model, y_hat):
    previous = before(model, y_hat)
    z_hat = torch.round(model.analysis(y_hat.float(), LEVEL, previous.float())).long()
    return model.side(to_fixed(z_hat), LEVEL, to_fixed(previous))


def predict(model, side, y_hat, at):
    """Mean and t of the cells `at`, stacked, by a model that has heard of all of y_hat."""
    side = Side(side.features, side.level, side.previous)
    model.remember(side, to_fixed(y_hat), base.all_but_last_step(model, *y_hat.shape[2:], y_hat.device))
    return torch.stack(model.predict(side, to_fixed(y_hat), at))


def test_order_has_a_step_for_every_cell(model):
    order = model.order(8, 12)
    assert order.shape == (model.groups, 8, 12)
    assert order.min() >= 0


@torch.inference_mode()
def test_causality_by_perturbation(model):
    """Change one cell: no prediction of an equal or smaller step may change, not by one unit."""
    h, w = 8, 12
    y_hat = draw(model, h, w)
    side, order = side_of(model, y_hat), model.order(h, w).flatten()
    at = torch.arange(model.groups * h * w)
    before = predict(model, side, y_hat, at)
    changed_any = False
    for cell in range(0, len(at), 7):
        changed = base.to_rows(y_hat, model.groups).clone()
        changed[0, cell] += 5
        after = predict(model, side, base.from_rows(changed, model.groups, h, w), at)
        differs = (after != before).transpose(0, 2).flatten(1).any(1)
        assert not bool(differs[order <= order[cell]].any())
        changed_any |= bool(differs.any())
    assert changed_any or int(order.max()) == 0  # the test can fail: context does matter


@torch.inference_mode()
def test_the_previous_frame_matters_if_and_only_if_a_model_looks_back(model):
    y_hat = draw(model, 8, 12)
    previous, at = before(model, y_hat), torch.arange(model.groups * 8 * 12)
    z_hat = torch.round(model.analysis(y_hat.float(), LEVEL, previous.float())).long()

    def predicted(previous):
        return predict(model, model.side(to_fixed(z_hat), LEVEL, to_fixed(previous)), y_hat, at)

    reference = predicted(previous)
    for position in (0, 50, 95):
        changed = previous.clone()
        changed.flatten(2)[:, :, position] += 5
        assert bool((predicted(changed) != reference).any()) == model.looks_back


@torch.inference_mode()
def test_predicting_some_cells_equals_predicting_all(model):
    y_hat = draw(model, 8, 12)
    side = side_of(model, y_hat)
    at = torch.arange(model.groups * 8 * 12)
    everything = predict(model, side, y_hat, at)
    for some in at.flip(0).split(17):
        assert torch.equal(predict(model, side, y_hat, some), everything[:, :, some])


def test_write_read_and_estimate_agree(model):
    for h, w, seed in ((4, 4, 0), (8, 12, 1), (12, 4, 2), (4, 20, 3)):
        y_hat = draw(model, h, w, seed)
        previous = before(model, y_hat)
        writer, estimator = coders.Writer(), coders.Estimator()
        written = coding.write(model, y_hat, LEVEL, writer, previous)
        coding.write(model, y_hat, LEVEL, estimator, previous)
        data = writer.bytes()
        reader = coders.Reader(data)
        read = coding.read(model, h, w, LEVEL, reader, previous)
        reader.finish()
        for a, b in zip(written.table, read.table, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(read.y_hat, y_hat)
        assert abs(8 * len(data) - estimator.bits) <= 0.001 * estimator.bits + 64


def test_small_chunks_write_and_read_the_same_latents(model, monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 5)
    y_hat = draw(model, 8, 12)
    for previous in (before(model, y_hat), None):
        writer = coders.Writer()
        coding.write(model, y_hat, LEVEL, writer, previous)
        assert torch.equal(coding.read(model, 8, 12, LEVEL, coders.Reader(writer.bytes()), previous).y_hat, y_hat)


def test_training_face_predicts_what_the_coder_uses(entropy_name):
    """The float face of a model and its frozen copy give the same bits, to the precision of the tables."""
    torch.manual_seed(0)
    architecture, config = ENTROPY_MODELS[entropy_name]
    model = architecture(config(latents=48, anchors=3)).eval()
    y = draw(model, 8, 12).float()
    model.start(3 * [y])
    with torch.no_grad():
        rate = base.expected_rate(model, y, LEVEL, before(model, y.long()).float())
    frozen = exact.freeze(copy.deepcopy(model).requires_grad_(False))
    exact.prove(frozen)
    estimator = coders.Estimator()
    coding.write(frozen, y.long(), LEVEL, estimator, before(model, y.long()))
    assert abs(float(rate.bits + rate.z_bits) / estimator.bits - 1) < 0.003


def test_training_rate_has_gradients_everywhere(entropy_name):
    torch.manual_seed(0)
    architecture, config = ENTROPY_MODELS[entropy_name]
    model = architecture(config(latents=48, anchors=3))
    if isinstance(model.hyper, Hyper):
        with torch.no_grad():
            model.hyper.h_a[-1].weight.mul_(30)  # untrained, all of z would round to 0
    y = draw(model, 8, 8).float().requires_grad_()
    rate = base.rate(model, y, LEVEL, y.detach().roll(1, 3))  # one position to the right
    (rate.bits + rate.z_bits + rate.y_dec.square().sum((1, 2, 3))).sum().backward()
    assert bool((y.grad != 0).any())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_training_counts_the_bits_of_integers_but_near_half_way():
    mean, t = torch.zeros(5), gaussian.inverse_sigma(torch.full((5,), 0.6))
    y = torch.tensor([-1.3, 0.0, 0.4, 0.5, 0.54], requires_grad=True)
    bits = base._nearly_integer_bits(y, [mean, t])
    here, there = gaussian.bits(torch.round(y), mean, t), gaussian.bits(torch.ones(5), mean, t)
    assert torch.equal(bits[:3], here[:3])
    assert torch.allclose(bits[3], (gaussian.bits(torch.zeros(5), mean, t)[3] + there[3]) / 2)
    assert here[2] < bits[3] < bits[4] < there[4]
    bits.sum().backward()
    assert torch.equal(y.grad[:3], torch.zeros(3))
    assert torch.allclose(y.grad[3:], (there - here[1])[3:] / base.SOFT)


class Mixed(base.EntropyModel):
    """A hyperprior whose every latent is a mixture of two Gaussians, one of them wherever z says."""

    def __init__(self, z_like):
        super().__init__()
        self.hyper, self.head, self.latents = z_like.hyper, z_like.head, z_like.latents

    def order(self, h, w):
        return torch.zeros(1, h, w, dtype=torch.int64)

    def predict(self, side, y_hat, at):
        mean, t = self.head(side.features.flatten(2)[:, :, at].transpose(1, 2), side.level)
        pairs = torch.stack((mean, mean * -2), -1), torch.stack((t, t * 0.5), -1), torch.stack((t, mean), -1)
        return tuple(torch.floor(x) if exact.is_exact(x) else x for x in pairs)


def test_mixtures_through_the_whole_contract():
    torch.manual_seed(0)
    architecture, config = ENTROPY_MODELS["hyperprior"]
    model = Mixed(architecture(config(latents=48, anchors=3))).eval()
    with torch.no_grad():
        model.head.level.values[:, 48:] = gaussian.inverse_sigma(torch.linspace(6, 0.3, 48))
        model.head.level.values[:, :48] = torch.linspace(-0.3, 0.3, 48)
    y_hat = draw(model, 8, 12)
    rate = base.rate(model, y_hat.float().requires_grad_(), LEVEL)
    (rate.bits + rate.y_dec.square().sum((1, 2, 3))).sum().backward()
    assert bool((model.head.level.values.grad[0] != 0).all())
    with torch.no_grad():
        rate = base.expected_rate(model, y_hat.float(), LEVEL)
    exact.freeze(model.requires_grad_(False))
    writer, estimator = coders.Writer(), coders.Estimator()
    written = coding.write(model, y_hat, LEVEL, writer)
    coding.write(model, y_hat, LEVEL, estimator)
    data = writer.bytes()
    read = coding.read(model, 8, 12, LEVEL, coders.Reader(data))
    assert torch.equal(read.y_hat, y_hat)
    assert [x.shape for x in read.table] == 3 * [(1, 48, 8, 12, 2)]
    assert all(torch.equal(a, b) for a, b in zip(written.table, read.table, strict=True))
    assert abs(float(rate.bits + rate.z_bits) / estimator.bits - 1) < 0.003
    assert abs(8 * len(data) - estimator.bits) <= 0.001 * estimator.bits + 64
    y_dec = gaussian.centroid(read.y_hat.float(), *gaussian.from_index(*read.table))
    assert float((y_dec - rate.y_dec).abs().max()) < 0.05


@pytest.mark.parametrize(
    "config", [{"inside": "none"}, {"inside": "wavefront"}, {"previous": "still"}, {"sections": [1], "inside": "eighths"}]
)
def test_spatiotemporal_without_its_parts(config):
    torch.manual_seed(0)
    architecture, config_class = ENTROPY_MODELS["spatiotemporal"]
    config = {"latents": 24, "anchors": 3, "sections": [1, 2], "attention": 1} | config
    model = exact.freeze(architecture(config_class(**config)).requires_grad_(False).eval())
    exact.prove(model)
    y_hat = draw(model, 8, 12)
    writer = coders.Writer()
    coding.write(model, y_hat, LEVEL, writer, before(model, y_hat))
    assert torch.equal(coding.read(model, 8, 12, LEVEL, coders.Reader(writer.bytes()), before(model, y_hat)).y_hat, y_hat)
    with pytest.raises(LicError, match="unknown way to look back 'gone'"):
        architecture(config_class(previous="gone"))


def test_rows_round_trip():
    y = torch.arange(2 * 6 * 3 * 5).reshape(2, 6, 3, 5)
    for groups in (1, 2, 6):
        rows = base.to_rows(y, groups)
        assert rows.shape == (2, groups * 15, 6 // groups)
        assert torch.equal(base.from_rows(rows, groups, 3, 5), y)
        mixed = torch.stack((y, -y, 2 * y), -1)
        assert torch.equal(base.from_rows(torch.stack((rows, -rows, 2 * rows), -1), groups, 3, 5), mixed)
        assert torch.equal(base.to_rows(mixed, groups)[..., 1], -rows)


def test_wavefront_window_is_the_raster_causal_one():
    taps = orders.known_taps(orders.wavefront(8, 8, 2), 2)
    assert taps == [(r, c) for r in (-2, -1, 0) for c in range(-2, 3) if r < 0 or c < 0]
    order = orders.wavefront(32, 48, 2)
    assert len(order.unique()) == 48 + 3 * 31


def test_gather_pads_with_zeros():
    y = torch.arange(1.0, 13).reshape(1, 1, 3, 4)
    got = orders.gather(y, torch.tensor([0, 5, 11]), [(-1, 0), (0, -1), (1, 1)])
    assert got.tolist() == [[[0, 0, 6], [2, 5, 11], [8, 11, 0]]]


def test_gather_hides_what_the_order_has_not_reached():
    y = torch.arange(1.0, 13).reshape(1, 1, 3, 4)
    taps = [(-1, 0), (0, -1), (0, 1)]
    assert orders.gather(y, torch.tensor([5, 6]), taps, orders.checkerboard(3, 4)).tolist() == [[[0, 0, 0], [3, 6, 8]]]
    assert orders.gather(y, torch.tensor([5, 6]), taps, orders.wavefront(3, 4, 1)).tolist() == [[[2, 5, 0], [3, 6, 0]]]
    assert orders.known_taps(orders.checkerboard(8, 8), 1) == [(-1, 0), (0, -1), (0, 1), (1, 0)]


@pytest.mark.parametrize("order", [None, orders.checkerboard(5, 4)])
def test_gathering_from_rows_is_the_same(order):
    y = torch.randn(2, 6, 5, 4)
    at, taps = torch.tensor([0, 3, 9, 19]), [(-1, 0), (0, 0), (1, -1)]
    rows = torch.cat((y.flatten(2).transpose(1, 2), torch.zeros(2, 1, 6)), 1)
    assert torch.equal(orders.gather_rows(rows, at, taps, 5, 4, order), orders.gather(y, at, taps, order))
    assert torch.equal(orders.gather_rows(rows[..., 2:4], at, taps, 5, 4, order), orders.gather(y[:, 2:4], at, taps, order))
    assert torch.equal(orders.gather_rows(rows[..., :0], at, taps, 5, 4, order), orders.gather(y[:, :0], at, taps, order))


def test_constants_fit_the_exact_range():
    assert (base.Y_LIMIT + 1) << exact.FRACTION <= exact.LIMIT
    assert len(tables.sigmas()) == gaussian.SCALES
