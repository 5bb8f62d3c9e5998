"""The kernels of fused_cuda, in Triton; imported only where they are used, since not every platform has Triton.

A program computes one tile of a result in float32, from beginning to end: every sum has a fixed order, and nothing is
added atomically. Widths and batches need not be multiples of the tiles.

Shapes: a matrix (rows, columns) lies row by row. Of a layer x is (B, I), weight (O, I), bias (O,); z, a, d and g are
(B, O): its output, activation, the derivative there, and the gradient by z. Names of tiles: b samples, i inputs,
o outputs, k terms of a sum.
"""

# mypy: ignore-errors
# ruff: noqa: PLR0917
# What the decorator compiles is not the Python that it looks like, and takes arguments in their order.

import triton
import triton.language as tl
from triton.errors import TritonError  # noqa: F401 (for who calls it)
from triton.runtime.interpreter import InterpretedFunction

LAYER_FIELDS = tl.constexpr(12)  # numbers (int64) that `update` reads of a layer: see fused_cuda.py


@triton.jit
def probe(made):
    """Do hardly anything: it shows whether kernels can be built."""
    tl.store(made, 1)


@triton.jit
def _expm1(x):
    """exp(x) - 1 for x <= 0, good to 1e-7 of itself: near 0 by Taylor's series."""
    series = 1.0 / 40320 * x + 1.0 / 5040
    series = series * x + 1.0 / 720
    series = series * x + 1.0 / 120
    series = series * x + 1.0 / 24
    series = series * x + 1.0 / 6
    series = (series * x + 0.5) * x + 1.0
    return tl.where(x > -0.5, series * x, tl.exp(x) - 1.0)


@triton.jit
def _activate(z, kind: tl.constexpr):
    """The activation of z, and its derivative there."""
    if kind == "relu":
        a = tl.where(z <= 0.0, 0.0, z)
        d = tl.where(z > 0.0, 1.0, 0.0)
    elif kind == "leaky_relu":
        d = tl.where(z > 0.0, 1.0, 0.01)
        a = z * d
    elif kind == "elu":
        below = _expm1(tl.where(z > 0.0, 0.0, z))
        a = tl.where(z > 0.0, z, below)
        d = tl.where(z > 0.0, 1.0, below + 1.0)
    elif kind == "tanh":
        t = _expm1(-2.0 * tl.abs(z))
        magnitude = -t / (t + 2.0)
        a = tl.where(z < 0.0, -magnitude, magnitude)
        d = 1.0 - a * a
    elif kind == "sigmoid":
        a = 1.0 / (1.0 + tl.exp(-z))
        d = a * (1.0 - a)
    elif kind == "silu":
        s = 1.0 / (1.0 + tl.exp(-z))
        a = z * s
        d = s * (1.0 + z * (1.0 - s))
    else:
        tl.static_assert(kind == "gelu")
        phi = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        a = z * phi
        d = phi + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
    return a, d


@triton.jit
def _layer(x, sample, weight, bias, b_in, o, num_in, num_out, bb: tl.constexpr, bo: tl.constexpr, bk: tl.constexpr):
    """A tile (b, o) of a layer's outputs; `sample` are the rows of x, `b_in` which of them there are."""
    z = tl.zeros((bb, bo), tl.float32)
    for first in range(0, num_in, bk):
        k = first + tl.arange(0, bk)
        left = tl.load(x + sample[:, None] * num_in + k[None, :], b_in[:, None] & (k < num_in)[None, :], 0.0)
        right = tl.load(weight + o[None, :] * num_in + k[:, None], (k < num_in)[:, None] & (o < num_out)[None, :], 0.0)
        z = tl.dot(left, right, z, input_precision="ieee")
    return z + tl.load(bias + o, o < num_out, 0.0)[None, :]


