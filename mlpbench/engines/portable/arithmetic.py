"""Compute the arithmetic `portable/1` in PyTorch: the same bits on every machine. docs/portable-format.md defines it.

PyTorch's own sums depend on the order in which a library adds, and its functions on the library. Here every product
and sum is exact, because its operands are rounded to a grid first. Every function is a table and a few basic
operations. Only basic operations of torch are used, on the device of the tensors, and none waits for a GPU.

Shapes: B batch, D inputs, H units of a layer, C classes. Tensors are float64 unless another type is given.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.engines.argument_checks import supported
from mlpbench.errors import InputError

VERSION = "portable/1"
_MANTISSA = 2**52 - 1
_EXPONENT_BITS = 0x7FF << 52
# The bits of 1.0.
_ONE = 1023 << 52
# A grid is never finer than for this magnitude, so that no product of two numbers on a grid underflows.
_LEAST = 2.0**-400


# --- the grid ---------------------------------------------------------------------------------------------------------


def budget(num_terms: int) -> int:
    """Return how many bits each of `num_terms` numbers may have, so that all their partial sums are exact.

    >>> budget(10), budget(2048), budget(2049)
    (42, 42, 41)
    """
    return min(42, 53 - (num_terms - 1).bit_length())


def product_bits(config: RunConfig, num_features: int, num_classes: int) -> int:
    """Return the bits of every operand of a run's products.

    >>> product_bits(RunConfig(), 784, 10), product_bits(RunConfig(batch_size=4096), 784, 10)
    (21, 20)
    """
    return budget(max(num_features, *config.hidden_sizes, num_classes, config.batch_size)) // 2


def snap(x: Tensor, bits: int) -> Tensor:
    """Round `x` to multiples of 2^-bits times the power of two at or above its largest magnitude."""
    largest = x.abs().amax().clamp_(min=_LEAST)
    # Adding ones in all bits below the exponent carries into it, unless the number is already a power of two.
    power = (largest.view(torch.int64) + _MANTISSA).bitwise_and_(_EXPONENT_BITS).view(torch.float64)
    return _snap_at(x, power.mul_(1.5 * 2.0 ** (52 - bits)))


def _snap_at(x: Tensor, c: Tensor | float) -> Tensor:
    """Round `x` to the last bit of c: adding c leaves no bits below it, and subtracting c again is exact."""
    return (x + c).sub_(c)


def divided(x: Tensor, number: float) -> Tensor:
    """Divide `x` in place by a number. The number becomes a tensor, as CUDA multiplies by the inverse of a number."""
    return x.div_(torch.full((), number, dtype=torch.float64, device=x.device))


# --- tables and functions ---------------------------------------------------------------------------------------------

_SHA256 = {
    "exp": "f6163437b176ac3d01c59f1648c330800276c4203c8f5121ce7df8d5d0193e6e",
    "tanh": "27c9ba103f0ea4050bf3b5693e4551d4ae5171917816aaa1bd80ec91ab83c952",
    "log": "7a043d878894b9939c17b452c137aafd3844348a888d1d356c1f8c2e77931506",
}


@functools.cache
def tables() -> dict[str, NDArray[np.float64]]:
    """Return exp(-n/64), tanh(n/64) and ln(1 + n/128), correctly rounded. `decimal` makes them without a C library.

    Raises:
        InputError: if they differ from the published tables.
    """
    with localcontext() as context:
        context.prec = 50
        exp = [(Decimal(-n) / 64).exp() for n in range(2561)]
        tanh = [(1 - exp[n] ** 2) / (1 + exp[n] ** 2) for n in range(1281)]
        log = [(1 + Decimal(n) / 128).ln() for n in range(129)]
    rounded = {
        name: np.array([float(value) for value in values])
        for name, values in (("exp", exp), ("tanh", tanh), ("log", log))
    }
    for name, table in rounded.items():
        if hashlib.sha256(table.astype("<f8").tobytes()).hexdigest() != _SHA256[name]:
            raise InputError(
                f"the table of {name} differs from {VERSION}, because this Python's decimal rounds differently; use "
                "another build of Python"
            )
    return rounded


_LN2 = float(Decimal("0.693147180559945309417232121458176568075500134360255"))


@functools.cache
def _on_device(name: str, device: torch.device) -> Tensor:
    return torch.from_numpy(tables()[name]).to(device)


def _entries(name: str, n: Tensor) -> Tensor:
    """Return a table's entries for whole numbers in its range. For a NaN it is any entry, since the result is a NaN."""
    table = _on_device(name, n.device)
    return table[n.to(torch.int64).clamp_(0, len(table) - 1)]


