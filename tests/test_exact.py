import numpy as np
import pytest
import torch
from conftest import Largest

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


def test_linear_of_pieces_is_the_same(linear):
    rows = ints((2, 50, 300), exact.LIMIT)
    assert torch.equal(linear(rows.split([1, 99, 200], -1)), linear(rows))
    real, x = exact.ExactLinear(5, 4), torch.randn(2, 3, 5)
    assert torch.equal(real((x[..., :2], x[..., 2:])), real(x))


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


def test_conv_needs_no_memory_for_all_neighbours_at_once():
    layer = exact.freeze(exact.ExactConv(8, 8, 3))
    with Largest() as largest:
        layer(ints((1, 8, 20, 30), 2**20))
    assert largest.bytes == 8 * 8 * 22 * 32  # the input with a border


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


def test_thawed_layers_freeze_to_the_same_integers():
    torch.manual_seed(0)
    model = torch.nn.Sequential(exact.ExactLinear(5, 4), exact.ExactConv(2, 3, 3), exact.LevelTable(9, 3))
    torch.nn.init.normal_(model[2].values)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = {key: value.clone() for key, value in exact.freeze(model).state_dict().items()}
    thawed = exact.thaw(model).state_dict()
    for key, value in thawed.items():
        assert value.dtype == torch.float32
        assert 0 <= float((value - before[key]).abs().max()) <= 2.0**-11
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, frozen[key]) for key, value in exact.freeze(model).state_dict().items())


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


def test_product_of_activations_is_rounded_down_and_stays_in_range():
    a = torch.tensor([1024.0, -1.0, 2.0**22, 3.0], dtype=torch.float64)
    b = torch.tensor([-7.0, 512.0, -(2.0**22), 0.0], dtype=torch.float64)
    assert exact.multiply(a, b).tolist() == [-7, -1, -exact.LIMIT, 0]
    assert torch.equal(exact.multiply(a.float(), b.float()), a.float() * b.float())


def test_exp2_weights_are_rounded_powers_of_two():
    from decimal import Decimal, localcontext

    with localcontext() as context:
        context.prec = 40
        for d in (*range(0, 17408, 97), 1, 511, 1023, 1024, 17407, 17408, 17409, 20000, exact.LIMIT):
            expected = int(Decimal(2) ** (16 - Decimal(d) / 1024) + Decimal("0.5"))
            got = exact.exp2_weights(torch.tensor([7.0, 7.0 - d], dtype=torch.float64))
            assert got.tolist() == [2**16, expected]


def test_softmax_sums_to_one_in_both_faces_and_hides_the_illegal():
    scores = ints((50, 4096), 9000)
    scores[0] = 0
    scores[1, 5] = exact.LIMIT  # illegal, and by far the largest
    legal = ints((50, 4096), 3, seed=1) != 0
    legal[1, 5], legal[2] = False, False
    legal[3] = torch.arange(4096) == 77
    weights = exact.softmax2(scores, legal)
    assert torch.equal(weights, torch.floor(weights))
    assert weights.sum(-1).tolist() == [2.0**16 * (i != 2) for i in range(50)]
    assert not bool(weights[~legal].any())
    assert float(weights[3, 77]) == 2**16
    assert float(weights.min()) == 0
    real = exact.softmax2((scores / 1024).float(), legal)
    assert torch.allclose(real.sum(-1), (legal.any(-1)).float())
    assert float((weights / 2**16 - real).abs().max()) < 2**-15
    assert torch.allclose(exact.softmax2(scores[:, :3].float() / 1024), torch.softmax(scores[:, :3].float() / 1024 * np.log(2), -1))


def test_softmax_has_gradients_where_entries_are_legal():
    scores = torch.randn(4, 6, requires_grad=True)
    legal = torch.ones(4, 6, dtype=torch.bool)
    legal[:, 2], legal[3] = False, False
    (exact.softmax2(scores, legal) * torch.arange(6)).sum().backward()
    assert bool((scores.grad[:3][legal[:3]] != 0).all())
    assert not bool(scores.grad[~legal].any())


