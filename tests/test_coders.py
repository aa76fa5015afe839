import math
import zlib

import numpy as np
import pytest
import torch

from lic import coders
from lic.entropy import gaussian
from lic.errors import Corrupt


def latents(count, seed=0):
    """Random tables and latents drawn from them: mean, index, y."""
    rng = np.random.default_rng(seed)
    mean, index = rng.integers(-2000, 2000, count), rng.integers(0, gaussian.SCALES, count)
    y = np.rint(mean / 16 + rng.normal(size=count) * np.array(coders.sigmas())[index] / 65536).astype(np.int64)
    return tuple(map(torch.from_numpy, (mean, index, y)))


def test_normal_cdf_is_accurate_to_half_a_unit():
    exact = [2**31 * math.erf(i / coders.GRID / 2**0.5) for i in range(coders.GRID * coders.REACH + 1)]
    assert np.abs(coders.normal_cdf() - np.array(exact)).max() < 0.51


def test_tables_are_pinned():
    """They are part of the format: another value here makes every old file unreadable."""
    rows = [coders.frequencies(i, f) for i in range(gaussian.SCALES) for f in range(16)]
    assert zlib.crc32(np.concatenate(rows).astype("<i4").tobytes()) == 0x5EE4E67F, "see the docstring"


@pytest.mark.parametrize("index", range(0, gaussian.SCALES, 7))
def test_frequencies_are_a_gaussian(index):
    for fraction in (0, 5, 8, 15):
        table = coders.frequencies(index, fraction)
        assert table.min() >= 1
        assert table.sum() == 2**coders.PRECISION
        sigma, L = coders.sigmas()[index] / 65536, coders.half_width(index)
        assert sigma == pytest.approx(float(gaussian.sigma(torch.tensor(index / 8))), rel=1e-4)
        edges = (np.arange(-L, L + 3) - 0.5 - fraction / 16) / sigma
        mass = np.diff([0.5 * math.erfc(-e / 2**0.5) for e in edges])
        cost = float((mass * np.log2(np.maximum(mass, 1e-30) / (table[1:] / 2**24))).sum())
        assert cost < 1e-5  # bits lost by coding with the integers


def test_round_trip_with_escapes():
    mean, index, y = latents(20000)
    y[::500] += torch.arange(40) * 50 - 1000
    y[7], y[8] = 2047 + 128, -2048 - 128
    writer, estimator = coders.Writer(), coders.Estimator()
    for part in zip(mean.split(3000), index.split(3000), y.split(3000), strict=True):
        writer.code(*part)
        estimator.code(*part)
    data = writer.bytes()
    reader = coders.Reader(data)
    back = [reader.code(m, i) for m, i in zip(mean.split(3000), index.split(3000), strict=True)]
    reader.finish()
    assert torch.equal(torch.cat(back), y)
    assert abs(8 * len(data) - estimator.bits) < 64


def test_folding_counts_every_integer_once():
    folded = [coders._fold(d) for d in range(-50, 51)]
    assert sorted(folded) == list(range(1, 102))
    assert [coders._unfold(n) for n in folded] == list(range(-50, 51))


def test_empty_stream_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    writer = coders.Writer()
    writer.code(none, none, none)
    assert writer.bytes() == b""
    reader = coders.Reader(b"")
    assert len(reader.code(none, none)) == 0


def test_garbage_ends_in_corrupt_or_in_other_latents():
    mean, index, y = latents(3000, seed=1)
    writer = coders.Writer()
    writer.code(mean, index, y)
    good, noticed = writer.bytes(), 0
    rng = np.random.default_rng(3)
    for data in [b"\xff" * len(good), good + good] + [rng.bytes(len(good)) for _ in range(40)]:
        reader = coders.Reader(data)
        try:
            reader.code(mean, index)
            reader.finish()
        except Corrupt:
            noticed += 1
    assert noticed >= 40  # the container's checksums are for the rest


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_damage(stop):
    class Interrupted:
        def decode(self, model):
            raise stop

    reader = coders.Reader(b"")
    reader._decoder = Interrupted()
    with pytest.raises(stop):
        reader.code(*latents(3)[:2])