@triton.jit(do_not_specialize=["num_samples"])
def forward(
    x, index, weight, bias, z, a, d, num_samples, num_in, num_out,
    kind: tl.constexpr, gathers: tl.constexpr, trains: tl.constexpr, keeps: tl.constexpr,
    bb: tl.constexpr, bo: tl.constexpr, bk: tl.constexpr,
):  # fmt: skip
    """A hidden layer; the samples are those of `index` if it gathers. `d` is written if it trains, `z` if it keeps."""
    b = tl.program_id(0) * bb + tl.arange(0, bb)
    o = tl.program_id(1) * bo + tl.arange(0, bo)
    b_in = b < num_samples
    sample = b.to(tl.int64)
    if gathers:
        sample = tl.load(index + b, b_in, 0)
    out = _layer(x, sample, weight, bias, b_in, o, num_in, num_out, bb, bo, bk)
    activation, derivative = _activate(out, kind)
    at = b.to(tl.int64)[:, None] * num_out + o[None, :]
    inside = b_in[:, None] & (o < num_out)[None, :]
    tl.store(a + at, activation, inside)
    if trains:
        tl.store(d + at, derivative, inside)
    if keeps:
        tl.store(z + at, out, inside)


@triton.jit(do_not_specialize=["num_samples"])
def output(
    x, index, labels, weight, bias, logits, g, losses, hits, d_below, g_below, powers, num_samples, num_in, num_out,
    trains: tl.constexpr, bb: tl.constexpr, bo: tl.constexpr, bk: tl.constexpr,
):  # fmt: skip
    """The last layer; if it trains, losses and gradients too, down to those of the layer below.

    A program has all outputs of its samples. `losses` are float64, `hits` 1 where the largest logit is the label's.
    `powers` are those of Adam's betas, 1 before the first step.
    """
    b = tl.program_id(0) * bb + tl.arange(0, bb)
    o = tl.arange(0, bo)
    b_in = b < num_samples
    o_in = o < num_out
    row = b.to(tl.int64)
    z = _layer(x, row, weight, bias, b_in, o, num_in, num_out, bb, bo, bk)
    at = row[:, None] * num_out + o[None, :]
    inside = b_in[:, None] & o_in[None, :]
    tl.store(logits + at, z, inside)
    if trains:
        sample = tl.load(index + b, b_in, 0)
        label = tl.load(labels + sample, b_in, 0)
        is_label = o[None, :] == label[:, None]
        z = tl.where(o_in[None, :], z, float("-inf"))
        largest = tl.max(z, 1)
        power = tl.exp(z - largest[:, None])
        total = tl.sum(power, 1)
        gradient = (power / total[:, None] - tl.where(is_label, 1.0, 0.0)) / num_samples
        gradient = tl.where(inside, gradient, 0.0)
        tl.store(g + at, gradient, inside)
        above = largest - tl.sum(tl.where(is_label, z, 0.0), 1)
        tl.store(losses + b, tl.log(total.to(tl.float64)) + above, b_in)
        tl.store(hits + b, (tl.argmax(z, 1) == label).to(tl.int32), b_in)
        for first in range(0, num_in, bk):
            i = first + tl.arange(0, bk)
            right = tl.load(weight + o[:, None] * num_in + i[None, :], o_in[:, None] & (i < num_in)[None, :], 0.0)
            below = tl.dot(gradient, right, input_precision="ieee")
            at_below = row[:, None] * num_in + i[None, :]
            inside_below = b_in[:, None] & (i < num_in)[None, :]
            tl.store(g_below + at_below, below * tl.load(d_below + at_below, inside_below, 0.0), inside_below)
        if tl.program_id(0) == 0:
            tl.store(powers, tl.load(powers) * 0.9)
            tl.store(powers + 1, tl.load(powers + 1) * 0.999)


@triton.jit(do_not_specialize=["num_samples"])
def backward(
    g, weight, d_below, g_below, num_samples, num_in, num_out,
    bb: tl.constexpr, bi: tl.constexpr, bk: tl.constexpr,
):  # fmt: skip
    """From a layer's gradients those of the layer below."""
    b = tl.program_id(0) * bb + tl.arange(0, bb)
    i = tl.program_id(1) * bi + tl.arange(0, bi)
    b_in = b < num_samples
    i_in = i < num_in
    row = b.to(tl.int64)
    below = tl.zeros((bb, bi), tl.float32)
    for first in range(0, num_out, bk):
        k = first + tl.arange(0, bk)
        left = tl.load(g + row[:, None] * num_out + k[None, :], b_in[:, None] & (k < num_out)[None, :], 0.0)
        right = tl.load(weight + k[:, None] * num_in + i[None, :], (k < num_out)[:, None] & i_in[None, :], 0.0)
        below = tl.dot(left, right, below, input_precision="ieee")
    at = row[:, None] * num_in + i[None, :]
    inside = b_in[:, None] & i_in[None, :]
    tl.store(g_below + at, below * tl.load(d_below + at, inside, 0.0), inside)


