"""Define engine jax: the same training, written for JAX. An epoch is one compiled loop.

JAX keeps copies of the data and of the parameters.

Shapes: N samples, B batch, D features, C classes, T batches.
"""

import functools
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack
from torch.utils.weak import WeakTensorKeyDictionary

from mlpbench.config import RunConfig
from mlpbench.engines.engine import Progress, State
from mlpbench.engines.optimizer_rules import BETA1, BETA2, EPSILON
from mlpbench.engines.peers.peer import Peer, load
from mlpbench.errors import InputError
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.optimizers import OPTIMIZERS

_xla_threads: list[int | None] = []
"""The thread count with which XLA was started, when it was."""
_copies: Any = WeakTensorKeyDictionary()
"""JAX's copy of each tensor, with the version of the tensor that was copied."""


class _Training(NamedTuple):
    """Hold what a step changes. `m` and `v` have an array for each parameter, or are empty if not needed."""

    parameters: list[Any]
    m: list[Any]
    v: list[Any]
    steps: Any
    """The number of steps (), int32."""


class Jax(Peer):
    """Train with JAX. A step donates every array that it replaces, and the compiled loop gathers the batches.

    The first engine of a process starts XLA with `num_threads` threads, or with one for each processor, and XLA never
    changes their number. If something else started XLA before, its number stays. After each `step` and each `train` the
    parameters are copied to the model, which a training loop in JAX alone would not do.

    Raises:
        InputError: as `Peer`, and for another thread count than XLA was started with.
    """

    arithmetic = "JAX"
    package = "jax"

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        start_xla(config)
        # The functions depend on the other fields only. So engines that differ in these fields share compiled code.
        self._train, self._step, self._logits = _functions(
            replace(config, seed=0, num_epochs=1, dataset="", loader="", batch_size=1)
        )
        self._training = self._initial()

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._training, loss, logits = self._step(self._training, self._view(x), self._view(y.int()))
        self._update_model()
        return from_dlpack(loss), from_dlpack(logits)

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        # The batches of a whole epoch, also for a part of one, because another shape would be compiled again.
        num_indices = max(len(x), len(order))
        batch_size = min(batch_size, num_indices)
        batches = np.zeros((math.ceil(num_indices / batch_size), batch_size), np.int32)
        batches.reshape(-1)[: len(order)] = order.numpy()
        self._training, losses, num_correct = self._train(
            self._training, self._copy(x), self._copy(y), batches, np.int32(len(order))
        )
        self._update_model()
        num_batches = math.ceil(len(order) / batch_size)
        loss_sums = np.asarray(losses)[:num_batches].astype(np.float64)
        return Progress(
            loss_sum=float(loss_sums.sum()),
            num_correct=int(num_correct),
            last_loss=float(loss_sums[-1] / (len(order) - (num_batches - 1) * batch_size)),
        )

    def logits(self, x: Tensor) -> Tensor:
        return from_dlpack(self._logits(self._training.parameters, self._view(x)))

    def _optimizer_state(self) -> State:
        training = self._training
        named = {f"{name}{i}": a for name in ("m", "v") for i, a in enumerate(getattr(training, name))}
        return {name: torch.from_numpy(np.array(array)) for name, array in named.items()} | {
            "steps": int(training.steps)
        }

    def _restore_optimizer(self, state: State) -> None:
        # The parameters are those of the model, which has its own state.
        numpy, initial = self._library.numpy, self._initial()
        m, v = (
            [numpy.array(state[f"{name}{i}"].numpy()) for i in range(len(getattr(initial, name)))]
            for name in ("m", "v")
        )
        self._training = initial._replace(m=m, v=v, steps=numpy.asarray(state["steps"], numpy.int32))

    def _initial(self) -> _Training:
        numpy = self._library.numpy
        parameters = [numpy.array(p.numpy()) for p in self._parameters]
        num_kept = OPTIMIZERS[self._config.optimizer].num_kept
        m, v = ([numpy.zeros_like(p) for p in parameters] if num_kept > i else [] for i in range(2))
        return _Training(parameters=parameters, m=m, v=v, steps=numpy.zeros((), numpy.int32))

    def _update_model(self) -> None:
        for p, array in zip(self._parameters, self._training.parameters, strict=True):
            p.copy_(from_dlpack(array))

    def _view(self, tensor: Tensor) -> Any:
        """Return the tensor as an array of JAX, to be used during one call only."""
        return self._library.numpy.asarray(tensor.numpy())

    def _copy(self, tensor: Tensor) -> Any:
        """Return a copy of the tensor that JAX owns; copy again only if the tensor was modified."""
        version, array = _copies.get(tensor, (None, None))
        if version != tensor._version:
            narrow = tensor if tensor.is_floating_point() else tensor.int()
            array = self._library.numpy.array(narrow.numpy())
            _copies[tensor] = tensor._version, array
        return array