def test_average_equals_unbounded_integers():
    scores, values = ints((3, 5, 4096), 3000), ints((3, 4096, 7), exact.LIMIT, seed=1)
    values[0] = -exact.LIMIT  # the largest sums there are
    scores[0, 0] = 0
    legal = ints((3, 5, 4096), 1, seed=2) != 0
    legal[1, 1], legal[0, 0] = False, True
    weights = exact.exp2_weights(scores, legal)
    got = exact.average(weights, values).numpy()
    w, v = weights.numpy().astype(np.int64).astype(object), values.numpy().astype(np.int64).astype(object)
    for b in range(3):
        total = np.maximum(w[b].sum(1, keepdims=True), 1)
        assert np.array_equal(got[b], ((w[b] @ v[b]) // total).astype(np.float64))
    assert not got[1, 1].any()
    real = exact.average(exact.exp2_weights((scores / 1024).float(), legal), (values / 1024).float())
    assert float((torch.from_numpy(got) / 1024 - real).abs().max()) < 0.05


def test_table_looks_up_the_same_in_both_faces_and_nothing_outside():
    table = exact.Table(5, 3)
    torch.nn.init.normal_(table.values)
    index = torch.tensor([[4, 0], [7, -3]])
    real = table(index).detach()
    assert torch.equal(real[1], table.values[[4, 0]])
    table.freeze()
    exact.prove(table)
    assert torch.equal(table(index), torch.floor(table(index)))
    assert float((table(index).float() / 1024 - real).abs().max()) <= 1 / 2048
    with torch.no_grad():
        table.values[0, 0] = 0.5
    with pytest.raises(BadWeights, match="integers"):
        exact.prove(table)


def test_unit_rows_equal_unbounded_integers():
    from math import isqrt

    rows = ints((40, 200), 2047) * 2.0 ** torch.arange(-4, 36).div(2, rounding_mode="floor").clamp(0)[:, None]
    rows[0], rows[1, 1:], rows[2, 1:] = 0, 0, 0
    rows[1, 0], rows[2, 0] = 1, -1025
    got = exact.unit(rows)
    assert not got[0].any()
    assert [got[1, 0], got[2, 0]] == [1024, -1024]
    square = (rows * rows).sum(1).numpy()
    for row, unit, n in zip(rows.tolist(), got.tolist(), square.tolist(), strict=True):
        norm = isqrt(int(n) << 40) / 2**20 or 1.0
        assert max(abs(1024 * v / norm - u) for v, u in zip(row, unit, strict=True)) < 0.5 + 1024 * 2.0**-exact.ROOT_BITS
    products = got @ got.T  # cosines
    real = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    assert float((products / 2**20 - real)[1:, 1:].abs().max()) < 200**0.5 / 1024
    assert torch.equal(exact.unit(rows[:20].float()).double(), got[:20])
    assert torch.equal(exact.unit(rows * 0.125), got)  # only the direction counts


def test_log_size_is_a_logarithm_rounded_down():
    halves = torch.tensor([*range(0, 2 * exact.LOG_ENTRIES, 7), *(2**k - 2 for k in range(1, 13))])
    counted = [((2 + n) ** 2**exact.FRACTION).bit_length() - 1 - 2**exact.FRACTION for n in halves.tolist()]
    sizes = exact.to_fixed(halves) / 2
    assert exact.log_size(sizes).tolist() == exact.log_size(-sizes).tolist() == counted
    whole = halves % 2 == 0
    assert torch.equal(exact.log_size(sizes, 1)[whole], exact.log_size(sizes)[whole])
    between = torch.tensor([2559.0, 2561.0]).double()  # two and a half, but for one unit
    assert torch.equal(exact.log_size(between, 1), exact.log_size(exact.to_fixed(torch.tensor([2, 3]))))


def test_log_size_of_the_float_face_between_integers():
    x = torch.tensor([0.0, 1.0, -3.0, 6.0, 0.4, -2.5], requires_grad=True)
    size = exact.log_size(x)
    assert torch.equal(size[:4].double(), exact.log_size(exact.to_fixed(x[:4].detach().long())) * 2.0**-exact.FRACTION)
    assert torch.allclose(size, torch.log2(1 + x.abs()), atol=2.0**-exact.FRACTION)
    (slope,) = torch.autograd.grad(size.sum(), x)
    assert torch.allclose(slope, x.sign() / (1 + x.abs()) / torch.log(torch.tensor(2.0)))
