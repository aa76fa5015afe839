import math

import torch

from lic.entropy import gaussian


def test_sigma_covers_the_scales_and_inverts():
    t = torch.tensor([-1.0, 0.0, 3.0, gaussian.T_HIGH, 20.0])
    s = gaussian.sigma(t)
    assert torch.allclose(s[[0, 1, 3, 4]], torch.tensor([0.11, 0.11, 60.0, 60.0]))
    assert torch.allclose(gaussian.inverse_sigma(s[1:4]), t[1:4], atol=1e-5)


def test_bounded_gradient_leads_back_inside_only():
    t = torch.tensor([-1.0, -1.0, 20.0, 3.0], requires_grad=True)
    (gaussian.sigma(t) * torch.tensor([1.0, -1.0, 1.0, 1.0])).sum().backward()
    assert t.grad[0] == 0  # a smaller sigma is not to be had
    assert t.grad[1] < 0  # a larger one is
    assert t.grad[2] > 0
    assert t.grad[3] > 0


def test_bits_are_those_of_the_integral():
    y, mean, s = 3.0, 1.2, 2.5
    t = gaussian.inverse_sigma(torch.tensor([s]))
    p = 0.5 * (math.erf((y + 0.5 - mean) / s / 2**0.5) - math.erf((y - 0.5 - mean) / s / 2**0.5))
    assert abs(float(gaussian.bits(torch.tensor([y]), torch.tensor([mean]), t)) + math.log2(p)) < 1e-4


def test_centroid_is_the_conditional_mean():
    torch.manual_seed(0)
    for mean, s in ((0.3, 0.2), (0.3, 1.0), (-0.45, 0.15), (0.0, 30.0)):
        samples = mean + s * torch.randn(2_000_000)
        inside = samples[torch.round(samples) == 0]
        got = gaussian.centroid(torch.zeros(1), torch.tensor([mean]), gaussian.inverse_sigma(torch.tensor([s])))
        assert abs(float(got) - float(inside.mean())) < 0.01
    far = gaussian.centroid(torch.tensor([5.0]), torch.tensor([-3.0]), torch.tensor([0.0]))
    assert 4.5 <= far < 4.55  # the end of the bin that faces the mean


def test_table_index_rounds_to_the_nearest():
    mean, index = gaussian.table_index(torch.tensor([100.0, -100.0, 31.0, 32.0]).double(), torch.tensor([0.0, 191.0, 192.0, 1e6]).double())
    assert mean.tolist() == [2, -2, 0, 1]
    assert index.tolist() == [0, 1, 2, 63]
    back = gaussian.from_index(mean, index)
    assert back[0].tolist() == [0.125, -0.125, 0.0, 0.0625]
    assert back[1].tolist() == [0.0, 0.125, 0.25, 63 / 8]
