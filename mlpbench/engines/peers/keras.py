"""Define engine keras: Keras 3 on PyTorch or on JAX.

Shapes: N samples, B batch, D features, C classes.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Progress, State
from mlpbench.engines.optimizer_rules import EPSILON
from mlpbench.engines.peers.jax import start_xla
from mlpbench.engines.peers.peer import Peer, silent
from mlpbench.errors import InputError
from mlpbench.workload.activations import ACTIVATIONS

_DECAYING = ("sgd", "adamw")
"""The optimizers for which Keras's weight decay equals PyTorch's."""
_networks: WeakKeyDictionary[nn.Module, tuple[RunConfig, Any, list[Any]]] = WeakKeyDictionary()
"""The config, the compiled network and the optimizer's initial state of each model; the model's last engine has it."""


class Keras(Peer):
    """Train with Keras's `fit`, without shuffling, on the backend in the environment variable KERAS_BACKEND.

    The backend is torch or jax, by default torch. `step` needs one more forward pass, since Keras does not return the
    logits. Keras's Adam adds epsilon before it corrects the bias of the first steps. This changes updates for gradients
    below 1e-6, so losses differ from PyTorch's by some thousandths. On JAX the thread count follows the rules of engine
    `jax`, and a short last batch is compiled in the first epoch that has one.

    Raises:
        InputError: as `Peer`; for another backend; for weight decay with an optimizer that Keras decays in another way
            than PyTorch; and on JAX for another thread count than XLA was started with.
    """

    arithmetic = "Keras"
    package = "keras"

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        backend = os.environ.setdefault("KERAS_BACKEND", "torch")
        if backend not in ("torch", "jax"):
            raise InputError(
                f"engine keras runs on torch or jax, but KERAS_BACKEND is {backend!r}; set it to torch or jax"
            )
        if config.weight_decay and config.optimizer not in _DECAYING:
            raise InputError(
                f"engine keras: weight decay of {config.optimizer} differs between Keras and PyTorch; "
                f"use weight_decay=0, or optimizer {' or '.join(_DECAYING)}"
            )
        super().__init__(model, config)
        # The backends have different names for the CPU.
        self._cpu = "cpu" if backend == "torch" else "cpu:0"
        if backend == "jax":
            start_xla(config)
        self._network = self._take_network()

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(x)
        with self._isolated():
            # In older versions of Keras, train_on_batch does not do so.
            self._network.reset_metrics()
            loss, _ = self._network.train_on_batch(x.numpy(), y.numpy())
        self._update_model()
        return torch.tensor(float(loss)), logits

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        images, labels = x[order].numpy(), y[order].numpy()
        # The last batch is trained by a second `fit`, because `fit` returns only means over all its batches.
        num_before = (len(order) - 1) // batch_size * batch_size
        before = self._fit(images[:num_before], labels[:num_before], batch_size)
        last = self._fit(images[num_before:], labels[num_before:], batch_size)
        self._update_model()
        return Progress(
            loss_sum=before.loss_sum + last.loss_sum,
            num_correct=before.num_correct + last.num_correct,
            last_loss=last.last_loss,
        )

    def logits(self, x: Tensor) -> Tensor:
        with self._isolated():
            return torch.from_numpy(np.array(self._network.predict_on_batch(x.numpy())))

    def _optimizer_state(self) -> State:
        with self._isolated():
            arrays = [v.numpy() for v in self._network.optimizer.variables]
        return {str(i): torch.from_numpy(np.array(array)) for i, array in enumerate(arrays)}

    def _restore_optimizer(self, state: State) -> None:
        with self._isolated():
            for i, variable in enumerate(self._network.optimizer.variables):
                variable.assign(state[str(i)].numpy())
            self._network.set_weights([p.t().numpy() for p in self._parameters])

    def _fit(self, x: Any, y: Any, batch_size: int) -> Progress:
        if not len(y):
            return Progress(loss_sum=0.0, num_correct=0, last_loss=0.0)
        with self._isolated():
            means = self._network.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0).history
        loss = float(means["loss"][0])
        return Progress(loss_sum=loss * len(y), num_correct=round(float(means["accuracy"][0]) * len(y)), last_loss=loss)

    def _update_model(self) -> None:
        with self._isolated():
            arrays = self._network.get_weights()
        for p, array in zip(self._parameters, arrays, strict=True):
            p.copy_(torch.from_numpy(array).t())

    @contextlib.contextmanager
    def _isolated(self) -> Iterator[None]:
        """Run on the CPU and silently, and restore PyTorch's generator, which Keras's loader uses."""
        with silent(), torch.random.fork_rng(devices=[]), self._library.device(self._cpu):
            yield

    def _take_network(self) -> Any:
        """Return the model's network, with the model's parameters and a new optimizer state."""
        # The network depends on the other fields only.
        config = replace(self._config, seed=0, num_epochs=1, dataset="", loader="", batch_size=1, num_threads=None)
        entry = _networks.get(self._model)
        with self._isolated():
            if entry is None or entry[0] != config:
                network = self._make_network()
                entry = config, network, [v.numpy().copy() for v in network.optimizer.variables]
                _networks[self._model] = entry
            _, network, initial = entry
            for variable, array in zip(network.optimizer.variables, initial, strict=True):
                variable.assign(array)
            network.set_weights([p.t().numpy() for p in self._parameters])
        return network

    def _make_network(self) -> Any:
        keras = self._library
        activations = [*(_activation(keras, ACTIVATIONS[name].function) for name in self._config.activations), None]
        layers = [
            keras.layers.Dense(size, activation=activation, kernel_initializer="zeros", dtype="float32")
            for size, activation in zip(self._sizes[1:], activations, strict=True)
        ]
        network = keras.Sequential([keras.Input((self._sizes[0],)), *layers])
        network.compile(
            optimizer=_optimizer(keras, self._config),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        network.optimizer.build(network.trainable_variables)
        return network


def _activation(keras: Any, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(keras.activations, name)
    # PyTorch's slope; Keras's default is another one.
    return functools.partial(function, negative_slope=0.01) if name == "leaky_relu" else function


def _optimizer(keras: Any, config: RunConfig) -> Any:
    if config.optimizer in ("sgd", "momentum", "nesterov"):
        return keras.optimizers.SGD(
            config.lr,
            momentum=0.0 if config.optimizer == "sgd" else config.momentum,
            nesterov=config.optimizer == "nesterov",
            weight_decay=config.weight_decay or None,
        )
    if config.optimizer == "adam":
        return keras.optimizers.Adam(config.lr, epsilon=EPSILON)
    return keras.optimizers.AdamW(config.lr, weight_decay=config.weight_decay, epsilon=EPSILON)
