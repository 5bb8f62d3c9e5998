"""cudagraph: the steps of `eager` as CUDA graphs, so that the CPU launches many steps at once.

A graph does again what was recorded, at the same addresses. So a batch is named by an index that lies still, and all
that steps come to is added up on the device. `fused_cuda` records its own steps in the same way.

Shapes: N samples, B batch, D features, C classes, K steps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines.eager import Eager
from mlpbench.engines.engine import Progress
from mlpbench.engines.recorder import DEVICE, Recorder, Run, Single, Steps, record, without_trace
from mlpbench.errors import InputError
from mlpbench.workload.optimizers import OPTIMIZERS


class _EagerRecorder(Recorder):
    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self.optimizer = OPTIMIZERS[config.optimizer].make(model.parameters(), config)
        for group in self.optimizer.param_groups:
            if "capturable" in group:  # the number of steps is to be counted on the device
                group["capturable"] = self.device.type == "cuda"
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        without_trace(self.optimizer.step, self.parameters)  # makes what it keeps
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def _kept(self) -> list[Tensor]:
        """What the optimizer keeps from step to step: all of it is 0 before the first."""
        states = self.optimizer.state.values()
        return [each for state in states for each in state.values() if isinstance(each, Tensor)]

    def restart(self) -> None:
        for tensor in self._kept:
            tensor.zero_()

    def record_steps(self, x: Tensor, y: Tensor, num_steps: int, size: int) -> Steps:
        index = torch.zeros((num_steps, size), dtype=torch.int64, device=self.device)
        losses = torch.zeros(num_steps, device=self.device)
        logits = torch.zeros((num_steps, size, len(self.parameters[-1])), device=self.device)
        loss_sum, num_correct, last_loss = self.totals.unbind()

        def run() -> None:
            for k, batch in enumerate(index):
                outcome = self._compute(x.index_select(0, batch), y.index_select(0, batch))
                for kept, computed in zip((losses[k], logits[k]), outcome, strict=True):
                    kept.copy_(computed)
            loss_sum.add_(losses.double().sum() * size)
            num_correct.add_((logits.argmax(2) == y[index]).sum())
            last_loss.copy_(losses[-1])

        return Steps(index=index, run=self._record(run))

    def record_single(self, x: Tensor, y: Tensor) -> Single:
        x, y = x.clone(), y.clone()
        outcome: list[Tensor] = []

        def run() -> None:
            outcome[:] = self._compute(x, y)

        return Single(x=x, y=y, run=self._record(run), outcome=outcome)

    def _record(self, run: Run) -> Run:
        return record(run, [*self.parameters, *self._kept, self.totals])

    def _compute(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Eager's step, but that autograd meets the parameters under new names.

        What it keeps for a parameter belongs to the stream that first used it, which a recording must not touch.
        """
        names = {name: p.detach().requires_grad_() for name, p in self.model.named_parameters()}
        logits: Tensor = torch.func.functional_call(self.model, names, (x,))
        loss = functional.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, tuple(names.values()))
        for p, gradient in zip(self._parameters, gradients, strict=True):
            p.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), logits.detach()


class CudaGraph(Eager):
    """Eager's steps, recorded once and replayed, many at a time; its parts and its trace are eager's own.

    Raises:
        InputError: on another device than CUDA.
    """

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        if self.device.type != DEVICE:
            raise InputError("engine cudagraph needs a CUDA device; set device=cuda, or engine=eager")
        self._recorder = _EagerRecorder.of(model, config)
        self._optimizer = self._recorder.optimizer

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._recorder.step(x, y)

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        return self._recorder.train(x, y, order, batch_size)

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        eager = Eager(self._model, self._config)
        eager._optimizer = self._optimizer
        return eager.trace(x, y)
