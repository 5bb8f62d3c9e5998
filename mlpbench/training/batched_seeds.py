"""Train several seeds of one config as one batched model: parameters are stacked, and products are batched.

On a GPU, a step of a small perceptron takes as long as the host needs to launch its kernels. A step of S perceptrons
needs hardly more launches than a step of one. The seeds share only the data: each seed has the initial parameters and
the order of batches of its separate run. So its curve agrees with the separate run up to rounding, but not bit for bit.
In the first 40 steps the losses agree to a relative 1e-4, and the accuracies within 0.002. Later the difference grows
as any difference in rounding grows in training: no faster than between two thread counts.

Shapes: S seeds, N samples, B batch, D features of a layer, H outputs of a layer, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.errors import InputError, choose
from mlpbench.machine.clock import now
from mlpbench.records.kinds import EpochResult, TrainResult
from mlpbench.training.trainer import EVALUATION_BATCH, Trainer, result_of
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.digest import digest
from mlpbench.workload.optimizers import OPTIMIZERS
from mlpbench.workload.randomness import may_draw


def can_train(config: RunConfig) -> bool:
    """True if this config can be trained in batched form."""
    if (config.model, config.engine, config.loader) != ("mlp", "eager", "memory"):
        return False
    # The seeds would share the random numbers of such a layer.
    return not any(may_draw(choose(ACTIVATIONS, name, "activation").make()) for name in config.activations)


def fit(
    configs: Sequence[RunConfig],
    session_id: str,
    on_epoch: Callable[[EpochResult, RunConfig], None] = lambda *_: None,
) -> list[TrainResult]:
    """Train configs that differ only in their seed, and return the result of each, in the order of the configs.

    A result has the fields of `Trainer.fit`. The times of a seed are those of the batched run divided by the number of
    seeds: its share of the work of the device. They are shorter than the times of a separate run.

    Raises:
        InputError: as `Trainer` does, and if the device has too little memory for all seeds at once.
    """
    assert len({replace(config, seed=0) for config in configs}) == 1, "the configs must differ only in their seed"
    assert can_train(configs[0]), "call can_train first"
    try:
        return _Seeds(configs).fit(session_id, on_epoch)
    except torch.OutOfMemoryError:
        raise InputError(
            f"device {configs[0].device}: not enough memory for {len(configs)} seeds at once; use fewer --jobs"
        ) from None


class _Seeds:
    """Train one model for each config, with stacked parameters."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self._configs = configs
        self._trainers = [Trainer(config) for config in configs]
        first = self._trainers[0]
        self._model = first.model
        self._train_x, self._train_y, self._test_x, self._test_y = first.inputs.values()
        self._initial = [
            {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
            for trainer in self._trainers
        ]
        self._reset()

    def _reset(self) -> None:
        """Go back to the initial parameters and a new optimizer."""
        self._parameters = {
            name: nn.Parameter(torch.stack([initial[name] for initial in self._initial])) for name in self._initial[0]
        }
        # These optimizers update element by element. So one optimizer of stacked parameters updates each seed alone.
        first = self._trainers[0]
        self._optimizer = OPTIMIZERS[first.config.optimizer].make(self._parameters.values(), first.config)

    def _logits(self, x: Tensor) -> Tensor:
        """Return the logits (S, B, C) of images (S, B, D)."""
        for name, layer in self._model.named_children():
            if isinstance(layer, nn.Linear):
                # Shapes (S, H, D) and (S, H).
                weight, bias = self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]
                x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            else:
                # The layer is an activation, without parameters.
                x = layer(x)
        return x

    def _train(self, epoch: int, num_batches: int | None = None) -> tuple[list[float], list[float], list[float]]:
        """Train on an epoch, or on its first batches. Return mean loss, accuracy and last batch's loss of each seed."""
        num_seeds, size = len(self._trainers), self._trainers[0].config.batch_size
        order = torch.stack([trainer.order(epoch) for trainer in self._trainers]).to(self._train_x.device)
        if num_batches is not None:
            order = order[:, : num_batches * size]
        total = torch.zeros(num_seeds, dtype=torch.float64, device=order.device)
        correct = torch.zeros(num_seeds, dtype=torch.int64, device=order.device)
        losses = total
        for batch in order.split(size, dim=1):
            x, y = self._train_x[batch], self._train_y[batch]
            self._optimizer.zero_grad(set_to_none=True)
            logits = self._logits(x)
            losses = _cross_entropy(logits, y).mean(1)
            # The gradient of the sum is right for each seed, since no loss depends on the parameters of another seed.
            torch.autograd.backward(losses.sum())
            self._optimizer.step()
            losses = losses.detach()
            total += losses * y.shape[1]
            correct += (logits.detach().argmax(2) == y).sum(1)
        num_samples = order.shape[1]
        return (total / num_samples).tolist(), [n / num_samples for n in correct.tolist()], losses.tolist()

    def _evaluate(self) -> tuple[list[float], list[float]]:
        """Return the mean loss and the accuracy of each seed on the test set."""
        num_seeds, num_samples = len(self._trainers), len(self._test_y)
        total = torch.zeros(num_seeds, dtype=torch.float64, device=self._test_x.device)
        correct = torch.zeros(num_seeds, dtype=torch.int64, device=self._test_x.device)
        batches = zip(self._test_x.split(EVALUATION_BATCH), self._test_y.split(EVALUATION_BATCH), strict=True)
        with torch.no_grad():
            for x, y in batches:
                logits = self._logits(x.expand(num_seeds, *x.shape))
                total += _cross_entropy(logits, y.expand(num_seeds, -1)).sum(1)
                correct += (logits.argmax(2) == y).sum(1)
        return (total / num_samples).tolist(), [n / num_samples for n in correct.tolist()]

    def fit(self, session_id: str, on_epoch: Callable[[EpochResult, RunConfig], None]) -> list[TrainResult]:
        """Train and evaluate all seeds."""
        num_seeds = len(self._trainers)
        self._trainers[0].use_threads()
        # These two calls are not timed, as in `Trainer.fit`. So no timed call loads a kernel.
        self._train(0, num_batches=2)
        self._evaluate()
        self._reset()
        curves: list[list[EpochResult]] = [[] for _ in self._trainers]
        for index in range(self._trainers[0].config.num_epochs):
            start = now()
            train_loss, train_accuracy, last_loss = self._train(index)
            middle = now()
            test_loss, test_accuracy = self._evaluate()
            train_s, evaluate_s = (middle - start) / num_seeds, (now() - middle) / num_seeds
            for seed, config in enumerate(self._configs):
                epoch = EpochResult(
                    session=session_id,
                    config=self._trainers[seed].config,
                    num_train=len(self._train_y),
                    num_test=len(self._test_y),
                    index=index,
                    train_loss=train_loss[seed],
                    train_accuracy=train_accuracy[seed],
                    last_loss=last_loss[seed],
                    test_loss=test_loss[seed],
                    test_accuracy=test_accuracy[seed],
                    train_s=train_s,
                    evaluate_s=evaluate_s,
                    digests=(("parameters", self._digest(seed)),),
                )
                curves[seed].append(epoch)
                on_epoch(epoch, config)
        return [
            result_of(session_id, epochs, digest(initial))
            for epochs, initial in zip(curves, self._initial, strict=True)
        ]

    def _digest(self, seed: int) -> str:
        """Return the digest of the parameters of a seed, by its place."""
        return digest({name: parameter.detach()[seed] for name, parameter in self._parameters.items()})


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the losses (S, B) of logits (S, B, C) and labels (S, B)."""
    return functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
