"""Record steps as CUDA graphs, and replay them."""

import functools
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Progress

DEVICE = "cuda"
NUM_STEPS = 50  # of a long graph: a launch of some 10 us is then little to each, and recording takes some 10 ms
_WARM_UPS = 3  # as in PyTorch's documentation: libraries make their handles and workspaces in the first calls
Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Replay:
    graph: torch.cuda.CUDAGraph
    run: Run  # holds the tensors of which the graph has the addresses

    def __call__(self) -> None:
        self.graph.replay()


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: cuBLAS keeps a workspace of some 10 MiB for every stream."""
    return torch.cuda.Stream(device)


def record(run: Run, changed: Sequence[Tensor]) -> Run:
    """A CUDA graph of what `run` launches, as a function that replays it; `changed` are the tensors it writes to.

    It is run before, which leaves no trace in them. On another device than CUDA, `run` itself.
    """
    device = changed[0].device
    if device.type != "cuda":
        return run
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        without_trace(run, changed)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return _Replay(graph=graph, run=run)


def without_trace(run: Run, changed: Sequence[Tensor]) -> None:
    """Run some times, and give the tensors that it changes back what they had."""
    before = [tensor.clone() for tensor in changed]
    for _ in range(_WARM_UPS):
        run()
    for tensor, had in zip(changed, before, strict=True):
        tensor.copy_(had)


@dataclass(kw_only=True, slots=True)
class Steps:
    """Steps on resident samples, to be run again and again."""

    index: Tensor  # (K, B) int64: the samples of each batch
    run: Run


@dataclass(kw_only=True, slots=True)
class Single:
    """A step on what is copied to `x` and `y`, to be run again and again."""

    x: Tensor  # (B, D)
    y: Tensor  # (B,)
    run: Run
    outcome: list[Tensor]  # loss () and logits (B, C) of the last run


class Recorder(ABC):
    """The recorded steps of a model's training.

    It outlives the engine, for the next one of the same model and config: a Trainer makes a new engine before
    everything that it times, which should not have to record again. The former engine must not be used any more.
    """

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        self._model = weakref.ref(model)  # which could not be forgotten if its recorder held it
        self._parameters = list(model.parameters())
        self.config = config
        self.device = self._parameters[0].device
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss sum, number correct, last loss
        self._steps: dict[tuple[int, int], Steps] = {}  # by K and B
        self._singles: dict[int, Single] = {}  # by B
        self._samples: tuple[object, ...] = ()  # what the steps read
        self._placed: tuple[object, ...] = ()  # what both write to

    @classmethod
    def of(cls, model: nn.Module, config: RunConfig) -> Self:
        """That of the last engine, or a new one; before its first step."""
        known = _recorders.get(model)
        if not isinstance(known, cls) or not known.is_of(model, config):
            known = _recorders[model] = cls(model, config)
        known.restart()
        return known

    def is_of(self, model: nn.Module, config: RunConfig) -> bool:
        """Whether it can go on for another engine."""
        parameters = list(model.parameters())
        return (self.config, self.device) == (config, parameters[0].device) and all(
            map(operator.is_, self._parameters, parameters)
        )

    @property
    def model(self) -> nn.Module:
        """The model, which its engine keeps alive."""
        model = self._model()
        assert model is not None, "its engine has it"
        return model

    @property
    def parameters(self) -> list[Tensor]:
        """The model's parameters, where they are now."""
        return [p.detach() for p in self._parameters]

    @abstractmethod
    def restart(self) -> None:
        """Forget what the optimizer keeps from step to step."""

    @abstractmethod
    def record_steps(self, x: Tensor, y: Tensor, num_steps: int, size: int) -> Steps:
        """Steps on batches of `size` of these samples, which add to the totals."""

    @abstractmethod
    def record_single(self, x: Tensor, y: Tensor) -> Single:
        """A step on batches like this one."""

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As an engine's."""
        self._forget_moved()
        if len(x) not in self._singles:
            self._singles[len(x)] = self.record_single(x, y)
        single = self._singles[len(x)]
        single.x.copy_(x)
        single.y.copy_(y)
        single.run()
        loss, logits = single.outcome
        return loss.clone(), logits.clone()

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        """As an engine's; the CPU waits for the device once, at the end."""
        self._forget_moved()
        self._record_epoch(x, y, batch_size)
        self.totals.zero_()
        order = order.to(x.device)
        begin = 0
        while begin < len(order):
            left = len(order) - begin
            num_steps = NUM_STEPS if left >= NUM_STEPS * batch_size else 1
            steps = self._get(x, y, num_steps, min(batch_size, left))
            end = begin + steps.index.numel()
            steps.index.copy_(order[begin:end].reshape(steps.index.shape))
            steps.run()
            begin = end
        loss_sum, num_correct, last_loss = self.totals.tolist()
        return Progress(loss_sum=loss_sum, num_correct=int(num_correct), last_loss=last_loss)

    def _record_epoch(self, x: Tensor, y: Tensor, batch_size: int) -> None:
        """All that an epoch of these samples needs, although `order` may be the beginning of one."""
        samples = (*_place(x), *_place(y), batch_size)
        if samples == self._samples:
            return
        self._steps.clear()
        self._samples = samples
        num_batches, rest = divmod(len(x), batch_size)
        if num_batches >= NUM_STEPS:
            self._get(x, y, NUM_STEPS, batch_size)
        for size in {min(batch_size, len(x)), rest} - {0}:
            self._get(x, y, 1, size)

    def _get(self, x: Tensor, y: Tensor, num_steps: int, size: int) -> Steps:
        if (num_steps, size) not in self._steps:
            self._steps[num_steps, size] = self.record_steps(x, y, num_steps, size)
        return self._steps[num_steps, size]

    def _forget_moved(self) -> None:
        """Forget every recording if the model's parameters have moved in memory."""
        placed = tuple(p.data_ptr() for p in self._parameters)
        if placed != self._placed:
            self._steps.clear()
            self._singles.clear()
            self._samples, self._placed = (), placed


_recorders: weakref.WeakKeyDictionary[nn.Module, Recorder] = weakref.WeakKeyDictionary()


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What a graph has of a tensor."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