def exp(x: Tensor) -> Tensor:
    """Return e^x for x <= 0, with a relative error below 3e-13; never below e^-40."""
    v = x.clamp(min=-40.0)
    n = (v * -64.0).round_()
    r = v + n / 64.0
    q = (r * (1 / 24)).add_(1 / 6).mul_(r).add_(0.5).mul_(r).add_(1.0).mul_(r).add_(1.0)
    return q.mul_(_entries("exp", n))


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent, with an absolute error below 5e-12."""
    a = x.abs().clamp_(max=20.0)
    n = (a * 64.0).round_()
    r = a - n / 64.0
    t = (r * r).mul_(1 / 3).neg_().add_(1.0).mul_(r)
    entry = _entries("tanh", n)
    return (entry + t).div_((entry * t).add_(1.0)).copysign_(x)


def log(x: Tensor) -> Tensor:
    """Return the natural logarithm of x >= 1, with an absolute error below 1e-12."""
    bits = x.view(torch.int64)
    k = ((bits >> 52) - 1023).to(torch.float64)
    m = (bits & _MANTISSA).bitwise_or_(_ONE).view(torch.float64)
    j = ((m - 1.0) * 128.0).round_()
    c = j / 128.0 + 1.0
    u = (m - c) / c
    w = (1.0 - u * (0.5 - u * (1 / 3 - u * 0.25))) * u
    return k * _LN2 + (_entries("log", j) + w)


def sqrt32(v: Tensor) -> Tensor:
    """Return the square root of float32 numbers, correctly rounded to float32.

    A library's own root of float64 may be off by more than its rounding. A Newton step makes the error so small that
    only one float32 number is nearest: no root of a float32 number lies within 2^-51 of the middle between two.
    """
    x = v.to(torch.float64)
    root = x.sqrt()
    return torch.where(x > 0, (root + x / root).mul_(0.5), x).to(torch.float32)


# --- activations ------------------------------------------------------------------------------------------------------


def _sigmoid(z: Tensor) -> Tensor:
    s = exp(-z.abs())
    return torch.where(z >= 0, 1.0, s) / (s + 1.0)


@dataclass(frozen=True, slots=True)
class _Activation:
    """Hold a function and its derivative."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    """The derivative, from the function's value alone."""


ACTIVATIONS = {
    "relu": _Activation(lambda z: z.clamp(min=0.0), lambda a: (a > 0).to(torch.float64)),
    "leaky_relu": _Activation(
        lambda z: torch.where(z > 0, z, z * 0.01), lambda a: torch.where(a > 0, torch.ones_like(a), 0.01)
    ),
    "elu": _Activation(
        lambda z: torch.where(z > 0, z, exp(z.clamp(max=0.0)) - 1.0), lambda a: torch.where(a > 0, 1.0, a + 1.0)
    ),
    "tanh": _Activation(tanh, lambda a: 1.0 - a * a),
    "sigmoid": _Activation(_sigmoid, lambda a: (1.0 - a) * a),
}


# --- loss -------------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each sample's loss (B,) in nats, and the gradient (B, C) of their mean by the logits."""
    num_samples, num_classes = logits.shape
    d = logits - logits.amax(1, keepdim=True)
    e = _snap_at(exp(d), 1.5 * 2.0 ** (52 - budget(num_classes)))
    total = e.sum(1, keepdim=True)
    column = labels[:, None]
    losses = log(total.squeeze(1)) - d.gather(1, column).squeeze(1)
    gradient = e.div_(total)
    gradient.scatter_(1, column, gradient.gather(1, column) - 1.0)
    return losses, divided(gradient, num_samples)


