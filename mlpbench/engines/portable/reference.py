"""Compute the arithmetic of docs/portable-format.md in NumPy and plain Python: the oracle of the PyTorch engine.

It is written from that page alone, so that the two programs agree only if the page defines enough. It is readable and
exact, not fast: every sum is a sum of integers. Of the C library it uses only `sqrt`, which IEEE 754 requires to be
correctly rounded. A number that is not finite, or outside the domain of a function, raises InputError where it appears.
"""

import functools
import hashlib
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, localcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpbench.config import RunConfig
from mlpbench.errors import InputError, check_name, choose

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
VERSION = "portable/1"
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
_LARGEST = sys.float_info.max
_ENGINES = {"int64": np.dtype(np.int64), "python": np.dtype(object)}

_DIGESTS = {
    "exp": "f6163437b176ac3d01c59f1648c330800276c4203c8f5121ce7df8d5d0193e6e",
    "tanh": "27c9ba103f0ea4050bf3b5693e4551d4ae5171917816aaa1bd80ec91ab83c952",
    "log": "7a043d878894b9939c17b452c137aafd3844348a888d1d356c1f8c2e77931506",
}


@functools.cache
def tables() -> dict[str, F64]:
    """Return the tables `exp` (2561 entries), `tanh` (1281) and `log` (129), read-only.

    Raises:
        InputError: if a table has another digest than on the page.
    """
    with localcontext(Context(prec=60)):
        x = [Decimal(n) / 64 for n in range(2561)]
        exact = {
            "exp": [(-v).exp() for v in x],
            "tanh": [1 - 2 / (1 + (2 * v).exp()) for v in x[:1281]],
            "log": [(1 + v / 2).ln() for v in x[:129]],
        }
    rounded = {name: np.array([float(v) for v in values]) for name, values in exact.items()}
    for name, table in rounded.items():
        table.flags.writeable = False
        if hashlib.sha256(table.astype("<f8").tobytes()).hexdigest() != _DIGESTS[name]:
            raise InputError(f"table {name!r} of {VERSION} has other bits here; use another build of Python")
    return rounded


def _within(x: F64, name: str, low: float = -_LARGEST, high: float = _LARGEST) -> F64:
    if not np.all((x >= low) & (x <= high)):
        domain = "finite" if high - low == math.inf else f"from {low:.4g} to {high:.4g}"
        raise InputError(f"{name} must be {domain}; if training diverged, use a smaller lr")
    return x


def _f32(x: F64, name: str) -> F64:
    """Round `x` to binary32, but return it as binary64, so that no later operation is in binary32 by accident."""
    return _within(x.astype(np.float32).astype(np.float64), name)


def budget(num_terms: int) -> int:
    """Return how many bits `num_terms` numbers, at least one, may have, so that every sum of them is at most 2^53.

    >>> budget(1), budget(2048), budget(2049)
    (42, 42, 41)
    """
    return min(42, 53 - (num_terms - 1).bit_length())


def product_bits(config: RunConfig, num_features: int, num_classes: int) -> int:
    """Return the number of bits that every operand of a product has in a run."""
    return budget(max(num_features, *config.hidden_sizes, num_classes, config.batch_size)) // 2


@np.errstate(all="ignore")
def snap(x: F64 | F32, bits: int) -> F64:
    """Round `x`, of any shape, to multiples of one power of two: integers of at most 2^bits times it.

    Raises:
        InputError: if a number is not finite, or so large that the grid's constant is not finite.
    """
    fraction, exponent = math.frexp(np.max(np.abs(x), initial=2.0**-400))
    # If the fraction is 0.5, the largest number is the power of two itself.
    c = np.ldexp(1.5, exponent + 52 - bits - (fraction == 0.5))
    return _within((x.astype(np.float64) + c) - c, "numbers to round")


