"""Define what the engines of other libraries share: they train the same model on the same batches.

`pip install 'mlpbench[peers]'` installs the libraries. A library is imported when its engine is created.

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
    """Train by another library, on the CPU. It starts from the model's parameters, and its results are copied to them.

    Raises:
        InputError: if the library is not installed, on another device than the CPU, and for an activation or an
            optimizer that the library does not support.
    """

    has_parts = False
    has_stages = False
    is_peer = True
    package: str
    """The module to import."""
    activations: Iterable[str] = ACTIVATIONS
    optimizers: Iterable[str] = OPTIMIZERS

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        if self.device.type != "cpu":
            raise InputError(f"engine {config.engine} runs on the CPU only; set device=cpu")
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
    """Collect the progress of a library that gives access to each step's tensors. Numbers are read only at the end."""

    def __init__(self) -> None:
        # The loss and the logits of the last step.
        self.loss = self.logits = torch.empty(0)
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._num_correct = torch.zeros((), dtype=torch.int64)

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Add a step with its loss (), logits (B, C) and labels (B,)."""
        self.loss, self.logits = loss.detach(), logits.detach()
        self._loss_sum += self.loss * len(y)
        self._num_correct += (self.logits.argmax(1) == y).sum()

    def progress(self) -> Progress:
        """Return the progress of all steps."""
        return Progress(
            loss_sum=self._loss_sum.item(), num_correct=int(self._num_correct.item()), last_loss=self.loss.item()
        )


def load(package: str, engine: str) -> Any:
    """Import a library, without the warnings that it prints.

    Raises:
        InputError: if the library, or another one that it needs, is not installed.
    """
    try:
        with silent():
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise InputError(
            f"engine {engine} needs the package {missing}; run: python -m pip install 'mlpbench[peers]'"
        ) from None


@contextlib.contextmanager
def silent(*loggers: str) -> Iterator[None]:
    """Suppress a library's warnings and the hints of its loggers: the user of mlpbench cannot act on them."""
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
