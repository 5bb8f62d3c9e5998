"""The arithmetic `portable/1` in C++, for the CPU: the bits of mlpbench.portable in a fraction of its time.

`portable_fused.cpp` is compiled for this machine at first use, by whatever C++ compiler is there. It is called through
ctypes, so that it needs the headers of neither PyTorch nor Python, and is built in seconds.

Shapes: B batch, D inputs, C classes.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mlpbench import portable
from mlpbench.records import InputError, RunConfig, choose

_SOURCE = Path(__file__).with_suffix(".cpp")
_COMPILERS = ("c++", "g++", "clang++")
# Nothing here may change a bit: the last two only say that nobody reads errno or the floating-point flags.
_FLAGS = (
    "-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=off", "-fno-fast-math", "-fno-unsafe-math-optimizations",
    "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip
_NATIVE = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler takes
_INSTEAD = "engine=portable computes the same bits without it"

# In the order of the enumerations in the source.
_ACTIVATIONS = {"relu": 0, "leaky_relu": 1, "elu": 2, "tanh": 3, "sigmoid": 4}
_NO_ACTIVATION = 5
_OPTIMIZERS = {"sgd": 0, "momentum": 1, "nesterov": 2, "adam": 3, "adamw": 4}

# --- the structures of the source -------------------------------------------------------------------------------------

_INT, _REAL, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


def _fields(kind: type, *names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names]


class _Matrix(ctypes.Structure):
    _fields_ = (("at", _POINTER), ("stride", _INT))


class _Parameter(ctypes.Structure):
    _fields_ = (*_fields(_INT, "rows", "columns"), *_fields(_POINTER, "at", "m", "v"), ("gradient", _Matrix))


class _Layer(ctypes.Structure):
    _fields_ = (
        *_fields(_INT, "num_in", "num_out", "activation"),
        *_fields(_Parameter, "weight", "bias"),
        ("columns", _POINTER),
        *_fields(_Matrix, "rows", "input", "z", "a", "upper", "g"),
        *_fields(_INT, "weight_most", "a_most", "upper_most"),
    )


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *_fields(_INT, "num_layers", "num_parameters", "bits", "num_threads", "num_samples", "x_most"),
        ("losses", _POINTER),
        *_fields(_REAL, "class_grid", "lr", "momentum", "decay", "power1", "power2"),
        ("optimizer", _INT),
    )


# --- the library ------------------------------------------------------------------------------------------------------


@functools.cache
def load() -> ctypes.PyDLL:
    """The compiled functions; built first, where that was not done before.

    Raises:
        InputError: if there is no compiler, if it fails, or if what it made cannot be kept or loaded.
    """
    path = _library_path()
    if not path.exists():
        _build(path)
    try:
        library = ctypes.PyDLL(str(path))  # keeps the interpreter's lock: no two calls at once
    except OSError as error:
        raise InputError(f"engine portable_fused was built, but cannot be loaded: {error}; {_INSTEAD}") from None
    network = ctypes.POINTER(_Network)
    library.fused_start.argtypes = [_POINTER] * 6
    library.fused_forward.argtypes = [network, _POINTER, _POINTER, _INT, _POINTER, _POINTER]
    library.fused_forward.restype = _INT
    library.fused_backward.argtypes = library.fused_update.argtypes = [network]
    tables = portable.tables()
    library.fused_start(*_threads(), *(tables[name].ctypes.data for name in ("exp", "tanh", "log")))
    return library


def _library_path() -> Path:
    """Where the library belongs: a name for every source, way of compiling, PyTorch and processor."""
    key = hashlib.sha256(_SOURCE.read_bytes())
    key.update(repr((_FLAGS, _NATIVE, torch.__version__, _processor())).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mlpbench" / f"portable_fused-{key.hexdigest()[:16]}.so"


def _processor() -> tuple[str, ...]:
    """What decides which instructions there are; a model's name alone does not, on a virtual machine."""
    described = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")
        kept = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
        described += [line for line in first.splitlines() if line.partition(":")[0].strip() in kept]
    return tuple(described)


