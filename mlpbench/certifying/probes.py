"""Define probes: operations of PyTorch on fixed numbers, whose bits may differ between machines."""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from mlpbench.engines.portable import arithmetic as portable

# A loop may compute the values that fill no whole vector in another way. They are at its end, and where PyTorch splits
# more than 32,768 values into two parts.
SIZES = (100_003, *range(33_001, 34_001, 62), *range(2, 66))
_BITS = {torch.float32: 24, torch.float64: 53}


@functools.cache
def _numbers(index: int, shape: tuple[int, ...], bits: int) -> Tensor:
    """Return numbers of `bits` significant bits, computed from a SHAKE-256 stream by exact operations."""
    stream = hashlib.shake_256(f"mlpbench doctor {index} {shape}".encode()).digest(8 * math.prod(shape))
    words = np.frombuffer(stream, "<u8")
    odd = 2 * (words >> np.uint64(64 - bits)).astype(np.int64) + 1 - 2**bits
    numbers = np.ldexp(odd.astype(np.float64), (words & np.uint64(7)).astype(np.int32) - 4 - bits)
    return torch.from_numpy(numbers).reshape(shape)


class Draw:
    """Give a probe its numbers: each call returns the next tensor, the same on every machine."""

    is_sized: bool
    """True if the probe asked for a tensor without a shape, so that it must be read for every size."""

    def __init__(self, dtype: torch.dtype, device: torch.device, size: int) -> None:
        self.dtype, self.device = dtype, device
        self._size, self._index = size, 0
        self.is_sized = False
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        """Return numbers of both signs, below 8 and not zero, as a copy that the probe may change.

        Args:
            shape: the shape; empty for a vector of the size under test.
        """
        self.is_sized |= not shape
        self._index += 1
        return _numbers(self._index, shape or (self._size,), _BITS[self.dtype]).to(self.device, self.dtype, copy=True)


Compute = Callable[[Draw], Tensor | Sequence[Tensor]]

