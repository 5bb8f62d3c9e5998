"""STUDIES: train a grid of configs over several seeds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from mlpbench import data
from mlpbench.optimizers import USUAL_LR
from mlpbench.records import RunConfig, TrainResult, grid
from mlpbench.trainer import Epoch, Trainer, check_names

TUTORIAL = ("relu", "tanh", "elu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A grid: activations x optimizers x seeds on top of a base."""

    base: RunConfig
    activations: tuple[tuple[str, ...], ...]
    optimizers: tuple[str, ...]
    seeds: tuple[int, ...]
    has_usual_lr: bool = True  # an optimizer to which the base's learning rate would do injustice gets its usual one

    def configs(self) -> list[RunConfig]:
        """The grid's configs, seed by seed, so that a slow stretch of the machine does not fall on one alone."""
        configs = grid(self.base, seed=self.seeds, activations=self.activations, optimizer=self.optimizers)
        if not self.has_usual_lr:
            return configs
        return [replace(config, lr=USUAL_LR.get(config.optimizer, config.lr)) for config in configs]


STUDIES = {
    "quick": Study(
        base=RunConfig(num_epochs=3),
        activations=(TUTORIAL, ("relu",)),
        optimizers=("sgd", "nesterov"),
        seeds=(0, 1, 2),
    ),
    "default": Study(
        base=RunConfig(num_epochs=10),
        activations=(TUTORIAL, ("relu",), ("tanh",), ("elu",), ("gelu",)),
        optimizers=("sgd", "momentum", "nesterov", "adam"),
        seeds=(0, 1, 2, 3, 4),
    ),
    # The tutorial itself: its data, its number of epochs.
    "tutorial": Study(base=RunConfig(dataset="mnist"), activations=(TUTORIAL,), optimizers=("sgd",), seeds=(0,)),
}


def check(configs: Iterable[RunConfig]) -> None:
    """Check that every config can run here, before anything is trained or written.

    Raises:
        InputError: for an unknown name, a device that is not there, or data that is not to be had.
    """
    for config in configs:
        check_names(config)
        data.load(config.dataset)


class Observer(Protocol):
    """Who is told how a study goes."""

    def start(self, config: RunConfig) -> None:
        """A run begins."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of it is over."""


def run(
    configs: Iterable[RunConfig], session_id: str, emit: Callable[[TrainResult], None], observer: Observer
) -> list[TrainResult]:
    """Train every config; each result is emitted as soon as it exists."""
    results = []
    for config in configs:
        observer.start(config)
        results.append(Trainer(config).fit(session_id, observer.epoch))
        emit(results[-1])
    return results
