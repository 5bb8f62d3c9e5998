"""Define engine sklearn: scikit-learn's MLPClassifier, in NumPy.

Shapes: N samples, B batch, D features, C classes.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Progress
from mlpbench.engines.optimizer_rules import EPSILON
from mlpbench.engines.peers.peer import Peer, load, silent
from mlpbench.errors import InputError
from mlpbench.workload.activations import ACTIVATIONS

_ACTIVATIONS = {name: entry.sklearn for name, entry in ACTIVATIONS.items() if entry.sklearn}
Array = NDArray[np.float32]


class Sklearn(Peer):
    """Train by `MLPClassifier.partial_fit`, without shuffling. Its losses clip probabilities at 1e-7.

    Raises:
        InputError: as `Peer`; for hidden layers with different activations; for weight decay, which scikit-learn
            applies to weights but not to biases; and if training diverges.
    """

    arithmetic = "scikit-learn"
    # Its optimizer is a private part of the classifier.
    has_state = False
    package = "sklearn.neural_network"
    activations = _ACTIVATIONS
    optimizers = ("sgd", "momentum", "nesterov", "adam")

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        names = {_ACTIVATIONS[name] for name in config.activations}
        if len(names) > 1:
            raise InputError(
                "engine sklearn needs the same activation for all hidden layers; use activations=relu, tanh or sigmoid"
            )
        if config.weight_decay:
            raise InputError("engine sklearn applies weight decay to weights but not to biases; use weight_decay=0")
        self._thread_pools = load("threadpoolctl", config.engine).ThreadpoolController()
        # The probabilities (B, C) of each step, from before its update.
        self._probabilities: list[Array] = []
        # The output of the last hidden layer in the last step.
        self._hidden: Array = np.empty(0, np.float32)
        self._classifier = self._make_classifier(names.pop())

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        last_layer = [p.clone() for p in self._parameters[-2:]]
        progress = self._fit(x.numpy(), y.numpy(), len(x))
        hidden = torch.from_numpy(self._hidden)
        return torch.tensor(progress.last_loss, dtype=torch.float32), nn.functional.linear(hidden, *last_layer)

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        return self._fit(x[order].numpy(), y[order].numpy(), batch_size)

    def _fit(self, x: Array, y: NDArray[np.int64], batch_size: int) -> Progress:
        self._probabilities.clear()
        self._classifier.batch_size = batch_size
        try:
            with silent(), self._thread_pools.limit(limits=torch.get_num_threads(), user_api="blas"):
                self._classifier.partial_fit(x, y, classes=range(self._sizes[-1]))
        except ValueError as error:
            raise InputError(f"engine sklearn: {error}") from None
        arrays = [*self._classifier.coefs_, *self._classifier.intercepts_]
        for p, array in zip([*self._parameters[::2], *self._parameters[1::2]], arrays, strict=True):
            p.copy_(torch.from_numpy(array).t())
        last = self._probabilities[-1]
        label_probabilities = last[range(len(last)), y[-len(last) :]]
        return Progress(
            loss_sum=float(self._classifier.loss_) * len(x),
            num_correct=int((np.concatenate(self._probabilities).argmax(1) == y).sum()),
            last_loss=float(-np.log(label_probabilities.clip(np.finfo(np.float32).eps)).mean()),
        )

    def _make_classifier(self, activation: str) -> Any:
        """Return a classifier that starts from the model's parameters. scikit-learn has no public way to set them."""
        parameters = [p.numpy() for p in self._parameters]
        initial = zip(parameters[::2], parameters[1::2], strict=True)
        engine = self

        class Classifier(self._library.MLPClassifier):  # type: ignore[misc, name-defined]
            def _init_coef(self, *_: Any) -> tuple[Array, Array]:
                weight, bias = next(initial)
                return np.array(weight.T, order="C"), bias.copy()

            def _forward_pass(self, activations: list[Array]) -> list[Array]:
                activations = super()._forward_pass(activations)
                if self.solver == "adam":
                    # scikit-learn adds epsilon before it corrects the bias of the first steps, PyTorch afterwards.
                    optimizer = self._optimizer
                    optimizer.epsilon = EPSILON * math.sqrt(1 - optimizer.beta_2 ** (optimizer.t + 1))
                engine._hidden = activations[-2]
                engine._probabilities.append(activations[-1])
                return activations

        optimizer = self._config.optimizer
        return Classifier(
            hidden_layer_sizes=self._sizes[1:-1],
            activation=activation,
            solver="adam" if optimizer == "adam" else "sgd",
            alpha=0.0,
            learning_rate_init=self._config.lr,
            momentum=self._config.momentum if optimizer in ("momentum", "nesterov") else 0.0,
            nesterovs_momentum=optimizer == "nesterov",
            shuffle=False,
        )
