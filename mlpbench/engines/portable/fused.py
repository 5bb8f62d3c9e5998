"""Compute the arithmetic `portable/1` in C++, for the CPU: the bits of arithmetic.py in a fraction of its time.

`fused.cpp` is compiled at first use: see engines/cpp/library.py.

Shapes: B batch, D inputs, C classes.
"""

import ctypes
import functools
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.engines import argument_checks
from mlpbench.engines.argument_checks import supported
from mlpbench.engines.cpp.library import INT, POINTER, REAL, Library, OptimizerSettings, fields, give_threads
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.errors import InputError

LIBRARY = Library(
    engine="portable_fused",
    source=Path(__file__).with_suffix(".cpp"),
    instead="engine=portable computes the same bits without it",
)

_ACTIVATIONS = LIBRARY.enumeration("Activation")
_NO_ACTIVATION = _ACTIVATIONS.pop("none")
_OPTIMIZERS = LIBRARY.enumeration("Optimizer")


# --- mirrors of the structures in fused.cpp; the sizes are compared when the library is loaded ------------------------


class _Matrix(ctypes.Structure):
    _fields_ = (("at", POINTER), ("stride", INT))


class _Parameter(ctypes.Structure):
    _fields_ = (*fields(INT, "rows", "columns"), *fields(POINTER, "at", "m", "v"), ("gradient", _Matrix))


class _Layer(ctypes.Structure):
    _fields_ = (
        *fields(INT, "num_in", "num_out", "activation"),
        *fields(_Parameter, "weight", "bias"),
        ("columns", POINTER),
        *fields(_Matrix, "rows", "input", "z", "a", "upper", "g"),
        *fields(INT, "weight_most", "a_most", "upper_most"),
    )


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *fields(INT, "num_layers", "num_parameters", "bits", "num_threads", "num_samples", "x_most"),
        ("losses", POINTER),
        ("class_grid", REAL),
        ("optimizer", OptimizerSettings),
    )


# --- the library ------------------------------------------------------------------------------------------------------


@functools.cache
def load() -> ctypes.PyDLL:
    """Return the compiled functions.

    Raises:
        InputError: as `Library.load` does.
    """
    library = LIBRARY.load(_Matrix, _Parameter, _Layer, _Network, OptimizerSettings)
    network = ctypes.POINTER(_Network)
    library.fused_start.argtypes = [POINTER] * 3
    library.fused_forward.argtypes = [network, POINTER, POINTER, INT, POINTER, POINTER]
    library.fused_forward.restype = INT
    library.fused_backward.argtypes = library.fused_update.argtypes = [network]
    tables = portable.tables()
    library.fused_start(*(tables[name].ctypes.data for name in ("exp", "tanh", "log")))
    give_threads(library)
    return library


# --- the network ------------------------------------------------------------------------------------------------------


