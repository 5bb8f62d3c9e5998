"""Define the kernels of engine fused_cuda, in Triton. Not every platform has Triton, so only `kernels()` imports this.

A program computes one tile of a result in float32, from beginning to end. Every sum has a fixed order, and no kernel
uses atomic additions. Widths and batches need not be multiples of the tile sizes.

Tensor arguments are pointers to the first element; a matrix (rows, columns) is stored row by row. Each layer has the
input x (B, I), weight (O, I) and bias (O,). The tensors z, a, d and g are (B, O): its output, the activation of the
output, the activation's derivative, and the gradient of the loss by z. An argument can be None if a flag turns its
use off.

A program's tile is described by vectors of indices: `rows` of the batch, `outputs` and `inputs` of the layer, `terms`
of a sum. `is_row`, `is_output`, `is_input` and `is_term` are false for indices beyond the end.
"""

# mypy: ignore-errors
# ruff: noqa: PLR0917
# The decorator compiles the functions in its own way, which mypy cannot follow, and passes arguments by position.

import triton
import triton.language as tl
from triton.errors import TritonError  # noqa: F401 (for the caller, who cannot import Triton everywhere)
from triton.runtime.interpreter import InterpretedFunction

from mlpbench.engines import optimizer_rules

BETA1 = tl.constexpr(optimizer_rules.BETA1)
BETA2 = tl.constexpr(optimizer_rules.BETA2)
EPSILON = tl.constexpr(optimizer_rules.EPSILON)
# Fields (int64) that `update` reads of each layer.
LAYER_FIELDS = tl.constexpr(12)


@triton.jit
def probe(out):
    """Write a 1: a smallest kernel, to find out whether kernels can be built."""
    tl.store(out, 1)


@triton.jit
def _expm1(x):
    """Return exp(x) - 1 for x <= 0, with a relative error of 1e-7: near 0 by Taylor's series."""
    series = 1.0 / 40320 * x + 1.0 / 5040
    series = series * x + 1.0 / 720
    series = series * x + 1.0 / 120
    series = series * x + 1.0 / 24
    series = series * x + 1.0 / 6
    series = (series * x + 0.5) * x + 1.0
    return tl.where(x > -0.5, series * x, tl.exp(x) - 1.0)


@triton.jit
def _activate(z, kind: tl.constexpr):
    """Return the activation of z, and its derivative there."""
    if kind == "relu":
        a = tl.where(z <= 0.0, 0.0, z)
        d = tl.where(z > 0.0, 1.0, 0.0)
    elif kind == "leaky_relu":
        d = tl.where(z > 0.0, 1.0, 0.01)
        a = z * d
    elif kind == "elu":
        negative = _expm1(tl.where(z > 0.0, 0.0, z))
        a = tl.where(z > 0.0, z, negative)
        d = tl.where(z > 0.0, 1.0, negative + 1.0)
    elif kind == "tanh":
        t = _expm1(-2.0 * tl.abs(z))
        magnitude = -t / (t + 2.0)
        a = tl.where(z < 0.0, -magnitude, magnitude)
        d = 1.0 - a * a
    elif kind == "sigmoid":
        a = 1.0 / (1.0 + tl.exp(-z))
        d = a * (1.0 - a)
    elif kind == "silu":
        sigmoid = 1.0 / (1.0 + tl.exp(-z))
        a = z * sigmoid
        d = sigmoid * (1.0 + z * (1.0 - sigmoid))
    else:
        tl.static_assert(kind == "gelu")
        phi = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        a = z * phi
        d = phi + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
    return a, d


@triton.jit
def _layer(
    x, x_rows, weight, bias, is_row, outputs, num_in, num_out,
    tile_rows: tl.constexpr, tile_outputs: tl.constexpr, tile_terms: tl.constexpr,
):  # fmt: skip
    """Return a tile (rows, outputs) of z. `x_rows` are the rows of x; those that are not `is_row` are not read."""
    z = tl.zeros((tile_rows, tile_outputs), tl.float32)
    for start in range(0, num_in, tile_terms):
        terms = start + tl.arange(0, tile_terms)
        left = tl.load(x + x_rows[:, None] * num_in + terms[None, :], is_row[:, None] & (terms < num_in)[None, :], 0.0)
        right_at = weight + outputs[None, :] * num_in + terms[:, None]
        right = tl.load(right_at, (terms < num_in)[:, None] & (outputs < num_out)[None, :], 0.0)
        z = tl.dot(left, right, z, input_precision="ieee")
    return z + tl.load(bias + outputs, outputs < num_out, 0.0)[None, :]