# The name of each kind of operation, and the reason why its bits may differ, as a user reads them.
KINDS = {
    "exact": ("exact operations", "each has one right result, so that any other is a defect"),
    "order": ("sums and products", "the order of additions depends on the library, the processor and the thread count"),
    "library": ("functions", "every library approximates them in its own way"),
    "contraction": ("multiply and add", "some processors round once, others twice"),
    "random": (
        "random numbers",
        "they are scaled by a multiply and add, or computed with a logarithm; GPUs draw other numbers",
    ),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """Describe one operation on fixed numbers, which is read once for each dtype."""

    kind: str
    reason: str
    """The reason why its bits may differ, in plain words."""
    compute: Compute
    dtypes: tuple[torch.dtype, ...]
    """Empty if it is read once, from float64 numbers."""

    def readings(self, name: str) -> dict[str, torch.dtype]:
        """Return the dtype of its numbers by the name of the reading; without dtypes there is one reading."""
        return {f"{name} {str(dtype).removeprefix('torch.')}": dtype for dtype in self.dtypes} or {name: torch.float64}


# The inputs and outputs of the layers of the default workload.
_LAYERS = ((784, 150), (150, 150), (150, 10))
_aten = torch.ops.aten


def _steps(draw: Draw, make: Callable[..., Optimizer], **options: Any) -> list[Tensor]:
    """Return the parameters of one layer after two steps of an optimizer."""
    parameters = [draw(150, 784), draw(150)]
    optimizer = make(parameters, **options)
    for _ in range(2):
        for p in parameters:
            p.grad = draw(*p.shape)
        optimizer.step()
    return parameters


def _initial_parameters(draw: Draw) -> list[Tensor]:
    # On the CPU for any device, because a run draws them there too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return list(nn.Linear(784, 150, dtype=draw.dtype).parameters())


_COMPUTE: dict[str, dict[str, Compute]] = {
    "exact": {
        "add/sub": lambda d: [d() + d(), d() - d()],
        "mul/pow(2)": lambda d: [d() * d(), d() * 0.02, d().pow(2)],
        "div/reciprocal": lambda d: [d() / d(), d().reciprocal()],
        "subnormal numbers": lambda d: [(tiny := d() * torch.finfo(d.dtype).tiny), tiny + tiny.flip(0)],
        "conversions": lambda d: [d().float().half(), (d() * 1000).to(torch.int64), (d().abs() * 16).to(torch.uint8)],
        "relu/abs/floor/round": lambda d: [d().relu(), d().abs(), d().floor(), (d() * 4).round()],
        "clamp/where/maximum": lambda d: [d().clamp(-1, 2), torch.where(d() > 1, d(), d()), torch.maximum(d(), d())],
        "amax/argmax/sort": lambda d: [d(99, 101).amax(1), d(99, 101).argmax(1), *d(99, 101).sort(dim=1, stable=True)],
        "index_select": lambda d: d(99, 1001).index_select(1, torch.arange(1001, device=d.device) * 7 % 1001),
        "mm of gridded numbers": lambda d: portable.snap(d(150, 2048), 21) @ portable.snap(d(2048, 70), 21),
        "sum of gridded numbers": lambda d: portable.exact_sum(d()),
        "sum of gridded rows": lambda d: portable.snap(d(2048, 49), 42).sum(0),
    },
    "order": {
        "mm": lambda d: d(150, 784) @ d(784, 150),
        "linear": lambda d: [functional.linear(d(100, n), d(m, n), d(m)) for n, m in _LAYERS],
        "gradient of inputs": lambda d: [d(100, m) @ d(m, n) for n, m in _LAYERS],
        "gradient of weights": lambda d: [d(100, m).t() @ d(100, n) for n, m in _LAYERS],
        "addmm": lambda d: torch.addmm(d(150), d(100, 784), d(784, 150)),
        "mv": lambda d: d(500, 784) @ d(784),
        "sum": lambda d: d().sum(),
        "sum of rows": lambda d: [d(100, 150).sum(0), d(100, 10).sum(0), d(1000, 150).sum(0)],
        "mean": lambda d: d().mean(),
        "norm": lambda d: d().norm(),
        "var": lambda d: d().var(),
        "cumsum": lambda d: d().cumsum(0),
    },
    "library": {
        "exp": lambda d: d().exp(),
        "expm1": lambda d: d().expm1(),
        "log": lambda d: d().abs().log(),
        "log1p": lambda d: d().abs().log1p(),
        "tanh": lambda d: d().tanh(),
        "sigmoid": lambda d: d().sigmoid(),
        "sqrt": lambda d: d().abs().sqrt(),
        "rsqrt": lambda d: d().abs().rsqrt(),
        "erf": lambda d: d().erf(),
        "sin": lambda d: (d() * 16).sin(),
        "pow(1.5)": lambda d: d().abs().pow(1.5),
        "div by a number": lambda d: d() / 3,
        "tanh of a batch": lambda d: [d(100, 150).tanh() for _ in range(4)],
        "elu of a batch": lambda d: [functional.elu(d(100, 150)) for _ in range(4)],
        "elu backward of a batch": lambda d: _aten.elu_backward(d(100, 150), 1, 1, 1, False, d(100, 150)),
        "elu": lambda d: functional.elu(d()),
        "elu backward": lambda d: _aten.elu_backward(d(), 1, 1, 1, False, d()),
        "gelu": lambda d: functional.gelu(d()),
        "silu": lambda d: functional.silu(d()),
        "softplus": lambda d: functional.softplus(d()),
        "softmax": lambda d: d(999, 37).softmax(1),
        "log_softmax": lambda d: d(100, 10).log_softmax(1),
        "log_softmax backward": lambda d: _aten._log_softmax_backward_data(d(100, 10), -d(100, 10).abs(), 1, d.dtype),
        "logsumexp": lambda d: d(999, 37).logsumexp(1),
        "cross_entropy": lambda d: functional.cross_entropy(d(100, 10), torch.arange(100, device=d.device) * 7 % 10),
    },
    "contraction": {
        "add with alpha": lambda d: torch.add(d(), d(), alpha=0.3),
        "addcmul": lambda d: torch.addcmul(d(), d(), d(), value=0.3),
        "lerp": lambda d: d().lerp(d(), 0.3),
        "_foreach_add with alpha": lambda d: torch._foreach_add([d(), d(150)], [d(), d(150)], alpha=0.3),
        "tanh backward of a batch": lambda d: _aten.tanh_backward(d(100, 150), d(100, 150)),
        "tanh backward": lambda d: _aten.tanh_backward(d(), d()),
        "SGD": lambda d: _steps(d, SGD, lr=0.02, foreach=False),
        "SGD foreach": lambda d: _steps(d, SGD, lr=0.02, foreach=True),
        "SGD Nesterov": lambda d: _steps(d, SGD, lr=0.02, momentum=0.9, nesterov=True, foreach=False),
        "Adam": lambda d: _steps(d, Adam, foreach=False),
    },
    "random": {
        "Linear's initial parameters": _initial_parameters,
        "uniform_": lambda d: d().uniform_(-0.3, 0.2, generator=d.generator),
        "rand": lambda d: torch.rand(len(d()), dtype=d.dtype, device=d.device, generator=d.generator),
        "randn": lambda d: torch.randn(len(d()), dtype=d.dtype, device=d.device, generator=d.generator),
        "randperm": lambda d: torch.randperm(len(d()), device=d.device, generator=d.generator),
    },
}  # fmt: skip

# Operations that are read once, from float64 numbers.
_OF_ONE_TYPE = ("mm of gridded numbers", "sum of gridded numbers", "sum of gridded rows", "randperm")

# Reasons of single operations, where the reason of the kind does not apply.
_REASONS = {
    "sqrt": "MKL's square root is not always the nearest number",
    "div by a number": "GPUs multiply by the reciprocal of the number",
}

PROBES: dict[str, Probe] = {
    name: Probe(kind, _REASONS.get(name, KINDS[kind][1]), compute, () if name in _OF_ONE_TYPE else tuple(_BITS))
    for kind, group in _COMPUTE.items()
    for name, compute in group.items()
}

# The stages of a default run, in their order, with the probes that stand for each of them, in float32.
STAGES: dict[str, tuple[str, ...]] = {
    "the initial parameters": ("Linear's initial parameters",),
    "the order of the samples": ("randperm",),
    "a linear layer": ("linear",),
    "Tanh": ("tanh of a batch",),
    "ELU": ("elu of a batch",),
    "the loss": ("log_softmax", "cross_entropy"),
    "the gradients": ("log_softmax backward", "gradient of weights", "gradient of inputs", "sum of rows",
                      "elu backward of a batch", "tanh backward of a batch"),
    "the optimizer's step": ("SGD",),
}  # fmt: skip