def _compiler() -> list[str]:
    """The command of the C++ compiler: `$CXX`, or the first that is there.

    Raises:
        InputError: if there is none.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise InputError(
        f"engine portable_fused needs a C++ compiler, and there is no {' or '.join(chosen[:1] or _COMPILERS)}; "
        f"install g++ or clang, or set CXX to one ({_INSTEAD})"
    )


def _build(path: Path) -> None:
    """Compile under another name and rename, so that processes which do it at once leave one whole library.

    Raises:
        InputError: if there is no compiler, if it fails, or if the folder cannot be written.
    """
    compiler = _compiler()
    print("building mlpbench's portable_fused for this machine: once, about 5 s", file=sys.stderr, flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "library.so"
            for native in _NATIVE:
                command = [*compiler, *_FLAGS, *native, str(_SOURCE), "-o", str(made)]
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
                if done.returncode == 0:
                    made.replace(path)
                    return
    except OSError as error:
        raise InputError(f"engine portable_fused cannot be built: {error}; {_INSTEAD}") from None
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if "error" in line] or said or [f"exit code {done.returncode}"]
    raise InputError(f"engine portable_fused: {compiler[0]} cannot build it: {errors[0]} ({_INSTEAD})")


def _threads() -> list[int | None]:
    """Addresses in the OpenMP library that PyTorch itself runs on; where it has another, none: then on one thread."""
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    with contextlib.suppress(OSError, AttributeError):
        pytorch = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return [ctypes.cast(getattr(pytorch, name), _POINTER).value for name in names]
    return [None] * len(names)


# --- the network ------------------------------------------------------------------------------------------------------


class FusedNetwork:
    """What portable.Network is, on the CPU: the same parts, and the same bits from each.

    `parameters` are the model's own float32 tensors, weight and bias of each layer in turn; they are updated in place.

    Raises:
        InputError: for what has no portable arithmetic or is not on the CPU, and as `load` does.
    """

    def __init__(self, parameters: list[Tensor], config: RunConfig) -> None:
        activations = [choose(_ACTIVATIONS, name, "portable activation") for name in config.activations]
        optimizer = choose(_OPTIMIZERS, config.optimizer, "portable optimizer")
        self._sizes = _sizes(parameters, len(activations) + 1)
        self._parameters = parameters  # the library writes to their memory
        self._library = load()
        self.bits = portable.product_bits(config, self._sizes[0], self._sizes[-1])
        self._has_loss = self._has_gradients = False
        self._capacity = 0  # samples
        self._memory: dict[tuple[int, str], Tensor] = {}  # all else that the library uses, by layer and name
        self._layers = (_Layer * (len(activations) + 1))()
        for i, layer in enumerate(self._layers):
            layer.num_in, layer.num_out = self._sizes[i : i + 2]
            layer.activation = [*activations, _NO_ACTIVATION][i]
            layer.weight = self._parameter(i, "weight", parameters[2 * i])
            layer.bias = self._parameter(i, "bias", parameters[2 * i + 1][None])
            layer.columns = self._matrix(i, "columns", _round_up(layer.num_out), layer.num_in).at
            if i > 0:
                layer.rows = self._matrix(i, "rows", layer.num_out, layer.num_in)
        self._network = _Network(
            layers=self._layers,
            num_layers=len(self._layers),
            num_parameters=sum(p.numel() for p in parameters),
            bits=self.bits,
            class_grid=1.5 * 2.0 ** (52 - portable.budget(self._sizes[-1])),
            optimizer=optimizer,
            lr=config.lr,
            momentum=config.momentum,
            decay=config.weight_decay,
            power1=1.0,
            power2=1.0,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of inputs (B, D) float32; keeps what `backward` needs.

        Raises:
            InputError: for other inputs.
        """
        return self._forward(x, None)[0]

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss () of labels (B,) int64, and logits.

        Raises:
            InputError: for other inputs or labels.
        """
        _require(y, "labels", torch.int64, x.shape[:1])
        logits, loss = self._forward(x, y)
        return loss, logits

    def backward(self) -> None:
        """Gradients of the last loss by every parameter.

        Raises:
            InputError: if no loss was computed, or of so many samples that their sums would not be exact.
        """
        if not self._has_loss:
            raise InputError("engine portable_fused: backward needs the loss of the last forward pass")
        num_samples, most = self._network.num_samples, 2 ** (53 - 2 * self.bits)
        if num_samples > most:
            raise InputError(
                f"engine portable_fused: {num_samples} samples have no exact gradients from {self.bits} bits; train on "
                f"at most {most}, or set batch_size to the largest batch"
            )
        self._network.num_threads = torch.get_num_threads()
        self._library.fused_backward(self._network)
        self._has_gradients = True

    def update(self) -> None:
        """One step of the optimizer by the last gradients.

        Raises:
            InputError: if there are none.
        """
        if not self._has_gradients:
            raise InputError("engine portable_fused: update needs gradients")
        self._network.num_threads = torch.get_num_threads()
        self._library.fused_update(self._network)

    @property
    def outputs(self) -> list[Tensor]:
        """Of every linear layer and activation, in order; a copy, as of `dlogits` and `gradients`."""
        made = []
        for i, layer in enumerate(self._layers):
            made += [self._memory[i, name][: self._network.num_samples, : layer.num_out].clone() for name in "za"]
        return made[:-1]

    @property
    def dlogits(self) -> Tensor:
        """Gradient (B, C) of the last loss by the logits."""
        upper = self._memory[len(self._layers) - 1, "upper"]
        return upper[: self._network.num_samples, : self._sizes[-1]].clone()

    @property
    def gradients(self) -> list[Tensor]:
        """Of weight and bias of each layer, as the parameters."""
        every = [self._memory[i, f"{name} gradient"] for i in range(len(self._layers)) for name in ("weight", "bias")]
        return [g[:, : p.shape[-1]].reshape(p.shape).clone() for g, p in zip(every, self._parameters, strict=True)]

    def _forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        _require(x, "inputs", torch.float32, (None, self._sizes[0]))
        self._reserve(len(x))
        self._network.num_threads = torch.get_num_threads()
        logits = torch.empty((len(x), self._sizes[-1]), dtype=torch.float64, device="cpu")
        loss = torch.empty((), dtype=torch.float64, device="cpu")
        labels = None if y is None else y.data_ptr()
        wrong = self._library.fused_forward(
            self._network, x.data_ptr(), labels, portable.budget(len(x)), logits.data_ptr(), loss.data_ptr()
        )
        if wrong and y is not None:
            raise InputError(
                f"engine portable_fused: label {y[wrong - 1].item()} of sample {wrong - 1} is none of the "
                f"{self._sizes[-1]} classes, which are counted from 0"
            )
        self._has_loss = y is not None
        return logits, loss

    # --- its memory

    def _reserve(self, num_samples: int) -> None:
        """Room for a batch."""
        self._has_loss = False
        self._network.num_samples = num_samples
        if num_samples <= self._capacity:
            return
        for i, layer in enumerate(self._layers):
            layer.input = self._matrix(i, "input", num_samples, layer.num_in)
            for name in ("z", "a", "upper", "g"):
                setattr(layer, name, self._matrix(i, name, num_samples, layer.num_out))
        self._network.losses = self._matrix(0, "losses", 1, num_samples).at
        self._capacity = num_samples

    def _parameter(self, layer: int, name: str, p: Tensor) -> _Parameter:
        """A parameter, rows by columns, with its optimizer's buffers and its gradient."""
        buffers = [self._memory.setdefault((layer, f"{name} {buffer}"), torch.zeros_like(p)) for buffer in "mv"]
        gradient = self._matrix(layer, f"{name} gradient", *p.shape)
        return _Parameter(*p.shape, p.data_ptr(), *(buffer.data_ptr() for buffer in buffers), gradient)

    def _matrix(self, layer: int, name: str, rows: int, columns: int) -> _Matrix:
        """Room for a matrix. Rows a multiple of 512 bytes apart would share few places in the cache."""
        stride = _round_up(columns)
        stride += 8 * (stride % 64 == 0)
        made = self._memory[layer, name] = torch.zeros(rows, stride, dtype=torch.float64, device="cpu")
        return _Matrix(made.data_ptr(), stride)


