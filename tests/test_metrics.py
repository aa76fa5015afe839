import numpy as np
import pytest

from lic.evaluate import metrics

# published points (bits per pixel, dB) on Kodak, from the anchors' own result files
VTM = [(0.0754, 28.08), (0.1587, 30.27), (0.3017, 32.69), (0.5263, 35.30), (0.8536, 37.98), (1.2957, 40.57)]
JPEG = [(0.2212, 23.78), (0.5084, 29.04), (0.9, 32.2), (1.4, 34.9), (2.4, 38.6), (3.5, 41.5)]


def test_psnr_of_known_differences():
    a = np.full((4, 5, 3), 100, np.uint8)
    assert metrics.psnr(a, a) == float("inf")
    assert metrics.psnr(a, a + 1) == pytest.approx(20 * np.log10(255))
    assert metrics.psnr(a, 255 - 0 * a) == pytest.approx(20 * np.log10(255 / 155))


def test_bd_rate_of_scaled_rates_is_the_scale():
    more = [(1.25 * bpp, dB) for bpp, dB in VTM]
    assert metrics.bd_rate(VTM, more) == pytest.approx((25.0, 28.08, 40.57))
    assert metrics.bd_rate(more, VTM)[0] == pytest.approx(-20.0)
    assert metrics.bd_rate(VTM, VTM[::-1])[0] == pytest.approx(0.0)


def test_bd_rate_equals_scipys_pchip():
    """scipy 1.x: PchipInterpolator(dB, log(bpp)).integrate over the overlap gives these."""
    rate, low, high = metrics.bd_rate(VTM, JPEG)
    assert (low, high) == (28.08, 40.57)
    assert rate == pytest.approx(215.77488824898955, abs=1e-6)


def test_bd_rate_can_be_cut_to_rates_of_the_test():
    assert metrics.bd_rate(VTM, JPEG, (0.5084, 1.4))[1:] == pytest.approx((29.04, 34.9))


def test_curves_are_read_off_as_scipys_pchip_would():
    """scipy 1.x: PchipInterpolator(log(bpp), dB) gives these."""
    for bpp, dB in ((0.15, 30.084450855034437), (0.3017, 32.69), (1.0, 38.92998842944622), (1.2957, 40.57)):
        assert metrics.at_rate(VTM[::-1], bpp) == pytest.approx(dB, abs=1e-9)
    assert metrics.at_rate(VTM, 0.07) is None
    assert metrics.at_rate(VTM, 1.3) is None


def test_no_overlap_is_nan():
    assert np.isnan(metrics.bd_rate([(0.1, 20), (0.2, 21), (0.3, 22)], VTM)[0])


def test_ms_ssim_equals_the_reference():
    """pytorch-msssim 1.0 (in float64) gives 0.99411362 for this pair; equal images give 1; small ones cannot have five scales."""
    y, x = np.mgrid[:181, :207]
    a = np.stack([(x * y * 3 + x) % 256, (x * 7 + y * 5) % 256, (x * x + y * y) // 64 % 256], -1).astype(np.uint8)
    b = (a // 16 * 16 + 5).astype(np.uint8)
    assert metrics.ms_ssim(a, b) == pytest.approx(0.9941136156, abs=1e-5)
    assert metrics.ms_ssim(a, a) == pytest.approx(1.0, abs=1e-6)
    assert metrics.ms_ssim(a[:160], b[:160]) is None
    assert metrics.decibel(0.99) == pytest.approx(20.0)
