import math

import numpy as np
import pytest
import torch

from lic import coders
from lic.entropy import gaussian, tables
from lic.errors import Corrupt


def latents(count, seed=0):
    """Random tables and latents drawn from them: mean, index, y."""
    rng = np.random.default_rng(seed)
    mean, index = rng.integers(-2000, 2000, count), rng.integers(0, gaussian.SCALES, count)
    y = np.rint(mean / 16 + rng.normal(size=count) * np.array(tables.sigmas())[index] / 65536).astype(np.int64)
    return tuple(map(torch.from_numpy, (mean, index, y)))


def test_round_trip_with_escapes():
    mean, index, y = latents(20000)
    y[::500] += torch.arange(40) * 50 - 1000
    y[7], y[8] = 2047 + 128, -2048 - 128
    writer, estimator = coders.Writer(), coders.Estimator()
    for part in zip(mean.split(3000), index.split(3000), y.split(3000), strict=True):
        writer.code(part[:2], part[2])
        estimator.code(part[:2], part[2])
    data = writer.bytes()
    reader = coders.Reader(data)
    back = [reader.code((m, i)) for m, i in zip(mean.split(3000), index.split(3000), strict=True)]
    reader.finish()
    assert torch.equal(torch.cat(back), y)
    assert abs(8 * len(data) - estimator.bits) < 64


def mixed_latents(count, K=3, seed=0):
    """Random mixtures and latents drawn from them: mean, index, weight, y."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, gaussian.SCALES, (count, K))
    mean = rng.integers(-2000, 2000, (count, 1)) + rng.integers(-200, 200, (count, K))
    weight = np.diff(np.sort(rng.integers(0, 2**16 + 1, (count, K - 1))), axis=1, prepend=0, append=2**16)
    if K == 3:
        weight[::7], weight[1::7] = [0, 2**16, 0], [5, 2**16 - 5, 0]
    from_ = (np.cumsum(weight, 1) > rng.integers(0, 2**16, (count, 1))).argmax(1)[:, None]
    m, i = (np.take_along_axis(x, from_, 1)[:, 0] for x in (mean, index))
    y = np.rint(m / 16 + rng.normal(size=count) * np.array(tables.sigmas())[i] / 65536).astype(np.int64)
    return tuple(map(torch.from_numpy, (mean, index, weight, y)))


def test_mixtures_are_weighted_sums_of_the_tables():
    mean, index, weight, _ = mixed_latents(300)
    chosen = coders._tables([x.numpy() for x in (mean, index, weight)])
    seen = 0
    for cells, rows in chosen.models():
        assert rows.flags.c_contiguous
        assert rows.dtype == np.float64
        assert rows.min() >= 0
        seen += len(cells)
        n = rows.shape[1]
        assert rows.sum(1).tolist() == [2**24 - n] * len(rows)  # constriction makes each entry one larger
        for i, row in zip(cells.tolist(), rows, strict=True):
            L, bins = int(chosen.L[i]), np.zeros(n + 1)
            for m, s, w in zip(*(x[i].tolist() for x in (mean, index, weight)), strict=True):
                own = tables.half_width(s)
                first = (m >> 4) - own - (int(chosen.base[i]) - L)  # where the component's bins begin in the window
                assert w < coders.COUNTS or 0 <= first <= n - 1 - (2 * own + 2)
                for k, f in enumerate(tables.frequencies(s)[m & 15, 1:].tolist()):
                    if 0 <= first + k < n - 1:
                        bins[1 + first + k] += w * f / 2**16
            assert np.abs(row[1:] - bins[1:n]).max() < 2.1 + bins.max() * n / 2**24
    assert seen == 300


def test_one_component_of_a_mixture_costs_what_it_costs_alone():
    mean, index, y = latents(2000, seed=5)
    alone = coders.bits((mean, index), y)
    others = torch.randint(-99, 99, (2000,))
    weight = torch.tensor([2**16, 0]).expand(2000, 2)
    mixed = coders.bits((torch.stack((mean, mean + others), 1), torch.stack((index, others.abs() % 64), 1), weight), y)
    assert abs(float(mixed.sum() / alone.sum()) - 1) < 1e-4


def test_mixtures_round_trip_with_escapes():
    *table, y = mixed_latents(20000)
    y[::500] += torch.arange(40) * 50 - 1000
    far = torch.tensor([[-65536, 65535, 0]]), torch.tensor([[0, 63, 5]]), torch.tensor([[32768, 32768, 0]])  # wider than any window
    writer, estimator = coders.Writer(), coders.Estimator()
    for coder in (writer, estimator):
        coder.code(table, y)
        coder.code(far, torch.tensor([2047]))
        coder.code(far, torch.tensor([-4096]))
    data = writer.bytes()
    reader = coders.Reader(data)
    assert torch.equal(reader.code(table), y)
    assert [reader.code(far).tolist() for _ in range(2)] == [[2047], [-4096]]
    reader.finish()
    assert abs(8 * len(data) - estimator.bits) < 64


def test_many_narrow_components_are_a_categorical_distribution():
    weight = torch.tensor([[30000, 10000, 0, 25000, 536]])
    table = torch.arange(5)[None] * 16, torch.zeros(1, 5, dtype=torch.int64), weight
    for value in (0, 1, 3, 4):
        cost = float(coders.bits(table, torch.tensor([value])).sum())
        assert cost == pytest.approx(16 - math.log2(int(weight[0, value])), abs=1e-3)


def test_folding_counts_every_integer_once():
    folded = [coders._fold(d) for d in range(-50, 51)]
    assert sorted(folded) == list(range(1, 102))
    assert [coders._unfold(n) for n in folded] == list(range(-50, 51))


def test_empty_stream_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    writer = coders.Writer()
    writer.code((none, none), none)
    assert writer.bytes() == b""
    reader = coders.Reader(b"")
    assert len(reader.code((none, none))) == 0


def test_garbage_ends_in_corrupt_or_in_other_latents():
    mean, index, y = latents(3000, seed=1)
    writer = coders.Writer()
    writer.code((mean, index), y)
    good, noticed = writer.bytes(), 0
    rng = np.random.default_rng(3)
    for data in [b"\xff" * len(good), good + good] + [rng.bytes(len(good)) for _ in range(40)]:
        reader = coders.Reader(data)
        try:
            reader.code((mean, index))
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
        reader.code(latents(3)[:2])
