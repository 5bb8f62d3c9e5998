"""Define engine fused: float32 training in C++, for the CPU.

A step is a few products; everything else happens when their results are stored. `fused.cpp` is compiled at first use:
see library.py. Its results depend neither on the thread count nor on the blocks of its products. The model's weights
are moved into memory with another layout, and stay the model's.

Shapes: N samples, B batch, D features, C classes.
"""

import ctypes
import functools
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines import argument_checks
from mlpbench.engines.argument_checks import supported
from mlpbench.engines.cpp.library import INT, POINTER, REAL, Library, OptimizerSettings, fields, give_threads
from mlpbench.engines.engine import Engine, Progress, State, stages
from mlpbench.errors import InputError
from mlpbench.workload.activations import by_name
from mlpbench.workload.optimizers import OPTIMIZERS as KINDS

LIBRARY = Library(
    engine="fused",
    source=Path(__file__).with_suffix(".cpp"),
    instead="engine=manual is the fastest without it",
)

_CODES = LIBRARY.enumeration("Activation")
_NO_ACTIVATION = _CODES.pop("none")
ACTIVATIONS = by_name(_CODES)
OPTIMIZERS = LIBRARY.enumeration("Optimizer")

_EVALUATION_BATCH = 1000
"""How many samples `logits` computes at a time."""

_OPTIMIZER_BUFFERS = ("m", "v")
_BUFFER_ENDS = (" m", " v")

# --- mirrors of the structures in fused.cpp; the sizes are compared when the library is loaded


class _Parameter(ctypes.Structure):
    _fields_ = fields(POINTER, "at", "m", "v", "gradient")


class _Layer(ctypes.Structure):
    _fields_ = (
        *fields(INT, "num_in", "num_out", "stride", "in_stride", "activation"),
        *fields(_Parameter, "weight", "bias"),
        *fields(POINTER, "rows", "z", "a", "d", "g", "inputs", "gradients"),
    )


class _Outcome(ctypes.Structure):
    _fields_ = (*fields(REAL, "loss_sum", "last_loss"), ("num_correct", INT))


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *fields(INT, "num_layers", "num_threads"),
        *fields(POINTER, "losses", "hits", "partial"),
        ("optimizer", OptimizerSettings),
    )


# --- the engine


@functools.cache
def load() -> ctypes.PyDLL:
    """Return the compiled functions.

    Raises:
        InputError: as `Library.load` does.
    """
    library = LIBRARY.load(_Parameter, _Layer, _Outcome, _Network, OptimizerSettings)
    network = ctypes.POINTER(_Network)
    for function in ("lanes", "partial", "refused", "not_finite"):
        getattr(library, f"fused_{function}").restype = INT
    library.fused_refused.argtypes = [network, INT, POINTER, POINTER, INT]
    library.fused_not_finite.argtypes = [POINTER, INT]
    library.fused_run.argtypes = [network, POINTER, POINTER, POINTER, INT, INT, POINTER, ctypes.POINTER(_Outcome)]
    give_threads(library)
    return library


