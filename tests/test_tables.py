import math
import zlib

import numpy as np
import pytest
import torch

from lic.entropy import gaussian, tables


def test_normal_cdf_is_accurate_to_half_a_unit():
    exact = [2**31 * math.erf(i / tables.GRID / 2**0.5) for i in range(tables.GRID * tables.REACH + 1)]
    assert np.abs(tables.normal_cdf() - np.array(exact)).max() < 0.51


def test_tables_are_pinned():
    """They are part of the format: another value here makes every old file unreadable."""
    rows = [row for i in range(gaussian.SCALES) for row in tables.frequencies(i)]
    assert zlib.crc32(np.concatenate(rows).astype("<i4").tobytes()) == 0x9E8FF3DB, "see the docstring"


@pytest.mark.parametrize("index", range(0, gaussian.SCALES, 7))
def test_frequencies_are_the_distribution(index):
    for fraction in (0, 5, 8, 15):
        table = tables.frequencies(index)[fraction]
        assert table.min() >= 1
        assert table.sum() == 2**tables.PRECISION
        sigma, L = tables.sigmas()[index] / 65536, tables.half_width(index)
        assert sigma == pytest.approx(float(gaussian.sigma(torch.tensor(index / 8))), rel=5e-4)
        edges = (np.arange(-L, L + 3) - 0.5 - fraction / 16) / sigma
        mass = np.diff([sum(n / 8 * 0.5 * math.erfc(-20 * e / (w * 2**0.5)) for n, w in gaussian.SHAPE) for e in edges])
        cost = float((mass * np.log2(np.maximum(mass, 1e-30) / (table[1:] / 2**24))).sum())
        assert cost < 1e-5  # bits lost by coding with the integers


def test_frequency_of_latents_is_that_of_their_symbols():
    mean, index = torch.tensor([-37, 5, 5, 800, 800]), torch.tensor([32, 12, 12, 75, 75])
    y = torch.tensor([-3, 0, 99, 60, 2047])
    for m, i, v, f in zip(*(x.tolist() for x in (mean, index, y, tables.frequency(mean, index, y))), strict=True):
        table, symbol = tables.frequencies(i)[m & 15], v - (m >> 4) + tables.half_width(i) + 1
        assert f == table[symbol if 0 < symbol < len(table) else 0]
