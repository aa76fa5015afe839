import math

import pytest
import torch

from lic.entropy import gaussian


def test_sigma_covers_the_scales_and_inverts():
    t = torch.tensor([-1.0, 0.0, 3.0, gaussian.T_HIGH, 20.0])
    s = gaussian.sigma(t)
    assert torch.allclose(s[[0, 1, 3, 4]], torch.tensor([0.033, 0.033, 59.666, 59.666]), rtol=1e-4)
    assert torch.allclose(gaussian.inverse_sigma(s[1:4]), t[1:4], atol=1e-5)


def test_bounded_gradient_leads_back_inside_only():
    t = torch.tensor([-1.0, -1.0, 20.0, 3.0], requires_grad=True)
    (gaussian.sigma(t) * torch.tensor([1.0, -1.0, 1.0, 1.0])).sum().backward()
    assert t.grad[0] == 0  # a smaller sigma is not to be had
    assert t.grad[1] < 0  # a larger one is
    assert t.grad[2] > 0
    assert t.grad[3] > 0


def draw(mean: float, s: float, count: int) -> torch.Tensor:
    """Samples of a distribution."""
    shares, widths = torch.tensor(gaussian.SHAPE).float().unbind(1)
    return mean + s * widths[torch.multinomial(shares, count, replacement=True)] / 20 * torch.randn(count)


def test_shape_is_a_distribution_of_about_unit_deviation():
    assert sum(share for share, _ in gaussian.SHAPE) == 8
    assert sum(share / 8 * (width / 20) ** 2 for share, width in gaussian.SHAPE) == pytest.approx(1, abs=0.02)


def test_bits_are_those_of_the_integral():
    y, mean, s = 3.0, 1.2, 2.5
    t = gaussian.inverse_sigma(torch.tensor([s]))
    z = [(share / 8, 20 / (s * width * 2**0.5)) for share, width in gaussian.SHAPE]
    p = sum(0.5 * share * (math.erf((y + 0.5 - mean) * k) - math.erf((y - 0.5 - mean) * k)) for share, k in z)
    assert abs(float(gaussian.bits(torch.tensor([y]), torch.tensor([mean]), t)) + math.log2(p)) < 1e-4


def test_centroid_is_the_conditional_mean():
    torch.manual_seed(0)
    for mean, s in ((0.3, 0.2), (0.3, 1.0), (-0.45, 0.15), (0.0, 30.0)):
        samples = draw(mean, s, 2_000_000)
        inside = samples[torch.round(samples) == 0]
        got = gaussian.centroid(torch.zeros(1), torch.tensor([mean]), gaussian.inverse_sigma(torch.tensor([s])))
        assert abs(float(got) - float(inside.mean())) < 0.01
    far = gaussian.centroid(torch.tensor([5.0]), torch.tensor([-3.0]), torch.tensor([0.0]))
    assert 4.5 <= far < 4.55  # the end of the bin that faces the mean


def plain_mass(y, mean, t):
    s = gaussian.sigma(t)
    ends = [((y + half - mean) / (s * width / 20) * 0.5**0.5, share / 8) for share, width in gaussian.SHAPE for half in (0.5, -0.5)]
    return sum(
        share * torch.erf(upper) / 2 - share * torch.erf(lower) / 2
        for (upper, share), (lower, _) in zip(ends[::2], ends[1::2], strict=True)
    )


def plain_offset(y, mean, t):
    """By quadrature over the bin."""
    x = y[..., None] + (torch.arange(4000, dtype=y.dtype) + 0.5) / 4000 - 0.5
    s = gaussian.sigma(t)[..., None]
    p = sum(share / width * torch.exp(-0.5 * ((x - mean[..., None]) / (s * width / 20)) ** 2) for share, width in gaussian.SHAPE)
    return (p * (x - y[..., None])).sum(-1) / p.sum(-1)


