"""Define engine eager: PyTorch as everybody writes it."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Engine, State, stages
from mlpbench.workload.optimizers import OPTIMIZERS
from mlpbench.workload.randomness import Randomness


class Eager(Engine):
    """Train as everybody writes it in PyTorch: forward, backward by autograd, optimizer."""

    models: frozenset[str] | None = None

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self._optimizer = OPTIMIZERS[config.optimizer].make(model.parameters(), config)
        self._graph: Tensor | None = None
        is_known = type(self._optimizer).__module__.startswith("torch.optim.")
        self.randomness = Randomness(model, config.seed, self.device, has_known_optimizer=is_known)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with self.randomness.step(self.num_steps):
            self._optimizer.zero_grad(set_to_none=True)
            logits = self._model(x)
            loss = functional.cross_entropy(logits, y)
            loss.backward()
            self._optimizer.step()
        self.num_steps += 1
        return loss.detach(), logits.detach()

    def forward(self, x: Tensor) -> Tensor:
        with self.randomness.step(self.num_steps):
            logits: Tensor = self._model(x)
        return logits

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        with self.randomness.step(self.num_steps):
            self._graph = functional.cross_entropy(self._model(x), y)
        return self._graph.detach()

    def backward(self) -> None:
        assert self._graph is not None, "call `loss` before `backward`: it builds the graph"
        self._optimizer.zero_grad(set_to_none=True)
        self._graph.backward(retain_graph=True)

    def update(self) -> None:
        with self.randomness.step(self.num_steps):
            self._optimizer.step()
        self.num_steps += 1

    def _optimizer_state(self) -> State:
        return self._optimizer.state_dict()

    def _restore_optimizer(self, state: State) -> None:
        # PyTorch would use the tensors themselves.
        self._optimizer.load_state_dict(deepcopy(state))

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._model(x)
        return logits

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        outputs: list[Tensor] = []

        def store(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            output.retain_grad()
            outputs.append(output)

        hooks = [module.register_forward_hook(store) for module in self._model.children()]
        try:
            loss, _ = self.step(x, y)
        finally:
            for hook in hooks:
                hook.remove()
        dlogits = outputs[-1].grad
        assert dlogits is not None, "the hook requests this gradient"
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        return stages(self._model, outputs, loss, dlogits, gradients)
