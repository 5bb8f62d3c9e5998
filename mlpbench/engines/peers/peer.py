"""What the engines of other libraries have in common: they train the same model on the same batches, each its own way.

They come with `pip install 'mlpbench[peers]'`, and are imported when one is made.

Shapes: N samples, B batch, D features, C classes.
"""

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines.argument_checks import check_supported
from mlpbench.engines.engine import Engine, Progress
from mlpbench.errors import InputError
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.optimizers import OPTIMIZERS


class Peer(Engine):
    """Another library, on the CPU. It begins with the model's parameters, and the model is given what it makes of them.

    Raises:
        InputError: where the library is not installed, on another device than the CPU, and for an activation or
            optimizer that it does not have.
    """

    has_parts = False
    has_stages = False
    is_peer = True
    package: str
    activations: Iterable[str] = ACTIVATIONS
    optimizers: Iterable[str] = OPTIMIZERS

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        if self.device.type != "cpu":
            raise InputError(f"engine {config.engine} is for the CPU; use device=cpu")
        for name in config.activations:
            check_supported(config.engine, "activation", self.activations, name)
        check_supported(config.engine, "optimizer", self.optimizers, config.optimizer)
        self._parameters = [p.detach() for p in model.parameters()]
        self._sizes = (self._parameters[0].shape[1], *map(len, self._parameters[1::2]))
        self._library = load(self.package, config.engine)

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._model(x)
        return logits


class Tally:
    """Progress of a library that shows each step's tensors, from which nothing is read before the end."""

    def __init__(self) -> None:
        self.loss = self.logits = torch.empty(0)  # of the last step
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._num_correct = torch.zeros((), dtype=torch.int64)

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Count a step: its loss (), logits (B, C) and labels (B,)."""
        self.loss, self.logits = loss.detach(), logits.detach()
        self._loss_sum += self.loss * len(y)
        self._num_correct += (self.logits.argmax(1) == y).sum()

    def progress(self) -> Progress:
        """All steps together."""
        return Progress(
            loss_sum=self._loss_sum.item(), num_correct=int(self._num_correct.item()), last_loss=self.loss.item()
        )


def load(package: str, engine: str) -> Any:
    """A library, without what it warns of when it is imported.

    Raises:
        InputError: where it, or another that it needs, is not installed.
    """
    try:
        with silent():
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise InputError(
            f"engine {engine} needs the package {missing}: python -m pip install 'mlpbench[peers]'"
        ) from None


@contextlib.contextmanager
def silent(*loggers: str) -> Iterator[None]:
    """Keep back a library's warnings, and the hints of its loggers: they are for those who wrote the call."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in loggers}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in levels:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
