"""Give every random number that training draws a seed: that of the run and of the step.

A model may draw in its forward pass: dropout, RReLU, noise of its own. It takes the numbers from PyTorch's global
generators, from Python's or NumPy's, or from generators that it holds. All of these are seeded anew for every step, by
the run's seed and the number of the step alone. So the numbers depend on nothing that happened before, and a run that
goes on after an interruption draws those of an uninterrupted run. Afterwards the global generators are as before.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from mlpbench.workload.seeding import derive_seed

_NOTHING: AbstractContextManager[None] = nullcontext()
_DRAWING = (
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.Transformer,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""The modules of PyTorch that can draw. They use PyTorch's own generators."""
# Where the modules are defined of which we know whether they draw.
_KNOWN = ("torch.nn.modules.", "mlpbench.workload.")
Seed = Callable[[int], object]


def _is_known(module: nn.Module) -> bool:
    """True if the module's class alone says whether it draws: it is PyTorch's or ours, and nobody has changed it."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    return type(module).__module__.startswith(_KNOWN) and not has_hooks and "forward" not in vars(module)


@contextlib.contextmanager
def initialisation(seed: int) -> Iterator[None]:
    """Seed the global generators for the block that builds a model, and restore them after it."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    # `torch.manual_seed` would also seed the generators of the GPUs.
    with torch.random.fork_rng(devices=[]):
        stream = derive_seed(seed, "initialisation")
        torch.default_generator.manual_seed(stream)
        random.seed(stream)
        np.random.seed(stream >> 32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def may_draw(model: nn.Module) -> bool:
    """True if a forward pass of the model may draw random numbers."""
    return any(isinstance(module, _DRAWING) or not _is_known(module) for module in model.modules())


class Randomness:
    """Seed the generators that a model can draw from, for one step at a time.

    A model of PyTorch's layers without random ones draws nothing, and costs nothing. A module of somebody else may draw
    at any time, and nobody can tell from outside. So it counts as one that draws.
    """

    def __init__(self, model: nn.Module, seed: int, device: torch.device, *, has_known_optimizer: bool = True) -> None:
        modules = list(model.modules())
        self._seed = seed
        self._is_foreign = not (has_known_optimizer and all(map(_is_known, modules)))
        """True if the model may draw from Python's and NumPy's generators, too."""
        self.is_used = self._is_foreign or may_draw(model)
        """True if the model may draw."""
        self._is_held = self._sets_foreign = False
        self._has_drawn: bool | None = None
        """True if a single step has used Python's or NumPy's generator; None before the first."""
        self._torch = [torch.default_generator]
        if device.type == "cuda":
            self._torch.append(torch.cuda.default_generators[device.index or torch.cuda.current_device()])
        self._own = [own for module in modules for value in vars(module).values() if (own := _own_seed(value))]

    def step(self, number: int) -> AbstractContextManager[None]:
        """Return a context for a step of the run, in which every generator has the seed of this step."""
        return self._seeded("step", number) if self.is_used else _NOTHING

    def evaluation(self) -> AbstractContextManager[None]:
        """Return a context for an evaluation, which has the same seed at any time."""
        return self._seeded("evaluation", 0) if self.is_used else _NOTHING

    def held(self) -> AbstractContextManager[None]:
        """Return a context for many steps: the global generators are restored once, at its end."""
        return self._held(has_foreign=self._is_foreign) if self.is_used else _NOTHING

    def samples(self) -> dict[str, torch.Tensor]:
        """Return the first numbers (8,) of each generator in the first step; empty if the model draws nothing.

        Of PyTorch's, it is the generator of the device.
        """
        if not self.is_used:
            return {}
        with self.held(), self.step(0):
            numbers = {"PyTorch": _first(self._torch[-1]).cpu()}
            if self._is_foreign:
                numbers["Python"] = torch.tensor(
                    [random.random() for _ in range(8)],  # noqa: S311 (the global one is meant)
                    dtype=torch.float64,
                )
                numbers["NumPy"] = torch.from_numpy(np.random.random(8))  # noqa: NPY002 (the global one is meant)
        return numbers

    @contextlib.contextmanager
    def _seeded(self, *stream: str | int) -> Iterator[None]:
        if self._is_held:
            self._set(*stream)
            yield
            return
        # To store these two takes longer than a small step. So a single step does it only if the first one needed it.
        is_first = self._has_drawn is None
        with self._held(has_foreign=self._is_foreign and self._has_drawn is not False):
            self._set(*stream)
            before = _foreign_state() if is_first and self._is_foreign else None
            yield
            if before is not None:
                self._has_drawn = before != _foreign_state()

    @contextlib.contextmanager
    def _held(self, *, has_foreign: bool) -> Iterator[None]:
        if self._is_held:
            yield
            return
        states = [generator.get_state() for generator in self._torch]
        foreign = (random.getstate(), np.random.get_state()) if has_foreign else None  # noqa: NPY002
        self._is_held, self._sets_foreign = True, has_foreign
        try:
            yield
        finally:
            self._is_held = False
            for generator, state in zip(self._torch, states, strict=True):
                generator.set_state(state)
            if foreign is not None:
                random.setstate(foreign[0])
                np.random.set_state(foreign[1])  # noqa: NPY002

    def _set(self, *stream: str | int) -> None:
        """Seed every generator. Each gets other bits of the seed, as two of them have the same algorithm."""
        seed = derive_seed(self._seed, *stream)
        for generator in self._torch:
            generator.manual_seed(seed & 0xFFFFFFFF)
        for index, own in enumerate(self._own):
            own(derive_seed(seed, index))
        if self._sets_foreign:
            random.seed(seed)
            np.random.seed(seed >> 32)  # noqa: NPY002


def _foreign_state() -> tuple[object, ...]:
    _, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return random.getstate(), np.asarray(keys).tobytes(), *rest


def _first(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(8, generator=generator, device=generator.device)


def _own_seed(value: Any) -> Seed | None:
    """Return the function that seeds a generator which a module holds; None for any other value."""
    match value:
        case torch.Generator():
            return value.manual_seed
        case random.Random():
            return value.seed
        case np.random.RandomState():
            return lambda seed: value.seed(seed & 0xFFFFFFFF)
        case np.random.Generator():
            return lambda seed: setattr(value.bit_generator, "state", type(value.bit_generator)(seed).state)
        case _:
            return None