class Fused(Engine):
    """Train with forward, backward and update as one piece of C++.

    Raises:
        InputError: for an activation or optimizer that it does not have, on another device than the CPU, and if there
            is no C++ compiler to build it.
    """

    arithmetic = "fused"
    depends_on = frozenset({"source", "torch", "machine"})
    has_parts = False
    is_built = True

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        activations = [supported("fused", "activation", ACTIVATIONS, name) for name in config.activations]
        optimizer = supported("fused", "optimizer", OPTIMIZERS, config.optimizer)
        self._sizes = LIBRARY.sizes([p.detach().contiguous() for p in model.parameters()], len(activations) + 1)
        self._library = load()
        self._lanes: int = self._library.fused_lanes()
        # All memory that the library uses, by layer and name.
        self._memory: dict[tuple[int, str], Tensor] = {}
        # The number of samples for which there is memory.
        self._capacity = 0
        self._layers = (_Layer * (len(activations) + 1))()
        for i, layer in enumerate(self._layers):
            layer.num_in, layer.num_out = self._sizes[i : i + 2]
            layer.stride, layer.in_stride = self._stride(layer.num_out), self._stride(layer.num_in)
            layer.activation = [*activations, _NO_ACTIVATION][i]
            layer.weight = self._parameter(i, "weight", layer.num_in, layer.stride)
            layer.bias = self._parameter(i, "bias", layer.stride)
            if i > 0:
                layer.rows = self._floats(i, "rows", layer.num_out, layer.in_stride)
        self._network = _Network(
            layers=self._layers,
            num_layers=len(self._layers),
            optimizer=OptimizerSettings.of(optimizer, config),
        )
        self._adopted_versions: list[tuple[int, int]] = []
        self._adopt()

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.empty((len(x), self._sizes[-1]), dtype=torch.float32, device="cpu")
        progress = self._train(x, y, None, len(x), logits)
        return torch.tensor(progress.last_loss, dtype=torch.float32, device="cpu"), logits

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        return self._train(x, y, order, batch_size, None)

    def logits(self, x: Tensor) -> Tensor:
        argument_checks.require(LIBRARY.engine, x, "inputs", torch.float32, (None, self._sizes[0]))
        logits = torch.empty((len(x), self._sizes[-1]), dtype=torch.float32, device="cpu")
        self._run(x, None, None, min(len(x), _EVALUATION_BATCH), logits)
        return logits

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        for i, layer in enumerate(self._layers):
            layer.z = self._floats(i, "z", len(x), layer.stride)
            layer.weight.gradient = self._floats(i, "weight gradient", layer.num_in, layer.stride)
            layer.bias.gradient = self._floats(i, "bias gradient", layer.stride)
        try:
            loss, logits = self.step(x, y)
        finally:
            for layer in self._layers:
                layer.z = layer.weight.gradient = layer.bias.gradient = None
        outputs: list[Tensor] = []
        gradients: list[Tensor] = []
        for i, size in enumerate(self._sizes[1:]):
            outputs += [self._memory[i, name][: len(x), :size].clone() for name in ("z", "a")]
            gradients += [self._memory[i, "weight gradient"][:, :size].t().contiguous()]
            gradients += [self._memory[i, "bias gradient"][:size].clone()]
        outputs[-2:] = [logits]
        dlogits = self._memory[len(self._layers) - 1, "g"][: len(x), : self._sizes[-1]].clone()
        return stages(self._model, outputs, loss, dlogits, gradients)

    def _optimizer_state(self) -> State:
        tensors = {f"{i} {name}": t for (i, name), t in self._memory.items() if name.endswith(_BUFFER_ENDS)}
        optimizer = self._network.optimizer
        return tensors | {"powers": torch.tensor([optimizer.power1, optimizer.power2], dtype=torch.float64)}

    def _restore_optimizer(self, state: State) -> None:
        super()._restore_optimizer(state)
        optimizer = self._network.optimizer
        optimizer.power1, optimizer.power2 = state["powers"].tolist()

    def _train(self, x: Tensor, y: Tensor, order: Tensor | None, batch_size: int, logits: Tensor | None) -> Progress:
        argument_checks.require(LIBRARY.engine, x, "inputs", torch.float32, (None, self._sizes[0]))
        argument_checks.require(LIBRARY.engine, y, "labels", torch.int64, x.shape[:1])
        if batch_size < 1:
            raise InputError(f"engine fused: batch_size must be at least 1, not {batch_size}")
        if order is not None:
            argument_checks.require(LIBRARY.engine, order, "order", torch.int64, (None,))
        self._check(x, y, order)
        outcome = self._run(x, y, order, batch_size, logits)
        return Progress(loss_sum=outcome.loss_sum, num_correct=outcome.num_correct, last_loss=outcome.last_loss)

    def _check(self, x: Tensor, y: Tensor, order: Tensor | None) -> None:
        """Check that nothing is read out of bounds, and that all inputs are finite. The same images are checked once.

        Raises:
            InputError: for the first sample that is not there, has no class as its label, or is not finite.
        """
        n = self._library.fused_refused(self._network, len(x), y.data_ptr(), *_order(x, order))
        if n:
            sample = n - 1 if order is None else int(order[n - 1])
            if not 0 <= sample < len(x):
                raise argument_checks.no_sample(LIBRARY.engine, sample, len(x))
            raise argument_checks.no_class(LIBRARY.engine, int(y[sample]), sample, self._sizes[-1])
        if argument_checks.are_finite(x):
            return
        n = self._library.fused_not_finite(x.data_ptr(), x.numel())
        if n:
            raise argument_checks.not_finite(LIBRARY.engine, x.flatten()[n - 1].item(), (n - 1) // self._sizes[0])
        argument_checks.remember_finite(x)

    def _run(
        self, x: Tensor, y: Tensor | None, order: Tensor | None, batch_size: int, logits: Tensor | None
    ) -> _Outcome:
        address, num_samples = _order(x, order)
        self._reserve(min(batch_size, num_samples))
        self._adopt()
        outcome = _Outcome()
        self._library.fused_run(
            self._network,
            x.data_ptr(),
            None if y is None else y.data_ptr(),
            address,
            num_samples,
            batch_size,
            None if logits is None else logits.data_ptr(),
            outcome,
        )
        return outcome

    # --- memory

    def _adopt(self) -> None:
        """Move the model's parameters into our memory; copy the values that somebody else has written to them since."""
        if self._adopted_versions == self._versions():
            return
        parameters = list(self._model.parameters())
        for i, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
            for p, name in ((weight, "weight"), (bias, "bias")):
                ours = self._memory[i, name][..., : self._sizes[i + 1]].t()
                if p.data_ptr() != ours.data_ptr():
                    ours.copy_(p.detach())
                    p.data = ours
            if i > 0:
                self._memory[i, "rows"][:, : self._sizes[i]] = weight.detach()
        self._adopted_versions = self._versions()

    def _versions(self) -> list[tuple[int, int]]:
        """Return each parameter's address, and how often PyTorch wrote to it; the library's writing is not counted."""
        return [(p.data_ptr(), p._version) for p in self._model.parameters()]

    def _parameter(self, layer: int, name: str, *shape: int) -> _Parameter:
        """Reserve memory for a parameter and the buffers of its optimizer."""
        buffers = itertools.islice(_OPTIMIZER_BUFFERS, KINDS[self._config.optimizer].num_kept)
        addresses = [self._floats(layer, f"{name} {buffer}", *shape) for buffer in buffers]
        return _Parameter(self._floats(layer, name, *shape), *addresses)

    def _reserve(self, num_samples: int) -> None:
        """Reserve memory for a batch, and for each thread."""
        num_threads = torch.get_num_threads()
        if num_threads > self._network.num_threads:
            self._network.partial = self._floats(0, "partial", num_threads, self._library.fused_partial())
        self._network.num_threads = num_threads
        if num_samples <= self._capacity:
            return
        self._capacity = num_samples
        # The library writes the addresses of images; those of activations do not change.
        input_address = 0
        for i, layer in enumerate(self._layers):
            layer.a, layer.d, layer.g = (self._floats(i, name, num_samples, layer.stride) for name in ("a", "d", "g"))
            layer.inputs = self._addresses(i, "inputs", input_address, self._layers[i - 1].stride)
            layer.gradients = self._addresses(i, "gradients", layer.g, layer.stride)
            input_address = layer.a
        self._network.losses = self._room(0, "losses", num_samples, dtype=torch.float64)
        self._network.hits = self._room(0, "hits", num_samples, dtype=torch.int64)

    def _addresses(self, layer: int, name: str, first: int, stride: int) -> int:
        """Reserve memory for the addresses of the rows of a matrix, and write them; return where they are."""
        address = self._room(layer, name, self._capacity, dtype=torch.int64)
        self._memory[layer, name].copy_(first + 4 * stride * torch.arange(self._capacity, device="cpu"))
        return address

    def _floats(self, layer: int, name: str, *shape: int) -> int:
        return self._room(layer, name, *shape, dtype=torch.float32)

    def _room(self, layer: int, name: str, *shape: int, dtype: torch.dtype) -> int:
        self._memory[layer, name] = torch.zeros(shape, dtype=dtype, device="cpu")
        address: int = self._memory[layer, name].data_ptr()
        return address

    def _stride(self, n: int) -> int:
        """Round n up to whole vectors, but not to a multiple of 256 bytes: such rows share few places in the cache."""
        stride = -(-n // self._lanes) * self._lanes
        return stride + self._lanes * (stride % 64 == 0)


def _order(x: Tensor, order: Tensor | None) -> tuple[int | None, int]:
    """Return the address and the length of the order of the samples; without an order they are taken as they are."""
    return (None, len(x)) if order is None else (order.data_ptr(), len(order))
