"""Define an engine: it trains a model, whose parameters it updates in place, as a config says.

Shapes: N samples, B batch, D features, C classes; x (B, D) float32, y (B,) int64, loss () in nats per sample, logits
(B, C). Loss and logits have the engine's own floating-point type.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines.argument_checks import check_supported
from mlpbench.errors import InputError
from mlpbench.workload import datasets
from mlpbench.workload.randomness import Randomness


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Hold the results of some steps; each step is counted before its update."""

    loss_sum: float
    """The sum of the losses of all samples."""
    num_correct: int
    last_loss: float
    """The mean loss of the last batch."""


State = dict[str, Any]
"""Everything that the next step depends on: tensors and plain values by name, in dicts and lists of any depth."""


class Engine(ABC):
    """Compute training in one way. `step` and `logits` are required; the other methods have a default or are parts.

    The class attributes describe an engine to everything else: the suite and the tests list no engine by name.
    """

    arithmetic = "PyTorch"
    """The name of the arithmetic. Engines with the same name promise the same bits, unless it is `PyTorch`."""
    depends_on: frozenset[str] = frozenset({"source", "torch", "machine", "threads"})
    """The parts of the stack that can change a bit; `mlpbench/training/resume.py` defines them."""
    bits: int | None = None
    """The bits of each factor of a product, where the arithmetic limits them."""
    models: frozenset[str] | None = frozenset({"mlp"})
    """The models that the engine can train; None: any. Most engines rely on weight and bias of each layer, in turn."""
    has_parts = True
    """False if a step cannot be divided: there is no `forward`, `loss`, `backward` and `update`."""
    has_stages = True
    """False if there is no `trace`."""
    has_state = True
    """False if there is no `state`: the library keeps its own where nobody can read or set it."""
    needs_cuda = False
    """True if the engine runs on CUDA devices only."""
    is_built = False
    """True if something is compiled or recorded at first use. On the CPU this needs a C++ compiler."""
    is_slow_to_start = False
    """True if each config is compiled anew, which takes seconds."""
    is_slow = False
    """True if an epoch takes seconds, so that quick measurements leave the engine out."""
    is_peer = False
    """True if another library computes the training, for comparison."""

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        self._model = model
        self._config = config
        self.device = next(model.parameters()).device
        self.num_steps = 0
        """The number of steps so far; it is counted by engines that run the model's own layers."""
        self.randomness = Randomness(model, config.seed, self.device)

    @classmethod
    def check_model(cls, config: RunConfig) -> None:
        """Check that the engine can train the config's model.

        Raises:
            InputError: if it cannot; the message lists the models that it can train.
        """
        if cls.models is not None:
            check_supported(config.engine, "model", sorted(cls.models), config.model)

    @classmethod  # noqa: B027 (an engine may leave it as it is)
    def draw_parameters(cls, model: nn.Module, config: RunConfig) -> None:
        """Give a new model other initial parameters than PyTorch's own; by default, leave them."""

    @classmethod
    def tables(cls) -> dict[str, Tensor]:
        """Return the tables of numbers that the arithmetic uses."""
        return {}

    @classmethod
    def batch_order(cls, seed: int, epoch: int, num_samples: int) -> Tensor:
        """Return the permutation (N,) in which an epoch visits the samples."""
        return datasets.batch_order(seed, epoch, num_samples)

    @abstractmethod
    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch, and return its loss and logits, both from before the update."""

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        """Train on the samples of `x` (N, D) and `y` (N,) with the indices `order`, batch by batch.

        The last batch may be shorter.
        """
        return train_on(self, datasets.memory_batches(x, y, order, batch_size))

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return logits, without the work that only training needs."""

    def loss_sum(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the sum () of a batch's losses."""
        return functional.cross_entropy(logits, y, reduction="sum")

    # --- the parts of a step, if `has_parts`

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, and store everything that `backward` would need."""
        raise NotImplementedError

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss, and store everything that `backward` needs."""
        raise NotImplementedError

    def backward(self) -> None:
        """Compute the gradients of the last `loss`; can be repeated."""
        raise NotImplementedError

    def update(self) -> None:
        """Do one step of the optimizer with the last gradients."""
        raise NotImplementedError

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Do a `step`, and return every tensor that it computed, by stage and in the order of computing.

        The stages are `forward linear0`, `forward relu0`, ...; `loss`; `dlogits`; `gradient linear3.weight`,
        `gradient linear3.bias`, ... down to layer 0; `update linear0.weight`, ...: the parameters after the update.
        """
        raise NotImplementedError

    # --- the state, if `has_state`

    def state(self) -> State:
        """Return everything that the next step depends on; the tensors are those in use, not copies."""
        return {
            "model": dict(self._model.state_dict()),
            "optimizer": self._optimizer_state(),
            "num_steps": self.num_steps,
        }

    def restore(self, state: State) -> None:
        """Take over the `state` of another engine of the same model and config, before the first step.

        Raises:
            InputError: if a part is missing or has another shape.
        """
        try:
            self._model.load_state_dict(state["model"])
            self._restore_optimizer(state["optimizer"])
            self.num_steps = state["num_steps"]
        # PyTorch reports parameters that do not fit as a RuntimeError of several lines.
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"engine {self._config.engine}: the stored state does not fit: {reason:.200}") from None

    def _optimizer_state(self) -> State:
        """Return the state of the optimizer: by default, tensors that a step changes in place."""
        return {}

    def _restore_optimizer(self, state: State) -> None:
        """Take over the state of an optimizer; by default, copy its tensors."""
        copy_tensors(state, self._optimizer_state())

    def check(self, loss: float) -> None:  # noqa: B027 (an engine may leave it as it is)
        """Refuse a loss for which the engine cannot keep its promise; by default, accept every loss.

        Raises:
            InputError: for such a loss.
        """


def copy_tensors(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy tensors in place, by name.

    Raises:
        ValueError: if the names or shapes differ.
    """
    if {name: t.shape for name, t in source.items()} != {name: t.shape for name, t in target.items()}:
        raise ValueError("it has tensors of other names or shapes")
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


def train_on(engine: Engine, batches: datasets.Batches) -> Progress:
    """Do a step on each batch, one after the other."""
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    correct = torch.zeros((), dtype=torch.int64, device=engine.device)
    for x, y in batches:
        loss, logits = engine.step(x, y)
        total += loss * len(y)
        correct += (logits.argmax(1) == y).sum()
    return Progress(loss_sum=total.item(), num_correct=int(correct.item()), last_loss=loss.item())


def stages(
    model: nn.Module, outputs: Iterable[Tensor], loss: Tensor, dlogits: Tensor, gradients: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Return all stages of a step, in the order of computing; backward takes the last layer first, weight before bias.

    `outputs` belong to the model's children, and `gradients` to its parameters, both in the model's own order.
    """
    layers = [name for name, _ in model.named_children()]
    parameters = dict(model.named_parameters())
    by_parameter = dict(zip(parameters, gradients, strict=True))
    backward = [f"{layer}.{kind}" for layer in reversed(layers) for kind in ("weight", "bias")]
    return (
        {f"forward {name}": output.detach() for name, output in zip(layers, outputs, strict=True)}
        | {"loss": loss, "dlogits": dlogits}
        | {f"gradient {name}": by_parameter[name] for name in backward if name in by_parameter}
        | {f"update {name}": p.detach().clone() for name, p in parameters.items()}
    )