def exact_sum(x: Tensor) -> Tensor:
    """Return the sum of a vector, after rounding its numbers to a grid."""
    return snap(x, budget(len(x))).sum()


# --- optimizers -------------------------------------------------------------------------------------------------------

Update = Callable[[Tensor, Tensor], None]
"""Update float32 parameters by their gradient, which has the same shape."""
Buffers = dict[str, Tensor]
"""What an update keeps from step to step, by name; it is changed in place."""


def _sgd(_p: Tensor, config: RunConfig, _kept: Buffers) -> Update:
    def update(p: Tensor, g: Tensor) -> None:
        p.copy_(p.to(torch.float64).sub_(g * config.lr))

    return update


def _momentum(p: Tensor, config: RunConfig, buffers: Buffers, *, nesterov: bool = False) -> Update:
    v = buffers["v"] = torch.zeros_like(p)

    def update(p: Tensor, g: Tensor) -> None:
        v.copy_(v.to(torch.float64).mul_(config.momentum).add_(g))
        ahead = v.to(torch.float64)
        if nesterov:
            ahead.mul_(config.momentum).add_(g)
        p.copy_(p.to(torch.float64).sub_(ahead.mul_(config.lr)))

    return update


def _adam(p: Tensor, config: RunConfig, buffers: Buffers, *, decoupled: bool = False) -> Update:
    m, v = (buffers.setdefault(name, torch.zeros_like(p)) for name in "mv")
    # 0.9 and 0.999 to the power of the number of steps. The tensor is a view of this array.
    powers = np.ones(2)
    buffers["powers"] = torch.from_numpy(powers)

    def update(p: Tensor, g: Tensor) -> None:
        decays = powers[0].item() * 0.9, powers[1].item() * 0.999
        powers[:] = decays
        m.copy_(m.to(torch.float64).mul_(0.9).add_(g * (1 - 0.9)))
        v.copy_(v.to(torch.float64).mul_(0.999).add_((g * g).mul_(1 - 0.999)))
        scale = divided(sqrt32(v).to(torch.float64), math.sqrt(1 - decays[1])).add_(1e-8)
        updated = p.to(torch.float64)
        if decoupled:
            updated.mul_(1 - config.lr * config.weight_decay)
        p.copy_(updated.sub_(m.to(torch.float64).div_(scale).mul_(config.lr / (1 - decays[0]))))

    return update


OPTIMIZERS: dict[str, Callable[[Tensor, RunConfig, Buffers], Update]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": functools.partial(_momentum, nesterov=True),
    "adam": _adam,
    "adamw": functools.partial(_adam, decoupled=True),
}


# --- streams of random numbers ----------------------------------------------------------------------------------------


def _stream(seed: int, purpose: str, name: str | int, num_bytes: int) -> bytes:
    return hashlib.shake_256(f"mlpbench {VERSION}|{seed}|{purpose}|{name}".encode()).digest(num_bytes)


def initial_parameters(seed: int, sizes: Iterable[int]) -> dict[str, Tensor]:
    """Return float32 parameters of the layers between `sizes`, uniform within 1/sqrt(inputs) as in nn.Linear.

    >>> {name: tuple(p.shape) for name, p in initial_parameters(0, (784, 150, 10)).items()}
    {'linear0.weight': (150, 784), 'linear0.bias': (150,), 'linear1.weight': (10, 150), 'linear1.bias': (10,)}
    """
    parameters = {}
    for layer, (num_in, num_out) in enumerate(pairwise(sizes)):
        scale = 1 / math.sqrt(num_in) * 2.0**-32
        for kind, shape in (("weight", (num_out, num_in)), ("bias", (num_out,))):
            name = f"linear{layer}.{kind}"
            integers = np.frombuffer(_stream(seed, "initial", name, 4 * math.prod(shape)), "<u4").astype(np.int64)
            values = ((2 * integers + 1 - 2**32) * scale).astype(np.float32)
            parameters[name] = torch.from_numpy(values).reshape(shape)
    return parameters


