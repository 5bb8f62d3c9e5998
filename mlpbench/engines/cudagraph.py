"""Define engine cudagraph: the steps of `eager` as CUDA graphs, so that the CPU launches many steps at once.

A graph repeats what was recorded, at the same addresses. So the sample indices of a batch are copied to a fixed tensor,
and the results of all steps are added up on the device. `fused_cuda` records its own steps in the same way.

Shapes: N samples, B batch, D features, C classes, K steps.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines.eager import Eager
from mlpbench.engines.engine import Progress, State, copy_tensors
from mlpbench.engines.recorder import Recorder, Run, Single, Steps, record, warm_up
from mlpbench.errors import InputError
from mlpbench.workload.optimizers import OPTIMIZERS

DEVICE = "cuda"


class _EagerRecorder(Recorder):
    """Record steps of `eager`."""

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self.optimizer = OPTIMIZERS[config.optimizer].make(model.parameters(), config)
        for group in self.optimizer.param_groups:
            # The number of steps must be counted on the device, because the graph does not run Python.
            if "capturable" in group:
                group["capturable"] = self.device.type == "cuda"
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        # The first step of an optimizer allocates its state.
        warm_up(self.optimizer.step, self.parameters)
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def optimizer_state(self) -> list[Tensor]:
        """Return the tensors that the optimizer keeps from step to step. All are 0 before the first step."""
        states = self.optimizer.state.values()
        return [each for state in states for each in state.values() if isinstance(each, Tensor)]

    def restart(self) -> None:
        for tensor in self.optimizer_state:
            tensor.zero_()

    def record_steps(self, x: Tensor, y: Tensor, num_steps: int, size: int) -> Steps:
        index = torch.zeros((num_steps, size), dtype=torch.int64, device=self.device)
        losses = torch.zeros(num_steps, device=self.device)
        logits = torch.zeros((num_steps, size, len(self.parameters[-1])), device=self.device)
        loss_sum, num_correct, last_loss = self.totals.unbind()

        def run() -> None:
            for k, batch in enumerate(index):
                loss, batch_logits = self._compute(x.index_select(0, batch), y.index_select(0, batch))
                losses[k].copy_(loss)
                logits[k].copy_(batch_logits)
            loss_sum.add_(losses.double().sum() * size)
            num_correct.add_((logits.argmax(2) == y[index]).sum())
            last_loss.copy_(losses[-1])

        return Steps(index=index, run=self._record(run))

    def record_single(self, x: Tensor, y: Tensor) -> Single:
        x, y = x.clone(), y.clone()
        results: list[Tensor] = []

        def run() -> None:
            results[:] = self._compute(x, y)

        return Single(x=x, y=y, run=self._record(run), results=results)

    def _record(self, run: Run) -> Run:
        # A model may draw random numbers, also while its steps are recorded.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            return record(run, [*self.parameters, *self.optimizer_state, self.totals])

    def _compute(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a step as `eager` does, but let autograd use copies of the parameter objects.

        The copies share the parameters' memory. Autograd binds what it stores about a parameter to the stream that used
        the parameter first, and a recording must not touch another stream.
        """
        parameters = {name: p.detach().requires_grad_() for name, p in self.model.named_parameters()}
        logits: Tensor = torch.func.functional_call(self.model, parameters, (x,))
        loss = functional.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, tuple(parameters.values()))
        for p, gradient in zip(self._parameters, gradients, strict=True):
            p.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), logits.detach()


class CudaGraph(Eager):
    """Run steps of `eager`, recorded once and replayed many at a time. The parts and the trace are those of `eager`.

    Raises:
        InputError: on another device than CUDA.
    """

    models = frozenset({"mlp"})
    needs_cuda = True
    is_built = True

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        if self.device.type != DEVICE:
            raise InputError("engine cudagraph needs a CUDA device; set device=cuda, or engine=eager")
        self._recorder = _EagerRecorder.of(model, config)
        self._optimizer = self._recorder.optimizer

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._recorder.step(x, y, self._seeded)

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        return self._recorder.train(x, y, order, batch_size, self._seeded)

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        eager = Eager(self._model, self._config)
        eager._optimizer, eager.num_steps = self._optimizer, self.num_steps
        self.num_steps += 1
        return eager.trace(x, y)

    def _optimizer_state(self) -> State:
        # The recorded steps contain the addresses of these tensors, so they are never replaced.
        return {str(i): tensor for i, tensor in enumerate(self._recorder.optimizer_state)}

    def _restore_optimizer(self, state: State) -> None:
        copy_tensors(state, self._optimizer_state())

    def _seeded(self, num_steps: int) -> AbstractContextManager[None]:
        """Return a context for the next steps, which a graph does at once: they share the seed of the first of them."""
        context = self.randomness.step(self.num_steps)
        self.num_steps += num_steps
        return context