@triton.jit(do_not_specialize=["num_samples"])
def forward(
    x, index, weight, bias, z, a, d, num_samples, num_in, num_out,
    kind: tl.constexpr, gathers: tl.constexpr, stores_d: tl.constexpr, stores_z: tl.constexpr,
    tile_rows: tl.constexpr, tile_outputs: tl.constexpr, tile_terms: tl.constexpr,
):  # fmt: skip
    """Compute a hidden layer. If it gathers, the batch is the rows of x that `index` (B,) int64 lists."""
    rows = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    outputs = tl.program_id(1) * tile_outputs + tl.arange(0, tile_outputs)
    is_row = rows < num_samples
    x_rows = rows.to(tl.int64)
    if gathers:
        x_rows = tl.load(index + rows, is_row, 0)
    tile = _layer(x, x_rows, weight, bias, is_row, outputs, num_in, num_out, tile_rows, tile_outputs, tile_terms)
    activation, derivative = _activate(tile, kind)
    offsets = rows.to(tl.int64)[:, None] * num_out + outputs[None, :]
    is_inside = is_row[:, None] & (outputs < num_out)[None, :]
    tl.store(a + offsets, activation, is_inside)
    if stores_d:
        tl.store(d + offsets, derivative, is_inside)
    if stores_z:
        tl.store(z + offsets, tile, is_inside)


@triton.jit(do_not_specialize=["num_samples"])
def output(
    x, index, labels, weight, bias, logits, g, losses, hits, d_below, g_below, powers, num_samples, num_in, num_out,
    trains: tl.constexpr, tile_rows: tl.constexpr, tile_outputs: tl.constexpr, tile_terms: tl.constexpr,
):  # fmt: skip
    """Compute the last layer; if it trains, also the losses, and the gradients g of this layer and of the layer below.

    A program has all outputs of its rows. Only `trains` uses the following arguments:

    - The labels of the batch are those elements of `labels` that `index` (B,) int64 lists.
    - `losses` (B,) are float64; `hits` (B,) int32 are 1 where the largest logit is the label's.
    - `d_below` and `g_below` belong to the layer below; the kernel reads the first and writes the second.
    - `powers` (2,) float64 are those of Adam's betas, 1 before the first step. The kernel multiplies them once.
    """
    rows = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    outputs = tl.arange(0, tile_outputs)
    is_row = rows < num_samples
    is_output = outputs < num_out
    x_rows = rows.to(tl.int64)
    z = _layer(x, x_rows, weight, bias, is_row, outputs, num_in, num_out, tile_rows, tile_outputs, tile_terms)
    offsets = x_rows[:, None] * num_out + outputs[None, :]
    is_inside = is_row[:, None] & is_output[None, :]
    tl.store(logits + offsets, z, is_inside)
    if trains:
        samples = tl.load(index + rows, is_row, 0)
        label = tl.load(labels + samples, is_row, 0)
        is_label = outputs[None, :] == label[:, None]
        z = tl.where(is_output[None, :], z, float("-inf"))
        largest = tl.max(z, 1)
        power = tl.exp(z - largest[:, None])
        total = tl.sum(power, 1)
        gradient = (power / total[:, None] - tl.where(is_label, 1.0, 0.0)) / num_samples
        gradient = tl.where(is_inside, gradient, 0.0)
        tl.store(g + offsets, gradient, is_inside)
        distance = largest - tl.sum(tl.where(is_label, z, 0.0), 1)
        tl.store(losses + rows, tl.log(total.to(tl.float64)) + distance, is_row)
        tl.store(hits + rows, (tl.argmax(z, 1) == label).to(tl.int32), is_row)
        for start in range(0, num_in, tile_terms):
            inputs = start + tl.arange(0, tile_terms)
            right_at = weight + outputs[:, None] * num_in + inputs[None, :]
            right = tl.load(right_at, is_output[:, None] & (inputs < num_in)[None, :], 0.0)
            below = tl.dot(gradient, right, input_precision="ieee")
            below_offsets = x_rows[:, None] * num_in + inputs[None, :]
            is_below = is_row[:, None] & (inputs < num_in)[None, :]
            tl.store(g_below + below_offsets, below * tl.load(d_below + below_offsets, is_below, 0.0), is_below)
        if tl.program_id(0) == 0:
            tl.store(powers, tl.load(powers) * BETA1)
            tl.store(powers + 1, tl.load(powers + 1) * BETA2)


@triton.jit(do_not_specialize=["num_samples"])
def backward(
    g, weight, d_below, g_below, num_samples, num_in, num_out,
    tile_rows: tl.constexpr, tile_inputs: tl.constexpr, tile_terms: tl.constexpr,
):  # fmt: skip
    """Compute the gradients g of the layer below from those of a layer."""
    rows = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    inputs = tl.program_id(1) * tile_inputs + tl.arange(0, tile_inputs)
    is_row = rows < num_samples
    is_input = inputs < num_in
    g_rows = rows.to(tl.int64)
    below = tl.zeros((tile_rows, tile_inputs), tl.float32)
    for start in range(0, num_out, tile_terms):
        terms = start + tl.arange(0, tile_terms)
        left = tl.load(
            g + g_rows[:, None] * num_out + terms[None, :], is_row[:, None] & (terms < num_out)[None, :], 0.0
        )
        right_at = weight + terms[:, None] * num_in + inputs[None, :]
        right = tl.load(right_at, (terms < num_out)[:, None] & is_input[None, :], 0.0)
        below = tl.dot(left, right, below, input_precision="ieee")
    offsets = g_rows[:, None] * num_in + inputs[None, :]
    is_inside = is_row[:, None] & is_input[None, :]
    tl.store(g_below + offsets, below * tl.load(d_below + offsets, is_inside, 0.0), is_inside)


