"""Dependent quantisation: paths that a reader can follow, the cheapest of them, and what they are good for."""

import itertools

import numpy as np
import pytest
import torch
from conftest import DATA, TINY, alike
from PIL import Image

from lic import coders, container, search, trellis
from lic.codec import Codec
from lic.entropy import ENTROPY_MODELS, gaussian
from lic.errors import LicError

DEPENDENT = sorted(name for name, (model, _) in ENTROPY_MODELS.items() if model.dependent and name != "spatiotemporal")


def choices(latents: np.ndarray) -> np.ndarray:
    """The five multiples of a half around each, (5, n)."""
    return np.round(2 * latents) / 2 + np.arange(-1, 1.5, 0.5)[:, None]


def tables(count: int, index: int = 50) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(count, np.int64), np.full(count, index)


def followed(values: np.ndarray, mean: np.ndarray, index: np.ndarray) -> bool:
    """Whether the machine allows these values, one after the other."""
    (quantiser, after), state = trellis.machine(), 0
    for k, (value, parity) in enumerate(zip(values, trellis.parity(values, mean, index), strict=True)):
        state = state if k % trellis.CHAIN else 0
        if quantiser[state] != (value != np.floor(value)):
            return False
        state = after[state, parity]
    return True


def test_the_machine_is_a_code():
    quantiser, after = trellis.machine()
    assert quantiser.sum() == trellis.STATES // 2
    assert np.bincount(after.flatten()).tolist() == [2] * trellis.STATES
    # two paths that part do not come together again before there has been a latent for every register
    ends = [{int(after[0, parity])} for parity in (0, 1)]
    for _ in range(trellis.STATES.bit_length() - 1):
        assert not ends[0] & ends[1]
        ends = [set(after[list(end)].flatten().tolist()) for end in ends]


def test_best_is_the_cheapest_path(monkeypatch):
    monkeypatch.setattr(trellis, "CHAIN", 3)
    rng = np.random.default_rng(0)
    mean, index = rng.integers(-40, 40, 5), np.array([25, 75, 40, 25, 30])
    for latents in rng.normal(0, 3, (20, 5)):
        values = choices(latents)
        values[0, 1] += 5000  # beyond its table: there is no escape from the machine
        costs = rng.random((5, 5))
        best = trellis.best(values, costs, mean, index)
        assert followed(best, mean, index)
        total = sum(costs[list(values[:, k]).index(best[k]), k] for k in range(5))
        ways = (way for way in itertools.product(range(5), repeat=5) if followed(values[way, range(5)], mean, index))
        assert total == pytest.approx(min(costs[way, range(5)].sum() for way in ways))


def test_space_is_filled_better_than_by_rounding():
    """1.33 dB better than a cube is what Marcellin and Fischer measured with as many states; 10 log10(pi e / 6) = 1.53 is the limit."""
    latents = np.random.default_rng(0).normal(0, 20, 40 * trellis.CHAIN)
    values = choices(latents)
    best = trellis.best(values, (values - latents) ** 2, *tables(len(latents), 65))
    gain = 10 * np.log10(np.mean((np.round(latents) - latents) ** 2) / np.mean((best - latents) ** 2))
    assert 1.2 < gain < 1.53


@pytest.mark.parametrize("count", [0, 1, 513, 5000])
def test_what_was_chosen_is_read_again(count):
    rng = np.random.default_rng(count)
    index = rng.integers(0, gaussian.SCALES, count)
    mean = rng.integers(-500, 500, count)
    latents = mean / 16 + rng.normal(0, 1, count) * 0.033 * np.exp(0.1 * index)
    latents[::50] += 300  # escapes, narrow and wide
    values = np.round(latents)
    wide = trellis.is_wide((mean, index))
    some = choices(latents[wide])
    values[wide] = trellis.best(some, (some - latents[wide]) ** 2, mean[wide], index[wide])
    table, y = tuple(map(torch.from_numpy, (mean, index))), torch.from_numpy(values)
    writer, estimator = coders.Writer(), coders.Estimator()
    writer.code(table, y, True)
    estimator.code(table, y, True)
    reader = coders.Reader(writer.bytes())
    assert torch.equal(reader.code(table, None, True), y)
    reader.finish()
    assert abs(8 * len(writer.bytes()) - estimator.bits) < 64
    assert count < 2 or (values % 1 == 0.5).any()


@pytest.mark.parametrize("entropy_name", DEPENDENT)
def test_golden_files(entropy_name):
    """As in test_codec.py, by the search: with latents between integers."""
    data = (DATA / f"golden-dependent-{entropy_name}.lic").read_bytes()
    codec = Codec("tiny", entropy_name, "cpu", TINY)
    assert alike(codec.decode(data), Image.open(DATA / f"golden-dependent-{entropy_name}.png"))
    header, frames = container.unpack(data)
    assert frames[0].dependent
    ((_, latents),) = codec.read(header, frames)
    assert 0.02 < float((latents.y_hat % 1 == 0.5).double().mean()) < 0.5


def test_a_golden_sequence():
    data = (DATA / "golden-dependent-sequence.lic").read_bytes()
    _, frames = container.unpack(data)
    assert [(frame.predicted, frame.dependent) for frame in frames] == [(False, True), (True, True)]
    decoded = list(Codec("tiny", "hyperprior", "cpu", TINY).decode_sequence(data))
    assert alike(decoded[1], Image.open(DATA / "golden-dependent-sequence.png"))


@pytest.mark.parametrize("entropy_name", sorted(set(ENTROPY_MODELS) - {"spatiotemporal"}))
def test_models_of_mixtures_and_files_without_search_have_integers(entropy_name, sample):
    codec = Codec("tiny", entropy_name, "cpu", TINY)
    picture = sample.crop((0, 0, 100, 70))
    for effort in (0, 1):
        header, frames = container.unpack(codec.encode(picture, 60, effort))
        ((_, latents),) = codec.read(header, frames)
        assert frames[0].dependent <= bool(effort and entropy_name in DEPENDENT)  # a search that is lost falls back on integers
        assert bool((latents.y_hat % 1 != 0).any()) == frames[0].dependent


def test_a_file_that_lies_about_it_is_damaged(sample):
    codec = Codec("tiny", "local", "cpu", TINY)
    header, (frame,) = container.unpack(codec.encode(sample.crop((0, 0, 100, 70)), 60, 1))
    with pytest.raises(LicError):
        codec.decode(container.pack(header, [container.Frame(frame.symbols, frame.payload)]))


def test_to_weigh_again_while_latents_are_decided_pays(sample, monkeypatch):
    codec = Codec(device="cpu")
    picture = sample.crop((0, 0, 256, 256))

    def trade() -> float:
        data = codec.encode(picture, 30, 1)
        error = np.asarray(codec.decode(data), float) - np.asarray(picture)
        return 8 * len(data) + 1.4 * 0.0003 * (0.16 / 0.0003) ** 0.3 * float((error**2).sum()) / 3

    monkeypatch.setattr(search, "PARTS", 16)
    again = trade()
    monkeypatch.setattr(search, "PARTS", 1)
    assert again < 0.995 * trade()
