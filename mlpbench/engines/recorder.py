"""Record steps as CUDA graphs, and replay them."""

import functools
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Progress

# The steps of a long graph. With so many, the launch of some 10 µs costs each step little, and recording takes some
# 10 ms.
NUM_STEPS = 50
# As in PyTorch's documentation: libraries allocate their handles and workspaces in the first calls.
_WARM_UPS = 3
Run = Callable[[], object]
Seeded = Callable[[int], AbstractContextManager[None]]
"""Takes the number of steps that a run does, and returns the context to do them in."""


def _not_seeded(_num_steps: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Replay:
    """Replay a graph."""

    graph: torch.cuda.CUDAGraph
    run: Run
    """The recorded function. It keeps the tensors alive whose addresses the graph contains."""

    def __call__(self) -> None:
        self.graph.replay()


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all recordings, since cuBLAS keeps a workspace of some 10 MiB for every stream."""
    return torch.cuda.Stream(device)


def record(run: Run, changed: Sequence[Tensor]) -> Run:
    """Record everything that `run` launches as a CUDA graph, and return a function that replays it.

    `changed` are the tensors that `run` writes to. It runs before the recording, and they get their values back
    afterwards. On another device than CUDA, return `run` itself.
    """
    device = changed[0].device
    if device.type != "cuda":
        return run
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        warm_up(run, changed)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return _Replay(graph=graph, run=run)


def warm_up(run: Run, changed: Sequence[Tensor]) -> None:
    """Run a few times, then give the tensors that it changes their values back."""
    values = [tensor.clone() for tensor in changed]
    for _ in range(_WARM_UPS):
        run()
    for tensor, value in zip(changed, values, strict=True):
        tensor.copy_(value)


@dataclass(kw_only=True, slots=True)
class Steps:
    """Hold recorded steps on samples that stay in device memory."""

    index: Tensor
    """The sample indices of each batch (K, B), int64."""
    run: Run


@dataclass(kw_only=True, slots=True)
class Single:
    """Hold a recorded step on the batch in `x` and `y`."""

    x: Tensor
    """(B, D)"""
    y: Tensor
    """(B,)"""
    run: Run
    results: list[Tensor]
    """The loss () and the logits (B, C) of the last run."""


class Recorder(ABC):
    """Hold the recorded steps of a model's training.

    A Trainer makes a new engine before everything that it times, and should not have to record again. So a recorder
    lives longer than its engine, and serves the next engine of the same model and config. The former engine must not
    be used any more.
    """

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        # A weak reference, because `_recorders` would otherwise keep the model alive.
        self._model = weakref.ref(model)
        self._parameters = list(model.parameters())
        self.config = config
        self.device = self._parameters[0].device
        # The sum of losses, the number of correct samples and the last loss.
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        self._steps_by_shape: dict[tuple[int, int], Steps] = {}
        self._singles_by_size: dict[int, Single] = {}
        self._samples: tuple[object, ...] = ()
        self._addresses: tuple[object, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, config: RunConfig) -> Self:
        """Return the recorder of the model's last engine, or else a new one, ready for a first step."""
        recorder = _recorders.get(model)
        if not isinstance(recorder, cls) or not recorder.fits(model, config):
            recorder = _recorders[model] = cls(model, config)
        recorder.restart()
        return recorder

    def fits(self, model: nn.Module, config: RunConfig) -> bool:
        """True if its recordings serve this model and config: same config, same device, same parameters."""
        parameters = list(model.parameters())
        return (self.config, self.device) == (config, parameters[0].device) and all(
            map(operator.is_, self._parameters, parameters)
        )

    @property
    def model(self) -> nn.Module:
        """Return the model."""
        model = self._model()
        assert model is not None, "the engine keeps the model alive"
        return model

    @property
    def parameters(self) -> list[Tensor]:
        """Return the model's parameters, in their present memory."""
        return [p.detach() for p in self._parameters]

    @abstractmethod
    def restart(self) -> None:
        """Reset the optimizer's state to that before the first step."""

    @abstractmethod
    def record_steps(self, x: Tensor, y: Tensor, num_steps: int, size: int) -> Steps:
        """Record steps on batches of `size` of these samples. They add their results to the totals."""

    @abstractmethod
    def record_single(self, x: Tensor, y: Tensor) -> Single:
        """Record a step on batches of this size."""

    def step(self, x: Tensor, y: Tensor, seeded: Seeded = _not_seeded) -> tuple[Tensor, Tensor]:
        """Do what an engine's `step` does."""
        self._forget_moved()
        if len(x) not in self._singles_by_size:
            self._singles_by_size[len(x)] = self.record_single(x, y)
        single = self._singles_by_size[len(x)]
        single.x.copy_(x)
        single.y.copy_(y)
        with seeded(1):
            single.run()
        loss, logits = single.results
        return loss.clone(), logits.clone()

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int, seeded: Seeded = _not_seeded) -> Progress:
        """Do what an engine's `train` does. The CPU waits for the device once, at the end."""
        self._forget_moved()
        self._record_epoch(x, y, batch_size)
        self.totals.zero_()
        order = order.to(x.device)
        begin = 0
        while begin < len(order):
            num_left = len(order) - begin
            num_steps = NUM_STEPS if num_left >= NUM_STEPS * batch_size else 1
            steps = self._steps(x, y, num_steps, min(batch_size, num_left))
            end = begin + steps.index.numel()
            steps.index.copy_(order[begin:end].reshape(steps.index.shape))
            with seeded(num_steps):
                steps.run()
            begin = end
        loss_sum, num_correct, last_loss = self.totals.tolist()
        return Progress(loss_sum=loss_sum, num_correct=int(num_correct), last_loss=last_loss)

    def _record_epoch(self, x: Tensor, y: Tensor, batch_size: int) -> None:
        """Record everything that an epoch of these samples needs, even if `order` has only its beginning."""
        samples = (*_layout(x), *_layout(y), batch_size)
        if samples == self._samples:
            return
        self._steps_by_shape.clear()
        self._samples = samples
        num_batches, rest = divmod(len(x), batch_size)
        if num_batches >= NUM_STEPS:
            self._steps(x, y, NUM_STEPS, batch_size)
        for size in {min(batch_size, len(x)), rest} - {0}:
            self._steps(x, y, 1, size)

    def _steps(self, x: Tensor, y: Tensor, num_steps: int, size: int) -> Steps:
        shape = num_steps, size
        if shape not in self._steps_by_shape:
            self._steps_by_shape[shape] = self.record_steps(x, y, num_steps, size)
        return self._steps_by_shape[shape]

    def _forget_moved(self) -> None:
        """Drop every recording if the model's parameters were moved to other memory."""
        addresses = tuple(p.data_ptr() for p in self._parameters)
        if addresses != self._addresses:
            self._steps_by_shape.clear()
            self._singles_by_size.clear()
            self._samples, self._addresses = (), addresses


_recorders: weakref.WeakKeyDictionary[nn.Module, Recorder] = weakref.WeakKeyDictionary()
"""The recorder of each model's last engine."""


def _layout(tensor: Tensor) -> tuple[object, ...]:
    """Return everything about a tensor that is fixed in a graph."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
