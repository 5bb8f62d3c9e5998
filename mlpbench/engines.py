"""ENGINES: ways to compute training.

An engine is made of a model, whose parameters it updates in place, and a config. Shapes: x (B, D) float32, y (B,)
int64, loss () in nats per sample, logits (B, C); loss and logits are of the engine's own floating-point type.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench import data, known_answers, portable, portable_fused
from mlpbench.optimizers import OPTIMIZERS
from mlpbench.records import InputError, RunConfig


class Engine(ABC):
    """One way to compute training; `step` is what it is for, the others are its parts."""

    arithmetic = "PyTorch"  # whose bits these are
    bits: int | None = None  # of the operands of products, where the arithmetic has such a number

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        self._model = model
        self._config = config

    @classmethod  # noqa: B027 (it may be left so)
    def draw_parameters(cls, model: nn.Module, config: RunConfig) -> None:
        """Give a new model other initial parameters than PyTorch's own; by default, leave them."""

    @classmethod
    def tables(cls) -> dict[str, Tensor]:
        """The numbers that the arithmetic looks up."""
        return {}

    @classmethod
    def batch_order(cls, seed: int, epoch: int, num_samples: int) -> Tensor:
        """The permutation (N,) in which an epoch visits the samples."""
        return data.batch_order(seed, epoch, num_samples)

    @abstractmethod
    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch: loss and logits, both before the update."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits, with all that `backward` would need."""

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Forward and loss, with all that `backward` needs."""

    @abstractmethod
    def backward(self) -> None:
        """Gradients of the last `loss`; can be repeated."""

    @abstractmethod
    def update(self) -> None:
        """One step of the optimizer by the last gradients."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Logits without what training needs."""

    @abstractmethod
    def loss_sum(self, logits: Tensor, y: Tensor) -> Tensor:
        """The sum () of a batch's losses."""

    @abstractmethod
    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """A `step`, and every tensor that it made, by stage and in the order of computing.

        `forward linear0`, `forward relu0`, ...; `loss`; `dlogits`; `gradient linear3.weight`, `gradient linear3.bias`,
        ... down to layer 0; `update linear0.weight`, ...: the parameters after the update.
        """

    def check(self, loss: float) -> None:  # noqa: B027 (it may be left so)
        """Refuse a loss for which the engine cannot keep its promise; by default, none is.

        Raises:
            InputError: for such a loss.
        """


class Eager(Engine):
    """PyTorch as everybody writes it: forward, backward by autograd, optimizer."""

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self._optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config)
        self._graph: Tensor | None = None

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        logits = self._model(x)
        loss = functional.cross_entropy(logits, y)
        loss.backward()
        self._optimizer.step()
        return loss.detach(), logits.detach()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self._model(x)
        return logits

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self._graph = functional.cross_entropy(self._model(x), y)
        return self._graph.detach()

    def backward(self) -> None:
        assert self._graph is not None, "`loss` makes the graph"
        self._optimizer.zero_grad(set_to_none=True)
        self._graph.backward(retain_graph=True)

    def update(self) -> None:
        self._optimizer.step()

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._model(x)
        return logits

    def loss_sum(self, logits: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(logits, y, reduction="sum")

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        stages: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                output.retain_grad()
                stages[f"forward {name}"] = output

            return hook

        hooks = [module.register_forward_hook(keep(name)) for name, module in self._model.named_children()]
        try:
            loss, _ = self.step(x, y)
        finally:
            for hook in hooks:
                hook.remove()
        last = list(stages.values())[-1]
        assert last.grad is not None, "the hook asked for it"
        parameters = list(self._model.named_parameters())
        gradients = {name: p.grad for name, p in parameters if p.grad is not None}
        return _stages(stages, loss, last.grad, gradients, dict(parameters))


class Portable(Engine):
    """The arithmetic `portable/1`, the same bits on every machine; with its own initial parameters and order.

    Raises:
        InputError: for what has no portable arithmetic, and where this machine fails the known-answer test.
    """

    arithmetic = portable.VERSION

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        parameters = [p.detach() for p in model.parameters()]
        self._network = self._make_network(parameters)
        known_answers.check(parameters[0].device)
        self.bits = self._network.bits

    def _make_network(self, parameters: list[Tensor]) -> portable.Network | portable_fused.FusedNetwork:
        return portable.Network(parameters, self._config)

    @classmethod
    def draw_parameters(cls, model: nn.Module, config: RunConfig) -> None:
        parameters = dict(model.named_parameters())
        weights = [p for name, p in parameters.items() if name.endswith(".weight")]
        sizes = (weights[0].shape[1], *(len(p) for p in weights))
        with torch.no_grad():
            for name, drawn in portable.initial_parameters(config.seed, sizes).items():
                parameters[name].copy_(drawn)

    @classmethod
    def tables(cls) -> dict[str, Tensor]:
        return {name: torch.from_numpy(table) for name, table in portable.tables().items()}

    @classmethod
    def batch_order(cls, seed: int, epoch: int, num_samples: int) -> Tensor:
        return portable.batch_order(seed, epoch, num_samples)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = self._network.loss(x, y)
        self._network.backward()
        self._network.update()
        return loss, logits

    def forward(self, x: Tensor) -> Tensor:
        return self._network.forward(x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self._network.loss(x, y)[0]

    def backward(self) -> None:
        self._network.backward()

    def update(self) -> None:
        self._network.update()

    def logits(self, x: Tensor) -> Tensor:
        return self._network.forward(x)

    def loss_sum(self, logits: Tensor, y: Tensor) -> Tensor:
        return portable.exact_sum(portable.cross_entropy(logits, y)[0])

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        loss, _ = self._network.loss(x, y)
        self._network.backward()
        names = [name for name, _ in self._model.named_children()]
        forward = {f"forward {name}": z for name, z in zip(names, self._network.outputs, strict=True)}
        parameters = dict(self._model.named_parameters())
        gradients = dict(zip(parameters, self._network.gradients, strict=True))
        self._network.update()
        return _stages(forward, loss, self._network.dlogits, gradients, parameters)

    def check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise InputError(
                f"engine {self._config.engine}: training came to {loss}, whose bits nobody promises; use a smaller lr "
                f"than {self._config.lr:g}, or engine eager"
            )


class PortableFused(Portable):
    """The arithmetic `portable/1` in C++, for the CPU: the bits of `portable` in less time.

    Raises:
        InputError: as `portable`, on another device than the CPU, and where there is no C++ compiler to build it.
    """

    def _make_network(self, parameters: list[Tensor]) -> portable.Network | portable_fused.FusedNetwork:
        network = portable_fused.FusedNetwork(parameters, self._config)
        portable_fused.check_machine()
        return network


def _stages(
    forward: dict[str, Tensor],
    loss: Tensor,
    dlogits: Tensor,
    gradients: dict[str, Tensor],
    parameters: dict[str, nn.Parameter],
) -> dict[str, Tensor]:
    """Everything in the order of computing; backward takes the last layer first, weight before bias."""
    layers = dict.fromkeys(name.rpartition(".")[0] for name in reversed(list(gradients)))
    backward = [name for layer in layers for name in gradients if name.startswith(f"{layer}.")]
    return (
        {stage: tensor.detach() for stage, tensor in forward.items()}
        | {"loss": loss, "dlogits": dlogits}
        | {f"gradient {name}": gradients[name] for name in backward}
        | {f"update {name}": p.detach().clone() for name, p in parameters.items()}
    )


ENGINES: dict[str, type[Engine]] = {"eager": Eager, "portable": Portable, "portable_fused": PortableFused}
