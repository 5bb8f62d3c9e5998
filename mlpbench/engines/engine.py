"""What an engine is.

It is made of a model, whose parameters it updates in place, and a config.

Shapes: N samples, B batch, D features, C classes; x (B, D) float32, y (B,) int64, loss () in nats per sample, logits
(B, C); loss and logits are of the engine's own floating-point type.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.workload import datasets


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What steps came to, each counted before its update."""

    loss_sum: float  # over all samples
    num_correct: int
    last_loss: float  # mean of the last batch


class Engine(ABC):
    """One way to compute training; `step` is what it is for, the others are its parts."""

    arithmetic = "PyTorch"  # whose bits these are
    bits: int | None = None  # of the operands of products, where the arithmetic has such a number
    has_parts = True  # else a step is one piece: no `forward`, `loss`, `backward` and `update`
    has_stages = True  # else there is no `trace`

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        self._model = model
        self._config = config
        self.device = next(model.parameters()).device

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
        return datasets.batch_order(seed, epoch, num_samples)

    @abstractmethod
    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch: loss and logits, both before the update."""

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        """Train on the samples of `x` (N, D) and `y` (N,) that `order` names, batch by batch; the last may be short."""
        return train_on(self, datasets.memory_batches(x, y, order, batch_size))

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Logits without what training needs."""

    def loss_sum(self, logits: Tensor, y: Tensor) -> Tensor:
        """The sum () of a batch's losses."""
        return functional.cross_entropy(logits, y, reduction="sum")

    # --- the parts of a step, where it has them

    def forward(self, x: Tensor) -> Tensor:
        """Logits, with all that `backward` would need."""
        raise NotImplementedError

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Forward and loss, with all that `backward` needs."""
        raise NotImplementedError

    def backward(self) -> None:
        """Gradients of the last `loss`; can be repeated."""
        raise NotImplementedError

    def update(self) -> None:
        """One step of the optimizer by the last gradients."""
        raise NotImplementedError

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """A `step`, and every tensor that it made, by stage and in the order of computing.

        `forward linear0`, `forward relu0`, ...; `loss`; `dlogits`; `gradient linear3.weight`, `gradient linear3.bias`,
        ... down to layer 0; `update linear0.weight`, ...: the parameters after the update.
        """
        raise NotImplementedError

    def check(self, loss: float) -> None:  # noqa: B027 (it may be left so)
        """Refuse a loss for which the engine cannot keep its promise; by default, none is.

        Raises:
            InputError: for such a loss.
        """


def train_on(engine: Engine, batches: datasets.Batches) -> Progress:
    """A step on each batch, in turn."""
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
    """Everything in the order of computing; backward takes the last layer first, weight before bias.

    `outputs` are those of the model's children, and `gradients` those of its parameters, in its own order.
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
