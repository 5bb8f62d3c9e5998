"""What the arithmetic of this machine does to bits, by measuring.

Does `portable/1` come out right; which operations of PyTorch give other bits than on the machine of the stored table;
and what would which setting change. The table, `known_bits.json`, has the digest of every reading on one thread, and
those that a setting changes. `python -m mlpbench.doctor` writes it anew, which a changed probe needs; do that on a CPU
with AVX-512, where no setting is missing.
"""

import functools
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from mlpbench import known_answers, portable
from mlpbench.determinism import digest
from mlpbench.environment import current
from mlpbench.records import InputError

# A loop may compute what fills no vector in another way: at its end, and where PyTorch divides more than 32,768 by two.
SIZES = (100_003, *range(33_001, 34_001, 62), *range(2, 66))
_BITS = {torch.float32: 24, torch.float64: 53}


@functools.cache
def _numbers(index: int, shape: tuple[int, ...], bits: int) -> Tensor:
    """Numbers of so many significant bits, made of a SHAKE-256 stream by exact operations."""
    stream = hashlib.shake_256(f"mlpbench doctor {index} {shape}".encode()).digest(8 * math.prod(shape))
    words = np.frombuffer(stream, "<u8")
    odd = 2 * (words >> np.uint64(64 - bits)).astype(np.int64) + 1 - 2**bits
    numbers = np.ldexp(odd.astype(np.float64), (words & np.uint64(7)).astype(np.int32) - 4 - bits)
    return torch.from_numpy(numbers).reshape(shape)


class Draw:
    """Gives a probe its numbers: with each call the next tensor, the same on every machine."""

    def __init__(self, dtype: torch.dtype, device: torch.device, size: int) -> None:
        self.dtype, self.device = dtype, device
        self._size, self._index = size, 0
        self.is_sized = False  # whether the probe left the size to us
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        """Numbers of both signs, below 8 and not zero; a copy, which the probe may change."""
        self.is_sized |= not shape
        self._index += 1
        return _numbers(self._index, shape or (self._size,), _BITS[self.dtype]).to(self.device, self.dtype, copy=True)


Compute = Callable[[Draw], Tensor | Sequence[Tensor]]

