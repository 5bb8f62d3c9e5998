"""compiled: gather, forward, backward and optimizer as one graph of torch.compile.

Compiling a model alone gains next to nothing for a perceptron: it is the many small operations around the products that
cost. The first step of a process compiles, for seconds; see `mlpbench.startup` for what that amounts to.
"""

import copy
import functools
import math
import pkgutil
import platform
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines import optimizer_rules
from mlpbench.engines.argument_checks import check_supported
from mlpbench.engines.engine import Engine, Progress, stages
from mlpbench.errors import InputError
from mlpbench.workload.activations import ACTIVATIONS

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: pkgutil.resolve_name(entry.torch) for name, entry in ACTIVATIONS.items() if entry.torch
}


class _Training(NamedTuple):
    """What a step changes, in place."""

    parameters: optimizer_rules.Tensors
    state: optimizer_rules.State

    def tensors(self) -> optimizer_rules.Tensors:
        return (*self.parameters, *self.state.m, *self.state.v, self.state.steps)


def _step(
    training: _Training, x: Tensor, y: Tensor, index: Tensor, *, config: RunConfig, has_stages: bool
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor, optimizer_rules.Tensors]:
    """Train on the samples that `index` (B,) names: loss, number correct (), logits; if asked for, what it made."""
    parameters = training.parameters
    batch, labels = x[index], y[index]
    activations = [FUNCTIONS[name] for name in config.activations]

    def forward(parameters: optimizer_rules.Tensors, nothing: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        a, outputs = batch, []
        for k, activation in enumerate(activations):
            z = functional.linear(a, parameters[2 * k], parameters[2 * k + 1])
            a = activation(z)
            outputs += [z, a]
        logits = functional.linear(a, parameters[-2], parameters[-1])
        if has_stages:
            logits = logits + nothing
        return functional.cross_entropy(logits, labels), (logits, [*outputs, logits])

    nothing = torch.zeros(len(batch), len(parameters[-1]), device=x.device)
    # By `nothing`, which the logits are made with, to get the gradient by the logits.
    by = (0, 1) if has_stages else (0,)
    every, (loss, (logits, outputs)) = torch.func.grad_and_value(forward, argnums=by, has_aux=True)(parameters, nothing)
    gradients, dlogits = every if has_stages else (every[0], nothing)
    num_correct = (logits.argmax(1) == labels).sum()
    optimizer_rules.rule(config.optimizer)(parameters, gradients, training.state, config)
    return (loss, num_correct, logits, *((outputs, dlogits, gradients) if has_stages else ([], nothing, ())))


# What torch.compile has on disk for one level of vectors it also uses for another, and destroys memory; with the level
# among its options, here in bits, it keeps them apart. (On x86; elsewhere they do not name a length.)
_BITS = {"AVX512": 512, "AVX2": 256, "DEFAULT": 1}
_TOLERANCE = 0.01


class _Function:
    """A kind of step, compiled. What torch.compile has made is held, once, to the step as it is written."""

    def __init__(self, config: RunConfig, *, has_stages: bool) -> None:
        # Of its own code: torch.compile gives up on code that it has compiled too often.
        self._written = FunctionType(_step.__code__.replace(), _step.__globals__)
        self._written.__kwdefaults__ = {"config": config, "has_stages": has_stages}
        bits = _BITS.get(torch.backends.cpu.get_cpu_capability()) if platform.machine() in ("x86_64", "AMD64") else None
        options: dict[str, Any] | None = {"cpp.simdlen": bits} if bits else None
        self._compiled = torch.compile(self._written, fullgraph=True, dynamic=False, options=options)
        self._is_checked = False

    def __call__(self, training: _Training, *batch: Tensor) -> tuple[Any, ...]:
        if not self._is_checked:
            self._check(training, batch)
            self._is_checked = True
        made: tuple[Any, ...] = self._compiled(training, *batch)
        return made

    def _check(self, training: _Training, batch: tuple[Tensor, ...]) -> None:
        ours, theirs = copy.deepcopy(training), copy.deepcopy(training)
        loss, made = self._written(ours, *batch)[0].item(), self._compiled(theirs, *batch)[0].item()
        wrongness = max(map(_wrongness, training.tensors(), ours.tensors(), theirs.tensors()))
        if abs(made - loss) <= _TOLERANCE * (abs(loss) + _TOLERANCE) and wrongness <= _TOLERANCE:
            return
        if not (math.isfinite(loss) and all(t.isfinite().all() for t in ours.tensors())):
            return
        raise InputError(
            f"engine compiled: torch.compile of PyTorch {torch.__version__} makes another step of it here: loss "
            f"{made:.6g} for {loss:.6g}, and an update {100 * wrongness:.3g} % off; use another PyTorch, or "
            "engine=manual"
        )


def _wrongness(before: Tensor, right: Tensor, made: Tensor) -> float:
    """How far off a change is, as a share of it; or of what float32 can tell, 1e-4 of the tensor."""
    change, size, off = (t.double().norm().item() for t in (right - before, right, made - right))
    return off / max(change + 1e-4 * size, 1e-6) if math.isfinite(off) else math.inf


@functools.lru_cache(maxsize=64)
def _function(config: RunConfig, _around: tuple[int, ...], *, has_stages: bool) -> _Function:
    """The function for a configuration, and for what torch.compile would compile it anew for."""
    return _Function(config, has_stages=has_stages)


class Compiled(Engine):
    """The whole step as one graph; a last batch that is shorter than the others gets one of its own.

    Raises:
        InputError: at the first step, where torch.compile cannot compile it, or makes another step of it.
    """

    arithmetic = "compiled"
    has_parts = False

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        for name in config.activations:
            check_supported("compiled", "activation", FUNCTIONS, name)
        self._training = _Training(
            parameters=self._parameters(),
            state=optimizer_rules.initial_state(self._parameters(), config.optimizer),
        )
        # All that the step depends on: runs that differ in nothing of it share what was compiled.
        self._kind = replace(config, seed=0, num_epochs=1, dataset="", loader="", num_threads=None)

    def _parameters(self) -> optimizer_rules.Tensors:
        """The model's, wherever they are now: another engine may have moved them."""
        return tuple(p.detach() for p in self._model.parameters())

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._training = self._training._replace(parameters=self._parameters())
        loss, _, logits, *_ = self._step(x, y, torch.arange(len(x), device=x.device), has_stages=False)
        return loss, logits

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        self._training = self._training._replace(parameters=self._parameters())
        losses, hits = [], []
        batches = order.to(x.device).split(batch_size)
        for index in batches:
            loss, num_correct, *_ = self._step(x, y, index, has_stages=False)
            losses.append(loss)
            hits.append(num_correct)
        sizes = torch.tensor([len(index) for index in batches], device=x.device)
        return Progress(
            loss_sum=(torch.stack(losses).double() * sizes).sum().item(),
            num_correct=int(torch.stack(hits).sum().item()),
            last_loss=loss.item(),
        )

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._model(x)
        return logits

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        index = torch.arange(len(x), device=x.device)
        loss, _, _, outputs, dlogits, gradients = self._step(x, y, index, has_stages=True)
        return stages(self._model, outputs, loss, dlogits, gradients)

    def _step(self, x: Tensor, y: Tensor, index: Tensor, *, has_stages: bool) -> tuple[Any, ...]:
        from torch._dynamo.exc import TorchDynamoException

        around = (torch.get_num_threads(), len(x), len(index), *(len(p) for p in self._training.parameters))
        try:
            return _function(self._kind, around, has_stages=has_stages)(self._training, x, y, index)
        except TorchDynamoException as error:
            lines = [" ".join(line.split()) for line in str(error).splitlines()]
            said = next((line for line in lines if "error:" in line), " ".join(lines))[:300]
            raise InputError(f"engine compiled: torch.compile cannot compile a step here: {said}") from None
