"""OPTIMIZERS: those of torch.optim that the tutorial's comparison needs.

`momentum` and `nesterov` read the config's momentum; plain `sgd` has none, as in the tutorial's code.
"""

from collections.abc import Callable, Iterable

import torch
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


OPTIMIZERS: dict[str, Callable[[Parameters, RunConfig], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
    "adamw": _adamw,
}

# How many numbers each keeps for every parameter, beside it.
NUM_KEPT = {"sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2, "adamw": 2}
# Learning rates for the optimizers to which the tutorial's .02 would do injustice: PyTorch's defaults.
USUAL_LR = {"adam": 0.001, "adamw": 0.001}