KINDS = {  # what a user reads: their name, and why bits may differ
    "exact": ("exact operations", "each has one right answer, so another is a defect"),
    "order": ("sums and products", "the order of adding depends on library, processor and threads"),
    "library": ("functions", "every library approximates them in its own way"),
    "contraction": ("multiply and add", "some processors round once, others twice"),
    "random": ("random numbers", "scaled by a multiply and add, or made with a logarithm; GPUs draw others"),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One operation on fixed numbers, read once for each dtype; and why its bits may differ, in plain words."""

    kind: str
    reason: str
    compute: Compute
    dtypes: tuple[torch.dtype, ...]

    def readings(self, name: str) -> dict[str, torch.dtype]:
        """The names under which it is read, and of what type its numbers are; without dtypes there is one reading."""
        return {f"{name} {str(dtype).removeprefix('torch.')}": dtype for dtype in self.dtypes} or {name: torch.float64}


_LAYERS = ((784, 150), (150, 150), (150, 10))  # inputs and outputs of those of the default workload
_aten = torch.ops.aten


def _steps(draw: Draw, make: Callable[..., Optimizer], **options: Any) -> list[Tensor]:
    parameters = [draw(150, 784), draw(150)]
    optimizer = make(parameters, **options)
    for _ in range(2):
        for p in parameters:
            p.grad = draw(*p.shape)
        optimizer.step()
    return parameters


def _initial_parameters(draw: Draw) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):  # on the CPU for any device, as a run draws them
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
_OF_ONE_TYPE = ("mm of gridded numbers", "sum of gridded numbers", "sum of gridded rows", "randperm")
_REASONS = {  # where that of the kind would not do
    "sqrt": "MKL's square root is not always the nearest number",
    "div by a number": "GPUs multiply by its reciprocal",
}

PROBES: dict[str, Probe] = {
    name: Probe(kind, _REASONS.get(name, KINDS[kind][1]), compute, () if name in _OF_ONE_TYPE else tuple(_BITS))
    for kind, group in _COMPUTE.items()
    for name, compute in group.items()
}

STAGES: dict[str, tuple[str, ...]] = {  # of a default run, in its order, and the probes that tell of it, in float32
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

Digests = Mapping[str, str]  # by reading, such as `exp float32`
UNAVAILABLE = "not available"  # in place of a digest
DETERMINISTIC = "torch.use_deterministic_algorithms(True)"
AS_IT_IS = "as it is"


def digests(device: torch.device) -> dict[str, str]:
    """Every reading, on the number of threads that is set; UNAVAILABLE for what this PyTorch cannot do there."""
    found = {}
    for name, probe in PROBES.items():
        for reading, dtype in probe.readings(name).items():
            try:
                found[reading] = digest(_results(probe.compute, dtype, device))
            except (AttributeError, NotImplementedError, RuntimeError, TypeError):
                found[reading] = UNAVAILABLE
    return found


def _results(compute: Compute, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    for size in SIZES:
        draw = Draw(dtype, device, size)
        made = compute(draw)
        results |= {f"{size} {i}": tensor for i, tensor in enumerate([made] if isinstance(made, Tensor) else made)}
        if not draw.is_sized:
            break
    return results


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Digests on one thread, and on several."""

    one: Digests
    many: Digests


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The digests of one machine on one thread; of those under a setting, the ones that differ."""

    environment: Mapping[str, Any]
    digests: Digests
    under: Mapping[str, Digests]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """All that was found out about this machine."""

    table: Table
    num_threads: int  # of the readings on several
    answers: Mapping[str, bool]  # by part: whether the known answer of portable/1 comes out
    here: Reading  # as it is
    under: Mapping[str, Reading]  # by setting; empty if that was not asked for


def settings() -> list[str]:
    """What might make an ordinary run on this CPU steadier, as one would set it."""
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    levels = ("avx2", "default") if has_avx2 else ("default",)
    modes = ("COMPATIBLE", "AVX2,STRICT") if torch._C.has_mkl else ()
    return [DETERMINISTIC, *(f"ATEN_CPU_CAPABILITY={name}" for name in levels), *(f"MKL_CBWR={name}" for name in modes)]


def read(setting: str, device: torch.device, num_threads: int) -> Reading:
    """Digests of this process on one thread and on so many, which stays set; on a GPU, without threads, only once."""
    torch.use_deterministic_algorithms(setting == DETERMINISTIC)
    torch.set_num_threads(1)
    one = digests(device)
    torch.set_num_threads(num_threads)
    return Reading(one=one, many=digests(device) if device.type == "cpu" else one)


def _read_under(setting: str, device: torch.device, num_threads: int) -> Reading:
    """The same of a new process, as libraries look at variables only once; spinning threads might take minutes."""
    variables = {"OMP_WAIT_POLICY": "PASSIVE"} | dict(re.findall(r"([A-Z_]+)=(\S+)", setting))
    command = (sys.executable, "-m", "mlpbench.doctor", setting, device.type, str(num_threads))
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        told = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise InputError(f"doctor, {setting}: PyTorch cannot be read: {told}")
    one, many = json.loads(done.stdout.splitlines()[-1])
    return Reading(one=one, many=many)


def _read_all(named: Iterable[str], device: torch.device, num_threads: int) -> dict[str, Reading]:
    """Two at a time, as most of it is the start of Python on one CPU."""
    with ThreadPoolExecutor(2) as pool:
        begun = {setting: pool.submit(_read_under, setting, device, num_threads) for setting in named}
        return {setting: reading.result() for setting, reading in begun.items()}


def _holds(part: str, device: torch.device) -> bool:
    try:
        return known_answers.answer(part, device) == known_answers.ANSWERS[part]
    except InputError:  # its tables are not the published ones
        return False


def table() -> Table:
    """The stored table."""
    stored = json.loads(files("mlpbench").joinpath("known_bits.json").read_text("utf-8"))
    return Table(environment=stored["environment"], digests=stored["digests"], under=stored["under"])


def examine(device: torch.device, *, quick: bool) -> Examination:
    """Known answers, readings and, unless `quick`, readings under each setting (seconds each; on a CPU only).

    Raises:
        InputError: if a process that reads fails.
    """
    num_threads = max(2, torch.get_num_threads())
    tried = settings() if device.type == "cpu" and not quick else []
    readings = _read_all([AS_IT_IS, *tried], device, num_threads)
    return Examination(
        table=table(),
        num_threads=num_threads,
        answers={part: _holds(part, device) for part in known_answers.ANSWERS},
        here=readings.pop(AS_IT_IS),
        under=readings,
    )


def _write_table() -> None:
    about = {n: getattr(current(), n) for n in ("torch", "architecture", "cpu_model", "cpu_capability", "os")}
    readings = _read_all([AS_IT_IS, *settings()], torch.device("cpu"), 1)
    usual = readings.pop(AS_IT_IS).one
    changed = {name: {n: bits for n, bits in of.one.items() if bits != usual[n]} for name, of in readings.items()}
    stored = {"format": 1, "environment": {**about, "num_threads": 1}, "digests": usual, "under": changed}
    Path(__file__).with_name("known_bits.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        found = read(sys.argv[1], torch.device(sys.argv[2]), int(sys.argv[3]))
        print(json.dumps([found.one, found.many]))
    else:
        _write_table()