def start_xla(config: RunConfig) -> None:
    """Start XLA for the CPU with the config's thread count, or check that it was started so.

    Raises:
        InputError: if JAX is not installed, and if XLA was started with another thread count.
    """
    jax = load("jax", config.engine)
    if not _xla_threads:
        # Otherwise JAX would take the memory of a GPU.
        jax.config.update("jax_platforms", "cpu")
        # XLA reads this variable instead of counting the processors.
        before = os.environ.get("NPROC")
        try:
            if config.num_threads is not None:
                os.environ["NPROC"] = str(config.num_threads)
            jax.devices()
        finally:
            if before is not None:
                os.environ["NPROC"] = before
            else:
                os.environ.pop("NPROC", None)
        _xla_threads.append(config.num_threads)
    if _xla_threads[0] != config.num_threads:
        started, requested = ("none" if n is None else n for n in (_xla_threads[0], config.num_threads))
        raise InputError(
            f"engine {config.engine}: XLA was started with num_threads={started} and cannot change it; "
            f"run num_threads={requested} in another process"
        )


@functools.lru_cache(maxsize=64)
def _functions(config: RunConfig) -> tuple[Callable[..., Any], ...]:
    """Return the compiled functions `train`, `step` and `logits` of a config."""
    jax = load("jax", config.engine)
    numpy = jax.numpy
    functions = [ACTIVATIONS[name].function for name in config.activations]
    exact_gelu = functools.partial(jax.nn.gelu, approximate=False)
    activations = [exact_gelu if name == "gelu" else getattr(jax.nn, name) for name in functions]

    def logits(parameters: list[Any], x: Any) -> Any:
        for k, activation in enumerate(activations):
            x = activation(x @ parameters[2 * k].T + parameters[2 * k + 1])
        return x @ parameters[-2].T + parameters[-1]

    def mean_loss(parameters: list[Any], x: Any, y: Any, is_live: Any) -> tuple[Any, Any]:
        z = logits(parameters, x)
        losses = jax.nn.logsumexp(z, 1) - numpy.take_along_axis(z, y[:, None], 1)[:, 0]
        return numpy.where(is_live, losses, 0).sum() / is_live.sum(), z

    def update(training: _Training, x: Any, y: Any, is_live: Any) -> tuple[_Training, Any, Any]:
        (loss, z), gradients = jax.value_and_grad(mean_loss, has_aux=True)(training.parameters, x, y, is_live)
        return _updated(jax, config, training, gradients), loss, z

    def step(training: _Training, x: Any, y: Any) -> tuple[_Training, Any, Any]:
        return update(training, x, y, numpy.ones(len(y), bool))

    def train(training: _Training, x: Any, y: Any, order: Any, num_samples: Any) -> tuple[_Training, Any, Any]:
        """Train on the batches `order` (T, B); indices after `num_samples` fill up the array and are not used.

        Return the training, the loss sum of each batch (T,), and the number of correct samples.
        """
        size = order.shape[1]

        def train_batch(t: Any, state: tuple[_Training, Any, Any]) -> tuple[_Training, Any, Any]:
            training, losses, num_correct = state
            is_live = t * size + numpy.arange(size) < num_samples
            labels = y[order[t]]
            training, loss, z = update(training, x[order[t]], labels, is_live)
            hits = is_live & (z.argmax(1) == labels)
            return training, losses.at[t].set(loss * is_live.sum()), num_correct + hits.sum()

        start = training, numpy.zeros(len(order)), numpy.zeros((), numpy.int32)
        num_batches = (num_samples + size - 1) // size
        end: tuple[_Training, Any, Any] = jax.lax.fori_loop(0, num_batches, train_batch, start)
        return end

    return jax.jit(train, donate_argnums=0), jax.jit(step, donate_argnums=0), jax.jit(logits)


def _updated(jax: Any, config: RunConfig, training: _Training, gradients: list[Any]) -> _Training:
    """Return the training after an update, by the rules of torch.optim."""
    each = jax.tree.map
    lr, momentum, decay = config.lr, config.momentum, config.weight_decay
    parameters, m, v, steps = training
    if decay and config.optimizer == "adamw":
        parameters = each(lambda p: p * (1 - lr * decay), parameters)
    elif decay:
        gradients = each(lambda g, p: g + decay * p, gradients, parameters)
    if config.optimizer == "sgd":
        return training._replace(parameters=each(lambda p, g: p - lr * g, parameters, gradients))
    if config.optimizer in ("momentum", "nesterov"):
        m = each(lambda m, g: momentum * m + g, m, gradients)
        direction = each(lambda m, g: g + momentum * m, m, gradients) if config.optimizer == "nesterov" else m
        return training._replace(parameters=each(lambda p, d: p - lr * d, parameters, direction), m=m)
    steps = steps + 1
    m = each(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradients)
    v = each(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradients)
    # -expm1(steps * log(beta)) is 1 - beta**steps, without cancellation.
    rate = lr / -jax.numpy.expm1(steps * math.log(BETA1))
    root = jax.numpy.sqrt(-jax.numpy.expm1(steps * math.log(BETA2)))
    parameters = each(lambda p, m, v: p - rate * m / (jax.numpy.sqrt(v) / root + EPSILON), parameters, m, v)
    return _Training(parameters=parameters, m=m, v=v, steps=steps)
