"""Several seeds of one config, trained together: their parameters stacked, each product a batched one.

On a GPU a step of a small perceptron lasts as long as the host needs to launch its kernels; that of S perceptrons needs
hardly more launches than that of one. Nothing is shared between the seeds but the data: each has the initial parameters
and the order of batches of its own run, and so the same curve to rounding, though not the same bits. For the first 40
steps the losses agree with those of its own run to a relative 1e-4 and the accuracies within .002. From there on the
difference grows as any difference in rounding does in training: no faster than between two numbers of threads.

Shapes: S seeds, N samples, B batch, D features of a layer, H outputs of a layer, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.machine.clock import now
from mlpbench.records.kinds import TrainResult
from mlpbench.training.trainer import EVALUATION_BATCH, Epoch, Trainer
from mlpbench.workload.digest import digest
from mlpbench.workload.optimizers import OPTIMIZERS


def can_train(config: RunConfig) -> bool:
    """Whether there is a batched form of what the config asks for."""
    return (config.model, config.engine, config.loader) == ("mlp", "eager", "memory")


def fit(
    configs: Sequence[RunConfig],
    session_id: str,
    on_epoch: Callable[[Epoch, RunConfig], None] = lambda *_: None,
) -> list[TrainResult]:
    """Train configs that differ in nothing but their seed: for each what `Trainer.fit` gives, in their order.

    The times of a seed are those of all divided by their number: its share of what the device did. They are shorter
    than those of a run alone.

    Raises:
        InputError: as `Trainer` does, and if the device has too little memory for all seeds at once.
    """
    assert len({replace(config, seed=0) for config in configs}) == 1, "seeds of one config"
    assert can_train(configs[0]), "ask first"
    try:
        return _Seeds(configs).fit(session_id, on_epoch)
    except torch.OutOfMemoryError:
        raise InputError(
            f"device {configs[0].device}: {len(configs)} seeds at once need more memory than there is; use fewer --jobs"
        ) from None


class _Seeds:
    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self._configs = configs
        self._trainers = [Trainer(config) for config in configs]
        first = self._trainers[0]
        self._model = first.model
        self._train_x, self._train_y, self._test_x, self._test_y = first.inputs.values()
        self._initial = [
            {name: p.detach().clone() for name, p in trainer.model.named_parameters()} for trainer in self._trainers
        ]
        self._reset()

    def _reset(self) -> None:
        self._parameters = {
            name: nn.Parameter(torch.stack([initial[name] for initial in self._initial])) for name in self._initial[0]
        }
        # element by element, so that one of stacked parameters is one of each seed's
        first = self._trainers[0]
        self._optimizer = OPTIMIZERS[first.config.optimizer].make(self._parameters.values(), first.config)

    def _logits(self, x: Tensor) -> Tensor:
        """(S, B, D) -> (S, B, C)."""
        for name, layer in self._model.named_children():
            if isinstance(layer, nn.Linear):
                weight, bias = self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]  # (S, H, D), (S, H)
                x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            else:
                x = layer(x)  # has no parameters
        return x

    def _train(self, epoch: int, num_batches: int | None = None) -> tuple[list[float], list[float], list[float]]:
        """For each seed: mean loss and accuracy of the steps' own outputs, and the last batch's loss."""
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
            torch.autograd.backward(losses.sum())  # no seed's loss depends on another's parameters
            self._optimizer.step()
            losses = losses.detach()
            total += losses * y.shape[1]
            correct += (logits.detach().argmax(2) == y).sum(1)
        num_samples = order.shape[1]
        return (total / num_samples).tolist(), [n / num_samples for n in correct.tolist()], losses.tolist()

    def _evaluate(self) -> tuple[list[float], list[float]]:
        """For each seed: mean loss and accuracy on the test half."""
        num_seeds, num_samples = len(self._trainers), len(self._test_y)
        total = torch.zeros(num_seeds, dtype=torch.float64, device=self._test_x.device)
        correct = torch.zeros(num_seeds, dtype=torch.int64, device=self._test_x.device)
        parts = zip(self._test_x.split(EVALUATION_BATCH), self._test_y.split(EVALUATION_BATCH), strict=True)
        with torch.no_grad():
            for x, y in parts:
                logits = self._logits(x.expand(num_seeds, *x.shape))
                total += _cross_entropy(logits, y.expand(num_seeds, -1)).sum(1)
                correct += (logits.argmax(2) == y).sum(1)
        return (total / num_samples).tolist(), [n / num_samples for n in correct.tolist()]

    def fit(self, session_id: str, on_epoch: Callable[[Epoch, RunConfig], None]) -> list[TrainResult]:
        num_seeds = len(self._trainers)
        self._trainers[0].use_threads()
        self._train(0, num_batches=2)  # untimed, as in Trainer.fit: nothing is loaded on the clock
        self._evaluate()
        self._reset()
        curves: list[list[Epoch]] = [[] for _ in self._trainers]
        for index in range(self._trainers[0].config.num_epochs):
            start = now()
            train_loss, train_accuracy, last_loss = self._train(index)
            trained = now()
            test_loss, test_accuracy = self._evaluate()
            train_s, evaluate_s = (trained - start) / num_seeds, (now() - trained) / num_seeds
            for seed, config in enumerate(self._configs):
                epoch = Epoch(
                    index=index,
                    train_loss=train_loss[seed],
                    train_accuracy=train_accuracy[seed],
                    last_loss=last_loss[seed],
                    test_loss=test_loss[seed],
                    test_accuracy=test_accuracy[seed],
                    train_s=train_s,
                    evaluate_s=evaluate_s,
                )
                curves[seed].append(epoch)
                on_epoch(epoch, config)
        return [self._result(session_id, seed, epochs) for seed, epochs in enumerate(curves)]

    def _result(self, session_id: str, seed: int, epochs: Sequence[Epoch]) -> TrainResult:
        final = {name: p.detach()[seed] for name, p in self._parameters.items()}
        return TrainResult(
            session=session_id,
            config=self._trainers[seed].config,
            num_train=len(self._train_y),
            num_test=len(self._test_y),
            digests=(("initial", digest(self._initial[seed])), ("final", digest(final))),
            **{f.name: tuple(getattr(epoch, f.name) for epoch in epochs) for f in fields(Epoch) if f.name != "index"},
        )


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Losses (S, B) of logits (S, B, C) and labels (S, B)."""
    return functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
