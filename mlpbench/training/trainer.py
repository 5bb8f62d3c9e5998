"""Trainer: a model with its data, optimizer and engine; the only mutable class.

Its operations take no arguments and act on resident data, so that they can be timed as they are.
Shapes: N samples of a half, B batch, D features, C classes.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlpbench.config import Loader, Operation, RunConfig
from mlpbench.engines.engine import Progress, train_on
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError, check_name, choose
from mlpbench.machine.clock import now
from mlpbench.machine.environment import resolve_device
from mlpbench.records.kinds import TrainResult
from mlpbench.workload import datasets
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.digest import digest
from mlpbench.workload.models import MODELS
from mlpbench.workload.optimizers import OPTIMIZERS
from mlpbench.workload.seeding import derive_seed

EVALUATION_BATCH = 1000  # samples; the same for every config, so that equal parameters give equal losses
_DEFAULT_NUM_THREADS = torch.get_num_threads()


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What one epoch of training gave."""

    index: int
    train_loss: float
    train_accuracy: float
    last_loss: float
    test_loss: float
    test_accuracy: float
    train_s: float
    evaluate_s: float


def check_names(config: RunConfig) -> None:
    """Check every name in a config without loading anything.

    Raises:
        InputError: for the first unknown name, or a device that is not there.
    """
    choose(MODELS, config.model, "model")
    for activation in config.activations:
        choose(ACTIVATIONS, activation, "activation")
    choose(datasets.DATASETS, config.dataset, "dataset")
    check_name(Loader, config.loader, "loader")
    choose(OPTIMIZERS, config.optimizer, "optimizer")
    choose(ENGINES, config.engine, "engine")
    resolve_device(config.device)


