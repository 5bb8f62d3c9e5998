"""Define engines portable and portable_fused: the arithmetic `portable/1`, by PyTorch's operations and in C++."""

import math

import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Engine, State, stages
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.engines.portable import fused, known_answers
from mlpbench.errors import InputError


class Portable(Engine):
    """Train in the arithmetic `portable/1`: the same bits on every machine. It draws its own parameters and order.

    Raises:
        InputError: for an activation, an optimizer or a device without portable arithmetic, and if this machine fails
            the known-answer test.
    """

    arithmetic = portable.VERSION
    depends_on = frozenset()
    is_slow = True

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        parameters = [p.detach() for p in model.parameters()]
        self._network = self._make_network(parameters)
        known_answers.check(parameters[0].device)
        self.bits = self._network.bits

    def _make_network(self, parameters: list[Tensor]) -> portable.Network | fused.FusedNetwork:
        return portable.Network(parameters, self._config)

    @classmethod
    def draw_parameters(cls, model: nn.Module, config: RunConfig) -> None:
        parameters = dict(model.named_parameters())
        weights = [p for name, p in parameters.items() if name.endswith(".weight")]
        sizes = (weights[0].shape[1], *(len(p) for p in weights))
        with torch.no_grad():
            for name, values in portable.initial_parameters(config.seed, sizes).items():
                parameters[name].copy_(values)

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
        tensors = self._network.outputs, loss, self._network.dlogits, self._network.gradients
        self._network.update()
        return stages(self._model, *tensors)

    def _optimizer_state(self) -> State:
        return dict(self._network.buffers)

    def _restore_optimizer(self, state: State) -> None:
        super()._restore_optimizer(state)
        if isinstance(self._network, fused.FusedNetwork):
            self._network.set_powers(state["powers"])

    def check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise InputError(
                f"engine {self._config.engine}: the loss is {loss}, for which equal bits are not guaranteed; use a "
                f"smaller lr than {self._config.lr:g}, or engine=eager"
            )


class PortableFused(Portable):
    """Train in the arithmetic `portable/1` in C++, for the CPU: the bits of `portable` in less time.

    Raises:
        InputError: as `portable`, on another device than the CPU, and if there is no C++ compiler to build it.
    """

    is_built = True

    def _make_network(self, parameters: list[Tensor]) -> portable.Network | fused.FusedNetwork:
        network = fused.FusedNetwork(parameters, self._config)
        fused.check_machine()
        return network