def _integers(x: F64) -> tuple[NDArray[np.int64], int, int]:
    """Return integers n, the largest exponent e with x = n * 2^e, and the largest |n|."""
    top = math.frexp(np.max(np.abs(_within(x, "factors and terms")), initial=0))[1]
    scaled = np.ldexp(x, 53 - top)
    n = scaled.astype(np.int64)
    if np.any(n != scaled):
        raise InputError("factors and terms of exact sums must be on a grid; snap them first")
    used = int(np.bitwise_or.reduce(n, axis=None))
    shift = max((used & -used).bit_length() - 1, 0)
    n >>= shift
    return n, top - 53 + shift, int(np.max(np.abs(n), initial=0))


@np.errstate(all="ignore")
def product(a: F64, b: F64, engine: str = "int64") -> F64:
    """Return the exact matrix product of `a` (M, K) and `b` (K, N), by `int64` or by the integers of `python`.

    Raises:
        InputError: if an operand is not on a grid, a sum could be above 2^53, or no engine has that name.
    """
    kind = choose(_ENGINES, engine, "engine")
    (m, m_exponent, m_largest), (n, n_exponent, n_largest) = _integers(a), _integers(b)
    if m_largest * n_largest * a.shape[1] > 2**53:
        raise InputError(f"a product of {a.shape[1]} terms could be above 2^53; use fewer terms or fewer bits")
    sums = (m.astype(kind) @ n.astype(kind)).astype(np.float64)
    return _within(np.ldexp(sums, m_exponent + n_exponent), "products")


def exact_sum(x: F64) -> float:
    """Return the sum of `snap(x, budget(n))` over the n numbers of a vector."""
    return float(product(np.ones((1, len(x))), snap(x, budget(len(x)))[:, np.newaxis])[0, 0])


def _stream(seed: int, purpose: str, name: str, num_bytes: int) -> bytes:
    return hashlib.shake_256(f"mlpbench {VERSION}|{seed}|{purpose}|{name}".encode("ascii")).digest(num_bytes)


