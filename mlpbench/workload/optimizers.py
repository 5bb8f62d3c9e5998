"""Define the optimizers: one entry for each optimizer of torch.optim that the tutorial's comparison needs.

`momentum` and `nesterov` use the config's momentum. `sgd` uses no momentum, as in the tutorial's code.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from mlpbench.config import RunConfig

Parameters = Iterable[Parameter]


def _sgd(parameters: Parameters, config: RunConfig) -> Optimizer:
    return SGD(parameters, lr=config.lr, weight_decay=config.weight_decay)


def _momentum(parameters: Parameters, config: RunConfig) -> Optimizer:
    return SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def _nesterov(parameters: Parameters, config: RunConfig) -> Optimizer:
    return SGD(parameters, lr=config.lr, momentum=config.momentum, nesterov=True, weight_decay=config.weight_decay)


def _adam(parameters: Parameters, config: RunConfig) -> Optimizer:
    return Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)


def _adamw(parameters: Parameters, config: RunConfig) -> Optimizer:
    return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerKind:
    """Describe an optimizer, and build it."""

    make: Callable[[Parameters, RunConfig], Optimizer]
    num_kept: int
    """How many numbers it stores for every parameter, in addition to the parameter."""
    usual_lr: float | None = None
    """PyTorch's default learning rate, set where the tutorial's 0.02 would make a comparison unfair."""

    def lr(self, default: float) -> float:
        """Return the learning rate for a comparison: the usual one, or else the default."""
        return self.usual_lr or default


OPTIMIZERS: dict[str, OptimizerKind] = {
    "sgd": OptimizerKind(make=_sgd, num_kept=0),
    "momentum": OptimizerKind(make=_momentum, num_kept=1),
    "nesterov": OptimizerKind(make=_nesterov, num_kept=1),
    "adam": OptimizerKind(make=_adam, num_kept=2, usual_lr=0.001),
    "adamw": OptimizerKind(make=_adamw, num_kept=2, usual_lr=0.001),
}