class Trainer:
    """Builds what a config asks for, and runs it.

    Raises:
        InputError: for an unknown name, a device that is not there, or data that is not to be had.
    """

    def __init__(self, config: RunConfig) -> None:
        check_names(config)
        self._device = resolve_device(config.device)
        self.config = replace(config, device=self._device.type)
        self._dataset = datasets.load(config.dataset)
        folder = datasets.data_dir()
        self._train_x, self._train_y = datasets.resident(config.dataset, "train", folder, self._device)
        self._test_x, self._test_y = datasets.resident(config.dataset, "test", folder, self._device)
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which seeds the GPUs' generators too
            torch.default_generator.manual_seed(derive_seed(config.seed, "initialisation"))
            self.model = MODELS[config.model](config, self._train_x.shape[1], datasets.NUM_CLASSES)
        ENGINES[config.engine].draw_parameters(self.model, config)
        self.model.to(self._device)
        self._initial = deepcopy(self.model.state_dict())
        self.reset()

    def reset(self) -> None:
        """Back to the initial parameters, a fresh optimizer and the first epoch."""
        self.model.load_state_dict(self._initial)
        self.model.train()
        self.engine = ENGINES[self.config.engine](self.model, self.config)
        self._epoch_index = 0
        self._stream = self._endless_batches()

    def use_threads(self) -> None:
        """Give PyTorch the config's number of threads; it is a setting of the whole process."""
        torch.set_num_threads(self.config.num_threads or _DEFAULT_NUM_THREADS)

    # --- what can be timed

    def operation(self, name: str) -> Callable[[], object]:
        """The method of that name in Operation.

        Raises:
            InputError: if there is none, or the engine does not have it.
        """
        check_name(Operation, name, "operation")
        if Operation(name).is_part and not self.engine.has_parts:
            raise InputError(
                f"engine {self.config.engine} runs the whole step at once, so {name} cannot be timed alone; available: "
                f"{', '.join(each for each in Operation if not each.is_part)}"
            )
        call: Callable[[], object] = getattr(self, name)
        return call

    def samples_per_call(self, name: str) -> int:
        """How many samples one call works on."""
        whole = {"evaluate": len(self._test_y), "epoch": len(self._train_y)}
        return whole.get(name, min(self.config.batch_size, len(self._train_y)))

    def prepare(self, name: str) -> None:
        """Make the operation ready to be timed: a fresh state, and what it runs woken by an untimed beginning.

        Without that, the first call after another trainer's turn would pay for its threads (some 7 ms where their
        number changes), for kernels that are loaded when first used, and for an optimizer's buffers.
        """
        call = self.operation(name)
        self.use_threads()
        self.reset()
        if name == "epoch":
            self._train(is_beginning=True)
            self.reset()
            return
        if name == "optimizer_step":
            self.forward_backward()
        if name == "backward":
            self.engine.loss(*self._first_batch)
        call()

    def forward(self) -> Tensor:
        """Logits (B, C) of the first batch, with the graph that training needs; `evaluate` has none."""
        return self.engine.forward(self._first_batch[0])

    def backward(self) -> None:
        """Gradients of the loss of the first batch, of which `prepare` has computed the forward pass."""
        self.engine.backward()

    def forward_backward(self) -> None:
        """Loss of the first batch, and its gradients."""
        self.engine.loss(*self._first_batch)
        self.engine.backward()

    def optimizer_step(self) -> None:
        """One update from the gradients that are there."""
        self.engine.update()

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Take the next batch and train on it: loss () and logits (B, C), both before the update."""
        return self.engine.step(*next(self._stream))

    def trace_step(self) -> dict[str, Tensor]:
        """A `train_step`, and every tensor that it made; see Engine.trace for the stages.

        Raises:
            InputError: if the engine does not show them.
        """
        if not self.engine.has_stages:
            raise InputError(f"engine {self.config.engine} does not show what it computes within a step")
        return self.engine.trace(*next(self._stream))

    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test half."""
        self.model.eval()
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        for x, y in self._test_batches():
            logits = self.engine.logits(x)
            loss += self.engine.loss_sum(logits, y)
            correct += (logits.argmax(1) == y).sum()
        self.model.train()
        return loss.item() / len(self._test_y), correct.item() / len(self._test_y)

    def epoch(self) -> tuple[float, float, float]:
        """Train on every batch once: mean loss and accuracy of the steps' own outputs, and the last batch's loss."""
        return self._train()

    # --- what a run starts from

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Normalised images (N, D) and labels (N,) of both halves. Shared: do not write to them."""
        return {
            "train images": self._train_x,
            "train labels": self._train_y,
            "test images": self._test_x,
            "test labels": self._test_y,
        }

    def order(self, epoch: int) -> Tensor:
        """The permutation (N,) in which an epoch visits the samples."""
        return self.engine.batch_order(self.config.seed, epoch, len(self._train_y))

    # --- training

    def predict(self, x: Tensor | None = None) -> Tensor:
        """Classes (N,) of normalised images (N, D); of the test half if none are given."""
        return self.logits(x).argmax(1)

    def logits(self, x: Tensor | None = None) -> Tensor:
        """Logits (N, C) of normalised images (N, D); of the test half if none are given."""
        self.use_threads()
        self.model.eval()
        images = self._test_x if x is None else x.to(self._device)
        logits = torch.cat([self.engine.logits(part) for part in images.split(EVALUATION_BATCH)])
        self.model.train()
        return logits

    def fit(self, session_id: str, on_epoch: Callable[[Epoch], None] = lambda _: None) -> TrainResult:
        """Train for the config's epochs from a fresh state, evaluating after each."""
        self.prepare("epoch")
        self.evaluate()  # untimed, as the beginning of an epoch in `prepare`: nothing is loaded on the clock
        epochs = []
        for index in range(self.config.num_epochs):
            start = now()
            train_loss, train_accuracy, last_loss = self.epoch()
            trained = now()
            test_loss, test_accuracy = self.evaluate()
            self.engine.check(test_loss)
            epochs.append(
                Epoch(
                    index=index,
                    train_loss=train_loss,
                    train_accuracy=train_accuracy,
                    last_loss=last_loss,
                    test_loss=test_loss,
                    test_accuracy=test_accuracy,
                    train_s=trained - start,
                    evaluate_s=now() - trained,
                )
            )
            on_epoch(epochs[-1])
        return TrainResult(
            session=session_id,
            config=self.config,
            num_train=len(self._train_y),
            num_test=len(self._test_y),
            train_loss=tuple(e.train_loss for e in epochs),
            train_accuracy=tuple(e.train_accuracy for e in epochs),
            last_loss=tuple(e.last_loss for e in epochs),
            test_loss=tuple(e.test_loss for e in epochs),
            test_accuracy=tuple(e.test_accuracy for e in epochs),
            train_s=tuple(e.train_s for e in epochs),
            evaluate_s=tuple(e.evaluate_s for e in epochs),
            digests=(("initial", digest(self._initial)), ("final", digest(self.model.state_dict()))),
        )

    # --- batches

    @property
    def _first_batch(self) -> tuple[Tensor, Tensor]:
        size = self.config.batch_size
        return self._train_x[:size], self._train_y[:size]

    def _train(self, *, is_beginning: bool = False) -> tuple[float, float, float]:
        order = self._next_order()
        if is_beginning:  # two batches, and one as short as the last of an epoch
            order = order[: 2 * self.config.batch_size + len(order) % self.config.batch_size]
        made: Progress = (
            self.engine.train(self._train_x, self._train_y, order, self.config.batch_size)
            if self.config.loader == "memory"
            else train_on(self.engine, self._batches(order))
        )
        self.engine.check(made.loss_sum)
        return made.loss_sum / len(order), made.num_correct / len(order), made.last_loss

    def _endless_batches(self) -> datasets.Batches:
        """Epoch after epoch, without a short last batch: every step is to do the same work."""
        size = self.samples_per_call("train_step")
        while True:
            yield from (batch for batch in self._batches(self._next_order()) if len(batch[1]) == size)

    def _next_order(self) -> Tensor:
        order = self.order(self._epoch_index)
        self._epoch_index += 1
        return order

    def _batches(self, order: Tensor) -> datasets.Batches:
        if self.config.loader == "dataloader":
            return datasets.dataloader_batches(self._dataset.train, order, self.config.batch_size, self._device)
        return datasets.memory_batches(self._train_x, self._train_y, order, self.config.batch_size)

    def _test_batches(self) -> datasets.Batches:
        if self.config.loader == "dataloader":
            order = torch.arange(len(self._test_y))
            return datasets.dataloader_batches(self._dataset.test, order, EVALUATION_BATCH, self._device)
        return zip(self._test_x.split(EVALUATION_BATCH), self._test_y.split(EVALUATION_BATCH), strict=True)