@triton.jit
def _apply(
    parameter, m_at, v_at, gradient, at, inside, g, powers, lr, momentum, decay, rule: tl.constexpr, keeps: tl.constexpr
):
    """The new parameters, from their gradients g, as torch.optim has them."""
    if keeps:
        tl.store(gradient + at, g, inside)
    p = tl.load(parameter + at, inside, 0.0)
    if rule == "adamw":
        p -= lr * decay * p
    else:
        g += decay * p
    if rule == "sgd":
        p -= lr * g
    elif (rule == "momentum") | (rule == "nesterov"):
        m = momentum * tl.load(m_at + at, inside, 0.0) + g
        tl.store(m_at + at, m, inside)
        p -= lr * (g + momentum * m if rule == "nesterov" else m)
    else:
        tl.static_assert((rule == "adam") | (rule == "adamw"))
        m = tl.load(m_at + at, inside, 0.0)
        m += (g - m) * 0.1
        v = tl.load(v_at + at, inside, 0.0) * 0.999 + g * g * 0.001
        tl.store(m_at + at, m, inside)
        tl.store(v_at + at, v, inside)
        rate = (lr / (1.0 - tl.load(powers))).to(tl.float32)
        root = tl.sqrt(1.0 - tl.load(powers + 1)).to(tl.float32)
        p -= rate * m / (tl.sqrt_rn(v) / root + 1e-8)
    tl.store(parameter + at, p, inside)


@triton.jit
def _floats(address):
    """The float32 numbers whose address lies there."""
    return tl.load(address).to(tl.pointer_type(tl.float32))


@triton.jit(do_not_specialize=["num_samples"])
def update(
    tiles, layers, index, powers, num_samples, lr, momentum, decay,
    rule: tl.constexpr, keeps: tl.constexpr, bo: tl.constexpr, bi: tl.constexpr, bk: tl.constexpr,
):  # fmt: skip
    """Gradients by the parameters of all layers, and the new parameters; the gradients are written if it keeps them.

    `tiles` (programs, 3) int32: which layer, and the first output and input. The first inputs' program has the biases.
    """
    tile = tiles + 3 * tl.program_id(0)
    number = tl.load(tile)
    first_i = tl.load(tile + 2)
    o = tl.load(tile + 1) + tl.arange(0, bo)
    i = first_i + tl.arange(0, bi)
    layer = layers + LAYER_FIELDS * number
    num_in = tl.load(layer).to(tl.int32)
    num_out = tl.load(layer + 1).to(tl.int32)
    x = _floats(layer + 2)
    g = _floats(layer + 3)
    o_in = o < num_out
    i_in = i < num_in
    gradient = tl.zeros((bo, bi), tl.float32)
    for first in range(0, num_samples, bk):
        k = first + tl.arange(0, bk)
        k_in = k < num_samples
        sample = tl.where(number == 0, tl.load(index + k, k_in, 0), k.to(tl.int64))
        row = k.to(tl.int64)
        left = tl.load(g + row[None, :] * num_out + o[:, None], o_in[:, None] & k_in[None, :], 0.0)
        right = tl.load(x + sample[:, None] * num_in + i[None, :], k_in[:, None] & i_in[None, :], 0.0)
        gradient = tl.dot(left, right, gradient, input_precision="ieee")
    _apply(
        _floats(layer + 4), _floats(layer + 5), _floats(layer + 6), _floats(layer + 7),
        o[:, None] * num_in + i[None, :], o_in[:, None] & i_in[None, :],
        gradient, powers, lr, momentum, decay, rule, keeps,
    )  # fmt: skip
    if first_i == 0:
        sums = tl.zeros((bo,), tl.float32)
        for first in range(0, num_samples, bk):
            row = (first + tl.arange(0, bk)).to(tl.int64)
            inside = o_in[:, None] & (row < num_samples)[None, :]
            sums += tl.sum(tl.load(g + row[None, :] * num_out + o[:, None], inside, 0.0), 1)
        _apply(
            _floats(layer + 8), _floats(layer + 9), _floats(layer + 10), _floats(layer + 11),
            o, o_in, sums, powers, lr, momentum, decay, rule, keeps,
        )  # fmt: skip


IS_INTERPRETED = isinstance(forward, InterpretedFunction)  # as TRITON_INTERPRET said when this was imported
