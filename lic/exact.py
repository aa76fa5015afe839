"""Layers with two faces: float32 for training, integers for coding.

Whatever decides a bit must be the same number on every machine. Float sums are not (they depend on the
order of summation, the thread count, the processor); integer sums are. The integer face therefore carries
*integers in float64 tensors*: a product or partial sum below 2^53 is exact whatever the order, so plain
matrix products of every BLAS and GPU agree to the last bit, at a fraction of the cost of integer kernels.

The face is the dtype: a float64 tensor holds integers, any other dtype holds real numbers.

    real value v      integer round(v * 2^FRACTION)
    weight w          integer round(w * 2^WEIGHT_FRACTION)
    layer             floor((W x + b + half) / 2^WEIGHT_FRACTION), clamped to +-LIMIT

    softmax weight    integer 0 .. 2^WEIGHT_BITS, and one division of sums

Only matrix products, comparisons, multiplications by powers of two, tables and floor are used here: no
convolution (it may choose Winograd or FFT), no exp, and no division but floor(a / b) of tensors of integers
|a| < 2^53: a quotient that is no integer is further from the next one than its rounding error.
"""

from functools import cache
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .container import LEVELS
from .errors import BadWeights

FRACTION = 10  # fractional bits of activations
WEIGHT_FRACTION = 14  # fractional bits of weights
GUARD = 128  # bits of the whole numbers that tables are made with
LOG_ENTRIES = 2048  # integers that log_size knows, and what lies half-way
WEIGHT_BITS = 16  # softmax weights are at most 2^WEIGHT_BITS; 4096 of them times activations sum to at most 2^50
UNIT_BITS = 10  # rows of norm 1 are in units of 2^-UNIT_BITS: their products are below 2^21, exact in float32 too
ROOT_BITS = 13  # leading bits of a sum of squares that its root sees; the first may be 0
LIMIT = 2**22  # activations are clamped to +-LIMIT, that is +-4096 in real units


def is_exact(x: Tensor) -> bool:
    """True if x carries integers (float64)."""
    return x.dtype == torch.float64


def to_fixed(x: Tensor) -> Tensor:
    """Integers, or multiples of a half (any dtype) -> the exact carrier of the same real values: float64, scaled by 2^FRACTION."""
    return x.to(torch.float64) * 2.0**FRACTION


