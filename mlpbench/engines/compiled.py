"""Define engine compiled: gather, forward, backward and optimizer as one graph of torch.compile.

Compiling only the model gains almost nothing for a perceptron, because the many small operations around the products
take the time. The first step of a process compiles, which takes seconds; `mlpbench.measuring.first_step` measures it.
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
from mlpbench.engines.cpp.cache import give_private_folder
from mlpbench.engines.engine import Engine, Progress, State, stages
from mlpbench.errors import InputError
from mlpbench.workload.activations import ACTIVATIONS

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: pkgutil.resolve_name(entry.torch) for name, entry in ACTIVATIONS.items() if entry.torch
}


class _Training(NamedTuple):
    """Hold everything that a step changes, in place."""

    parameters: optimizer_rules.Tensors
    state: optimizer_rules.State

    def tensors(self) -> optimizer_rules.Tensors:
        return (*self.parameters, *self.state.m, *self.state.v, self.state.steps)


class StepOutput(NamedTuple):
    """Hold the results of a step, all from before its update. The last three are empty without stages."""

    loss: Tensor
    num_correct: Tensor
    """The number () of correct samples."""
    logits: Tensor
    outputs: list[Tensor]
    """The output of each linear layer and activation, in order."""
    dlogits: Tensor | None
    """The gradient (B, C) of the loss by the logits."""
    gradients: optimizer_rules.Tensors
    """The gradient of the loss by each parameter."""


def _step(
    training: _Training, x: Tensor, y: Tensor, index: Tensor, *, config: RunConfig, has_stages: bool
) -> StepOutput:
    """Train on the samples with the indices `index` (B,)."""
    parameters = training.parameters
    batch, labels = x[index], y[index]
    activations = [FUNCTIONS[name] for name in config.activations]

    def forward(
        parameters: optimizer_rules.Tensors, offset: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        a, outputs = batch, []
        for k, activation in enumerate(activations):
            z = functional.linear(a, parameters[2 * k], parameters[2 * k + 1])
            a = activation(z)
            outputs += [z, a]
        logits = functional.linear(a, parameters[-2], parameters[-1])
        if offset is not None:
            logits = logits + offset
        return functional.cross_entropy(logits, labels), (logits, [*outputs, logits])

    dlogits: Tensor | None = None
    if has_stages:
        # Zeros that are added to the logits: the gradient by them is the gradient by the logits.
        offset = torch.zeros(len(batch), len(parameters[-1]), device=x.device)
        differentiate = torch.func.grad_and_value(forward, argnums=(0, 1), has_aux=True)
        (gradients, dlogits), (loss, (logits, outputs)) = differentiate(parameters, offset)
    else:
        gradients, (loss, (logits, outputs)) = torch.func.grad_and_value(forward, has_aux=True)(parameters)
    num_correct = (logits.argmax(1) == labels).sum()
    optimizer_rules.rule(config.optimizer)(parameters, gradients, training.state, config)
    if not has_stages:
        outputs, gradients = [], ()
    return StepOutput(loss, num_correct, logits, outputs, dlogits, gradients)


# torch.compile uses code from its cache on disk for another vector level than it was compiled for, and the code then
# writes outside its memory. It keeps the levels apart if the level, in bits, is one of its options. This concerns x86;
# elsewhere the level does not name a length.
_BITS = {"AVX512": 512, "AVX2": 256, "DEFAULT": 1}
_TOLERANCE = 0.01


class _CompiledStep:
    """Run a kind of step, compiled. Its first call compares it with the step as it is written."""

    def __init__(self, config: RunConfig, *, has_stages: bool) -> None:
        give_private_folder("TORCHINDUCTOR_CACHE_DIR", "inductor")
        # Each has a code object of its own, because torch.compile gives up on code that it has compiled too often.
        self._written = FunctionType(_step.__code__.replace(), _step.__globals__)
        self._written.__kwdefaults__ = {"config": config, "has_stages": has_stages}
        bits = _BITS.get(torch.backends.cpu.get_cpu_capability()) if platform.machine() in ("x86_64", "AMD64") else None
        options: dict[str, Any] | None = {"cpp.simdlen": bits} if bits else None
        self._compiled = torch.compile(self._written, fullgraph=True, dynamic=False, options=options)
        self._is_checked = False

    def __call__(self, training: _Training, *batch: Tensor) -> StepOutput:
        if not self._is_checked:
            self._check(training, batch)
            self._is_checked = True
        output: StepOutput = self._compiled(training, *batch)
        return output

    def _check(self, training: _Training, batch: tuple[Tensor, ...]) -> None:
        """Compare the compiled step with the step as it is written, on copies.

        A step that is itself not finite is not compared.

        Raises:
            InputError: if the loss, or the change of a parameter or of the optimizer's state, is more than 1 % off.
        """
        expected, actual = copy.deepcopy(training), copy.deepcopy(training)
        expected_loss = self._written(expected, *batch).loss.item()
        loss = self._compiled(actual, *batch).loss.item()
        error = max(map(_relative_error, training.tensors(), expected.tensors(), actual.tensors()))
        if abs(loss - expected_loss) <= _TOLERANCE * (abs(expected_loss) + _TOLERANCE) and error <= _TOLERANCE:
            return
        if not (math.isfinite(expected_loss) and all(t.isfinite().all() for t in expected.tensors())):
            return
        raise InputError(
            f"engine compiled: torch.compile of PyTorch {torch.__version__} computes a wrong step: loss {loss:.6g} "
            f"instead of {expected_loss:.6g}, and an update {100 * error:.3g} % off; use another PyTorch, or "
            "engine=manual"
        )


def _relative_error(before: Tensor, expected: Tensor, actual: Tensor) -> float:
    """Return the relative error of an update. Updates below float32 resolution, 1e-4 of the norm, are not counted."""
    change, size, off = (t.double().norm().item() for t in (expected - before, expected, actual - expected))
    return off / max(change + 1e-4 * size, 1e-6) if math.isfinite(off) else math.inf


@functools.lru_cache(maxsize=64)
def _compiled_step(config: RunConfig, _sizes: tuple[int, ...], *, has_stages: bool) -> _CompiledStep:
    """Return the step for a config, and for the sizes and thread count that torch.compile would compile again for."""
    return _CompiledStep(config, has_stages=has_stages)


class Compiled(Engine):
    """Train by one graph for the whole step. A shorter last batch gets a graph of its own.

    Raises:
        InputError: at the first step, if torch.compile cannot compile it, or compiles it wrongly, and if others can
            write where it keeps its code.
    """

    arithmetic = "compiled"
    has_parts = False
    is_built = True
    is_slow_to_start = True

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        for name in config.activations:
            check_supported("compiled", "activation", FUNCTIONS, name)
        self._training = _Training(
            parameters=self._parameters(),
            state=optimizer_rules.initial_state(self._parameters(), config.optimizer),
        )
        # Only the fields that the step depends on: runs that are equal in these share a compiled step.
        self._kind = replace(config, seed=0, num_epochs=1, dataset="", loader="", num_threads=None)

    def _parameters(self) -> optimizer_rules.Tensors:
        """Return the model's parameters; another engine may have moved them to other memory."""
        return tuple(p.detach() for p in self._model.parameters())

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._training = self._training._replace(parameters=self._parameters())
        output = self._step(x, y, torch.arange(len(x), device=x.device), has_stages=False)
        return output.loss, output.logits

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        self._training = self._training._replace(parameters=self._parameters())
        losses, num_correct = [], []
        batches = order.to(x.device).split(batch_size)
        for index in batches:
            output = self._step(x, y, index, has_stages=False)
            losses.append(output.loss)
            num_correct.append(output.num_correct)
        sizes = torch.tensor([len(index) for index in batches], device=x.device)
        return Progress(
            loss_sum=(torch.stack(losses).double() * sizes).sum().item(),
            num_correct=int(torch.stack(num_correct).sum().item()),
            last_loss=losses[-1].item(),
        )

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._model(x)
        return logits

    def _optimizer_state(self) -> State:
        return dict(self._training.state.named())

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        index = torch.arange(len(x), device=x.device)
        output = self._step(x, y, index, has_stages=True)
        assert output.dlogits is not None, "a step with stages has them"
        return stages(self._model, output.outputs, output.loss, output.dlogits, output.gradients)

    def _step(self, x: Tensor, y: Tensor, index: Tensor, *, has_stages: bool) -> StepOutput:
        from torch._dynamo.exc import TorchDynamoException

        sizes = (torch.get_num_threads(), len(x), len(index), *(len(p) for p in self._training.parameters))
        try:
            return _compiled_step(self._kind, sizes, has_stages=has_stages)(self._training, x, y, index)
        except TorchDynamoException as error:
            lines = [" ".join(line.split()) for line in str(error).splitlines()]
            reason = next((line for line in lines if "error:" in line), " ".join(lines))[:300]
            raise InputError(
                f"engine compiled: torch.compile cannot compile a step here: {reason}; use engine=manual"
            ) from None