@triton.jit
def _apply(
    parameter, m_state, v_state, gradient, offsets, is_inside, g, powers, lr, momentum, decay,
    rule: tl.constexpr, stores_gradients: tl.constexpr,
):  # fmt: skip
    """Write the new parameters, by the rules of torch.optim, from the values g of their gradients."""
    if stores_gradients:
        tl.store(gradient + offsets, g, is_inside)
    p = tl.load(parameter + offsets, is_inside, 0.0)
    if rule == "adamw":
        p -= lr * decay * p
    else:
        g += decay * p
    if rule == "sgd":
        p -= lr * g
    elif (rule == "momentum") | (rule == "nesterov"):
        m = momentum * tl.load(m_state + offsets, is_inside, 0.0) + g
        tl.store(m_state + offsets, m, is_inside)
        p -= lr * (g + momentum * m if rule == "nesterov" else m)
    else:
        tl.static_assert((rule == "adam") | (rule == "adamw"))
        m = tl.load(m_state + offsets, is_inside, 0.0)
        m += (g - m) * (1.0 - BETA1)
        v = tl.load(v_state + offsets, is_inside, 0.0) * BETA2 + g * g * (1.0 - BETA2)
        tl.store(m_state + offsets, m, is_inside)
        tl.store(v_state + offsets, v, is_inside)
        rate = (lr / (1.0 - tl.load(powers))).to(tl.float32)
        root = tl.sqrt(1.0 - tl.load(powers + 1)).to(tl.float32)
        p -= rate * m / (tl.sqrt_rn(v) / root + EPSILON)
    tl.store(parameter + offsets, p, is_inside)


@triton.jit
def _floats(field):
    """Return a pointer to float32 numbers, whose address is in this field."""
    return tl.load(field).to(tl.pointer_type(tl.float32))


@triton.jit(do_not_specialize=["num_samples"])
def update(
    tiles, layers, index, powers, num_samples, lr, momentum, decay,
    rule: tl.constexpr, stores_gradients: tl.constexpr,
    tile_outputs: tl.constexpr, tile_inputs: tl.constexpr, tile_terms: tl.constexpr,
):  # fmt: skip
    """Compute the gradients by the parameters of all layers, and the new parameters.

    `tiles` (programs, 3) int32: the layer, the first output and the first input. The program that has a layer's input 0
    also computes the biases.

    `layers` (layers, 12) int64, of each layer: the numbers of inputs and outputs; the addresses of x and g; those of
    the weight and of its m, v and gradient; those of the bias and of its m, v and gradient. An unused address is 0.
    """
    tile = tiles + 3 * tl.program_id(0)
    number = tl.load(tile)
    first_input = tl.load(tile + 2)
    outputs = tl.load(tile + 1) + tl.arange(0, tile_outputs)
    inputs = first_input + tl.arange(0, tile_inputs)
    layer = layers + LAYER_FIELDS * number
    num_in = tl.load(layer).to(tl.int32)
    num_out = tl.load(layer + 1).to(tl.int32)
    x = _floats(layer + 2)
    g = _floats(layer + 3)
    is_output = outputs < num_out
    is_input = inputs < num_in
    gradient = tl.zeros((tile_outputs, tile_inputs), tl.float32)
    for start in range(0, num_samples, tile_terms):
        terms = start + tl.arange(0, tile_terms)
        is_term = terms < num_samples
        x_rows = tl.where(number == 0, tl.load(index + terms, is_term, 0), terms.to(tl.int64))
        g_rows = terms.to(tl.int64)
        left = tl.load(g + g_rows[None, :] * num_out + outputs[:, None], is_output[:, None] & is_term[None, :], 0.0)
        right = tl.load(x + x_rows[:, None] * num_in + inputs[None, :], is_term[:, None] & is_input[None, :], 0.0)
        gradient = tl.dot(left, right, gradient, input_precision="ieee")
    _apply(
        _floats(layer + 4), _floats(layer + 5), _floats(layer + 6), _floats(layer + 7),
        outputs[:, None] * num_in + inputs[None, :], is_output[:, None] & is_input[None, :],
        gradient, powers, lr, momentum, decay, rule, stores_gradients,
    )  # fmt: skip
    if first_input == 0:
        sums = tl.zeros((tile_outputs,), tl.float32)
        for start in range(0, num_samples, tile_terms):
            g_rows = (start + tl.arange(0, tile_terms)).to(tl.int64)
            is_inside = is_output[:, None] & (g_rows < num_samples)[None, :]
            sums += tl.sum(tl.load(g + g_rows[None, :] * num_out + outputs[:, None], is_inside, 0.0), 1)
        _apply(
            _floats(layer + 8), _floats(layer + 9), _floats(layer + 10), _floats(layer + 11),
            outputs, is_output, sums, powers, lr, momentum, decay, rule, stores_gradients,
        )  # fmt: skip


# The value of TRITON_INTERPRET when this module was imported decides it.
IS_INTERPRETED = isinstance(forward, InterpretedFunction)