class ExactLinear(nn.Module):
    """y = W x + b over the last dimension: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=(2 / inputs) ** 0.5)

    def forward(self, x: Tensor | tuple[Tensor, ...], outputs: Tensor | None = None) -> Tensor:
        """x: the inputs, or pieces (..., some of them) in their order, which need not be put together. outputs: which to compute."""
        weight, bias = (p if outputs is None else p.index_select(0, outputs) for p in (self.weight, self.bias))
        pieces = x if isinstance(x, tuple) else (x,)
        if not is_exact(pieces[0]):
            return F.linear(torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0], weight, bias)
        columns = weight.split([piece.shape[-1] for piece in pieces], 1)
        sums = columns[0] @ pieces[0].flatten(0, -2).T  # with few rows 2.5 times as fast as x @ weight.T
        for some, piece in zip(columns[1:], pieces[1:], strict=True):
            sums.addmm_(some, piece.flatten(0, -2).T)
        return rescale(sums.T, bias).unflatten(0, pieces[0].shape[:-1])

    @torch.no_grad()
    def freeze(self) -> None:
        """Replace the float parameters by integers in float64: the layer now has its exact face only."""
        self.weight = nn.Parameter(torch.round(self.weight.double() * 2.0**WEIGHT_FRACTION), False)
        self.bias = nn.Parameter(torch.round(self.bias.double() * 2.0 ** (WEIGHT_FRACTION + FRACTION)), False)

    @torch.no_grad()
    def thaw(self) -> None:
        self.weight = nn.Parameter((self.weight * 2.0**-WEIGHT_FRACTION).float())
        self.bias = nn.Parameter((self.bias * 2.0 ** -(WEIGHT_FRACTION + FRACTION)).float())

    @torch.no_grad()
    def prove(self, name: str) -> None:
        """Raise BadWeights unless every partial sum of every input in +-LIMIT stays below 2^53."""
        for x in (self.weight, self.bias):
            if not (is_exact(x) and bool((x == torch.floor(x)).all())):
                raise BadWeights(f"{name}: weights are not integers")
        bound = LIMIT * self.weight.abs().sum(1) + self.bias.abs() + 2.0**WEIGHT_FRACTION
        if not bool((bound < 2.0**53).all()):  # a NaN fails too
            raise BadWeights(f"{name}: sums can exceed 2^53")


def rescale(sums: Tensor, bias: Tensor) -> Tensor:
    """Exact face: sums of products (..., outputs) -> activations, in place; the bias is scaled like the sums."""
    unit = 2.0**-WEIGHT_FRACTION
    return torch.add(bias * unit + 0.5, sums, alpha=unit, out=sums).floor_().clamp_(-LIMIT, LIMIT)


class ExactConv(ExactLinear):
    """k x k convolution with zero padding, stride 1: (B, inputs, h, w) -> (B, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__(inputs * kernel * kernel, outputs)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        B, C, h, w = x.shape
        k = self.kernel
        if not is_exact(x):
            return F.conv2d(x, self.weight.view(-1, C, k, k), self.bias, padding=k // 2)
        around, sums = F.pad(x, [k // 2] * 4), x.new_zeros(B, len(self.bias), h * w)
        weights = self.weight.view(-1, C, k * k).permute(2, 0, 1).contiguous()
        for i, weight in enumerate(weights):  # one neighbour after the other: all at once take k k times the memory of x
            sums.baddbmm_(weight.expand(B, -1, -1), around[..., i // k : i // k + h, i % k : i % k + w].flatten(2))
        return rescale(sums.transpose(1, 2), self.bias).transpose(1, 2).reshape(B, -1, h, w)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 1/8, a shift in the exact face."""
    x = F.leaky_relu(x, 0.125)
    return x.floor_() if is_exact(x) else x


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """table[index] of whole numbers of any dtype, several times as fast as that."""
    return table.index_select(0, index.flatten().int()).view(index.shape)


@cache
def _log_table(device: torch.device) -> Tensor:
    """floor(2^FRACTION log2(1 + n / 2)) for n = 0, 1, ...: counted bits of an integer power, not a rounded logarithm."""
    return torch.tensor([_power_bits(2 + n) - 1 - 2**FRACTION for n in range(2 * LOG_ENTRIES)], device=device)


def _power_bits(n: int) -> int:
    """How many bits n^(2^FRACTION) has, n >= 1: squared again and again, of which the leading GUARD bits are enough."""
    bits, n = n.bit_length(), n << GUARD - n.bit_length()
    for _ in range(FRACTION):
        n = n * n >> GUARD
        bits += bits - (n.bit_length() < GUARD)
        n <<= GUARD - n.bit_length()
    return bits


def log_size(x: Tensor, fine: int = 2) -> Tensor:
    """log2(1 + |x|) of multiples of 1 / fine, 1 or 2, below LOG_ENTRIES (larger ones count as the largest), rounded down in either face.

    What lies between counts as the nearest of these in the exact face; the float face takes it as it is, and has a gradient.
    """
    exact = is_exact(x)
    size = (x * 2.0**-FRACTION if exact else x).abs().clamp(max=LOG_ENTRIES - 1)
    near = (size.detach() * fine).round() / fine
    value = look_up(_log_table(x.device), 2 * near).to(x.dtype)
    return value if exact else value * 2.0**-FRACTION + (torch.log2(1 + size) - torch.log2(1 + near))


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b of activations; in the exact face clamped to +-LIMIT like any activation, so that proofs hold for what follows."""
    x = a + b
    return x.clamp_(-LIMIT, LIMIT) if is_exact(x) else x


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a b of activations, element by element; in the exact face rounded down and clamped like any activation."""
    product = a * b
    return product.mul_(2.0**-FRACTION).floor_().clamp_(-LIMIT, LIMIT) if is_exact(a) else product


@cache
def _exp2_table(device: torch.device) -> Tensor:
    """2^(WEIGHT_BITS - d / 2^FRACTION) rounded, for d = 0, 1, ... until it is 0; float64.

    Products of roots of a half, of GUARD bits and rounded down each time: integers only.
    """
    root, powers = 1 << GUARD - 1, [1 << GUARD]
    for _ in range(FRACTION):
        root = isqrt(root << GUARD)
        powers = [power for one in powers for power in (one, one * root >> GUARD)]  # 2^-(d / 2^FRACTION), in the end
    entries = []
    for d in range((WEIGHT_BITS + 1) * 2**FRACTION + 2):
        whole, part = divmod(d, 2**FRACTION)
        entries.append((powers[part] >> GUARD - WEIGHT_BITS + whole - 1) + 1 >> 1)
    return torch.tensor(entries, dtype=torch.float64, device=device)


def exp2_weights(scores: Tensor, legal: Tensor | None = None) -> Tensor:
    """2^(score - largest legal score of the row): (..., n) -> (..., n), in the exact face integers 0 .. 2^WEIGHT_BITS.

    legal: bool, broadcast to the scores; the weight of an illegal entry is 0, whatever its score.
    """
    if legal is not None:  # adding a smaller tensor is much faster than filling a larger one
        scores = scores + torch.zeros_like(legal, dtype=scores.dtype).masked_fill_(~legal, -torch.inf)
    top = scores.detach().amax(-1, keepdim=True).clamp_min(-(2.0**52))  # a row without legal entries has one too
    if not is_exact(scores):
        return torch.exp2(scores - top)
    table = _exp2_table(scores.device)
    return look_up(table, (top - scores).clamp(max=len(table) - 1))


def average(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted means: (..., q, n), (..., n, c) -> (..., q, c), rounded down in the exact face; 0 where all weights are 0.

    The weights are those of exp2_weights, for n <= 4096: the sums are exact and only the means are rounded.
    """
    means = weights @ values / weights.sum(-1, keepdim=True).clamp_min(1.0)  # the largest weight is 1 or more
    return means.floor_() if is_exact(means) else means


def softmax2(scores: Tensor, legal: Tensor | None = None) -> Tensor:
    """Softmax in base 2 over the last dimension: weights that sum to 1, in the exact face integers that sum to 2^WEIGHT_BITS.

    Illegal entries weigh 0 (see exp2_weights); a row without legal entries is all 0.
    """
    weights = exp2_weights(scores, legal)
    if not is_exact(weights):
        return weights / weights.sum(-1, keepdim=True).clamp_min(1.0)
    edges = weights.cumsum(-1)  # rounding the edges, not the weights, keeps the sum
    edges = torch.floor(edges * 2.0**WEIGHT_BITS / edges[..., -1:].clamp_min(1.0))
    return torch.diff(edges, prepend=torch.zeros_like(edges[..., :1]))


@cache
def _root_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """4^k; 2^-k; 2^22 / sqrt((n + 1/2) 2^-ROOT_BITS) rounded down, by n of ROOT_BITS bits. All float64, k from -FRACTION on."""
    roots = [isqrt((1 << 45 + ROOT_BITS) // (2 * n + 1)) for n in range(1 << ROOT_BITS)]
    sizes = range(-FRACTION, 27 + FRACTION)
    tables = [4.0**k for k in sizes[:-1]], [2.0**-k for k in sizes], roots
    return tuple(torch.tensor(x, dtype=torch.float64, device=device) for x in tables)


def unit(rows: Tensor) -> Tensor:
    """rows / |row| in units of 2^-UNIT_BITS, rounded to integers; a row of zeros stays one. The same in both faces.

    For rows of integers, or activations, whose squares sum to less than 2^52: the sum is exact in float64 and its size
    is found by comparing. The root's relative error is below 2^-ROOT_BITS, so a product of two rows is their cosine in
    units of 2^-2UNIT_BITS but for what rounding adds, some sqrt(n) / 2^UNIT_BITS / 2.
    """
    fours, halves, roots = _root_tables(rows.device)
    wide = rows.double()
    square = wide.square().sum(-1, keepdim=True)
    half = halves[torch.bucketize(square, fours, right=True)]  # square half^2 is in [1/4, 1)
    root = roots[(square * half * half * 2.0**ROOT_BITS).long()]
    return torch.floor(wide * (root * half * 2.0 ** (UNIT_BITS - 22)) + 0.5).to(rows.dtype)


class Table(nn.Module):
    """Rows of numbers, looked up by an integer: (...) int64, clamped to 0 .. rows - 1 -> (..., channels)."""

    def __init__(self, rows: int, channels: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(rows, channels))

    def forward(self, index: Tensor) -> Tensor:
        return self.values[index.clamp(0, len(self.values) - 1)]

    @torch.no_grad()
    def freeze(self) -> None:
        self.values = nn.Parameter(torch.round(self.values.double() * 2.0**FRACTION).clamp(-LIMIT, LIMIT), False)

    @torch.no_grad()
    def thaw(self) -> None:
        self.values = nn.Parameter((self.values * 2.0**-FRACTION).float())

    @torch.no_grad()
    def prove(self, name: str) -> None:
        good = is_exact(self.values) and bool((self.values == torch.floor(self.values)).all())
        if not good or not bool((self.values.abs() <= LIMIT).all()):
            raise BadWeights(f"{name}: table entries are not integers in range")


class LevelTable(Table):
    """Rows of numbers at `anchors` evenly spaced quality levels, interpolated linearly between them."""

    def __init__(self, anchors: int, channels: int):
        super().__init__(anchors, channels)
        if anchors < 2 or LEVELS % (anchors - 1):
            raise BadWeights(f"{anchors} anchors do not divide the {LEVELS} quality levels evenly")

    def forward(self, level: Tensor) -> Tensor:
        """level: (B,) int64 in 0..LEVELS -> (B, channels)."""
        span = LEVELS // (len(self.values) - 1)  # a power of two, so the exact face is a shift
        low = torch.div(level, span, rounding_mode="floor").clamp(max=len(self.values) - 2)
        t = (level - low * span).to(self.values.dtype)[:, None]
        a, b = (self.values.index_select(0, row) for row in (low, low + 1))
        if not is_exact(self.values):
            return a + (b - a) * (t / span)
        return torch.floor((a * (span - t) + b * t + span // 2) * (1.0 / span))

    @torch.no_grad()
    def prove(self, name: str) -> None:
        super().prove(name)
        span = LEVELS // (len(self.values) - 1)
        if span & (span - 1):
            raise BadWeights(f"{name}: the span between anchors is no power of two")


def freeze(model: nn.Module) -> nn.Module:
    """Turn every exact layer inside `model` to its integer face, in place."""
    for module in model.modules():
        if isinstance(module, (ExactLinear, Table)):
            module.freeze()
    return model


def thaw(model: nn.Module) -> nn.Module:
    """Turn every exact layer inside `model` back to its float face, in place: as good as before but for the rounding."""
    for module in model.modules():
        if isinstance(module, (ExactLinear, Table)):
            module.thaw()
    return model


def prove(model: nn.Module) -> None:
    """Check that no input can take any exact layer of a frozen model beyond exact arithmetic."""
    for name, module in model.named_modules():
        if isinstance(module, (ExactLinear, Table)):
            module.prove(name)