def _shapes(sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (num_inputs, num_outputs) in enumerate(itertools.pairwise(sizes)):
        shapes |= {f"linear{k}.weight": (num_outputs, num_inputs), f"linear{k}.bias": (num_outputs,)}
    return shapes


def initial_parameters(seed: int, sizes: Sequence[int]) -> dict[str, F32]:
    """Return weights (outputs, inputs) and biases (outputs) of the layers between `sizes`: inputs, hidden, classes."""
    parameters: dict[str, F32] = {}
    for index, (name, shape) in enumerate(_shapes(sizes).items()):
        r = np.frombuffer(_stream(seed, "initial", name, 4 * math.prod(shape)), "<u4").astype(np.int64)
        h = (1 / math.sqrt(sizes[index // 2])) * 2.0**-32
        parameters[name] = ((2 * r + 1 - 2**32).astype(np.float64) * h).astype(np.float32).reshape(shape)
    return parameters


def batch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """Return the indices of the training samples (num_samples) in the order of epoch `epoch`, counted from 0."""
    keys = np.frombuffer(_stream(seed, "order", str(epoch), 8 * num_samples), "<u8")
    return np.argsort(keys, kind="stable").astype(np.int64)


def inputs(pixels: NDArray[np.uint8]) -> F32:
    """Return pixels of 0 to 255 as numbers from -0.5 to 0.5, in the same shape."""
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(1)


def exp(x: F64) -> F64:
    """Return the exponential of numbers of at most 0, but never below that of -40; relative error below 3e-13."""
    v = np.maximum(_within(x, "arguments of exp", high=0), -40)
    n = np.rint(v * -64)
    r = v + n / 64
    q = (((r * (1 / 24) + 1 / 6) * r + 1 / 2) * r + 1) * r + 1
    y: F64 = tables()["exp"].take(n.astype(np.int64)) * q
    return y


def tanh(x: F64) -> F64:
    """Return the hyperbolic tangent; absolute error below 5e-12."""
    a = np.minimum(np.abs(_within(x, "arguments of tanh")), 20)
    n = np.rint(a * 64)
    r = a - n / 64
    t = r * (1 - (r * r) * (1 / 3))
    nearest = tables()["tanh"].take(n.astype(np.int64))
    y: F64 = (nearest + t) / (nearest * t + 1)
    return np.where(x < 0, -y, y)


def log(x: F64) -> F64:
    """Return the natural logarithm of numbers of at least 1; absolute error below 1e-12."""
    fraction, exponent = np.frexp(_within(x, "arguments of log", low=1))
    m, k = fraction * 2, exponent - 1
    j = np.rint((m - 1) * 128)
    c = 1 + j / 128
    u = (m - c) / c
    w = u * (1 - u * (1 / 2 - u * (1 / 3 - u * (1 / 4))))
    table = tables()["log"]
    y: F64 = k * table[-1] + (table.take(j.astype(np.int64)) + w)
    return y


def sqrt32(v: F32) -> F32:
    """Return the square root of numbers of at least 0, correctly rounded even if np.sqrt is not."""
    wide = _within(v.astype(np.float64), "arguments of sqrt32", low=0)
    exponent = np.frexp(wide)[1] - 47
    exponent -= exponent % 2
    # n is exact and from 2^46 to 2^48, so that the root has 24 bits.
    n = np.ldexp(wide, -exponent).astype(np.int64)
    # A guess, with an error of one at most.
    root = np.sqrt(n.astype(np.float64)).astype(np.int64)
    root -= root * root > n
    root += (root + 1) * (root + 1) <= n
    # Round up if the exact root is above root + 1/2; it is never equal to it.
    root += n > root * (root + 1)
    y: F32 = np.ldexp(root.astype(np.float64), exponent // 2).astype(np.float32)
    return y


@np.errstate(all="ignore")
def cross_entropy(logits: F64, labels: NDArray[np.integer[Any]]) -> tuple[F64, F64]:
    """Return each sample's loss in nats (B), and the gradient of their mean by the logits (B, C). Labels are (B).

    Raises:
        InputError: if a label is not one of the C classes.
    """
    num_samples, num_classes = logits.shape
    if np.any((labels < 0) | (labels >= num_classes)):
        raise InputError(f"labels must be from 0 to {num_classes - 1}")
    d = logits - logits.max(axis=1, keepdims=True)
    c = 1.5 * 2.0 ** (52 - budget(num_classes))
    e = (exp(d) + c) - c
    total = product(e, np.ones((num_classes, 1)))
    is_label = (np.arange(num_classes) == labels[:, np.newaxis]).astype(np.float64)
    return log(total[:, 0]) - d[np.arange(num_samples), labels], (e / total - is_label) / num_samples


ACTIVATIONS: Mapping[str, tuple[Callable[[F64], F64], Callable[[F64, F64], F64]]] = {
    "relu": (lambda z: np.where(z > 0, z, 0.0), lambda z, _: np.where(z > 0, 1.0, 0.0)),
    "leaky_relu": (lambda z: np.where(z > 0, z, z * 0.01), lambda z, _: np.where(z > 0, 1.0, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, exp(np.minimum(z, 0)) - 1), lambda z, a: np.where(z > 0, 1.0, a + 1)),
    "tanh": (tanh, lambda _, a: 1 - a * a),
    "sigmoid": (
        lambda z: np.where(z >= 0, 1.0, exp(-np.abs(z))) / (1 + exp(-np.abs(z))),
        lambda _, a: a * (1 - a),
    ),
}
"""For each activation a of z: the function, and its derivative as a function of z and a."""


class Network:
    """Train a perceptron. `parameters` are in binary32, by name and in their order.

    Raises:
        InputError: if a parameter is missing or has another shape than the config requires, or a name is unknown.
    """

    def __init__(
        self, parameters: dict[str, F32], config: RunConfig, num_features: int, num_classes: int, engine: str = "int64"
    ) -> None:
        self.parameters: dict[str, F32] = {}
        for name, shape in _shapes((num_features, *config.hidden_sizes, num_classes)).items():
            values = choose(parameters, name, "parameter")
            if values.shape != shape:
                raise InputError(f"{name} must have the shape {shape}, not {values.shape}")
            self.parameters[name] = _f32(values.astype(np.float64), name).astype(np.float32)
        choose(_ENGINES, engine, "engine")
        check_name(OPTIMIZERS, config.optimizer, f"optimizer of {VERSION}")
        self._activations = [choose(ACTIVATIONS, name, f"activation of {VERSION}") for name in config.activations]
        self._config = config
        self._bits = product_bits(config, num_features, num_classes)
        self._engine = engine
        self._buffers = {name: (np.zeros(p.shape), np.zeros(p.shape)) for name, p in self.parameters.items()}
        self._powers = (1.0, 1.0)

    def logits(self, x: F32) -> F64:
        """Return the logits (B, C) of inputs (B, D), without training. Their last bits depend on the whole batch."""
        return self._forward(x)[f"forward linear{len(self._activations)}"]

    @np.errstate(all="ignore")
    def step(self, x: F32, y: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
        """Train on one batch of inputs (B, D) and labels (B), and return every stage in the order of computing.

        The keys are `forward linear{k}`, `forward {activation}{k}` (B, size), `loss` (nats per sample), `dlogits`
        (B, C), `gradient {parameter}` (before weight decay) and `update {parameter}` (binary32, the others binary64).

        Raises:
            InputError: if a label is not a class, or a number is not finite (some parameters may then be updated).
        """
        forward = self._forward(x)
        losses, g = cross_entropy(forward[f"forward linear{len(self._activations)}"], y)
        stages: dict[str, NDArray[Any]] = {**forward, "loss": np.array(exact_sum(losses) / len(x)), "dlogits": g}
        for k in reversed(range(len(self._activations) + 1)):
            a = x.astype(np.float64) if k == 0 else forward[f"forward {self._config.activations[k - 1]}{k - 1}"]
            snapped = snap(g, self._bits)
            stages[f"gradient linear{k}.weight"] = product(snapped.T, snap(a, self._bits), self._engine)
            stages[f"gradient linear{k}.bias"] = product(np.ones((1, len(x))), snapped, self._engine)[0]
            if k > 0:
                derivative = self._activations[k - 1][1](forward[f"forward linear{k - 1}"], a)
                g = product(snapped, snap(self.parameters[f"linear{k}.weight"], self._bits), self._engine) * derivative
        self._powers = (self._powers[0] * 0.9, self._powers[1] * 0.999)
        for name in self.parameters:
            self.parameters[name] = self._updated(name, stages[f"gradient {name}"])
            stages[f"update {name}"] = self.parameters[name].copy()
        return stages

    @np.errstate(all="ignore")
    def _forward(self, x: F32) -> dict[str, F64]:
        stages: dict[str, F64] = {}
        a: F64 = x.astype(np.float64)
        for k in range(len(self._activations) + 1):
            weight = snap(self.parameters[f"linear{k}.weight"], self._bits)
            bias = self.parameters[f"linear{k}.bias"].astype(np.float64)
            z = _within(product(snap(a, self._bits), weight.T, self._engine) + bias, f"outputs of linear{k}")
            stages[f"forward linear{k}"] = z
            if k < len(self._activations):
                a = stages[f"forward {self._config.activations[k]}{k}"] = self._activations[k][0](z)
        return stages

    def _updated(self, name: str, g: F64) -> F32:
        optimizer, lr, mu = self._config.optimizer, self._config.lr, self._config.momentum
        p = self.parameters[name].astype(np.float64)
        if optimizer == "adamw":
            p = p * (1 - lr * self._config.weight_decay)
        else:
            g = g + self._config.weight_decay * p
        v, squares = self._buffers[name]
        if optimizer == "sgd":
            change = lr * g
        elif optimizer in ("momentum", "nesterov"):
            v = _f32(mu * v + g, f"buffer of {name}")
            change = lr * (g + mu * v) if optimizer == "nesterov" else lr * v
        else:
            v = _f32(0.9 * v + (1 - 0.9) * g, f"mean of {name}")
            squares = _f32(0.999 * squares + (1 - 0.999) * (g * g), f"mean square of {name}")
            root = sqrt32(squares.astype(np.float32)).astype(np.float64)
            change = (lr / (1 - self._powers[0])) * (v / (root / math.sqrt(1 - self._powers[1]) + 1e-8))
        self._buffers[name] = (v, squares)
        return _f32(p - change, name).astype(np.float32)
