"""Update parameters by the rules of torch.optim, with PyTorch's operations, in place and without its bookkeeping.

Engine `manual` calls these functions directly; engine `compiled` compiles them into its step. So they follow two rules:

- A number that changes from step to step is a tensor, because a Python number would be compiled in.
- Only an operation in place takes an `alpha`. torch.compile of PyTorch 2.11 loses the `alpha` of a sum where it fuses
  a product and the sum into one operation.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.errors import choose
from mlpbench.workload.optimizers import OPTIMIZERS

# The defaults of torch.optim.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class State(NamedTuple):
    """Hold the state of an optimizer. `m` and `v` have a tensor like each parameter, or are empty if not needed."""

    m: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    steps: Tensor
    """The number of steps (), float32."""

    def named(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        lists = {"m": self.m, "v": self.v}
        return {f"{name}{i}": t for name, tensors in lists.items() for i, t in enumerate(tensors)} | {
            "steps": self.steps
        }


Tensors = tuple[Tensor, ...]
Rule = Callable[[Tensors, Tensors, State, RunConfig], None]


def initial_state(parameters: Tensors, optimizer: str) -> State:
    """Return the state before the first step."""
    m, v = (tuple(map(torch.zeros_like, parameters)) if OPTIMIZERS[optimizer].num_kept > i else () for i in range(2))
    return State(m=m, v=v, steps=torch.zeros((), device=parameters[0].device))


def rule(optimizer: str) -> Rule:
    """Return the function that updates parameters by their gradients.

    Raises:
        InputError: for an unknown optimizer.
    """
    return choose(
        {"sgd": _sgd, "momentum": _momentum, "nesterov": _momentum, "adam": _adam, "adamw": _adam},
        optimizer,
        "optimizer",
    )


def _sgd(parameters: Tensors, gradients: Tensors, _state: State, config: RunConfig) -> None:
    for p, g in zip(parameters, _decayed(parameters, gradients, config), strict=True):
        p.add_(g, alpha=-config.lr)


def _momentum(parameters: Tensors, gradients: Tensors, state: State, config: RunConfig) -> None:
    for p, g, m in zip(parameters, _decayed(parameters, gradients, config), state.m, strict=True):
        m.mul_(config.momentum).add_(g)
        p.add_(g + m * config.momentum if config.optimizer == "nesterov" else m, alpha=-config.lr)


def _adam(parameters: Tensors, gradients: Tensors, state: State, config: RunConfig) -> None:
    state.steps.add_(1)
    rate = config.lr / (1 - BETA1**state.steps)
    root = (1 - BETA2**state.steps).sqrt()
    if config.optimizer == "adamw":
        for p in parameters:
            p.mul_(1 - config.lr * config.weight_decay)
    else:
        gradients = _decayed(parameters, gradients, config)
    for p, g, m, v in zip(parameters, gradients, state.m, state.v, strict=True):
        m.lerp_(g, 1 - BETA1)
        v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        p.sub_(rate * m / (v.sqrt() / root + EPSILON))


def _decayed(parameters: Tensors, gradients: Tensors, config: RunConfig) -> Tensors:
    if not config.weight_decay:
        return gradients
    return tuple(g + p * config.weight_decay for p, g in zip(parameters, gradients, strict=True))