class FusedNetwork:
    """Do the work of `arithmetic.Network` on the CPU: the same methods, and the same bits from each.

    `parameters` are the model's own float32 tensors, weight and bias of each layer in turn; they are updated in place.

    Raises:
        InputError: for an activation or optimizer without portable arithmetic, for parameters that are not on the CPU,
            and as `load` does.
    """

    def __init__(self, parameters: list[Tensor], config: RunConfig) -> None:
        activations = [supported(LIBRARY.engine, "activation", _ACTIVATIONS, name) for name in config.activations]
        optimizer = supported(LIBRARY.engine, "optimizer", _OPTIMIZERS, config.optimizer)
        self._sizes = LIBRARY.sizes(parameters, len(activations) + 1)
        # The library writes to their memory.
        self._parameters = parameters
        self._library = load()
        self.bits = portable.product_bits(config, self._sizes[0], self._sizes[-1])
        self._has_loss = self._has_gradients = False
        # The number of samples for which there is memory.
        self._capacity = 0
        # All other memory that the library uses, by layer and name.
        self._memory: dict[tuple[int, str], Tensor] = {}
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
            optimizer=OptimizerSettings.of(optimizer, config),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of inputs (B, D) float32, and store everything that `backward` needs.

        Raises:
            InputError: for inputs of another type, shape, device or layout.
        """
        return self._forward(x, None)[0]

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss () for labels (B,) int64, and logits.

        Raises:
            InputError: for inputs or labels of another type, shape, device or layout, and for a label that is not a
                class.
        """
        argument_checks.require(LIBRARY.engine, y, "labels", torch.int64, x.shape[:1])
        logits, loss = self._forward(x, y)
        return loss, logits

    def backward(self) -> None:
        """Compute the gradients of the last loss by every parameter.

        Raises:
            InputError: if no loss was computed, or if it has so many samples that their sums would not be exact.
        """
        if not self._has_loss:
            raise InputError("engine portable_fused: backward needs a loss; call `loss` before it")
        num_samples, most = self._network.num_samples, 2 ** (53 - 2 * self.bits)
        if num_samples > most:
            raise InputError(
                f"engine portable_fused: the gradients of {num_samples} samples are not exact with {self.bits} bits; "
                f"train on at most {most}, or set batch_size to the size of the largest batch"
            )
        self._network.num_threads = torch.get_num_threads()
        self._library.fused_backward(self._network)
        self._has_gradients = True

    def update(self) -> None:
        """Do one step of the optimizer with the last gradients.

        Raises:
            InputError: if there are no gradients.
        """
        if not self._has_gradients:
            raise InputError("engine portable_fused: update needs gradients; call `backward` before it")
        self._network.num_threads = torch.get_num_threads()
        self._library.fused_update(self._network)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Return what the optimizer keeps from step to step, by name."""
        tensors = {f"{i} {name}": t for (i, name), t in self._memory.items() if name.endswith((" m", " v"))}
        optimizer = self._network.optimizer
        return tensors | {"powers": torch.tensor([optimizer.power1, optimizer.power2], dtype=torch.float64)}

    def set_powers(self, powers: Tensor) -> None:
        """Set 0.9 and 0.999 to the power of the number of steps (2,) float64."""
        self._network.optimizer.power1, self._network.optimizer.power2 = powers.tolist()

    @property
    def outputs(self) -> list[Tensor]:
        """Copies of the outputs of every linear layer and activation, in order."""
        outputs = []
        for i, layer in enumerate(self._layers):
            outputs += [
                self._memory[i, name][: self._network.num_samples, : layer.num_out].clone() for name in ("z", "a")
            ]
        # The last layer has no activation.
        return outputs[:-1]

    @property
    def dlogits(self) -> Tensor:
        """Return a copy of the gradient (B, C) of the last loss by the logits."""
        upper = self._memory[len(self._layers) - 1, "upper"]
        return upper[: self._network.num_samples, : self._sizes[-1]].clone()

    @property
    def gradients(self) -> list[Tensor]:
        """Copies of the gradients by weight and bias of each layer, in the order of the parameters."""
        matrices = [
            self._memory[i, f"{name} gradient"] for i in range(len(self._layers)) for name in ("weight", "bias")
        ]
        return [g[:, : p.shape[-1]].reshape(p.shape).clone() for g, p in zip(matrices, self._parameters, strict=True)]

    def _forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        argument_checks.require(LIBRARY.engine, x, "inputs", torch.float32, (None, self._sizes[0]))
        self._reserve(len(x))
        self._network.num_threads = torch.get_num_threads()
        logits = torch.empty((len(x), self._sizes[-1]), dtype=torch.float64, device="cpu")
        loss = torch.empty((), dtype=torch.float64, device="cpu")
        labels = None if y is None else y.data_ptr()
        position = self._library.fused_forward(
            self._network, x.data_ptr(), labels, portable.budget(len(x)), logits.data_ptr(), loss.data_ptr()
        )
        if position and y is not None:
            raise argument_checks.no_class(LIBRARY.engine, int(y[position - 1]), position - 1, self._sizes[-1])
        self._has_loss = y is not None
        return logits, loss

    # --- memory

    def _reserve(self, num_samples: int) -> None:
        """Reserve memory for a batch."""
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
        """Reserve memory for a parameter's buffers and gradient; `p` has rows and columns."""
        buffers = [self._memory.setdefault((layer, f"{name} {buffer}"), torch.zeros_like(p)) for buffer in ("m", "v")]
        gradient = self._matrix(layer, f"{name} gradient", *p.shape)
        return _Parameter(*p.shape, p.data_ptr(), *(buffer.data_ptr() for buffer in buffers), gradient)

    def _matrix(self, layer: int, name: str, rows: int, columns: int) -> _Matrix:
        """Reserve memory for a matrix."""
        stride = _round_up(columns)
        # Rows that are a multiple of 512 bytes apart would share few places in the cache.
        stride += 8 * (stride % 64 == 0)
        matrix = self._memory[layer, name] = torch.zeros(rows, stride, dtype=torch.float64, device="cpu")
        return _Matrix(matrix.data_ptr(), stride)


def _round_up(n: int) -> int:
    """Round n up to whole vectors of binary64. The longest have 8 numbers."""
    return -(-n // 8) * 8


# --- the comparison ---------------------------------------------------------------------------------------------------


@functools.cache
def check_machine() -> None:
    """Compare with `arithmetic.Network`, whose known answers are published.

    Two steps of every optimizer are compared, which takes some ms.

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
                f"engine portable_fused: the compiled library has other bits than engine portable ({optimizer}); use "
                f"engine=portable, or remove {LIBRARY.path()} and set CXX to another compiler"
            )