@pytest.mark.parametrize(("function", "plain"), [(gaussian._Mass.apply, plain_mass), (gaussian._Offset.apply, plain_offset)])
def test_derivatives_written_out_are_those_of_the_formula(function, plain):
    torch.manual_seed(0)
    y, mean = torch.randn(2, 400, dtype=torch.float64).round(), torch.randn(2, 400, dtype=torch.float64)
    mean = y + mean.clamp(-0.7, 0.7)  # beyond, the offset is blunted where next to nothing is
    t = torch.rand(2, 400, dtype=torch.float64) * 4 + 1.5  # deviations from 0.1 to 3
    inputs = [x.requires_grad_() for x in (y, mean, t)]
    got, wanted = function(*inputs), plain(*inputs)
    weight = torch.randn_like(got)
    assert torch.allclose(got, wanted, atol=1e-4)
    for a, b in zip(*(torch.autograd.grad((weight * f).sum(), inputs) for f in (got, wanted)), strict=True):
        assert torch.allclose(a, b, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("of", [gaussian.bits, gaussian.centroid])
def test_expected_of_either_integer(of):
    torch.manual_seed(0)
    low, mean, t, logit = torch.randn(60).round(), torch.randn(60, 2), torch.rand(60, 2) * 4 + 1.5, torch.randn(60, 2)
    share = torch.cat((torch.zeros(20), torch.ones(20), torch.rand(20))).requires_grad_()
    for parameters in ((mean, t, logit), (mean[:, 0], t[:, 0])):
        first, second = of(low, *parameters), of(low + 1, *parameters)
        got = gaussian.expected(of, low, share, *parameters)
        assert torch.allclose(got, torch.lerp(first, second, share), atol=1e-5)
        (slope,) = torch.autograd.grad(got.sum(), share)
        assert torch.allclose(slope[40:], (second - first)[40:], atol=1e-5)


def test_both_at_once_are_those_by_themselves():
    torch.manual_seed(0)
    low, share, mean, t, logit = torch.randn(60).round(), torch.rand(60), torch.randn(60, 3), torch.rand(60, 3) * 5, torch.randn(60, 3)
    share[:20] = 0
    for parameters in ((mean, t, logit), (mean[:, 0], t[:, 0])):
        parameters = [p.requires_grad_() for p in parameters]
        together = gaussian.expected_of_each(gaussian.bits_and_centroid, low, share, *parameters, step=torch.ones(60))
        for of, got in zip((gaussian.bits, gaussian.centroid), together, strict=True):
            alone = gaussian.expected(of, low, share, *parameters)
            assert torch.equal(got, alone)
            for a, b in zip(*(torch.autograd.grad(f.sum(), parameters, retain_graph=True) for f in (got, alone)), strict=True):
                assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("fine", [1, 2])
def test_what_is_around_is_what_each_is_by_itself(fine):
    torch.manual_seed(0)
    y, mean = torch.randn(3000) * 4, torch.randn(3000, 3) * 4
    t, logit = (torch.rand(3000, 3) * gaussian.SCALES).round() / gaussian.PER_UNIT, torch.randn(3000, 3)
    for parameters in ((mean, t, logit), (mean[:, 0], t[:, 0])):
        parameters = [p.detach().requires_grad_() for p in parameters]
        values, bits, decoded = gaussian.around(y, *parameters, fine=fine)
        assert torch.equal(values, torch.round(y * fine) / fine + torch.arange(-1, 1.5, 1 / fine)[: 2 * fine + 1, None])
        wanted = gaussian.bits(values, *parameters)
        near = wanted < 20
        assert near.float().mean() > 0.5
        assert torch.allclose(bits[near], wanted[near], atol=0.05)
        assert (bits[~near] > 19).all()
        certain = wanted < 12  # of a mixture, who is not: that far out it depends on rounding which component it came from
        assert torch.allclose(decoded[certain], gaussian.centroid(values, *parameters)[certain], atol=2e-3)
        for a, b in zip(*(torch.autograd.grad(x[certain].sum(), parameters) for x in (bits, wanted)), strict=True):
            assert torch.allclose(a, b, atol=2e-2, rtol=2e-3)


def test_table_index_rounds_to_the_nearest():
    mean, index = gaussian.table_index(torch.tensor([100.0, -100.0, 31.0, 32.0]).double(), torch.tensor([0.0, 191.0, 192.0, 1e6]).double())
    assert mean.tolist() == [2, -2, 0, 1]
    assert index.tolist() == [0, 1, 2, 75]
    back = gaussian.from_index(mean, index)
    assert back[0].tolist() == [0.125, -0.125, 0.0, 0.0625]
    assert back[1].tolist() == [0.0, 0.125, 0.25, 75 / 8]


def test_mixtures_of_one_kind_are_gaussians_and_logits_have_base_two():
    y, mean, t = torch.randn(50).round(), torch.randn(50), torch.rand(50) * 5
    same = mean[:, None].expand(-1, 3), t[:, None].expand(-1, 3), torch.randn(50, 3)
    assert torch.allclose(gaussian.bits(y, *same), gaussian.bits(y, mean, t), atol=1e-4)
    assert torch.allclose(gaussian.centroid(y, *same), gaussian.centroid(y, mean, t), atol=1e-4)
    two = torch.tensor([0.0, 9.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0])
    assert abs(float(gaussian.bits(torch.zeros(()), *two)) + math.log2(0.8)) < 1e-4
    assert abs(float(gaussian.bits(torch.tensor(9.0), *two)) + math.log2(0.2)) < 1e-4


def test_centroid_of_a_mixture_is_the_conditional_mean():
    torch.manual_seed(0)
    mean, s, share = torch.tensor([-0.45, 0.6, 2.0]), torch.tensor([0.15, 1.0, 8.0]), torch.tensor([0.5, 0.3, 0.2])
    from_ = torch.multinomial(share, 4_000_000, replacement=True)
    samples = mean[from_] + s[from_] * draw(0.0, 1.0, len(from_))
    for bin_ in (-1.0, 0.0, 1.0, 4.0):
        inside = samples[torch.round(samples) == bin_]
        got = gaussian.centroid(torch.tensor(bin_), mean, gaussian.inverse_sigma(s), share.log2())
        assert abs(float(got) - float(inside.mean())) < 0.01


def test_table_of_a_mixture_and_back():
    mean, t, logit = torch.tensor([[1.03, -2.0]]), torch.tensor([[0.5, 3.0]]), torch.tensor([[0.0, 1.0]])
    table = gaussian.table_index(*(torch.round(x.double() * 1024) for x in (mean, t, logit)))
    assert [x.tolist() for x in table] == [[[16, -32]], [[4, 24]], [[21845, 43691]]]
    back = gaussian.from_index(*table)
    assert torch.allclose(torch.exp2(back[2]) / 2**16, torch.tensor([[1 / 3, 2 / 3]]), atol=1e-4)
    assert torch.equal(gaussian.from_index(table[0], table[1], torch.tensor([[0, 65536]]))[2], torch.tensor([[-torch.inf, 16.0]]))