def batch_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the permutation (N,) int64 in which an epoch visits the samples."""
    keys = np.frombuffer(_stream(seed, "order", epoch, 8 * num_samples), "<u8")
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def refuse_device(device: torch.device) -> None:
    """Refuse a device that cannot compute this.

    Raises:
        InputError: for such a device.
    """
    if device.type == "mps":
        raise InputError("engine portable: MPS has no float64; use device cpu or cuda")


# --- the network ------------------------------------------------------------------------------------------------------


class Network:
    """Train the parameters of a perceptron in this arithmetic.

    `parameters` are the model's own float32 tensors, weight and bias of each layer in turn; they are updated in place.

    Raises:
        InputError: for an activation, an optimizer, a device or parameters without portable arithmetic.
    """

    def __init__(self, parameters: list[Tensor], config: RunConfig) -> None:
        refuse_device(parameters[0].device)
        if any(p.dtype != torch.float32 for p in parameters):
            raise InputError("engine portable: parameters must be float32; leave torch's default dtype as it is")
        self._weights, self._biases = parameters[::2], parameters[1::2]
        self._activations = [supported("portable", "activation", ACTIVATIONS, name) for name in config.activations]
        self._decay = config.weight_decay if config.optimizer != "adamw" else 0.0
        make = supported("portable", "optimizer", OPTIMIZERS, config.optimizer)
        buffers: list[Buffers] = [{} for _ in parameters]
        self._updates = [make(p, config, of_p) for p, of_p in zip(parameters, buffers, strict=True)]
        self.buffers = {f"{i} {name}": tensor for i, of_p in enumerate(buffers) for name, tensor in of_p.items()}
        self.bits = product_bits(config, self._weights[0].shape[1], len(self._weights[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of inputs (B, D) float32, and store everything that `backward` needs."""
        self._num_losses = 0
        # The outputs of every linear layer and activation, in order.
        self.outputs: list[Tensor] = []
        # The inputs of every linear layer, on the grid.
        self._inputs: list[Tensor] = []
        self._snapped = [snap(weight.to(torch.float64), self.bits) for weight in self._weights]
        a = x.to(torch.float64)
        for layer, (weight, bias) in enumerate(zip(self._snapped, self._biases, strict=True)):
            self._inputs.append(snap(a, self.bits))
            z = torch.mm(self._inputs[-1], weight.t()).add_(bias.to(torch.float64))
            self.outputs.append(z)
            if layer < len(self._activations):
                a = self._activations[layer].function(z)
                self.outputs.append(a)
        return z

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss () for labels (B,) int64, and logits."""
        logits = self.forward(x)
        losses, self.dlogits = cross_entropy(logits, y)
        self._num_losses = len(y)
        return divided(exact_sum(losses), len(y)), logits

    def backward(self) -> None:
        """Compute the gradients of the last loss by every parameter.

        Raises:
            InputError: if no loss was computed, or if it has so many samples that their sums would not be exact.
        """
        if not self._num_losses:
            raise InputError("engine portable: backward needs a loss; call `loss` before it")
        most = 2 ** (53 - 2 * self.bits)
        if self._num_losses > most:
            raise InputError(
                f"engine portable: the gradients of {self._num_losses} samples are not exact with {self.bits} bits; "
                f"train on at most {most}, or set batch_size to the size of the largest batch"
            )
        # The gradients by weight and bias of each layer, in the order of the parameters.
        self.gradients: list[Tensor] = []
        upper = self.dlogits
        for layer in range(len(self._weights) - 1, -1, -1):
            g = snap(upper, self.bits)
            self.gradients[:0] = torch.mm(g.t(), self._inputs[layer]), g.sum(0)
            if layer > 0:
                derivative = self._activations[layer - 1].derivative(self.outputs[2 * layer - 1])
                upper = torch.mm(g, self._snapped[layer]).mul_(derivative)

    def update(self) -> None:
        """Do one step of the optimizer with the last gradients."""
        parameters = [p for pair in zip(self._weights, self._biases, strict=True) for p in pair]
        for p, g, update in zip(parameters, self.gradients, self._updates, strict=True):
            update(p, p.to(torch.float64).mul_(self._decay).add_(g) if self._decay else g)
