import numpy as np
import pytest
import torch

from lic import exact
from lic.errors import BadWeights


def ints(shape, bound, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(-bound, bound + 1, shape)).double()


def reference(layer, rows: np.ndarray) -> np.ndarray:
    """The layer in Python's unbounded integers: (n, inputs) -> (n, outputs)."""
    W = layer.weight.numpy().astype(np.int64).astype(object)
    b = layer.bias.numpy().astype(np.int64).astype(object)
    sums = rows.astype(np.int64).astype(object) @ W.T + b + 2 ** (exact.WEIGHT_FRACTION - 1)
    return np.clip(sums // 2**exact.WEIGHT_FRACTION, -exact.LIMIT, exact.LIMIT).astype(np.float64)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    layer = exact.ExactLinear(300, 40)
    torch.nn.init.normal_(layer.bias)
    layer.freeze()
    return layer


def test_linear_equals_unbounded_integers(linear):
    rows = ints((50, 300), exact.LIMIT)
    assert np.array_equal(linear(rows).numpy(), reference(linear, rows.numpy()))


@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_equals_unbounded_integers(kernel):
    torch.manual_seed(1)
    layer = exact.ExactConv(5, 7, kernel)
    float_layer = layer.weight.detach().clone()
    layer.freeze()
    x = ints((2, 5, 6, 9), 2**20)
    patches = torch.nn.functional.unfold(x, kernel, padding=kernel // 2).transpose(1, 2)
    expected = np.stack([reference(layer, p.numpy()) for p in patches])  # (2, 54, 7)
    assert np.array_equal(layer(x).flatten(2).transpose(1, 2).numpy(), expected)
    real = torch.nn.functional.conv2d(x.float() / 1024, float_layer.view(7, 5, kernel, kernel), padding=kernel // 2)
    assert torch.allclose(layer(x).float() / 1024, real.clamp(-4096, 4096), rtol=1e-3, atol=0.2)


def test_result_does_not_depend_on_batch_or_threads(linear):
    rows = ints((64, 300), exact.LIMIT, seed=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = linear(rows)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, torch.cat([linear(r[None]) for r in rows]))
    assert torch.equal(one, linear(rows))


def test_proof_refuses_what_could_overflow(linear):
    exact.prove(linear)
    with torch.no_grad():
        linear.weight[3, 5] = 2.0**32
    with pytest.raises(BadWeights, match="2\\^53"):
        exact.prove(linear)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_proof_refuses_what_is_no_integer(linear, value):
    with torch.no_grad():
        linear.bias[0] = value
    with pytest.raises(BadWeights):
        exact.prove(linear)


def test_proof_refuses_float_layers_and_bad_tables():
    with pytest.raises(BadWeights):
        exact.prove(torch.nn.Sequential(exact.ExactLinear(2, 2)))
    table = exact.LevelTable(9, 3)
    table.freeze()
    exact.prove(table)
    with torch.no_grad():
        table.values[0, 0] = exact.LIMIT + 1
    with pytest.raises(BadWeights):
        exact.prove(table)
    with pytest.raises(BadWeights):
        exact.LevelTable(7, 3)  # 6 spans do not divide 4096 levels


def test_leaky_is_a_shift():
    x = torch.arange(-20.0, 20.0, dtype=torch.float64)
    assert leaky_ints(x) == [v if v >= 0 else v // 8 for v in range(-20, 20)]
    assert torch.allclose(exact.leaky(x.float()), torch.nn.functional.leaky_relu(x.float(), 0.125))


def leaky_ints(x):
    return [int(v) for v in exact.leaky(x)]


def test_level_table_interpolates_the_same_in_both_faces():
    torch.manual_seed(0)
    table = exact.LevelTable(9, 4)
    torch.nn.init.normal_(table.values)
    levels = torch.arange(0, 4097, 13)
    real = table(levels).detach()
    assert torch.allclose(real[0], table.values[0])
    assert torch.allclose(table(torch.tensor([4096])), table.values[-1:])
    table.freeze()
    fixed = table(levels)
    assert torch.equal(fixed, torch.floor(fixed))
    assert float((fixed / 1024 - real).abs().max()) < 2 / 1024


def test_sums_of_activations_stay_in_the_proven_range():
    a = torch.tensor([exact.LIMIT, -exact.LIMIT, 5], dtype=torch.float64)
    assert exact.add(a, a).tolist() == [exact.LIMIT, -exact.LIMIT, 10]
    assert exact.add(a.float(), a.float()).tolist() == [2 * exact.LIMIT, -2 * exact.LIMIT, 10]


def test_products_of_activations_are_floors():
    a, b = ints((4000,), exact.LIMIT, 1), ints((4000,), exact.LIMIT, 2)
    a[:2000] = ints((2000,), 2**exact.FRACTION)
    expected = [min(max(int(x) * int(y) >> exact.FRACTION, -exact.LIMIT), exact.LIMIT) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert exact.multiply(a, b).tolist() == expected
    assert exact.multiply(torch.tensor([0.5]), torch.tensor([3.0])).tolist() == [1.5]
