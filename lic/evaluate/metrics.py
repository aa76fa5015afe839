"""Metrics, each tested against known values."""

import numpy as np
import torch

from ..measures import WEIGHTS, WINDOW, similarities


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images of one shape, over all samples, in dB (infinite if equal)."""
    mse = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def _pchip_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slopes at its points of the monotone cubic (Fritsch & Carlson 1980) through them, x ascending."""
    h, slope = np.diff(x), np.diff(y) / np.diff(x)
    d = np.zeros_like(y)
    same = slope[:-1] * slope[1:] > 0
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        d[1:-1] = np.where(same, (w1 + w2) / (w1 / slope[:-1] + w2 / slope[1:]), 0)
    for end, (h0, h1, s0, s1) in ((0, (h[0], h[1], slope[0], slope[1])), (-1, (h[-1], h[-2], slope[-1], slope[-2]))):
        one_sided = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
        if one_sided * s0 <= 0:
            one_sided = 0.0
        elif s0 * s1 <= 0 and abs(one_sided) > 3 * abs(s0):
            one_sided = 3 * s0
        d[end] = one_sided
    return d


def _pchip_integral(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Integral of the monotone cubic over [low, high]."""
    h, d = np.diff(x), _pchip_slopes(x, y)

    def primitive(at: float) -> float:
        total = 0.0
        for i in range(len(h)):
            t = np.clip((at - x[i]) / h[i], 0.0, 1.0)
            hermite = (t - t**3 + t**4 / 2, t**3 - t**4 / 2, t**2 / 2 - 2 * t**3 / 3 + t**4 / 4, -(t**3) / 3 + t**4 / 4)
            total += h[i] * float(np.dot(hermite, (y[i], y[i + 1], h[i] * d[i], h[i] * d[i + 1])))
        return total

    return primitive(high) - primitive(low)


def bd_rate(
    anchor: list[tuple[float, float]], test: list[tuple[float, float]], rates: tuple[float, float] = (0.0, float("inf"))
) -> tuple[float, float, float]:
    """Bjontegaard delta rate: (percent more bits than `anchor` at equal quality, low dB, high dB of the comparison).

    Both curves are lists of at least three (bits per pixel, dB); log rate is a monotone cubic in dB. Compared is the
    overlap in dB, cut to where `test` spends between rates[0] and rates[1] bits per pixel. NaN without overlap.
    """
    curves = [np.array(sorted(curve, key=lambda point: point[1]), dtype=np.float64).T for curve in (anchor, test)]
    low, high = max(c[1, 0] for c in curves), min(c[1, -1] for c in curves)
    ends = [at_rate(test, rate) for rate in rates]  # None beyond those of the curve
    low, high = max(low, low if ends[0] is None else ends[0]), min(high, high if ends[1] is None else ends[1])
    if low >= high:
        return float("nan"), float(low), float(high)
    mean_a, mean_b = (_pchip_integral(dB, np.log(bpp), low, high) / (high - low) for bpp, dB in curves)
    return float(100 * (np.exp(mean_b - mean_a) - 1)), float(low), float(high)


def at_rate(curve: list[tuple[float, float]], bpp: float) -> float | None:
    """dB at `bpp` of a curve of at least three (bits per pixel, dB), a monotone cubic in log rate; None beyond its ends."""
    x, y = np.array(sorted(curve), dtype=np.float64).T
    if not x[0] <= bpp <= x[-1]:
        return None
    i = min(int(np.searchsorted(x, bpp, "right")), len(x) - 1) - 1
    x = np.log(x)
    d, h = _pchip_slopes(x, y), x[i + 1] - x[i]
    t = (np.log(bpp) - x[i]) / h
    hermite = (1 + 2 * t) * (1 - t) ** 2, t**2 * (3 - 2 * t), t * (1 - t) ** 2, t**2 * (t - 1)
    return float(np.dot(hermite, (y[i], y[i + 1], h * d[i], h * d[i + 1])))


SMALLEST = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # pixels a side that five scales need


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Multi-scale structural similarity of two (H, W, 3) uint8 images: five scales, per channel, then the mean.

    As the learned-compression literature computes it (negative contrasts count as 0). None below SMALLEST pixels a side.
    """
    if min(a.shape[:2]) < SMALLEST:
        return None
    x, y = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() for image in (a, b))
    result = torch.ones(3)
    for weight, similarity in zip(WEIGHTS, similarities(x, y), strict=True):
        result *= similarity.mean((0, 2, 3)).clamp(min=0) ** weight
    return float(result.mean())


def decibel(similarity: float | None) -> float | None:
    """MS-SSIM in dB: -10 log10(1 - s)."""
    if similarity is None:
        return None
    return float("inf") if similarity >= 1 else float(-10 * np.log10(1 - similarity))
