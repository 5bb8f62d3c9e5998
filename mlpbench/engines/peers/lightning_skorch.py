"""Define engines lightning and skorch: two libraries that run the training loop of a PyTorch model.

They compute with PyTorch, so the time beyond that of engine `eager` is the cost of their loops.

Shapes: B batch, D features, C classes.
"""

from abc import abstractmethod
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Progress, State
from mlpbench.engines.peers.peer import Peer, Tally, silent
from mlpbench.workload import datasets
from mlpbench.workload.optimizers import OPTIMIZERS


class _Loop(Peer):
    """Train by the loop of another library. `step` is a loop over one batch."""

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with self.randomness.held():
            tally = self._run(x, y, torch.arange(len(x)), len(x))
        return tally.loss, tally.logits

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        with self.randomness.held():
            return self._run(x, y, order, batch_size).progress()

    @abstractmethod
    def _run(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Tally:
        """Train on the samples with the indices `order`."""

    @property
    @abstractmethod
    def _optimizer(self) -> torch.optim.Optimizer:
        """The optimizer in use."""

    def _optimizer_state(self) -> State:
        return self._optimizer.state_dict()

    def _restore_optimizer(self, state: State) -> None:
        # PyTorch would use the tensors themselves.
        self._optimizer.load_state_dict(deepcopy(state))

    def _seed_step(self) -> None:
        """Seed the next step, within the context `held` of the whole run."""
        with self.randomness.step(self.num_steps):
            self.num_steps += 1


class Lightning(_Loop):
    """Train by Lightning's `Trainer.fit`, without logger, checkpoints and progress bar. Each call of `train` is a fit.

    Raises:
        InputError: as `Peer`.
    """

    package = "lightning"

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self._module = self._make_module(OPTIMIZERS[config.optimizer].make(model.parameters(), config))

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self._module.configure_optimizers()
        return optimizer

    def _run(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Tally:
        self._module.tally = Tally()
        with silent("lightning.pytorch", "lightning.fabric"):
            trainer = self._library.Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            try:
                trainer.fit(self._module, datasets.memory_batches(x, y, order, batch_size))
            except SystemExit:
                # Lightning turns Ctrl-C into an exit.
                raise KeyboardInterrupt from None
        tally: Tally = self._module.tally
        return tally

    def _make_module(self, optimizer: torch.optim.Optimizer) -> Any:
        engine, network = self, self._model

        class Module(self._library.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.network = network
                self.tally = Tally()

            def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
                engine._seed_step()
                x, y = batch
                logits = self.network(x)
                loss = functional.cross_entropy(logits, y)
                self.tally.add(loss, logits, y)
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return optimizer

        return Module()


class Skorch(_Loop):
    """Train by skorch's `NeuralNetClassifier.partial_fit`, without callbacks. Its loader yields whole batches.

    Raises:
        InputError: as `Peer`.
    """

    package = "skorch"

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self._tally = Tally()
        self._order = torch.empty(0, dtype=torch.int64)
        self._classifier = self._make_classifier()

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        if not self._classifier.initialized_:
            self._classifier.initialize()
        optimizer: torch.optim.Optimizer = self._classifier.optimizer_
        return optimizer

    def _run(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Tally:
        self._tally, self._order = Tally(), order
        self._classifier.batch_size = batch_size
        self._classifier.partial_fit(x, y)
        return self._tally

    def _make_classifier(self) -> Any:
        engine = self

        class Classifier(self._library.NeuralNetClassifier):  # type: ignore[misc, name-defined]
            def on_batch_begin(self, net: Any, *batch: Any, **settings: Any) -> None:
                super().on_batch_begin(net, *batch, **settings)
                engine._seed_step()

            def on_batch_end(self, _net: Any, batch: Any, **outputs: Any) -> None:
                engine._tally.add(outputs["loss"], outputs["y_pred"], batch[1])

        return Classifier(
            self._model,
            criterion=nn.CrossEntropyLoss,
            optimizer=lambda groups, **_: OPTIMIZERS[self._config.optimizer].make(groups, self._config),
            max_epochs=1,
            iterator_train=lambda dataset, batch_size: datasets.memory_batches(
                dataset.X, dataset.y, self._order, batch_size
            ),
            train_split=None,
            callbacks="disable",
            classes=range(self._sizes[-1]),
            verbose=0,
        )