def _round_up(n: int) -> int:
    """To whole vectors of binary64, of which the longest have 8."""
    return -(-n // 8) * 8


def _require(tensor: Tensor, what: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Refuse memory that is not laid out as the library reads it. `None` in a shape is any size above 0.

    Raises:
        InputError: for another type, shape, device or layout.
    """
    fits = len(tensor.shape) == len(shape) and all(
        have > 0 and want in (have, None) for have, want in zip(tensor.shape, shape, strict=True)
    )
    right = fits and tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.layout == torch.strided
    if right and tensor.is_contiguous():
        return
    wanted = ", ".join("B" if size is None else str(size) for size in shape)
    found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}{', not contiguous' if right else ''}"
    raise InputError(f"engine portable_fused: {what} must be a contiguous {dtype} ({wanted}) on cpu, not {found}")


def _sizes(parameters: list[Tensor], num_layers: int) -> list[int]:
    """From the inputs to the outputs, as the shapes of the parameters have them.

    Raises:
        InputError: if they are not those of such a perceptron.
    """
    if len(parameters) != 2 * num_layers or [p.dim() for p in parameters] != [2, 1] * num_layers:
        raise InputError(f"engine portable_fused: {num_layers} layers have a weight and a bias each, in turn")
    sizes = [parameters[0].shape[1], *(len(bias) for bias in parameters[1::2])]
    for i, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        _require(weight, f"weight of layer {i}", torch.float32, (sizes[i + 1], sizes[i]))
        _require(bias, f"bias of layer {i}", torch.float32, (sizes[i + 1],))
    return sizes


# --- the comparison ---------------------------------------------------------------------------------------------------


@functools.cache
def check_machine() -> None:
    """Compare with portable.Network, whose known answers are published: two steps of every optimizer, some ms.

    Raises:
        InputError: if any bit differs, and as `load` does.
    """
    sizes, batch = (37, 150, 24, 13, 7, 19, 10), 53
    x = (torch.arange(batch * sizes[0], device="cpu") * 37 % 256).to(torch.float32).div_(255).reshape(batch, -1)
    y = torch.arange(batch, device="cpu") % sizes[-1]
    config = RunConfig(hidden_sizes=sizes[1:-1], activations=tuple(_ACTIVATIONS), weight_decay=0.01)
    for optimizer in _OPTIMIZERS:
        parameters = list(portable.initial_parameters(0, sizes).values())
        copies = [p.clone() for p in parameters]
        for kind, chosen in ((portable.Network, parameters), (FusedNetwork, copies)):
            network = kind(chosen, replace(config, optimizer=optimizer))
            for _ in range(2):
                network.loss(x, y)
                network.backward()
                network.update()
        if not all(map(torch.equal, parameters, copies)):
            raise InputError(
                f"engine portable_fused: what the compiler made has other bits than engine portable ({optimizer}); use "
                f"that, or remove {_library_path()} and set CXX to another compiler"
            )
