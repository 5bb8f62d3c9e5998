"""Train one config: model, data, optimizer and engine, and the operations that can be timed.

These operations take no arguments and use data in memory, so that they can be timed without a wrapper.

Shapes: N samples of a training or test set, B batch, D features, C classes.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from mlpbench.config import Loader, Operation, RunConfig
from mlpbench.engines.engine import train_on
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError, check_name, choose
from mlpbench.machine.clock import now
from mlpbench.machine.environment import resolve_device
from mlpbench.records.kinds import CURVES, EpochResult, TrainResult
from mlpbench.training.checkpoint import State, state_digest
from mlpbench.training.resume import DEFAULT_NUM_THREADS, Keeper, Start
from mlpbench.workload import datasets
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.digest import digest
from mlpbench.workload.models import MODELS
from mlpbench.workload.optimizers import OPTIMIZERS
from mlpbench.workload.randomness import initialisation

EVALUATION_BATCH = 1000
"""Samples of a batch in evaluation, the same for every config: so equal parameters give equal losses."""


def check_names(config: RunConfig) -> None:
    """Check every name in a config without loading anything.

    Raises:
        InputError: for the first unknown name, for a model that the engine does not support, or if the device is
            not available.
    """
    choose(MODELS, config.model, "model")
    for activation in config.activations:
        choose(ACTIVATIONS, activation, "activation")
    choose(datasets.DATASETS, config.dataset, "dataset")
    check_name(Loader, config.loader, "loader")
    choose(OPTIMIZERS, config.optimizer, "optimizer")
    choose(ENGINES, config.engine, "engine").check_model(config)
    resolve_device(config.device)


def result_of(session_id: str, epochs: Sequence[EpochResult], initial: str) -> TrainResult:
    """Return the result of a run with these epochs, and with initial parameters of this digest."""
    last = epochs[-1]
    return TrainResult(
        session=session_id,
        config=last.config,
        num_train=last.num_train,
        num_test=last.num_test,
        digests=(("initial", initial), ("final", dict(last.digests)["parameters"])),
        **{name: tuple(getattr(epoch, name) for epoch in epochs) for name in CURVES},
    )


class Trainer:
    """Build the model, the optimizer and the engine of a config, and run them.

    The constructor loads the data set, and downloads it if it is missing.

    Raises:
        InputError: for an unknown name, or if the device or the data set is not available.
    """

    def __init__(self, config: RunConfig) -> None:
        check_names(config)
        self._device = resolve_device(config.device)
        self.config = replace(config, device=self._device.type)
        self._dataset = datasets.load(config.dataset)
        folder = datasets.data_dir()
        self._train_x, self._train_y = datasets.resident(config.dataset, "train", folder, self._device)
        self._test_x, self._test_y = datasets.resident(config.dataset, "test", folder, self._device)
        with initialisation(config.seed):
            self.model = MODELS[config.model](config, self._train_x.shape[1], datasets.NUM_CLASSES)
        ENGINES[config.engine].draw_parameters(self.model, config)
        self.model.to(self._device)
        self._initial = deepcopy(self.model.state_dict())
        self.reset()

    def reset(self) -> None:
        """Go back to the initial parameters, a new optimizer and the first epoch."""
        self.model.load_state_dict(self._initial)
        self.model.train()
        self.engine = ENGINES[self.config.engine](self.model, self.config)
        self._epoch_index = 0
        self._stream = self._endless_batches()

    def use_threads(self) -> None:
        """Set PyTorch's thread count to that of the config; this is a setting of the whole process."""
        torch.set_num_threads(self.config.num_threads or DEFAULT_NUM_THREADS)

    # --- operations that can be timed

    def operation(self, name: str) -> Callable[[], object]:
        """Return the method for a name of Operation.

        Raises:
            InputError: for an unknown name, or if the engine cannot run this part alone.
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
        """Return the number of samples that one call uses."""
        whole_sets = {"evaluate": len(self._test_y), "epoch": len(self._train_y)}
        return whole_sets.get(name, min(self.config.batch_size, len(self._train_y)))

    def prepare(self, name: str) -> None:
        """Reset the trainer, and run the beginning of the operation untimed, so that it is ready to be timed.

        Without this, the first call after another trainer would include three costs. They are a change of the thread
        count (some 7 ms), the loading of kernels at first use, and the allocation of the optimizer's buffers.
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
        """Return the logits (B, C) of the first batch, with the graph for backward; `evaluate` builds no graph."""
        return self.engine.forward(self._first_batch[0])

    def backward(self) -> None:
        """Compute the gradients of the loss of the first batch; `prepare` has computed its forward pass."""
        self.engine.backward()

    def forward_backward(self) -> None:
        """Compute the loss of the first batch and its gradients."""
        self.engine.loss(*self._first_batch)
        self.engine.backward()

    def optimizer_step(self) -> None:
        """Update the parameters once, from the present gradients."""
        self.engine.update()

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Train on the next batch. Return its loss () and its logits (B, C), both from before the update."""
        return self.engine.step(*next(self._stream))

    def trace_step(self) -> dict[str, Tensor]:
        """Train on the next batch, and return every tensor of the step by its stage (see `Engine.trace`).

        Raises:
            InputError: if the engine cannot return them.
        """
        if not self.engine.has_stages:
            raise InputError(f"engine {self.config.engine} cannot return the tensors of a step, such as its gradients")
        return self.engine.trace(*next(self._stream))

    def evaluate(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy on the test set."""
        self.model.eval()
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        with self.engine.randomness.evaluation():
            for x, y in self._test_batches():
                logits = self.engine.logits(x)
                loss += self.engine.loss_sum(logits, y)
                correct += (logits.argmax(1) == y).sum()
        self.model.train()
        return loss.item() / len(self._test_y), correct.item() / len(self._test_y)

    def epoch(self) -> tuple[float, float, float]:
        """Train on every batch once. Return mean loss, accuracy and the loss of the last batch.

        All three come from the outputs of the steps themselves, each before its update.
        """
        return self._train()

    # --- the inputs of a run

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Return the normalised images (N, D) and labels (N,) of both sets. They are shared: do not write to them."""
        return {
            "train images": self._train_x,
            "train labels": self._train_y,
            "test images": self._test_x,
            "test labels": self._test_y,
        }

    def order(self, epoch: int) -> Tensor:
        """Return the permutation (N,) in which an epoch uses the samples of the training set."""
        return self.engine.batch_order(self.config.seed, epoch, len(self._train_y))

    # --- training

    def predict(self, x: Tensor | None = None) -> Tensor:
        """Return the predicted classes (N,) of normalised images (N, D); without images, of the test set."""
        return self.logits(x).argmax(1)

    def logits(self, x: Tensor | None = None) -> Tensor:
        """Return the logits (N, C) of normalised images (N, D); without images, of the test set."""
        self.use_threads()
        self.model.eval()
        images = self._test_x if x is None else x.to(self._device)
        with self.engine.randomness.evaluation():
            logits = torch.cat([self.engine.logits(part) for part in images.split(EVALUATION_BATCH)])
        self.model.train()
        return logits

    def fit(
        self,
        session_id: str,
        on_epoch: Callable[[EpochResult], None] = lambda _: None,
        start: Start | None = None,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> TrainResult:
        """Reset the trainer, train for the config's number of epochs, and evaluate after each epoch.

        With a start, the run stores its state after its epochs, and may begin with a stored state.

        Raises:
            InputError: if the stored state cannot be read, or does not fit.
        """
        self.prepare("epoch")
        # This call is not timed, like the beginning of an epoch in `prepare`. So no timed call loads a kernel.
        self.evaluate()
        keeper = Keeper(start, self.config, on_note) if start else None
        first = keeper.first() if keeper else None
        epochs: list[EpochResult] = []
        if first:
            self.restore(first.state)
            epochs += first.epochs
        for index in range(len(epochs), self.config.num_epochs):
            epochs.append(self._fit_epoch(session_id, index))
            on_epoch(epochs[-1])
            if keeper:
                keeper.add(epochs, self.state)
        return result_of(session_id, epochs, digest(self._initial))

    def _fit_epoch(self, session_id: str, index: int) -> EpochResult:
        start = now()
        train_loss, train_accuracy, last_loss = self.epoch()
        middle = now()
        test_loss, test_accuracy = self.evaluate()
        self.engine.check(test_loss)
        end = now()
        return EpochResult(
            session=session_id,
            config=self.config,
            num_train=len(self._train_y),
            num_test=len(self._test_y),
            index=index,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            last_loss=last_loss,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            train_s=middle - start,
            evaluate_s=end - middle,
            digests=self._digests(),
        )

    def _digests(self) -> tuple[tuple[str, str], ...]:
        """Return the digests of the parameters, and of the whole state if the engine gives one that can be stored."""
        parameters = ("parameters", digest(self.model.state_dict()))
        with suppress(InputError):
            return (parameters, ("state", state_digest(self.state()))) if self.engine.has_state else (parameters,)
        return (parameters,)

    def state(self) -> State:
        """Return everything that the next epoch depends on: the number of epochs so far, and the engine's state."""
        return {"num_epochs": self._epoch_index, "engine": self.engine.state()}

    def restore(self, state: State) -> None:
        """Reset the trainer, and take over the `state` of another one with the same config.

        Raises:
            InputError: if it does not fit.
        """
        self.reset()
        try:
            self._epoch_index = int(state["num_epochs"])
            self.engine.restore(state["engine"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the stored state does not fit {self.config}: {error}") from None

    # --- batches

    @property
    def _first_batch(self) -> tuple[Tensor, Tensor]:
        size = self.config.batch_size
        return self._train_x[:size], self._train_y[:size]

    def _train(self, *, is_beginning: bool = False) -> tuple[float, float, float]:
        """Train on an epoch, or on its beginning only."""
        order = self._next_order()
        if is_beginning:
            # Two whole batches, and one that is as short as the last batch of an epoch.
            order = order[: 2 * self.config.batch_size + len(order) % self.config.batch_size]
        with self.engine.randomness.held():
            progress = (
                self.engine.train(self._train_x, self._train_y, order, self.config.batch_size)
                if self.config.loader == "memory"
                else train_on(self.engine, self._batches(order))
            )
        self.engine.check(progress.loss_sum)
        return progress.loss_sum / len(order), progress.num_correct / len(order), progress.last_loss

    def _endless_batches(self) -> datasets.Batches:
        """Yield batches epoch after epoch, without short ones, so that every step does the same work."""
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
